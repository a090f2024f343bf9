//! Redis loses a room: the order stays, passes stay good, and used ones stay used.

use serde_json::json;
use testkit::{eventually, fresh_key};

use crate::site::Site;

const SAVING: [(&str, &str); 1] = [("queue.sync_period_ms", "50")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_redis_loses_keeps_its_order_its_passes_and_its_slots() {
    // What would save the room by itself would also build it, beside the requests of this test.
    let site = Site::start_with(&[("queue.sync_period_ms", "3600000")]).await;
    let event = site.room(json!({ "maxActive": 2 })).await;
    let guests = site.guests(&event, 6).await;
    let (used, good) = (site.pass(&event, &guests[0]).await, site.pass(&event, &guests[1]).await);
    site.complete(&event, &guests[0]).await;
    site.tick(&event).await;
    let third = site.pass(&event, &guests[2]).await;
    let saved = "front = 3, issued = 6, active_seqs = '{2, 3}', active_until = '{4000000000000, 4000000000000}'";
    site.execute(&format!("update {{queue}}.rooms set {saved} where event_id = '{event}'")).await;

    site.lose(&event).await;
    site.try_pass(&guests[1].client, &event, &good).await.expect(200);
    site.try_pass(&guests[2].client, &event, &third).await.expect(200);
    site.try_pass(&guests[0].client, &event, &used).await.refused(403, "QUEUE_TOKEN_INVALID");
    assert_eq!(site.members(&event, "active").await, ["2", "3"], "nobody else is let in on top of them");

    // Somebody new comes before the others show their tickets, and is behind them all the same.
    let late = site.guest(&event).await;
    assert!(late.seq.unwrap() > 6, "no number is given twice");
    assert_eq!(site.standings(&event, &[guests[4].clone(), guests[3].clone()]).await, ["WAITING", "WAITING"]);
    for guest in &guests[1..3] {
        site.complete(&event, guest).await;
    }
    site.tick(&event).await;
    assert_eq!(site.members(&event, "offer").await, ["4", "5"]);
    let views = site.standings(&event, &[guests[3].clone(), guests[4].clone(), late]).await;
    assert_eq!(views, ["ADMITTED", "ADMITTED", "WAITING"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_was_free_before_the_room_was_lost_is_free_in_the_new_one() {
    let site = Site::start_with(&[("queue.sync_period_ms", "3600000")]).await;
    let event = site.room(json!({ "maxActive": 2 })).await;
    let guests = site.guests(&event, 4).await;
    for guest in &guests[..2] {
        site.pass(&event, guest).await;
    }
    // As it was saved last, both passes are in use for long.
    let saved = "front = 2, issued = 4, active_seqs = '{1, 2}', active_until = '{4000000000000, 4000000000000}'";
    site.execute(&format!("update {{queue}}.rooms set {saved} where event_id = '{event}'")).await;
    site.complete(&event, &guests[0]).await;
    site.lose(&event).await;
    // Somebody gives a pass back to a room that is not there.
    site.leave(&event, &guests[1]).await.expect(204);
    assert_eq!(site.members(&event, "active").await, [""; 0]);
    for guest in &guests[2..] {
        site.standing(&event, guest).await;
    }
    site.tick(&event).await;
    assert_eq!(site.standings(&event, &guests[2..]).await, ["ADMITTED", "ADMITTED"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_turn_it_was_when_the_room_was_lost_is_next_in_the_new_one() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 2 })).await;
    let guests = site.guests(&event, 5).await;
    let saved =
        "front = 3, issued = 5, active_seqs = '{}', active_until = '{}', offered_seqs = '{3}', back_seqs = '{2}'";
    site.execute(&format!("update {{queue}}.rooms set {saved} where event_id = '{event}'")).await;
    site.lose(&event).await;
    // Those behind them ask first.
    assert_eq!(site.standings(&event, &guests[3..]).await, ["WAITING", "WAITING"]);
    assert_eq!(site.members(&event, "offer").await.len(), 2);
    assert_eq!(site.standings(&event, &guests[1..]).await, ["ADMITTED", "ADMITTED", "WAITING", "WAITING"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_that_was_claimed_after_the_last_save_has_one_slot() {
    let site = Site::start_with(&[]).await;
    for saved in ["front = 1, offered_seqs = '{}'", "front = 2, offered_seqs = '{2}'"] {
        let event = site.room(json!({ "maxActive": 2 })).await;
        let guests = site.guests(&event, 3).await;
        let pass = site.pass(&event, &guests[1]).await;
        let active = "issued = 3, active_seqs = '{1}', active_until = '{4000000000000}'";
        site.execute(&format!("update {{queue}}.rooms set {saved}, {active} where event_id = '{event}'")).await;
        site.lose(&event).await;
        site.try_pass(&guests[1].client, &event, &pass).await.expect(200);
        assert_eq!(site.members(&event, "offer").await, [""; 0], "{saved}");
        site.leave(&event, &guests[0]).await.expect(204);
        site.tick(&event).await;
        assert_eq!(site.members(&event, "offer").await, ["3"], "{saved}");
        assert_eq!(site.members(&event, "active").await, ["2"], "{saved}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_given_another_number_after_a_loss_has_one_place() {
    let site = Site::start_with(&[]).await;
    for shows in ["the ticket", "the pass"] {
        let event = site.room(json!({ "maxActive": 1 })).await;
        let guests = site.guests(&event, 2).await;
        let pass = site.pass(&event, &guests[0]).await;
        let saved = "front = 1, issued = 2, active_seqs = '{1}', active_until = '{4000000000000}'";
        site.execute(&format!("update {{queue}}.rooms set {saved} where event_id = '{event}'")).await;
        site.lose(&event).await;
        // In another tab, which has no ticket.
        let other = site.enter(&guests[0].client, &event).await;
        assert_eq!(other.seq, Some(2001), "the room does not know whose pass it has");
        if shows == "the ticket" {
            site.pass(&event, &guests[0]).await;
        } else {
            site.try_pass(&guests[0].client, &event, &pass).await.expect(200);
        }
        assert_eq!(site.standing(&event, &other).await, "TICKET_EXPIRED", "{shows}");
        // The pass is used, and its slot is free.
        site.complete(&event, &guests[0]).await;
        assert_eq!(site.members(&event, "active").await, [""; 0], "{shows}");
        site.standing(&event, &guests[1]).await;
        site.tick(&event).await;
        assert_eq!(site.standing(&event, &guests[1]).await, "ADMITTED", "{shows}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offered_slots_and_those_who_are_back_are_saved() {
    let site = Site::start_with(&SAVING).await;
    let event = site.room(json!({ "maxActive": 1 })).await;
    let guests = site.guests(&event, 4).await;
    // The second was passed over, and comes back while the third has the offer.
    let () = site.redis(&["ZADD", &site.key(&event, "seen"), "1", "2"]).await;
    site.complete(&event, &guests[0]).await;
    site.tick(&event).await;
    assert_eq!(site.standing(&event, &guests[1]).await, "WAITING");
    let saved = "epoch = 1 and front = 3 and issued = 4 and offered_seqs = '{3}' and back_seqs = '{2}'";
    site.until_number(&format!("select count(*) from {{queue}}.rooms where event_id = '{event}' and {saved}"), 1).await;
    site.lose(&event).await;
    assert_eq!(site.standings(&event, &guests[1..]).await, ["WAITING", "ADMITTED", "WAITING"]);
    site.complete(&event, &guests[2]).await;
    site.tick(&event).await;
    assert_eq!(site.standings(&event, &guests[1..]).await, ["ADMITTED", "COMPLETED", "WAITING"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_was_given_after_the_last_save_keeps_its_place() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 1 })).await;
    let guests = site.guests(&event, 3).await;
    // Nothing was saved.
    site.lose(&event).await;
    let late = site.guest(&event).await;
    assert_eq!(late.seq, Some(2001), "after all that may have been given");
    site.tick(&event).await;
    assert_eq!(site.standing(&event, &late).await, "WAITING", "others may be before it, and have the time to say so");
    assert_eq!(site.members(&event, "offer").await, [""; 0]);
    // Whoever shows a number shows that those before it were given as well.
    assert_eq!(site.standing(&event, &guests[1]).await, "WAITING");
    site.tick(&event).await;
    assert_eq!(site.members(&event, "offer").await, ["1"]);
    site.leave(&event, &guests[0]).await.expect(204);
    site.tick(&event).await;
    assert_eq!(site.standings(&event, &guests[1..]).await, ["ADMITTED", "WAITING"]);
    for guest in &guests[1..] {
        site.leave(&event, guest).await.expect(204);
    }
    site.tick(&event).await;
    assert_eq!(site.standing(&event, &late).await, "WAITING");
    // By now everybody has asked.
    site.set_meta(&event, "since", "1").await;
    site.tick(&event).await;
    assert_eq!(site.standing(&event, &late).await, "ADMITTED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_find_the_room_gone_build_it_once_between_them() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 1 })).await;
    site.guests(&event, 2).await;
    site.lose(&event).await;
    let mut building = site.pause("queue", "queue.before_load");
    let (first, second) = (site.buyer().await, site.buyer().await);
    let entering = site.ask_in(&first, &event);
    let meanwhile = async {
        building.reached().await;
        site.raised_long_ago(&event).await;
        let entered = site.ask_in(&second, &event).await.expect(201).json();
        building.resume();
        entered
    };
    let (first, second) = tokio::join!(entering, meanwhile);
    let (first, second) = (first.expect(201).json()["seq"].as_i64().unwrap(), second["seq"].as_i64().unwrap());
    assert_ne!(first, second, "the newer room stays");
    assert_eq!(site.meta(&event, "epoch").await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_are_reserved_before_they_are_given() {
    let site = Site::start_with(&[("queue.numbers_reserved", "2")]).await;
    let event = site.room(json!({ "maxActive": 1 })).await;
    let mut reserving = site.pause("queue", "queue.after_reserve");
    let guests = site.guests(&event, 2).await;
    let third = site.buyer().await;
    let entering = site.ask_in(&third, &event);
    let meanwhile = async {
        reserving.reached().await;
        let reserved = format!("select reserved_to from {{queue}}.rooms where event_id = '{event}'");
        assert_eq!(site.number(&reserved).await, 4);
        assert_eq!(site.meta(&event, "next").await, 3, "not given yet");
        reserving.resume();
    };
    let (entered, ()) = tokio::join!(entering, meanwhile);
    assert_eq!(entered.expect(201).json()["seq"], 3);
    assert_eq!(guests[1].seq, Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_memory_of_redis_is_not_believed() {
    let site = Site::start_with(&SAVING).await;
    let event = site.room(json!({ "maxActive": 1 })).await;
    site.guests(&event, 3).await;
    site.until_saved(&event).await;
    // As after a restart from an old copy.
    site.set_meta(&event, "next", "2").await;
    testkit::eventually("the room is built again", async || (site.meta(&event, "epoch").await > 1).then_some(())).await;
    assert!(site.guest(&event).await.seq.unwrap() > 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_whom_an_administrator_lets_in_and_who_have_not_come_yet_are_let_in_by_the_new_room() {
    let site = Site::start_with(&SAVING).await;
    let event = site.room(json!({ "maxActive": 1 })).await;
    site.manage(&event, "pause").await.expect(200);
    let guests = site.guests(&event, 4).await;
    site.admit(&event, 3, &fresh_key()).await.expect(200);
    assert_eq!(site.standing(&event, &guests[0]).await, "ADMITTED");
    site.until_number(&format!("select let_in from {{queue}}.rooms where event_id = '{event}'"), 1).await;

    site.lose(&event).await;
    let standings = site.standings(&event, &guests).await;
    assert_eq!(standings, ["ADMITTED", "WAITING", "WAITING", "WAITING"]);
    for next in 1..3 {
        site.complete(&event, &guests[next - 1]).await;
        let is_in = async || (site.standing(&event, &guests[next]).await == "ADMITTED").then_some(());
        eventually("the next one is let in", is_in).await;
    }
    site.complete(&event, &guests[2]).await;
    let all_came = format!(
        "select count(*) from {{queue}}.rooms where event_id = '{event}' and let_in = 3 and active_seqs || offered_seqs = '{{}}'"
    );
    site.until_number(&all_came, 1).await;
    assert_eq!(site.standing(&event, &guests[3]).await, "WAITING", "three and no more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_who_are_let_in_while_the_room_is_being_built_are_let_in() {
    // Ticks offer slots. No look comes that would tell the room again.
    let site = Site::start_with(&[("queue.tick_period_ms", "50"), ("queue.sync_period_ms", "3600000")]).await;
    let event = site.room(json!({ "maxActive": 5 })).await;
    site.manage(&event, "pause").await.expect(200);
    let guest = site.guest(&event).await;
    // Before it is lost: the next tick builds it.
    let mut building = site.pause("queue", "queue.before_load");
    site.lose(&event).await;
    let let_in = async {
        building.reached().await;
        let stored = format!("select count(*) from {{queue}}.admissions where event_id = '{event}'");
        let resume = async {
            site.until_number(&stored, 1).await;
            building.resume();
        };
        let key = fresh_key();
        let (answer, ()) = tokio::join!(site.admit(&event, 1, &key), resume);
        answer.expect(200);
    };
    tokio::join!(site.standing(&event, &guest), let_in);
    let is_in = async || (site.standing(&event, &guest).await == "ADMITTED").then_some(());
    eventually("who was let in meanwhile comes in", is_in).await;
}
