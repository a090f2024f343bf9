//! The registry without a network: who gets what, what is kept, and who is cut.

use std::time::Duration;

use contract::events::{EventClosed, EventOpen};

use super::*;

fn settings() -> StreamSettings {
    StreamSettings {
        streams_max: 6,
        streams_per_account: 2,
        streams_per_address: 1,
        client_frames: 4,
        ring_frames: 8,
        account_frames: 2,
        ring_minutes: 10,
        heartbeat_seconds: 15,
    }
}

struct Bench {
    clients: Clients,
    now: Instant,
}

impl Bench {
    fn new() -> Bench {
        let clients = Clients::new(&settings(), "e");
        clients.caught_up();
        Bench { clients, now: Instant::now() }
    }

    fn open(&self, owner: Owner, topics: Option<&str>, last_seen: Option<&str>) -> Result<Opened, Full> {
        let topics = Topics::parse(topics, matches!(owner, Owner::Account(_))).unwrap();
        self.clients.open(owner, topics, last_seen, self.now)
    }

    fn sale_opens(&self, sale: u128) {
        let open = EventOpen { event_id: Uuid::from_u128(sale).to_string(), version: 2, ..EventOpen::default() };
        assert!(self.clients.tell_sale(SaleFact::Open(&open), Uuid::new_v4(), false, self.now));
    }

    fn order(&self, owner: u128, order: u128) -> bool {
        let about = About::Order(Uuid::from_u128(order).into());
        let news = OwnFact { event_id: Uuid::from_u128(order), about, kind: "order.updated", data: order as u64 };
        self.clients.tell_owner(Uuid::from_u128(owner).into(), &news, self.now)
    }
}

fn account(number: u128) -> Owner {
    Owner::Account(Uuid::from_u128(number).into())
}

fn address(last: u8) -> Owner {
    Owner::Address(Some([192, 0, 2, last].into()))
}

/// The ids of the frames that wait.
fn waiting(opened: &mut Opened) -> Vec<String> {
    let mut ids = Vec::new();
    while let Ok(frame) = opened.frames.try_recv() {
        ids.push(id(&frame));
    }
    ids
}

fn id(frame: &Bytes) -> String {
    let text = std::str::from_utf8(frame).unwrap();
    text.lines().next().unwrap().strip_prefix("id: ").unwrap().to_owned()
}

fn replayed(opened: &Opened) -> Vec<String> {
    let Start::Replay(frames) = &opened.start else { panic!("{:?}", opened.start) };
    frames.iter().map(id).collect()
}

fn resync(opened: &Opened) -> Option<Cause> {
    let Start::Snapshot { resync, .. } = &opened.start else { panic!("{:?}", opened.start) };
    *resync
}

#[test]
fn each_fact_reaches_those_who_want_it_and_nobody_else() {
    let bench = Bench::new();
    let mut own = bench.open(account(1), None, None).unwrap();
    let mut foreign = bench.open(account(2), None, None).unwrap();
    let mut anyone = bench.open(address(1), None, None).unwrap();
    let one = format!("event:{}", Uuid::from_u128(7));
    let mut named = bench.open(address(2), Some(&one), None).unwrap();
    let order = format!("order:{}", Uuid::from_u128(11));
    let mut one_order = bench.open(account(1), Some(&order), None).unwrap();
    // Who names an order of somebody else gets nothing of it.
    let mut thief = bench.open(account(2), Some(&order), None).unwrap();
    bench.sale_opens(7);
    bench.sale_opens(8);
    assert!(bench.order(1, 10) && bench.order(1, 11) && !bench.order(3, 12));
    assert_eq!(waiting(&mut own), ["e-1", "e-2", "e-3", "e-4"]);
    assert_eq!(waiting(&mut foreign), ["e-1", "e-2"]);
    assert_eq!(waiting(&mut anyone), ["e-1", "e-2"]);
    assert_eq!(waiting(&mut named), ["e-1"]);
    assert_eq!(waiting(&mut one_order), ["e-4"]);
    assert_eq!(waiting(&mut thief), Vec::<String>::new());
    assert!(!bench.order(1, 11), "a repeat is told once");
}

#[test]
fn who_comes_back_gets_what_it_missed_or_is_told_that_it_cannot() {
    let mut bench = Bench::new();
    let first = bench.open(account(1), None, None).unwrap();
    assert_eq!(resync(&first), None);
    bench.order(1, 10);
    bench.sale_opens(7);
    bench.clients.leave(first.client, account(1), bench.now);
    bench.order(1, 11);
    let back = bench.open(account(1), None, Some("e-1")).unwrap();
    assert_eq!(replayed(&back), ["e-2", "e-3"]);
    let back = bench.open(account(1), Some("orders"), Some("e-0")).unwrap();
    assert_eq!(replayed(&back), ["e-1", "e-3"], "only what it wants");
    for other in ["f-1", "e-4", "e", "e-x", "7", "가-1"] {
        let opened = bench.open(address(1), None, Some(other)).unwrap();
        assert_eq!(resync(&opened), Some(Cause::OtherEpoch), "{other}");
        bench.clients.leave(opened.client, address(1), bench.now);
    }
    let unknown = bench.open(account(2), None, Some("e-1")).unwrap();
    assert_eq!(resync(&unknown), Some(Cause::TooOld), "nothing is kept for an account that was never here");
    bench.order(1, 12);
    bench.order(1, 13);
    bench.clients.leave(unknown.client, account(2), bench.now);
    let anyone = bench.open(address(1), None, Some("e-0")).unwrap();
    assert_eq!(replayed(&anyone), ["e-2"], "others' facts leave no gap");
    bench.now += Duration::from_secs(601);
    bench.clients.leave(anyone.client, address(1), bench.now);
    assert_eq!(resync(&bench.open(address(1), None, Some("e-1")).unwrap()), Some(Cause::TooOld));
}

