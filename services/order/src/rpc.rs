//! The gRPC interface: parses ids, and calls one flow in each method.

use std::str::FromStr;

use chrono::{DateTime, SubsecRound, Utc};
use common::{Error, Refused, Result};
use contract::codes;
use contract::ids::OrderId;
use contract::order::order_service_server::OrderService;
use contract::order::{
    self as proto, BeginApprovalRequest, BeginApprovalResponse, BeginPaymentRequest, BeginPaymentResponse,
    EndApprovalRequest, EndApprovalResponse, GetOrderRequest, GetOrderResponse, MarkPaidRequest, MarkPaidResponse,
    OrderItem,
};
use tonic::{Request, Response, Status};

use crate::App;
use crate::change_order::change_order;
use crate::order::{Action, Bill, Order, OrderRefusal};

#[tonic::async_trait]
impl OrderService for App {
    async fn get_order(&self, request: Request<GetOrderRequest>) -> Result<Response<GetOrderResponse>, Status> {
        let id = order_of(&request.get_ref().order_id)?;
        let order = self.lookups.submit(id).await?.ok_or_else(|| Error::from(OrderRefusal::NotFound))?;
        Ok(Response::new(GetOrderResponse { order: Some(message(order)) }))
    }

    async fn begin_payment(
        &self,
        request: Request<BeginPaymentRequest>,
    ) -> Result<Response<BeginPaymentResponse>, Status> {
        let BeginPaymentRequest { order_id, payment_id, user_id, amount, currency } = request.into_inner();
        let (id, user) = (order_of(&order_id)?, parse("user_id", &user_id)?);
        let action = Action::BeginPayment(bill(&payment_id, amount, currency)?);
        let order = change_order(self, id, Some(user), action).await?;
        Ok(Response::new(BeginPaymentResponse { order: Some(message(order)) }))
    }

    async fn begin_approval(
        &self,
        request: Request<BeginApprovalRequest>,
    ) -> Result<Response<BeginApprovalResponse>, Status> {
        let BeginApprovalRequest { order_id, payment_id, attempt_id, amount, currency } = request.into_inner();
        let id = order_of(&order_id)?;
        let bill = bill(&payment_id, amount, currency)?;
        let action = Action::BeginApproval { bill, attempt: parse("attempt_id", &attempt_id)? };
        let order = change_order(self, id, None, action).await?;
        Ok(Response::new(BeginApprovalResponse { order: Some(message(order)) }))
    }

    async fn end_approval(
        &self,
        request: Request<EndApprovalRequest>,
    ) -> Result<Response<EndApprovalResponse>, Status> {
        let EndApprovalRequest { order_id, attempt_id, hold_expires_at } = request.into_inner();
        let id = order_of(&order_id)?;
        let hold_expires_at = hold_expires_at
            .map(DateTime::<Utc>::try_from)
            .transpose()
            .map_err(|_| Error::from(Refused::invalid("hold_expires_at", "not a time")))?
            // In the precision of the database, so that this answer and later ones are equal.
            .map(|at| at.trunc_subsecs(6));
        let action = Action::EndApproval { attempt: parse("attempt_id", &attempt_id)?, hold_expires_at };
        let order = match change_order(self, id, None, action).await {
            // An order that does not exist is not reserved: there is nothing to end.
            Err(error) if error.reason() == Some(&codes::ORDER_NOT_FOUND.reason) => None,
            outcome => Some(message(outcome?)),
        };
        Ok(Response::new(EndApprovalResponse { order }))
    }

    async fn mark_paid(&self, request: Request<MarkPaidRequest>) -> Result<Response<MarkPaidResponse>, Status> {
        let MarkPaidRequest { order_id, payment_id, amount, currency, late } = request.into_inner();
        let id = order_of(&order_id)?;
        let action = Action::MarkPaid { bill: bill(&payment_id, amount, currency)?, late };
        let order = change_order(self, id, None, action).await?;
        Ok(Response::new(MarkPaidResponse { order: Some(message(order)) }))
    }
}

fn order_of(text: &str) -> Result<OrderId> {
    let id = parse("order_id", text)?;
    tracing::Span::current().record("orderId", tracing::field::display(id));
    Ok(id)
}

fn bill(payment_id: &str, amount: i64, currency: String) -> Result<Bill> {
    Ok(Bill { payment: parse("payment_id", payment_id)?, amount, currency })
}

fn parse<T: FromStr<Err: ToString>>(field: &str, text: &str) -> Result<T> {
    text.parse().map_err(|error: T::Err| Refused::invalid(field, error.to_string()).into())
}

fn message(order: Order) -> proto::Order {
    let discount = order.discount();
    proto::Order {
        order_id: order.id.to_string(),
        user_id: order.user_id.to_string(),
        status: order.status.as_str().to_owned(),
        version: order.version,
        paid_payment_id: order.paid_payment_id.map(|payment| payment.to_string()).unwrap_or_default(),
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
                discount: item.discount,
            })
            .collect(),
        hold_expires_at: Some(order.hold_expires_at.into()),
        created_at: Some(order.created_at.into()),
        coupon_issue_id: order.coupon_issue_id.map(|issue| issue.to_string()).unwrap_or_default(),
        discount,
    }
}
