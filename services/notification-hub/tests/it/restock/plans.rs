//! The queries of a campaign go through their indexes, however many subscribe: PostgreSQL's own plans say so.

use serde_json::Value;
use testkit::Site;

use super::shop::{SNEAKER, Shop};

/// A statement of the campaign, its parameters, and the table that it must not read as a whole.
struct Query {
    name: &'static str,
    text: &'static str,
    parameters: Vec<String>,
}

macro_rules! query {
    ($name:literal, $($parameter:expr),*) => {
        Query {
            name: $name,
            text: include_str!(concat!("../../../src/restock/", $name, ".sql")),
            parameters: vec![$($parameter.to_string()),*],
        }
    };
}

/// In the middle of round 1, in which half of `count` subscribers have been told, with the parameters of its next turn.
fn queries(count: i64) -> Vec<Query> {
    let product = format!("'{SNEAKER}'");
    let (round_id, start_tx) =
        ("'00000000-0000-0000-0000-000000000001'", "pg_snapshot_xmin(pg_current_snapshot())::text::bigint");
    vec![
        query!("acquire_round", 5_000),
        query!("next_subscriptions", product, count / 2, 50),
        query!("late_subscriptions", product, start_tx, 1, 50),
        query!("take_interrupted", product, 1, 50, 20_000, 0),
        query!("note_attempts", product, 1, format!("'{{{}}}'", count / 2), "'{1000}'"),
        query!(
            "write_batch",
            product,
            1,
            format!("'{{{count}}}'"),
            "array[gen_random_uuid()]",
            "array[gen_random_uuid()]"
        ),
        query!("take_permits", 2_101, 12, 10),
        query!("renew_lease", round_id, 1, 10_000),
        query!("end_unsent", product, 1),
        query!("advance_round", round_id, 1, count / 2, 50, 50, 5_000),
        query!("end_round", round_id, 1, "'COMPLETED'", 1, "null", 0),
        query!("insert_round", product, 2, "gen_random_uuid()", "'CANCELED_BY_SOLD_OUT'", 9),
        // Of deliveries of every kind.
        Query {
            name: "record_results",
            text: include_str!("../../../src/record_results.sql"),
            parameters: [
                "array[gen_random_uuid()]",
                "'{1}'",
                "'{SUCCESS}'",
                "'{1}'",
                "'{0}'",
                "'{null}'",
                "'{f}'",
                "'{t}'",
            ]
            .map(str::to_owned)
            .into(),
        },
    ]
}

/// A shop with `count` subscribers of one product among as many of others, in the middle of a round.
async fn campaign_of(count: i64) -> Shop {
    let shop =
        Shop::open(&[("notification_hub.restock.runners", "1"), ("notification_hub.restock.poll_ms", "3600000")]).await;
    shop.subscribers(count).await;
    shop.site
        .execute(&format!(
            "set search_path = {{notification_hub}};
             insert into product_user_notification (product_id, user_id)
             select lpad(to_hex(1000 + number % 50), 32, '0')::uuid, lpad(to_hex(number), 32, '0')::uuid
               from generate_series(1, {count}) as number;
             insert into product_notification_history (product_id, round, id, status, stock_version, ceiling, start_tx, epoch)
             values ('{SNEAKER}', 1, '00000000-0000-0000-0000-000000000001', 'IN_PROGRESS', 2, {count},
                     pg_snapshot_xmin(pg_current_snapshot())::text::bigint, 1);
             insert into notifications (id, event_id, type, user_id, data)
             select user_id, user_id, 'RESTOCK', user_id, '{{}}' from product_user_notification
              where product_id = '{SNEAKER}' and id <= {count} / 2;
             insert into deliveries (id, notification_id, channel, status, priority, subject, body)
             select id, id, 'EMAIL', 'SUCCESS', 200, '', '' from notifications;
             insert into product_user_notification_history
                 (product_id, round, subscription_id, user_id, notification_id, attempted_at)
             select product_id, 1, id, user_id, user_id, now() from product_user_notification
              where product_id = '{SNEAKER}' and id <= {count} / 2;
             analyze product_user_notification, product_notification_history, product_user_notification_history,
                     notifications, deliveries"
        ))
        .await;
    shop
}

/// The nodes of a plan that read a table from one end to the other, and those that read more than `rows_max` rows.
fn costly(plan: &Value, rows_max: f64, found: &mut Vec<String>) {
    let kind = plan["Node Type"].as_str().unwrap_or_default();
    let of = plan["Relation Name"].as_str().unwrap_or_default();
    let removed = plan["Rows Removed by Filter"].as_f64().unwrap_or_default();
    let rows =
        (plan["Actual Rows"].as_f64().unwrap_or_default() + removed) * plan["Actual Loops"].as_f64().unwrap_or(1.0);
    // Of a table with one row a plan that reads it whole is right; there is one round here.
    let is_whole = kind == "Seq Scan" && !["product_notification_history", "restock_limit"].contains(&of);
    if is_whole || (!of.is_empty() && rows > rows_max) {
        found.push(format!("{kind} of {of} reads {rows} rows"));
    }
    for below in plan["Plans"].as_array().into_iter().flatten() {
        costly(below, rows_max, found);
    }
}

/// What PostgreSQL does for `query`, as for a prepared statement: with values that it sees, and with those that it does not.
async fn plans(site: &Site, query: &Query) -> Vec<Value> {
    let mut plans = Vec::new();
    for mode in ["force_custom_plan", "force_generic_plan"] {
        let plan = site.explain("notification-hub", mode, query.text, &query.parameters).await;
        plans.push(plan);
    }
    plans
}

async fn every_query_uses_its_index(count: i64) {
    let shop = campaign_of(count).await;
    let mut broken = Vec::new();
    for query in queries(count) {
        for plan in plans(&shop.site, &query).await {
            let mut found = Vec::new();
            // A batch, and what lies beside it on the same pages.
            costly(&plan[0]["Plan"], 500.0, &mut found);
            broken.extend(found.into_iter().map(|found| format!("{}: {found}: {plan}", query.name)));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    shop.site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_a_campaign_uses_its_index_with_20_000_subscribers() {
    every_query_uses_its_index(20_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: a million rows"]
async fn every_query_of_a_campaign_uses_its_index_with_1_000_000_subscribers() {
    every_query_uses_its_index(1_000_000).await;
}
