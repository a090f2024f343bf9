//! Stores orders that are held, with `ORDER_CREATED`: the last step of placing one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use common::batch::{Batch, BatchSettings};
use common::db::{Db, Prepared, Tx};
use common::{Error, Result, outbox};
use contract::events::OrderCreated;
use contract::ids::{AccountId, OrderId, ProductId};
use diesel::sql_types as sql;
use diesel_async::RunQueryDsl;

use crate::draft::Draft;
use crate::events::order_created;
use crate::order::{Item, Order, Shipping};
use crate::place_order::Placement;
use crate::rows::load_orders;

/// One transaction for all the orders that are waiting to be stored.
pub fn insert_batch(db: &Db, settings: &BatchSettings) -> Batch<Draft, Placement> {
    let db = db.clone();
    Batch::start("order_inserts", settings, move |drafts: Arc<[Draft]>| {
        let db = db.clone();
        async move { db.tx("place_orders", async |tx| insert_all(tx, &drafts).await).await }
    })
}

/// Stores the orders that do not exist yet, each with its event. One outcome for each draft.
async fn insert_all(tx: &mut Tx, drafts: &[Draft]) -> Result<Vec<Result<Placement>>> {
    // Two requests with one key may share a batch: the first of them places the order, whole.
    let mut keys = HashSet::new();
    let first: Vec<&Draft> = drafts.iter().filter(|draft| keys.insert(draft.order_id)).collect();
    let created: HashMap<OrderId, DateTime<Utc>> =
        insert_orders(tx, &first).await?.into_iter().map(|row| (row.id, row.created_at)).collect();
    let existing: Vec<OrderId> =
        first.iter().map(|draft| draft.order_id).filter(|id| !created.contains_key(id)).collect();
    let mut orders: HashMap<OrderId, Order> = HashMap::new();
    if !existing.is_empty() {
        orders.extend(load_orders(tx, &existing).await?.into_iter().map(|order| (order.id, order)));
    }
    let mut events: Vec<outbox::EventWithContext<OrderCreated>> = Vec::new();
    let mut placements = Vec::with_capacity(drafts.len());
    for draft in drafts {
        placements.push(match (orders.get(&draft.order_id), created.get(&draft.order_id)) {
            (Some(order), _) => Ok(Placement::Replay(order.clone())),
            (None, Some(created_at)) => {
                let order = draft.to_order(*created_at);
                orders.insert(order.id, order.clone());
                events.push(outbox::EventWithContext { event: order_created(&order), context: draft.context.clone() });
                Ok(Placement::New(order))
            }
            (None, None) => Err(Error::transient(anyhow::anyhow!("order {} vanished", draft.order_id))),
        });
    }
    outbox::publish_with_contexts(tx, &events).await?;
    tx.point("order.before_commit").await;
    Ok(placements)
}

#[derive(diesel::QueryableByName)]
struct Inserted {
    #[diesel(sql_type = sql::Uuid)]
    id: OrderId,
    #[diesel(sql_type = sql::Timestamptz)]
    created_at: DateTime<Utc>,
}

