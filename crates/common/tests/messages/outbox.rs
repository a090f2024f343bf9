//! Publishing: complete, in order, at once, by one relay for each shard.

use chrono::DateTime;
use common::outbox;

use crate::scenario::{Scenario, never_polls};

/// Ids are taken when rows are inserted and seen when they are committed.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_committed_after_later_ones_is_published_too() {
    let scenario = Scenario::new("late").await;
    let mut late = scenario.pause("tests.before_commit");
    let relay = scenario.relay();
    let slow = async {
        scenario.change("slow", 1).await;
    };
    let quick = async {
        late.reached().await;
        scenario.change("quick", 1).await;
        scenario.until_published().await;
        assert_eq!(scenario.number("select min(id) from outbox_events").await, 2, "the slow one has the lower id");
        late.resume();
    };
    tokio::join!(slow, quick);
    scenario.until_published().await;
    assert_eq!(scenario.number("select count(*) from outbox_events").await, 2);
    scenario.assert_log_is_complete_and_in_order().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: concurrent writers, for what their interleaving may show"]
async fn events_of_concurrent_writers_all_arrive_once_and_in_the_order_of_their_versions() {
    let scenario = Scenario::new("writers").await;
    let (relay, consumer) = (scenario.relay(), scenario.consumer());
    scenario.change_many(&scenario.db, 12, 100, 7).await;
    scenario.until_received().await;
    scenario.assert_effects_are_exact().await;
    scenario.assert_log_is_complete_and_in_order().await;
    relay.stop().await;
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_dies_between_sending_and_marking_leaves_its_events_to_the_next() {
    let scenario = Scenario::new("dies").await;
    for _ in 0..3 {
        scenario.change("a", 1).await;
    }
    let mut acknowledged = scenario.pause("relay.after_ack");
    let first = scenario.relay();
    acknowledged.reached().await;
    assert_eq!(scenario.events("PUBLISHED").await, 0, "a row is marked only after its acknowledgement");
    assert_eq!(scenario.log().await["a"], [1, 2, 3]);
    first.die().await;

    let (second, consumer) = (scenario.relay(), scenario.consumer());
    scenario.until_received().await;
    assert_eq!(scenario.log().await["a"], [1, 2, 3, 1, 2, 3], "they are sent again");
    scenario.assert_effects_are_exact().await;
    second.stop().await;
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: a relay dies at a random moment of a load"]
async fn a_second_relay_waits_takes_over_from_a_dead_one_and_order_survives() {
    let scenario = Scenario::new("two_relays").await;
    let other = scenario.another_db().await;
    let first = scenario.relay();
    until_shards_are_taken(&scenario).await;
    let second = scenario.relay_on(&other, crate::scenario::outbox_settings());
    let consumer = scenario.consumer();
    let dies_in_the_middle = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        first.die().await;
    };
    let changes = (scenario.change_many(&scenario.db, 6, 100, 5), scenario.change_many(&other, 6, 100, 5));
    tokio::join!(changes.0, changes.1, dies_in_the_middle);
    scenario.until_received().await;
    scenario.assert_effects_are_exact().await;
    scenario.assert_log_is_complete_and_in_order().await;
    second.stop().await;
    consumer.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_wakes_the_relay_wherever_it_runs() {
    let scenario = Scenario::new("wake").await;
    let other = scenario.another_db().await;
    let holder = scenario.relay_on(&scenario.db, never_polls());
    until_shards_are_taken(&scenario).await;
    let waiting = scenario.relay_on(&other, never_polls());
    until_a_relay_waits_for_shards(&scenario).await;
    for db in [&scenario.db, &other] {
        scenario.change_on(db, "a", 1).await;
        scenario.until("a commit wakes the relay", NOT_PUBLISHED, 0).await;
    }
    holder.stop().await;
    waiting.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stops_hands_its_shards_over_at_once() {
    let scenario = Scenario::new("handover").await;
    let other = scenario.another_db().await;
    let first = scenario.relay_on(&scenario.db, never_polls());
    until_shards_are_taken(&scenario).await;
    let second = scenario.relay_on(&other, never_polls());
    until_a_relay_waits_for_shards(&scenario).await;
    first.stop().await;
    scenario.change_on(&other, "a", 1).await;
    scenario.until("a relay that stops hands its shards over at once", NOT_PUBLISHED, 0).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_event_blocks_its_key_alone_until_a_redrive() {
    let scenario = Scenario::new("refused").await;
    for account in ["bad", "good"] {
        for _ in 0..3 {
            scenario.change(account, 1).await;
        }
    }
    // No broker has a topic of this name, nor can one be made.
    scenario.execute("update outbox_events set topic = 'no such topic!' where key = 'bad'").await;
    let relay = scenario.relay();
    let dead = "select count(*) from outbox_events where status = 'DEAD'";
    scenario.until("an event that the broker refuses for good is dead", dead, 1).await;
    // Whoever publishes this has looked at the blocked rows once more.
    scenario.change("good", 1).await;
    let published = "select count(*) from outbox_events where key = 'good' and status = 'PUBLISHED'";
    scenario.until("other keys go on", published, 4).await;
    scenario.execute("update outbox_events set created_at = created_at - interval '1 minute' where key = 'bad'").await;
    let stats = outbox::stats(&scenario.db).await.unwrap();
    assert_eq!((stats.pending, stats.dead), (2, 1), "those behind a refused event wait");
    assert!(stats.oldest_age_seconds >= 60.0);
    let first = "select aggregate_version from outbox_events where status = 'DEAD'";
    assert_eq!(scenario.number(first).await, 1);

    scenario.execute("update outbox_events set topic = 'BALANCE_CHANGED' where key = 'bad'").await;
    assert_eq!(outbox::redrive(&scenario.db).await.unwrap(), 1);
    scenario.until_published().await;
    scenario.assert_log_is_complete_and_in_order().await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_sends_again_and_cleaning_removes_only_what_is_old_and_published() {
    let scenario = Scenario::new("replay").await;
    let (relay, consumer) = (scenario.relay(), scenario.consumer());
    scenario.change_many(&scenario.db, 1, 50, 3).await;
    scenario.until_received().await;
    assert_eq!(outbox::replay(&scenario.db, DateTime::UNIX_EPOCH).await.unwrap(), 50);
    scenario.until_published().await;
    assert_eq!(scenario.log().await.values().map(Vec::len).sum::<usize>(), 100);
    // Whoever applies this has received the replayed events before.
    scenario.change_many(&scenario.db, 1, 3, 3).await;
    scenario.until_received().await;
    scenario.assert_effects_are_exact().await;
    scenario.assert_log_is_complete_and_in_order().await;
    relay.stop().await;
    consumer.stop().await;

    scenario.execute("delete from outbox_events where id > 50").await;
    scenario.execute("update outbox_events set published_at = now() - interval '25 hours' where id % 5 > 0").await;
    scenario.execute("update outbox_events set status = 'NEW' where id % 5 = 1").await;
    let small = outbox::OutboxSettings { cleanup_batch_max: 7, ..never_polls() };
    outbox::clean(&scenario.db, &small).await.unwrap();
    assert_eq!((scenario.events("PUBLISHED").await, scenario.events("NEW").await), (10, 10));
}

const NOT_PUBLISHED: &str = "select count(*) from outbox_events where status <> 'PUBLISHED'";

async fn until_shards_are_taken(scenario: &Scenario) {
    let locks = "select count(*) from pg_locks where locktype = 'advisory' and mode = 'ExclusiveLock'
         and classid = (select hashtext('outbox of ' || current_schema())::bigint & 4294967295)::oid";
    scenario.until("one relay takes all shards", locks, 8).await;
}

/// A relay without shards asks for them, notifies the others, and waits.
async fn until_a_relay_waits_for_shards(scenario: &Scenario) {
    let waiting = "select count(*) from pg_stat_activity
         where application_name = current_schema() and state = 'idle' and query not like '%pg_stat_activity%'
           and (query like 'notify %' or query like '%pg_try_advisory_lock%')";
    scenario.until("the second relay waits for shards", waiting, 1).await;
}
