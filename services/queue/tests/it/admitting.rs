//! Who is admitted, in which order, and what becomes of those who are not there.

use reqwest::Method;
use serde_json::json;
use testkit::Answer;

use crate::room::guest;
use crate::site::Site;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_has_one_place_however_often_it_asks() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 1 })).await;
    let buyer = site.buyer().await;
    let first = site.ask_in(&buyer, &event).await.expect(201).json();
    assert_eq!((first["status"].as_str(), first["seq"].as_i64()), (Some("ADMITTED"), Some(1)), "nobody has to wait");
    assert!(first["passToken"].is_string());
    let second = site.buyer().await;
    let asked = futures_util::future::join_all((0..20).map(|_| site.ask_in(&second, &event))).await;
    let created = asked.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(created, 1);
    assert!(asked.iter().all(|answer| answer.json()["seq"] == 2 && answer.json()["status"] == "WAITING"));
    assert_eq!(site.meta(&event, "next").await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_are_admitted_in_the_order_in_which_they_came() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 3 })).await;
    let guests = site.guests(&event, 9).await;
    let seqs: Vec<_> = guests.iter().map(|guest| guest.seq.unwrap()).collect();
    assert_eq!(seqs, (1..=9).collect::<Vec<_>>());
    let mut admitted = Vec::new();
    for _ in 0..3 {
        site.tick(&event).await;
        for guest in &guests {
            if site.standing(&event, guest).await == "ADMITTED" {
                admitted.push(guest.seq.unwrap());
                site.complete(&event, guest).await;
                assert_eq!(site.standing(&event, guest).await, "COMPLETED");
            }
        }
    }
    assert_eq!(admitted, (1..=9).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_nobody_claims_goes_to_the_next_and_a_pass_has_its_own_clock() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 1 })).await;
    let guests = site.guests(&event, 3).await;
    site.complete(&event, &guests[0]).await;
    site.tick(&event).await;
    assert_eq!(site.members(&event, "offer").await, ["2"]);
    // The second does not come for a minute.
    site.move_to_the_past(&event, "offer").await;
    site.tick(&event).await;
    assert_eq!(site.members(&event, "offer").await, ["3"]);
    assert_eq!(site.standings(&event, &guests).await, ["COMPLETED", "TICKET_EXPIRED", "ADMITTED"]);
    // The third is there for ten minutes, and does not buy.
    site.move_to_the_past(&event, "active").await;
    assert_eq!(site.standing(&event, &guests[2]).await, "TICKET_EXPIRED");
    // Whoever has had a turn may enter again, behind all others.
    let again = site.enter(&guests[1].client, &event).await;
    assert_eq!(again.seq, Some(4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_away_is_passed_over_and_is_next_after_coming_back() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 1 })).await;
    let guests = site.guests(&event, 5).await;
    // Long after the room was made, the second and the third have not been heard of.
    site.set_meta(&event, "since", "1").await;
    for away in ["2", "3"] {
        let () = site.redis(&["ZADD", &site.key(&event, "seen"), "1", away]).await;
    }
    site.complete(&event, &guests[0]).await;
    site.tick(&event).await;
    assert_eq!(site.members(&event, "offer").await, ["4"], "no slot is spent on the absent");
    assert_eq!(site.members(&event, "parked").await, ["2", "3"]);
    assert_eq!(site.standing(&event, &guests[3]).await, "ADMITTED");
    let back = site.poll(&event, &guests[2]).await.expect(200).json();
    assert_eq!((back["status"].as_str(), back["ahead"].as_i64()), (Some("WAITING"), Some(0)));
    site.complete(&event, &guests[3]).await;
    site.tick(&event).await;
    assert_eq!(site.members(&event, "offer").await, ["3"], "who came back is before those behind");
    // After five minutes the second has lost the place.
    site.move_to_the_past(&event, "parked").await;
    assert_eq!(site.standing(&event, &guests[1]).await, "TICKET_EXPIRED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_passed_over_who_had_no_time_to_show_up() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 1, "ratePerMinute": 60 })).await;
    // The window of this room is 135 numbers.
    let guests = site.guests(&event, 3).await;
    for (field, value) in [("ripe", "2"), ("since", "1"), ("bucket", "1")] {
        site.set_meta(&event, field, value).await;
    }
    site.move_to_the_past(&event, "seen").await;
    site.complete(&event, &guests[0]).await;
    site.tick(&event).await;
    assert_eq!(
        site.meta(&event, "front").await,
        2,
        "the front waits at the numbers that were not asked for long enough"
    );
    assert_eq!(site.members(&event, "parked").await, ["2"]);
    assert_eq!(site.standing(&event, &guests[2]).await, "WAITING");
    site.set_meta(&event, "edge_at", "1").await;
    site.tick(&event).await;
    assert_eq!(site.members(&event, "offer").await, ["3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_far_from_the_front_asks_redis_nothing() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 1, "ratePerMinute": 60 })).await;
    let guests = site.guests(&event, 3).await;
    site.set_meta(&event, "edge", "2").await;
    site.tick(&event).await;
    let view = site.poll(&event, &guests[2]).await.expect(200);
    assert_eq!(view.json()["ahead"], 1);
    assert!(view.json()["etaSeconds"].as_i64().unwrap() >= 1);
    let after = view.json()["pollAfterMs"].as_i64().unwrap();
    assert!((1_600..=20_000).contains(&after), "{after}");
    // A room that is gone is not missed.
    site.lose(&event).await;
    assert_eq!(site.standing(&event, &guests[2]).await, "WAITING");
    assert_eq!(site.meta(&event, "epoch").await, -1, "nobody has asked");
    let etag = view.header("etag").unwrap().to_owned();
    let path = format!("/queues/{event}/tickets/{}", guests[2].ticket);
    let request = guests[2].client.request(reqwest::Method::GET, &path);
    let request = request.header("X-Queue-Ticket", &guests[2].token).header("If-None-Match", etag);
    let unchanged = guests[2].client.send(request).await;
    assert_eq!(unchanged.status, 304);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leaves_frees_place_and_slot() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 1 })).await;
    let guests = site.guests(&event, 3).await;
    site.leave(&event, &guests[1]).await.expect(204);
    site.leave(&event, &guests[1]).await.expect(204);
    assert_eq!(site.standing(&event, &guests[1]).await, "TICKET_EXPIRED");
    site.leave(&event, &guests[0]).await.expect(204);
    site.tick(&event).await;
    assert_eq!(site.standing(&event, &guests[2]).await, "ADMITTED");
    let ended = format!("select count(*) from {{queue}}.ended_passes where event_id = '{event}' and seq = 1");
    assert_eq!(site.number(&ended).await, 1, "the pass of the first is worth nothing any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_is_its_owners_alone() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 1 })).await;
    let other = site.room(json!({ "maxActive": 1 })).await;
    let guests = site.guests(&event, 2).await;
    let stolen = guest(&guests[0].client, &json!({ "ticketId": guests[1].ticket, "ticketToken": guests[1].token }));
    site.poll(&event, &stolen).await.refused(404, "TICKET_NOT_FOUND");
    site.leave(&event, &stolen).await.refused(404, "TICKET_NOT_FOUND");
    site.poll(&other, &guests[1]).await.refused(404, "TICKET_NOT_FOUND");
    let forged = guest(&guests[1].client, &json!({ "ticketId": guests[0].ticket, "ticketToken": guests[1].token }));
    site.poll(&event, &forged).await.refused(404, "TICKET_NOT_FOUND");
    assert_eq!(site.standing(&event, &guests[1]).await, "WAITING");
}

