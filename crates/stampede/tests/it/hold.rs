//! Holds over gRPC, as the services call them: held, confirmed, released, returned; each at most once, whoever asks.

use crate::ledger::Ledger;
use crate::site::system;
use common::rpc::Upstream;
use contract::inventory::inventory_service_client::InventoryServiceClient;
use contract::inventory::{
    ConfirmHoldRequest, GetHoldRequest, HoldRequest, HoldState, ReleaseHoldRequest, ReturnStockRequest, WantedLine,
};
use futures_util::future::join_all;
use testkit::{Product, Site, eventually};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::ledger::Units;

struct Caller {
    inventory: InventoryServiceClient<Upstream>,
    user: String,
}

impl Caller {
    fn of(site: &Site) -> Caller {
        let inventory = InventoryServiceClient::new(site.upstream("inventory"));
        Caller { inventory, user: Uuid::now_v7().to_string() }
    }

    fn client(&self) -> InventoryServiceClient<Upstream> {
        self.inventory.clone()
    }

    /// Whether this call made the hold.
    async fn hold(&self, id: &str, product: &Product, quantity: i32) -> Result<bool, Status> {
        let lines = vec![WantedLine { product_id: product.id.clone(), quantity }];
        let wanted =
            HoldRequest { hold_id: id.to_owned(), user_id: self.user.clone(), lines, reservation_id: String::new() };
        self.client().hold(wanted).await.map(|answer| answer.into_inner().created)
    }

    async fn confirm(&self, id: &str) -> Result<(), Status> {
        let request = ConfirmHoldRequest { hold_id: id.to_owned(), order_version: 2 };
        self.client().confirm_hold(request).await.map(drop)
    }

    async fn release(&self, id: &str) -> Result<(), Status> {
        let request = ReleaseHoldRequest { hold_id: id.to_owned(), reason: "test".to_owned() };
        self.client().release_hold(request).await.map(drop)
    }

    async fn give_back(&self, id: &str) -> Result<(), Status> {
        let request = ReturnStockRequest { hold_id: id.to_owned(), reason: "test".to_owned() };
        self.client().return_stock(request).await.map(drop)
    }

    async fn state(&self, id: &str) -> HoldState {
        let answer =
            self.client().get_hold(GetHoldRequest { hold_id: id.to_owned() }).await.expect("the hold is there");
        answer.into_inner().hold.expect("an answer has its hold").state()
    }
}

/// The refusal's reason, which is what callers branch on.
#[track_caller]
fn reason<T: std::fmt::Debug>(outcome: Result<T, Status>) -> String {
    use tonic_types::StatusExt;
    let status = outcome.expect_err("it must be refused");
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "stampede");
    info.reason.clone()
}