#[test]
fn an_account_that_left_long_ago_is_forgotten() {
    let mut bench = Bench::new();
    let gone = bench.open(account(1), None, None).unwrap();
    bench.clients.leave(gone.client, account(1), bench.now);
    assert!(bench.order(1, 10), "it may come back");
    bench.now += Duration::from_secs(601);
    drop(bench.open(address(1), None, None).unwrap());
    assert!(!bench.order(1, 11));
    assert!(bench.clients.state.lock().accounts.is_empty() && bench.clients.state.lock().left.is_empty());
}

#[test]
fn a_client_that_takes_nothing_is_cut_and_keeps_its_place_until_it_leaves() {
    let bench = Bench::new();
    let mut slow = bench.open(address(1), None, None).unwrap();
    let mut quick = bench.open(address(2), None, None).unwrap();
    for sale in 1..=4 {
        bench.sale_opens(sale);
    }
    assert_eq!(waiting(&mut quick).len(), 4);
    assert_eq!(slow.ended.get(), None);
    bench.sale_opens(5);
    assert_eq!(slow.ended.get(), Some(&Ended::Slow));
    assert_eq!(waiting(&mut slow), ["e-1", "e-2", "e-3", "e-4"], "what it had is still its own");
    assert!(slow.frames.is_closed());
    bench.sale_opens(6);
    assert_eq!(waiting(&mut quick), ["e-5", "e-6"]);
    assert!(bench.open(address(1), None, None).is_err(), "its connection has not ended");
    bench.clients.leave(slow.client, address(1), bench.now);
    assert_eq!(replayed(&bench.open(address(1), None, Some("e-4")).unwrap()), ["e-5", "e-6"]);
}

#[test]
fn places_are_bounded_for_each_owner_and_in_all() {
    let bench = Bench::new();
    let refused = |owner| bench.open(owner, None, None).unwrap_err().name();
    let mut places = vec![(address(1), bench.open(address(1), None, None).unwrap().client)];
    assert_eq!(refused(address(1)), "address");
    for number in [1, 1, 2, 2, 3] {
        places.push((account(number), bench.open(account(number), None, None).unwrap().client));
    }
    assert_eq!(refused(account(4)), "process");
    for (owner, client) in places.split_off(5) {
        bench.clients.leave(client, owner, bench.now);
    }
    assert_eq!(refused(account(1)), "account");
    for (owner, client) in places {
        bench.clients.leave(client, owner, bench.now);
    }
    let state = bench.clients.state.lock();
    assert_eq!((state.places, state.clients.len(), state.of_all_sales.len()), (0, 0, 0));
    assert!(state.places_by_address.is_empty() && state.of_sale.is_empty());
}

#[test]
fn nobody_is_let_in_before_the_past_is_known_and_the_past_is_not_told() {
    let clients = Clients::new(&settings(), "e");
    let topics = || Topics::parse(None, false).unwrap();
    assert_eq!(clients.open(address(1), topics(), None, Instant::now()).unwrap_err(), Full::NotReady);
    let open = EventOpen { event_id: Uuid::from_u128(7).to_string(), version: 2, ..EventOpen::default() };
    assert!(!clients.tell_sale(SaleFact::Open(&open), Uuid::new_v4(), true, Instant::now()));
    clients.caught_up();
    let opened = clients.open(address(1), topics(), None, Instant::now()).unwrap();
    let Start::Snapshot { id, sales, .. } = opened.start else { panic!("{:?}", opened.start) };
    assert_eq!((id.to_string().as_str(), sales.len()), ("e-0", 1));
}

#[test]
fn a_new_log_is_a_new_epoch_for_everybody() {
    let bench = Bench::new();
    let mut before = bench.open(account(1), None, None).unwrap();
    bench.sale_opens(7);
    bench.clients.begin_epoch("f");
    assert_eq!(before.ended.get(), Some(&Ended::LogReplaced));
    assert_eq!(waiting(&mut before), ["e-1"]);
    bench.clients.leave(before.client, account(1), bench.now);
    let mut after = bench.open(account(1), None, Some("e-1")).unwrap();
    assert_eq!(resync(&after), Some(Cause::OtherEpoch));
    let closed = EventClosed { event_id: Uuid::from_u128(7).to_string(), version: 3, ..EventClosed::default() };
    assert!(bench.clients.tell_sale(SaleFact::Closed(&closed), Uuid::new_v4(), false, bench.now));
    assert_eq!(waiting(&mut after), ["f-1"]);
}
