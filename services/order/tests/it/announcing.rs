//! An order's change and the event that announces it are in one transaction.

use std::collections::BTreeSet;

use testkit::text;

use crate::site::{AMOUNT, OrderSite, SWEEP, payment_refunded};

/// Notes for each change of an order's status, and for each new event, the transaction that makes it.
const NOTE_TRANSACTIONS: &str = "
    create table {order}.test_changes (transaction xid8, order_id text, topic text, version bigint);
    create table {order}.test_events (transaction xid8, order_id text, topic text, version bigint);

    create function {order}.test_note_change() returns trigger language plpgsql as $$
    begin
        insert into {order}.test_changes
        values (pg_current_xact_id(), new.id, case new.status
            when 'CREATED' then 'ORDER_CREATED'
            when 'PAID' then 'ORDER_PLACED'
            when 'CANCELLED' then 'ORDER_CANCELLED'
            when 'EXPIRED' then 'ORDER_EXPIRED'
            when 'REFUND_PENDING' then 'ORDER_REFUND_REQUESTED'
            when 'REFUNDED' then 'ORDER_REFUNDED'
        end, new.version);
        return null;
    end $$;
    create trigger test_insert after insert on {order}.orders
        for each row execute function {order}.test_note_change();
    create trigger test_update after update on {order}.orders
        for each row when (new.status <> old.status) execute function {order}.test_note_change();

    create function {order}.test_note_event() returns trigger language plpgsql as $$
    begin
        insert into {order}.test_events
        values (pg_current_xact_id(), new.key, new.topic, new.aggregate_version);
        return null;
    end $$;
    create trigger test_event after insert on {order}.outbox_events
        for each row execute function {order}.test_note_event();";

#[tokio::test(flavor = "multi_thread")]
async fn each_change_that_is_announced_is_committed_with_its_event() {
    let site = OrderSite::start_with(&SWEEP).await;
    site.execute(NOTE_TRANSACTIONS).await;
    let (refunded, payment) = site.paid_order().await;
    site.cancel(&refunded).await.expect(202);
    site.deliver("order", &payment_refunded(&refunded, payment, AMOUNT, AMOUNT)).await;
    site.cancel(&site.order().await).await.expect(200);
    site.until_swept("the sweep expires an order whose time is up").await;

    let noted = async |table: &str| -> BTreeSet<(String, String)> {
        let query = format!(
            "select topic, concat_ws(' ', 'order', order_id, 'version', version, 'in transaction', transaction) as what
               from {{order}}.{table}
              where topic is not null"
        );
        site.rows(&query).await.iter().map(|row| (text(&row["topic"]), text(&row["what"]))).collect()
    };
    let (changes, events) = (noted("test_changes").await, noted("test_events").await);
    assert_eq!(changes, events, "each change and its event are in one transaction");
    let topics: BTreeSet<&str> = events.iter().map(|(topic, _)| topic.as_str()).collect();
    let all = order::spec().produces.iter().copied().collect();
    assert_eq!(topics, all, "each topic of the service was tried");
}
