//! What a pass is worth: to its owner, at its event, while it is in use.

use common::Error;
use common::rpc::Upstream;
use contract::queue::queue_service_client::QueueServiceClient;
use contract::queue::verify_pass_response::Outcome;
use contract::queue::{CompletePassRequest, GetRoomRequest, PingRequest, VerifyPassRequest};
use serde_json::json;
use testkit::Client;
use uuid::Uuid;

use crate::site::Site;

fn rpc(site: &Site) -> QueueServiceClient<Upstream> {
    QueueServiceClient::new(site.upstream("queue"))
}

pub async fn verify(site: &Site, event: &str, client: &Client, pass: &str) -> Outcome {
    let request =
        VerifyPassRequest { event_id: event.to_owned(), user_id: client.user_id.clone(), pass: pass.to_owned() };
    rpc(site).verify_pass(request).await.unwrap().into_inner().outcome()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_is_good_for_its_owner_at_its_event_until_it_has_been_used() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 2 })).await;
    let other = site.room(json!({ "maxActive": 2 })).await;
    let (guest, stranger) = (site.guest(&event).await, site.buyer().await);
    let pass = site.pass(&event, &guest).await;
    assert_eq!(verify(&site, &event, &guest.client, &pass).await, Outcome::Ok);
    site.try_pass(&guest.client, &event, &pass).await.expect(200);
    assert_eq!(verify(&site, &event, &stranger, &pass).await, Outcome::Invalid);
    assert_eq!(verify(&site, &other, &guest.client, &pass).await, Outcome::Invalid);
    assert_eq!(verify(&site, &event, &guest.client, &guest.token).await, Outcome::Invalid, "a ticket is no pass");
    for forged in ["", "x", &pass[..pass.len() - 4], &format!("{pass}AAAA")] {
        assert_eq!(verify(&site, &event, &guest.client, forged).await, Outcome::Invalid, "{forged}");
    }
    site.try_pass(&stranger, &event, &pass).await.refused(403, "QUEUE_TOKEN_INVALID");

    let complete = CompletePassRequest { event_id: event.clone(), user_id: guest.client.user_id.clone() };
    assert!(rpc(&site).complete_pass(complete.clone()).await.unwrap().into_inner().completed);
    assert!(!rpc(&site).complete_pass(complete).await.unwrap().into_inner().completed, "once");
    assert_eq!(verify(&site, &event, &guest.client, &pass).await, Outcome::Ended);
    site.try_pass(&guest.client, &event, &pass).await.refused(403, "QUEUE_TOKEN_INVALID");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_stores_the_end_of_a_pass_that_was_not_stored() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 1 })).await;
    let guest = site.guest(&event).await;
    site.pass(&event, &guest).await;
    site.complete(&event, &guest).await;
    // As if PostgreSQL had been away.
    site.execute(&format!("delete from {{queue}}.ended_passes where event_id = '{event}'")).await;
    site.complete(&event, &guest).await;
    let ended = format!("select count(*) from {{queue}}.ended_passes where event_id = '{event}' and seq = 1");
    assert_eq!(site.number(&ended).await, 1);
    let again = site.ask_in(&guest.client, &event).await.expect(201).json();
    assert_eq!(again["seq"], 2, "a pass that was used is no place in the line");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_whose_session_is_over_has_expired_and_its_slot_is_free() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 1 })).await;
    let guests = site.guests(&event, 2).await;
    let pass = site.pass(&event, &guests[0]).await;
    site.move_to_the_past(&event, "active").await;
    assert_eq!(verify(&site, &event, &guests[0].client, &pass).await, Outcome::Expired);
    site.tick(&event).await;
    assert_eq!(site.standing(&event, &guests[1]).await, "ADMITTED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_may_ask_whether_the_queue_lives_and_how_a_room_stands() {
    let site = Site::start_with(&[]).await;
    let event = site.room(json!({ "maxActive": 1 })).await;
    site.guests(&event, 3).await;
    rpc(&site).ping(PingRequest {}).await.unwrap();
    site.anyone().get("/queues/ping").await.expect(200);
    let room = rpc(&site).get_room(GetRoomRequest { event_id: event.clone() }).await.unwrap().into_inner();
    assert_eq!((room.status.as_str(), room.queue_manage_required), ("OPEN", true));
    assert_eq!((room.issued, room.serving), (3, 1));
    let unknown = GetRoomRequest { event_id: Uuid::now_v7().to_string() };
    let error = Error::from(rpc(&site).get_room(unknown).await.unwrap_err());
    assert_eq!(error.reason(), Some("EVENT_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sale_without_a_queue_lets_everybody_in() {
    let site = Site::start_with(&[]).await;
    let event = site.event(json!({})).await;
    site.command(&event, "open").await.expect(200);
    let buyer = site.buyer().await;
    let entered = site.ask_in(&buyer, &event).await.expect(201).json();
    assert_eq!(entered["status"], "ADMITTED");
    let pass = entered["passToken"].as_str().unwrap();
    assert_eq!(verify(&site, &event, &buyer, pass).await, Outcome::Ok);
}
