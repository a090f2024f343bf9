//! Coming before the opening: a draw that anybody can check, and one place for each account.

use aws_lc_rs::{digest, hmac};
use serde_json::{Value, json};
use testkit::{eventually, fresh_key, text};
use uuid::Uuid;

use crate::room::{Guest, guest, rules};
use crate::site::{Site, in_seconds};

async fn coming(site: &Site) -> String {
    let early = json!({
        "prequeueAt": in_seconds(-60), "queueManageRequired": true, "queue": rules(json!({ "maxActive": 1 })),
    });
    site.event(early).await
}

async fn enter_with(site: &Site, event: &str, nonce: &str) -> Guest {
    let buyer = site.buyer().await;
    let entered = buyer.post(&format!("/queues/{event}/tickets"), &json!({ "nonce": nonce })).await.expect(201);
    guest(&buyer, &entered.json())
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

async fn proof(site: &Site, event: &str, query: &str) -> Value {
    site.anyone().get(&format!("/queues/{event}/proof{query}")).await.expect(200).json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_early_is_drawn_and_anybody_can_draw_again() {
    let site = Site::start_with(&[]).await;
    let event = coming(&site).await;
    let mut early = Vec::new();
    for number in 0..6 {
        early.push(enter_with(&site, &event, &format!("nonce-{number}")).await);
    }
    assert_eq!(site.standing(&event, &early[0]).await, "WAITING");
    let before = proof(&site, &event, "").await;
    assert_eq!((before["seed"].is_null(), before["drawn"].as_i64()), (true, Some(0)));
    let again = site.ask_in(&early[0].client, &event).await.expect(200).json();
    assert_eq!(text(&again["ticketId"]), early[0].ticket, "one place, and the first nonce");

    site.command(&event, "open").await.expect(200);
    let late = site.guest(&event).await;
    assert_eq!(late.seq, Some(7), "after all who came early");
    let after = proof(&site, &event, "").await;
    assert_eq!(after["commitment"], before["commitment"]);
    let seed = unhex(after["seed"].as_str().unwrap());
    let committed = [&seed[..], event.parse::<Uuid>().unwrap().as_bytes()].concat();
    assert_eq!(unhex(after["commitment"].as_str().unwrap()), digest::digest(&digest::SHA256, &committed).as_ref());
    let key = hmac::Key::new(hmac::HMAC_SHA256, &seed);
    let mut expected: Vec<_> = early
        .iter()
        .map(|guest| {
            let id: Uuid = guest.ticket.parse().unwrap();
            (hmac::sign(&key, id.as_bytes()).as_ref().to_vec(), guest.ticket.clone())
        })
        .collect();
    expected.sort();
    let drawn = after["tickets"]["items"].as_array().unwrap();
    let order: Vec<String> = drawn.iter().map(|ticket| text(&ticket["ticketId"])).collect();
    assert_eq!(order, expected.into_iter().map(|(_, ticket)| ticket).collect::<Vec<_>>());
    let page = proof(&site, &event, "?limit=4").await;
    let rest = proof(&site, &event, &format!("?limit=4&cursor={}", text(&page["tickets"]["nextCursor"]))).await;
    assert_eq!(rest["tickets"]["items"][0]["seq"], 5);

    // Everybody has the drawn place, with the ticket from before the draw, and whoever lost it by asking again.
    for (place, ticket) in order.iter().enumerate() {
        let guest = early.iter().find(|guest| &guest.ticket == ticket).unwrap();
        let view = site.poll(&event, guest).await.expect(200).json();
        assert_eq!(view["seq"].as_i64(), Some(place as i64 + 1));
        let asked = site.ask_in(&guest.client, &event).await.expect(200).json();
        assert_eq!(asked["seq"], view["seq"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_enters_between_the_draw_and_the_line() {
    let site = Site::start_with(&[]).await;
    let event = coming(&site).await;
    let early = enter_with(&site, &event, "n").await;
    let mut drawing = site.pause("queue", "queue.drawn");
    site.command(&event, "open").await.expect(200);
    drawing.reached().await;
    let first = site.buyer().await;
    let entering = site.ask_in(&first, &event);
    let go_on = async {
        site.until_blocked("queue", 1).await;
        drawing.resume();
    };
    let (entered, ()) = tokio::join!(entering, go_on);
    assert_eq!(entered.expect(201).json()["seq"], 2);
    assert_eq!(site.poll(&event, &early).await.expect(200).json()["seq"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_can_have_the_draw_before_the_opening() {
    let site = Site::start_with(&[]).await;
    let event = coming(&site).await;
    let early = enter_with(&site, &event, "a").await;
    site.complete(&event, &early).await;
    let before = proof(&site, &event, "").await;
    assert_eq!((before["seed"].is_null(), before["drawn"].as_i64()), (true, Some(0)));
    enter_with(&site, &event, "b").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_that_is_put_off_in_the_last_moment_is_not_drawn() {
    let site = Site::start_with(&[]).await;
    let event = coming(&site).await;
    enter_with(&site, &event, "a").await;
    // By what everybody can read it has begun, and an administrator is about to put it off.
    site.opening_is_over(&event).await;
    let later = "update {queue}.sale_events set opens_at = now() + interval '1 hour' where id =";
    eventually("everybody can read it", async || (site.read(&event).await["status"] == "OPEN").then_some(())).await;
    let putting_off = site.begin(&format!("{later} '{event}'")).await;
    let late = site.buyer().await;
    let (entered, ()) = tokio::join!(site.ask_in(&late, &event), async {
        // Whoever builds the room, and the timer.
        site.until_blocked("queue", 2).await;
        putting_off.commit().await;
    });
    entered.refused(409, "EVENT_NOT_OPEN");
    assert_eq!(proof(&site, &event, "").await["drawn"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_while_the_draw_is_made_was_drawn() {
    let site = Site::start_with(&[]).await;
    let event = coming(&site).await;
    let guest = enter_with(&site, &event, "a").await;
    let mut drawing = site.pause("queue", "queue.lobby_read");
    site.command(&event, "open").await.expect(200);
    drawing.reached().await;
    let (left, ()) = tokio::join!(site.leave(&event, &guest), async {
        site.until_blocked("queue", 1).await;
        drawing.resume();
    });
    left.expect(204);
    assert_eq!(site.standing(&event, &guest).await, "TICKET_EXPIRED");
    let proof = proof(&site, &event, "").await;
    assert_eq!((proof["drawn"].as_i64(), proof["tickets"]["items"].as_array().map(Vec::len)), (Some(1), Some(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drawn_place_has_one_turn() {
    let site = Site::start_with(&[]).await;
    let event = coming(&site).await;
    let guest = enter_with(&site, &event, "a").await;
    site.command(&event, "open").await.expect(200);
    site.admit(&event, 1, &fresh_key()).await.expect(200);
    site.pass(&event, &guest).await;
    // The time of the pass is up.
    site.move_to_the_past(&event, "active").await;
    site.tick(&event).await;
    assert_eq!(site.standing(&event, &guest).await, "TICKET_EXPIRED");
    let again = site.ask_in(&guest.client, &event).await.expect(201).json();
    assert_eq!(again["seq"], 2, "behind all who wait");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_room_opens_its_doors_nobody_enters() {
    let site = Site::start_with(&[]).await;
    let event = site.event(json!({ "queueManageRequired": true, "prequeueAt": in_seconds(600) })).await;
    let answer = site.ask_in(&site.buyer().await, &event).await;
    answer.refused(409, "EVENT_NOT_OPEN");
    let wait: i64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((590..=600).contains(&wait), "{wait}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_before_the_draw_is_not_drawn() {
    let site = Site::start_with(&[]).await;
    let event = coming(&site).await;
    let (stays, leaves) = (enter_with(&site, &event, "a").await, enter_with(&site, &event, "b").await);
    site.leave(&event, &leaves).await.expect(204);
    site.command(&event, "open").await.expect(200);
    assert_eq!(site.poll(&event, &stays).await.expect(200).json()["seq"], 1);
    assert_eq!(proof(&site, &event, "").await["drawn"], 1);
}
