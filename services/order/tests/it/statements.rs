//! The statements of the hot paths are parsed and planned once for each connection.

use testkit::text;

use crate::site::{AMOUNT, OrderSite, payment_refunded};

/// Notes the prepared statements of the session in which an order is changed or an event is recorded.
const NOTE_STATEMENTS: &str = "
    create table {order}.test_statements (pid int, name text, statement text, runs bigint);
    create function {order}.test_note_statements() returns trigger language plpgsql as $$
    begin
        delete from {order}.test_statements where pid = pg_backend_pid();
        insert into {order}.test_statements
        select pg_backend_pid(), name, statement, generic_plans + custom_plans
        from pg_prepared_statements;
        return null;
    end $$;
    create trigger test_order after insert or update on {order}.orders
        for each statement execute function {order}.test_note_statements();
    create trigger test_event after insert on {order}.outbox_events
        for each statement execute function {order}.test_note_statements();";

#[tokio::test(flavor = "multi_thread")]
async fn placing_and_changing_orders_runs_statements_that_stay_prepared() {
    const ORDERS: i64 = 5;
    // One connection serves all requests, so each statement has all its runs there.
    let one_connection = [("postgres.connections_max", "1"), ("order.expire_sweep_ms", "3600000")];
    let site = OrderSite::start_with(&one_connection).await;
    site.execute(NOTE_STATEMENTS).await;
    for _ in 0..ORDERS {
        let (order, payment) = site.paid_order().await;
        site.cancel(&order).await.expect(202);
        site.deliver("order", &payment_refunded(&order, payment, AMOUNT, AMOUNT)).await;
    }
    // For each order: stored once with an event, then reserved, paid, cancelled and refunded, the last three with events.
    let expected = [
        ("insert into orders", ORDERS),
        ("FOR UPDATE", 4 * ORDERS),
        ("set updated_at = $1", 4 * ORDERS),
        ("insert into outbox_events", 4 * ORDERS),
    ];
    let statements = site.rows("select statement, runs from {order}.test_statements").await;
    for (words, runs) in expected {
        let found: Vec<i64> = statements
            .iter()
            .filter(|row| text(&row["statement"]).contains(words))
            .map(|row| row["runs"].as_i64().unwrap())
            .collect();
        assert_eq!(found, [runs], "`{words}` is in one prepared statement that runs each time");
    }
}
