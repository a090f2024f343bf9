//! A sale event at each of its moments.

use super::*;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
}

/// Opens at 100, from 50 people may come, closes at 200.
pub fn event() -> SaleEvent {
    SaleEvent {
        id: SaleEventId::derive(&[b"event"]),
        name: "한정판".to_owned(),
        status: Status::Pending,
        sold_out: None,
        opens_at: at(100),
        closes_at: Some(at(200)),
        prequeue_at: Some(at(50)),
        opened_at: None,
        closed_at: None,
        product_ids: vec![ProductId::derive(&[b"product"])],
        queue_manage_required: true,
        room: RoomRules {
            max_active: 10,
            rate_per_minute: 60,
            session_seconds: 600,
            claim_seconds: 60,
            waiting_max: 1000,
            verify_offline: false,
            closed_on_outage: false,
        },
        mode: Mode::Running,
        pass_public_key: vec![1; 32],
        pass_private_key: vec![2; 48],
        draw_seed: vec![3; 32],
        fingerprint: vec![1; 33],
        version: 1,
        created_by: Uuid::nil(),
    }
}

#[test]
fn a_sale_is_open_by_its_times_whatever_was_announced() {
    let event = event();
    for (second, phase) in [
        (49, Phase::Ahead),
        (50, Phase::Prequeue),
        (99, Phase::Prequeue),
        (100, Phase::Open),
        (199, Phase::Open),
        (200, Phase::Closed),
    ] {
        assert_eq!(event.phase(at(second)), phase, "{second}");
    }
}

#[test]
fn an_administrator_opens_and_closes_at_any_time() {
    let open = SaleEvent { status: Status::Open, opened_at: Some(at(10)), ..event() };
    assert_eq!(open.phase(at(10)), Phase::Open);
    let closed = SaleEvent { status: Status::Closed, closed_at: Some(at(10)), ..event() };
    assert_eq!(closed.phase(at(150)), Phase::Closed);
}

#[test]
fn without_a_queue_nobody_comes_early() {
    let event = SaleEvent { queue_manage_required: false, ..event() };
    assert_eq!(event.phase(at(60)), Phase::Ahead);
}

#[test]
fn what_has_begun_is_not_put_off_and_its_end_is() {
    let event = event();
    let later = Times { opens_at: at(150), ..event.times() };
    let longer = Times { closes_at: None, ..event.times() };
    let sooner = Times { prequeue_at: Some(at(60)), ..event.times() };
    assert_eq!(event.may_move(&later, at(40)), Ok(()));
    assert_eq!(event.may_move(&later, at(99)), Ok(()), "who has come early waits a little longer");
    assert_eq!(event.may_move(&later, at(100)), Err(Refused::AlreadyOpen(event.id)));
    assert_eq!(event.may_move(&longer, at(150)), Ok(()));
    assert_eq!(event.may_move(&longer, at(200)), Err(Refused::Closed(event.id)));
    assert_eq!(event.may_move(&sooner, at(49)), Ok(()));
    assert_eq!(event.may_move(&sooner, at(55)), Err(Refused::AlreadyOpen(event.id)));
}

#[test]
fn times_that_contradict_each_other_are_refused() {
    let good = event().times();
    assert!(good.check(at(0)).is_ok());
    for (bad, field) in [
        (Times { closes_at: Some(at(100)), ..good }, "closesAt"),
        (Times { prequeue_at: Some(at(100)), ..good }, "prequeueAt"),
        (Times { opens_at: at(400 * 86_400), closes_at: None, ..good }, "opensAt"),
        (Times { closes_at: Some(DateTime::<Utc>::MAX_UTC), ..good }, "closesAt"),
    ] {
        assert_eq!(bad.check(at(0)).unwrap_err().details[0]["field"], field);
    }
}

#[test]
fn a_product_counts_once() {
    let product = ProductId::derive(&[b"product"]);
    assert_eq!(check_products(vec![product, product]).unwrap(), [product]);
    assert!(check_products(Vec::new()).is_err());
}

#[test]
fn the_commitment_tells_seeds_and_events_apart() {
    let (event, other) = (event(), SaleEvent { draw_seed: vec![4; 32], ..event() });
    assert_eq!(event.draw_commitment().len(), 64);
    assert_ne!(event.draw_commitment(), other.draw_commitment());
    let elsewhere = SaleEvent { id: SaleEventId::derive(&[b"other"]), ..event.clone() };
    assert_ne!(event.draw_commitment(), elsewhere.draw_commitment());
}
