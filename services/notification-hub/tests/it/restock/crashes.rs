//! Runners that die, or stall so long that another takes their round.

use serde_json::json;

use super::shop::Shop;

const HUB: &str = "notification-hub";

/// What PostgreSQL does for a process that has died in the middle of a transaction.
const CUT_OFF: &str = "select pg_terminate_backend(pid) from pg_stat_activity
     where application_name = '{schema}' and state = 'idle in transaction'";

#[tokio::test(flavor = "multi_thread")]
async fn three_runners_lost_in_one_campaign_leave_nobody_out_and_tell_nobody_twice() {
    let shop = Shop::open(&[]).await;
    shop.subscribers(500).await;

    // Dies with its batch written and not committed: the batch has never been.
    let mut first = shop.site.pause("notification-hub", "restock.before_commit");
    shop.restock().await;
    first.reached().await;
    let mut second = shop.site.pause("notification-hub", "restock.after_commit");
    shop.site.execute(&CUT_OFF.replace("{schema}", &shop.site.schema(HUB))).await;
    second.reached().await;

    // Dies with a batch committed and not sent.
    let mut third = shop.site.pause("notification-hub", "restock.after_send");
    shop.end_lease().await;
    third.reached().await;
    assert_eq!(shop.round(1).await["recipientCount"], 50, "the third sends what the second has written");

    // Dies with a batch sent and not recorded: only then may somebody get a message twice.
    shop.end_lease().await;
    let round = shop.ended(1).await;
    assert_eq!((&round["status"], &round["recipientCount"]), (&json!("COMPLETED"), &json!(500)), "{round}");
    assert_eq!(shop.told(1).await, (1..=500).collect::<Vec<u64>>(), "all, once, in order");

    // They were only asleep: what they bring is late, and changes nothing.
    let before = shop.site.rows("select * from {notification_hub}.deliveries order by id").await;
    for late in [first, second, third] {
        late.resume();
    }
    shop.site.stop().await;
    assert_eq!(shop.site.rows("select * from {notification_hub}.deliveries order by id").await, before);
    assert_eq!(shop.site.number("select count(*) from {notification_hub}.notifications").await, 500);
    let attempts = "select count(*) from {notification_hub}.deliveries where attempt > 1";
    assert_eq!(shop.site.number(attempts).await, 50, "one batch was claimed again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_stops_in_the_middle_leaves_its_round_to_the_next_at_once() {
    let shop = Shop::open(&[]).await;
    shop.subscribers(120).await;
    let mut running = shop.site.pause("notification-hub", "restock.after_commit");
    shop.restock().await;
    running.reached().await;
    tokio::join!(shop.site.stop(), async {
        let address = shop.site.grpc.trim_start_matches("http://");
        testkit::eventually("the gRPC port, which closes before the loops stop, is closed", async || {
            tokio::net::TcpStream::connect(address).await.is_err().then_some(())
        })
        .await;
        running.resume();
    });
    let free = "select count(*) from {notification_hub}.product_notification_history
         where status = 'IN_PROGRESS' and lease_until is null";
    assert_eq!(shop.site.number(free).await, 1);

    let next = shop.replica().await;
    let done = "select count(*) from {notification_hub}.product_notification_history where status = 'COMPLETED'";
    next.until_number(done, 1).await;
    assert_eq!(shop.told(1).await, (1..=120).collect::<Vec<u64>>());
    next.stop().await;
}