/// The look at a ticket goes around the framework's routing, but not for browsers of other origins and unusual paths.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_is_answered_alike_with_and_without_the_frameworks_routing() {
    const SHOP: &str = "https://shop.example.com";
    let site = Site::start_with(&[("http.allowed_origins", SHOP)]).await;
    let event = site.room(json!({ "maxActive": 1 })).await;
    let guest = site.guests(&event, 2).await.remove(1);
    let ask = async |method: Method, event: &str, ticket: &str, origin: Option<&str>| {
        let request = guest.client.request(method, &format!("/queues/{event}/tickets/{ticket}"));
        let request = request.header("X-Queue-Ticket", &guest.token);
        let request = origin.into_iter().fold(request, |request, origin| request.header("Origin", origin));
        guest.client.send(request).await
    };
    let without_jitter = |answer: &Answer| {
        let mut view = answer.json();
        view.as_object_mut().unwrap().remove("pollAfterMs").expect("it says when to ask again");
        view
    };
    let direct = ask(Method::GET, &event, &guest.ticket, None).await.expect(200);
    assert_eq!(direct.header("Access-Control-Allow-Origin"), None);
    let from_shop = ask(Method::GET, &event, &guest.ticket, Some(SHOP)).await.expect(200);
    assert_eq!(from_shop.header("Access-Control-Allow-Origin"), Some(SHOP));
    let escaped = format!("%{:02x}{}", guest.ticket.as_bytes()[0], &guest.ticket[1..]);
    let escaped = ask(Method::GET, &event, &escaped, None).await.expect(200);
    for routed in [&from_shop, &escaped] {
        assert_eq!(without_jitter(routed), without_jitter(&direct));
        for name in ["etag", "cache-control", "content-type", "vary"] {
            assert_eq!(routed.header(name), direct.header(name), "{name}");
        }
    }
    let head = ask(Method::HEAD, &event, &guest.ticket, None).await.expect(200);
    assert!(head.body.is_empty() && head.header("etag") == direct.header("etag"));
    for (event, ticket, field) in [("x", guest.ticket.as_str(), "eventId"), (&event, "x", "ticketId")] {
        let refused = ask(Method::GET, event, ticket, None).await.refused(400, "VALIDATION_ERROR");
        assert_eq!(refused["details"][0]["field"], field);
    }
    let anyone = site.anyone();
    let path = format!("/queues/{event}/tickets/{}", guest.ticket);
    anyone.send(anyone.request(Method::GET, &path)).await.refused(401, "UNAUTHORIZED");
    let unknown = uuid::Uuid::now_v7().to_string();
    for origin in [None, Some(SHOP)] {
        ask(Method::GET, &unknown, &guest.ticket, origin).await.refused(404, "EVENT_NOT_FOUND");
    }
}
