//! A crowd comes, a third of it does not come back, and three replicas tick together. In the soak Redis loses everything in the
//! middle; what a lost room promises is shown step by step in `losing.rs`. Everybody asks when told to, as by the stream: asking
//! again and again is shown in `admitting.rs`, and would be all that an unoptimised server has time for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use common::auth::Role;
use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::json;
use testkit::{eventually, text};
use tokio::sync::{Mutex, Notify, Semaphore};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::room::Guest;
use crate::site::Site;

/// Every third does not come back.
const ABSENT_EVERY: usize = 3;
/// Requests under way at the same time.
const REQUESTS: usize = 16;
/// For the longest crowd.
const TOKEN_SECONDS: u64 = 3_600;
/// How long somebody shops with the pass.
const SHOPPING: Duration = Duration::from_millis(300);

struct Crowd {
    guests: usize,
    slots: usize,
    /// Whether Redis loses the room when a third is served.
    loses: bool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_are_served_in_order_and_never_beyond_the_slots() {
    serve(Crowd { guests: 2_000, slots: 300, loses: false }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: when the room is lost, and who builds it, is up to chance; losing.rs has each case"]
async fn two_thousand_are_served_while_redis_loses_the_room() {
    serve(Crowd { guests: 2_000, slots: 300, loses: true }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak: 50,000 people"]
async fn fifty_thousand_are_served_in_order_and_use_nearly_all_slots() {
    let used = serve(Crowd { guests: 50_000, slots: 3_000, loses: true }).await;
    assert!(used >= 0.95, "{used}");
}

/// Serves everybody who is there. Returns the share of the slots that was taken while people waited.
async fn serve(crowd: Crowd) -> f64 {
    // A slow machine answers the polls of a large crowd so slowly that nobody's silence means anything.
    let settings = [
        ("queue.tick_period_ms", "100"),
        ("queue.sync_period_ms", "200"),
        ("queue.alive_seconds", "600"),
        ("queue.grace_seconds", "600"),
    ];
    let site = Arc::new(Site::start_with(&settings).await);
    let replicas = [site.replica_with(&settings).await, site.replica_with(&settings).await];
    let rules = json!({ "maxActive": crowd.slots, "ratePerMinute": 600_000, "claimSeconds": 600 });
    let event = site.room(rules).await;
    site.manage(&event, "pause").await.expect(200);
    let guests: Vec<Guest> =
        stream::iter(0..crowd.guests).map(|_| site.patient_guest(&event)).buffer_unordered(REQUESTS).collect().await;
    let (absent, present): (Vec<_>, Vec<_>) =
        guests.into_iter().partition(|guest| guest.seq.unwrap() % ABSENT_EVERY as i64 == 0);
    let absent: Vec<i64> = absent.iter().map(|guest| guest.seq.unwrap()).collect();
    site.mark_absent(&event, &absent).await;
    site.manage(&event, "resume").await.expect(200);

    let count = present.len();
    assert!(absent.len() > count / 3, "every third is absent");
    let (served, requests) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(REQUESTS)));
    let news = Arc::new(News::of(&present));
    let buying: Vec<_> = present
        .into_iter()
        .map(|guest| {
            let (site, event, news) = (site.clone(), event.clone(), news.clone());
            let (served, requests) = (served.clone(), requests.clone());
            tokio::spawn(async move { wait_and_buy(&site, &event, guest, &news, &served, &requests).await })
        })
        .collect();
    let used = watch(&site, &event, &crowd, &served, &absent, &buying, &news).await;
    for buyer in buying {
        buyer.await.unwrap();
    }
    let mut served = served.lock().await.clone();
    served.sort_unstable();
    let all = served.len();
    served.dedup();
    assert_eq!((served.len(), all), (count, count), "everybody who was there, and nobody twice");
    for replica in replicas {
        replica.stop().await;
    }
    used
}

/// Looks at the slots until all are served.
async fn watch(
    site: &Site,
    event: &str,
    crowd: &Crowd,
    served: &Mutex<Vec<i64>>,
    absent: &[i64],
    buying: &[JoinHandle<()>],
    news: &News,
) -> f64 {
    let here = buying.len();
    let (mut taken, mut looks, mut is_lost) = (0, 0, false);
    let mut offered = Offered::default();
    while !buying.iter().all(JoinHandle::is_finished) {
        let done = served.lock().await.len();
        let (active, offers, new) = slots(site, event, offered.until).await;
        assert!(active + offers <= crowd.slots, "{active} passes, {offers} offers");
        if here - done > 2 * crowd.slots && done > crowd.slots {
            (taken, looks) = (taken + active + offers, looks + 1);
        }
        news.tell_up_to(new.iter().map(|(seq, _)| *seq).max().unwrap_or_default());
        offered.note(new);
        if crowd.loses && !is_lost && done > here / 3 {
            // Nobody is offered a slot before the absent are absent again.
            site.manage(event, "pause").await.expect(200);
            site.lose(event).await;
            is_lost = true;
            offered.check_order();
            eventually("the room is there again", async || (site.meta(event, "epoch").await > 1).then_some(())).await;
            site.mark_absent(event, absent).await;
            site.manage(event, "resume").await.expect(200);
            news.tell_all();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(is_lost, crowd.loses, "the room was lost in the middle");
    offered.check_order();
    let used = taken as f64 / (looks * crowd.slots).max(1) as f64;
    println!("{} served, {:.1} % of the slots taken in {looks} looks", here, 100.0 * used);
    used
}

/// Tells everybody whose turn has come, as the stream would.
struct News {
    waiting: BTreeMap<i64, Notify>,
    /// Numbers up to this one have been told.
    told: AtomicI64,
}

impl News {
    fn of(guests: &[Guest]) -> News {
        let waiting = guests.iter().map(|guest| (guest.seq.unwrap(), Notify::new())).collect();
        News { waiting, told: AtomicI64::new(0) }
    }

    fn tell_up_to(&self, seq: i64) {
        let told = self.told.fetch_max(seq, Ordering::SeqCst);
        if seq > told {
            self.waiting.range(told + 1..=seq).for_each(|(_, guest)| guest.notify_one());
        }
    }

    /// The room was lost: everybody shows the ticket, and is told again.
    fn tell_all(&self) {
        self.told.store(0, Ordering::SeqCst);
        self.waiting.values().for_each(Notify::notify_one);
    }

    /// Until there is something new for `seq`. Who was told that it is near asks as often as the server says.
    async fn wait(&self, seq: i64, poll_after: Duration) {
        match self.told.load(Ordering::SeqCst) >= seq {
            true => tokio::time::sleep(poll_after).await,
            false => self.waiting[&seq].notified().await,
        }
    }
}

/// When each number was offered a slot, as far as that was seen.
#[derive(Default)]
struct Offered {
    /// Numbers up to this one had their turn before the room was lost, and may come back to it.
    before: i64,
    deadlines: BTreeMap<i64, f64>,
    /// The last deadline that was seen.
    until: f64,
}

impl Offered {
    fn note(&mut self, offers: Vec<(i64, f64)>) {
        self.until = offers.iter().map(|(_, deadline)| *deadline).fold(self.until, f64::max);
        for (seq, deadline) in offers.into_iter().filter(|(seq, _)| *seq > self.before) {
            self.deadlines.entry(seq).or_insert(deadline);
        }
    }

    fn check_order(&mut self) {
        let offers: Vec<(i64, f64)> = std::mem::take(&mut self.deadlines).into_iter().collect();
        assert!(offers.len() > 100, "most offers are seen: {}", offers.len());
        for pair in offers.windows(2) {
            assert!(pair[0].1 <= pair[1].1, "number {} is offered a slot before number {}", pair[1].0, pair[0].0);
        }
        self.before = offers.last().map_or(0, |(seq, _)| *seq);
    }
}

impl Site {
    async fn patient_guest(&self, event: &str) -> Guest {
        self.enter(&self.user_for(Uuid::now_v7(), Role::User, TOKEN_SECONDS), event).await
    }

    /// These were last heard of long ago.
    async fn mark_absent(&self, event: &str, numbers: &[i64]) {
        const ABSENT: &str = "for _, seq in ipairs(ARGV) do redis.call('ZADD', KEYS[1], 1, seq) end";
        let seen = self.key(event, "seen");
        for numbers in numbers.chunks(1_000) {
            let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
            let mut words = vec!["EVAL", ABSENT, "1", &seen];
            words.extend(numbers.iter().map(String::as_str));
            let () = self.redis(&words).await;
        }
    }
}

/// How many have a pass and how many an offer, and the numbers whose offers end at `since` or later, at one moment.
async fn slots(site: &Site, event: &str, since: f64) -> (usize, usize, Vec<(i64, f64)>) {
    const SLOTS: &str = "return {redis.call('ZCARD', KEYS[1]), redis.call('ZCARD', KEYS[2]), redis.call('ZRANGEBYSCORE', \
                         KEYS[2], ARGV[1], '+inf', 'WITHSCORES')}";
    let (active, offer) = (site.key(event, "active"), site.key(event, "offer"));
    site.redis(&["EVAL", SLOTS, "2", &active, &offer, &since.to_string()]).await
}

/// Asks when told to, shops, and gives the pass back.
async fn wait_and_buy(
    site: &Site,
    event: &str,
    guest: Guest,
    news: &News,
    served: &Mutex<Vec<i64>>,
    requests: &Semaphore,
) {
    let seq = guest.seq.unwrap();
    loop {
        let answer = {
            let _turn = requests.acquire().await.unwrap();
            site.poll(event, &guest).await
        };
        let view = answer.json();
        match text(&view[if answer.status.is_success() { "status" } else { "code" }]).as_str() {
            "ADMITTED" => break,
            "WAITING" => news.wait(seq, Duration::from_millis(view["pollAfterMs"].as_u64().unwrap())).await,
            "SERVICE_UNAVAILABLE" => tokio::time::sleep(Duration::from_millis(300)).await,
            other => panic!("number {seq} is {other}"),
        }
    }
    served.lock().await.push(seq);
    tokio::time::sleep(SHOPPING).await;
    let _turn = requests.acquire().await.unwrap();
    site.complete(event, &guest).await;
}