fn id() -> String {
    Uuid::now_v7().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_is_taken_once_however_often_it_is_asked_for() {
    let site = system().start().await;
    let (caller, product, id) = (Caller::of(&site), site.product(10).await, id());
    let outcomes = join_all((0..30).map(|_| caller.hold(&id, &product, 3))).await;
    let created =
        outcomes.into_iter().map(|outcome| outcome.expect("a repeat is a success")).filter(|created| *created);
    assert_eq!(created.count(), 1);
    assert_eq!(site.units(&product).await, Units { on_hand: 10, held: 3 });
    assert_eq!(reason(caller.hold(&self::id(), &product, 8).await), "OUT_OF_STOCK");
    let stranger = Caller { user: Uuid::now_v7().to_string(), ..Caller::of(&site) };
    assert_eq!(reason(stranger.hold(&id, &product, 3).await), "HOLD_NOT_FOUND", "nobody learns of another's hold");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confirmed_hold_is_a_sale_and_a_return_undoes_it_once() {
    let site = system().start().await;
    let (caller, product, id) = (Caller::of(&site), site.product(10).await, id());
    caller.hold(&id, &product, 4).await.expect("there is enough");
    assert_eq!(reason(caller.give_back(&id).await), "HOLD_NOT_CONFIRMED");
    for outcome in join_all((0..10).map(|_| caller.confirm(&id))).await {
        outcome.expect("a repeat is a success");
    }
    assert_eq!(site.units(&product).await, Units { on_hand: 6, held: 0 });
    assert_eq!(caller.state(&id).await, HoldState::Confirmed);
    assert_eq!(reason(caller.release(&id).await), "HOLD_ALREADY_CONFIRMED");
    assert!(!caller.hold(&id, &product, 4).await.expect("a repeat is answered with the hold"));

    for outcome in join_all((0..10).map(|_| caller.give_back(&id))).await {
        outcome.expect("a repeat is a success");
    }
    assert_eq!(site.units(&product).await, Units { on_hand: 10, held: 0 });
    assert_eq!(caller.state(&id).await, HoldState::Returned);
    caller.confirm(&id).await.expect("it had been confirmed");
    assert_eq!(site.units(&product).await, Units { on_hand: 10, held: 0 });
    let audits = "select count(*) from {inventory}.product_stock_audit where kind in ('CONFIRM', 'RETURN')";
    assert_eq!(site.number(audits).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_overtakes_its_hold_wins() {
    let site = system().start().await;
    let (caller, product) = (Caller::of(&site), site.product(10).await);
    let early = id();
    caller.release(&early).await.expect("an unknown hold can be released");
    assert_eq!(reason(caller.hold(&early, &product, 1).await), "HOLD_ALREADY_RELEASED");
    assert_eq!(reason(caller.confirm(&early).await), "HOLD_ALREADY_RELEASED");
    assert_eq!(reason(caller.confirm(&id()).await), "HOLD_NOT_FOUND");

    // Holding, releasing and confirming race: whatever wins, the units are counted once.
    for _ in 0..20 {
        let id = id();
        let (held, released, confirmed) =
            tokio::join!(caller.hold(&id, &product, 1), caller.release(&id), caller.confirm(&id));
        drop((held, released, confirmed));
        caller.release(&id).await.ok();
    }
    let sold = site
        .number("select coalesce(sum(-delta), 0)::bigint from {inventory}.product_stock_audit where kind = 'CONFIRM'")
        .await;
    assert_eq!(site.units(&product).await, Units { on_hand: 10 - sold, held: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_hold_cannot_be_confirmed_and_its_units_go_to_the_next() {
    let unswept = [("inventory.sweep_period_ms", "3600000"), ("inventory.gate.check_period_ms", "200")];
    let site = system().settings(&unswept).start().await;
    let (caller, product, first) = (Caller::of(&site), site.product(2).await, id());
    caller.hold(&first, &product, 2).await.expect("there is enough");
    site.time_is_up(&first).await;
    assert_eq!(caller.state(&first).await, HoldState::Expired);
    assert_eq!(reason(caller.confirm(&first).await), "HOLD_EXPIRED");
    let next = eventually("the next one gets the units, though nobody swept", async || {
        let next = id();
        caller.hold(&next, &product, 2).await.ok().map(|_| next)
    })
    .await;
    caller.confirm(&next).await.expect("in time");
    let late = reason(caller.hold(&first, &product, 2).await);
    assert!(["HOLD_EXPIRED", "OUT_OF_STOCK"].contains(&late.as_str()), "the gate may be the one that refuses: {late}");
    assert_eq!(site.units(&product).await, Units { on_hand: 0, held: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_make_no_sense_are_refused_over_grpc_too() {
    let site = system().start().await;
    let (caller, product) = (Caller::of(&site), site.product(10).await);
    let before = site.everything().await;
    for quantity in [0, -1, i32::MIN, i32::MAX] {
        let status = caller.hold(&id(), &product, quantity).await.expect_err("it must be refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
    for bad in ["", "1", "\0", "{}", "' or 1=1"] {
        let not_a_product = Product { id: bad.to_owned() };
        for outcome in [
            caller.hold(bad, &product, 1).await.map(drop),
            caller.hold(&id(), &not_a_product, 1).await.map(drop),
            caller.confirm(bad).await,
            caller.release(bad).await,
            caller.give_back(bad).await,
        ] {
            assert_eq!(outcome.expect_err("it must be refused").code(), Code::InvalidArgument, "{bad:?}");
        }
    }
    let line = WantedLine { product_id: product.id.clone(), quantity: 1 };
    for lines in [vec![], vec![line.clone(), line.clone()], vec![line; 51]] {
        let wanted = HoldRequest { hold_id: id(), user_id: caller.user.clone(), lines, reservation_id: String::new() };
        assert_eq!(caller.client().hold(wanted).await.expect_err("it must be refused").code(), Code::InvalidArgument);
    }
    assert_eq!(site.everything().await, before);
}
