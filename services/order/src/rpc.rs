//! The gRPC door of the order service.

use common::{Error, Refused};
use contract::ids::OrderId;
use contract::order::order_service_server::OrderService;
use contract::order::{self as proto, GetOrderRequest, GetOrderResponse, OrderItem};
use tonic::{Request, Response, Status};

use crate::App;
use crate::order;
use crate::order::Order;

#[tonic::async_trait]
impl OrderService for App {
    async fn get_order(&self, request: Request<GetOrderRequest>) -> Result<Response<GetOrderResponse>, Status> {
        let id: OrderId = request
            .get_ref()
            .order_id
            .parse()
            .map_err(|error| Error::from(Refused::invalid("order_id", format!("{error}"))))?;
        let order = self.lookups.submit(id).await?.ok_or_else(|| Error::from(order::Refused::NotFound))?;
        Ok(Response::new(GetOrderResponse { order: Some(message(order)) }))
    }
}

fn message(order: Order) -> proto::Order {
    proto::Order {
        order_id: order.id.to_string(),
        user_id: order.user_id.to_string(),
        status: order.status.as_str().to_owned(),
        version: order.version,
        amount: order.amount,
        currency: order.currency,
        items: order
            .items
            .into_iter()
            .map(|item| OrderItem {
                product_id: item.product_id.to_string(),
                name: item.name,
                quantity: item.quantity,
                unit_price: item.unit_price,
            })
            .collect(),
        hold_expires_at: Some(order.hold_expires_at.into()),
        created_at: Some(order.created_at.into()),
    }
}