/// Inserts the orders that do not exist yet, with items and shipping. Returns those.
async fn insert_orders(tx: &mut Tx, drafts: &[&Draft]) -> Result<Vec<Inserted>> {
    let items: Vec<(&Draft, i16, &Item)> = drafts
        .iter()
        .flat_map(|draft| (0_i16..).zip(&draft.items).map(move |(line, item)| (*draft, line, item)))
        .collect();
    let shipping: Vec<(OrderId, &Shipping)> =
        drafts.iter().filter_map(|draft| draft.shipping.as_ref().map(|info| (draft.order_id, info))).collect();
    let seats = items.iter().map(|(.., item)| match item.seats.as_slice() {
        [] => Ok(None),
        seats => serde_json::to_string(seats).map(Some),
    });
    let seats: Vec<Option<String>> = seats.collect::<Result<_, _>>().map_err(Error::fault)?;
    let insert = diesel::sql_query(include_str!("store_orders.sql"))
        .bind::<sql::Array<sql::Uuid>, _>(drafts.iter().map(|d| d.order_id).collect::<Vec<OrderId>>())
        .bind::<sql::Array<sql::Uuid>, _>(drafts.iter().map(|d| d.user_id).collect::<Vec<AccountId>>())
        .bind::<sql::Array<sql::BigInt>, _>(drafts.iter().map(|d| d.amount).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Text>, _>(drafts.iter().map(|d| d.currency.as_str()).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Bytea>, _>(drafts.iter().map(|d| d.fingerprint.as_slice()).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Text>, _>(drafts.iter().map(|d| d.idempotency_key.as_str()).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Timestamptz>, _>(drafts.iter().map(|d| d.hold_expires_at).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Nullable<sql::Uuid>>, _>(drafts.iter().map(|d| d.coupon).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Uuid>, _>(items.iter().map(|(d, ..)| d.order_id).collect::<Vec<OrderId>>())
        .bind::<sql::Array<sql::SmallInt>, _>(items.iter().map(|(_, line, _)| *line).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Uuid>, _>(items.iter().map(|(.., i)| i.product_id).collect::<Vec<ProductId>>())
        .bind::<sql::Array<sql::Text>, _>(items.iter().map(|(.., i)| i.sku.as_str()).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Text>, _>(items.iter().map(|(.., i)| i.name.as_str()).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Integer>, _>(items.iter().map(|(.., i)| i.quantity).collect::<Vec<_>>())
        .bind::<sql::Array<sql::BigInt>, _>(items.iter().map(|(.., i)| i.unit_price).collect::<Vec<_>>())
        .bind::<sql::Array<sql::BigInt>, _>(items.iter().map(|(.., i)| i.discount).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Nullable<sql::Text>>, _>(seats)
        .bind::<sql::Array<sql::Uuid>, _>(shipping.iter().map(|(id, _)| *id).collect::<Vec<OrderId>>())
        .bind::<sql::Array<sql::Text>, _>(shipping.iter().map(|(_, s)| s.recipient.as_str()).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Text>, _>(shipping.iter().map(|(_, s)| s.phone.as_str()).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Text>, _>(shipping.iter().map(|(_, s)| s.postal_code.as_str()).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Text>, _>(shipping.iter().map(|(_, s)| s.address.as_str()).collect::<Vec<_>>())
        .bind::<sql::Array<sql::Nullable<sql::Text>>, _>(
            shipping.iter().map(|(_, s)| s.memo.as_deref()).collect::<Vec<_>>(),
        );
    Ok(Prepared(insert).load::<Inserted>(tx).await?)
}

#[cfg(test)]
mod tests {
    use common::telemetry::Context;
    use contract::money::KRW;
    use testkit::Site;

    use super::*;

    fn draft(address: Option<&str>) -> Draft {
        let shipping = |address: &str| Shipping {
            recipient: "Kim".to_owned(),
            phone: "010-0000-0000".to_owned(),
            postal_code: "04524".to_owned(),
            address: address.to_owned(),
            memo: None,
        };
        Draft {
            order_id: OrderId::generate(),
            user_id: AccountId::generate(),
            idempotency_key: "key".to_owned(),
            fingerprint: vec![1, 2, 3],
            items: vec![Item {
                product_id: ProductId::generate(),
                sku: "SNEAKER".to_owned(),
                name: "Sneaker".to_owned(),
                quantity: 2,
                unit_price: 1000,
                discount: 0,
                seats: Vec::new(),
            }],
            coupon: None,
            amount: 2000,
            currency: KRW.to_owned(),
            hold_expires_at: Utc::now(),
            shipping: address.map(shipping),
            context: Context::default(),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_two_requests_with_one_key_in_one_batch_the_first_is_stored_whole() {
        let db = Site::builder(&[crate::spec()]).migrate().await.db("order").await;
        for first in [draft(None), draft(Some("Seoul"))] {
            let second = Draft { order_id: first.order_id, fingerprint: vec![1, 4, 5], ..draft(Some("Busan")) };
            let batch = [first, second];
            let placements = db.tx("test", async |tx| insert_all(tx, &batch).await).await.unwrap();
            let placements: Vec<Placement> = placements.into_iter().map(Result::unwrap).collect();
            let [Placement::New(new), Placement::Replay(replay)] = &placements[..] else { panic!("{placements:?}") };
            assert_eq!(new, replay);
            let [first, _] = batch;
            let stored = load_orders(&mut db.read().await.unwrap(), &[first.order_id]).await.unwrap().remove(0);
            assert_eq!((stored.items, stored.shipping), (first.items, first.shipping), "nothing is of the second");
            assert_eq!(stored.fingerprint, first.fingerprint);
        }
    }
}
