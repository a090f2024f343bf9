//! `Bank`: the points of a payment service, and the rows that its flows write around them.

use common::db::Tx;
use common::idempotency::IdempotencyKey;
use common::{Result, settings};
use contract::ids::{AccountId, PaymentAttemptId, PaymentId, RefundId};
use contract::money::Money;
use diesel::sql_query;
use diesel_async::RunQueryDsl;
use sandbox::Sandbox;
use testkit::Site;

use crate::points::charge_points::{ChargePoints, Charged, charge};
use crate::points::{Points, Settings, confirm_points, rows};
use crate::provider::{Attempt, RefundRequest};

pub struct Bank {
    pub site: Site,
    pub points: Points,
}

impl Bank {
    pub async fn open() -> Bank {
        Bank::of(Site::builder(&[crate::spec()]).start().await).await
    }

    /// A bank on servers of its own.
    pub async fn open_on(servers: &'static Sandbox) -> Bank {
        Bank::of(Site::builder(&[crate::spec()]).on(servers).start().await).await
    }

    async fn of(site: Site) -> Bank {
        let settings: Settings = settings::Settings::defaults()
            .and_then(|all| all.section("payment.points"))
            .expect("the settings are right");
        let points = Points::new(&site.db("payment").await, &settings);
        Bank { site, points }
    }

    pub async fn charge(&self, user: AccountId, key: &str, amount: i64) -> Result<Charged> {
        let key = IdempotencyKey::parse(key.as_bytes()).expect("a valid key");
        charge(&self.points, user, &key, &ChargePoints { amount: Money::krw(amount) }).await
    }

    /// Somebody new who has `amount`.
    pub async fn user_with(&self, amount: i64) -> AccountId {
        let user = AccountId::generate();
        assert_eq!(self.charge(user, "first", amount).await.expect("PostgreSQL answers").balance, amount);
        user
    }

    /// A first attempt at a new payment, written down as the flow does before it asks for money.
    pub async fn attempt(&self, user: AccountId, amount: i64) -> Attempt {
        let attempt = attempt_of(PaymentId::generate(), user, amount);
        self.begin(&attempt).await;
        attempt
    }

    /// Another attempt at the same payment.
    pub async fn again(&self, earlier: &Attempt) -> Attempt {
        let attempt = attempt_of(earlier.payment, earlier.user, earlier.amount);
        self.begin(&attempt).await;
        attempt
    }

    async fn begin(&self, attempt: &Attempt) {
        let Attempt { id, key, payment, user, pg_payment_id, amount, currency } = attempt;
        let begin = format!(
            "insert into {{payment}}.payments
                 (id, order_id, user_id, method, amount, currency, idempotency_key, fingerprint, expires_at)
             values ('{payment}', '{payment}', '{user}', 'POINTS', {amount}, '{currency}', '{key}', '', 'infinity')
             on conflict do nothing;
             insert into {{payment}}.payment_attempt (id, payment_id, pg_payment_id, idempotency_key, amount)
             values ('{id}', '{payment}', '{pg_payment_id}', '{key}', {amount})"
        );
        Site::execute(&self.site, &begin).await;
    }

    /// Records that the attempt has failed, as the flow does. Returns whether it has really taken nothing.
    pub async fn end(&self, attempt: &Attempt) -> bool {
        let (id, payment) = (attempt.id, attempt.payment);
        let end = async |tx: &mut Tx| {
            sql_query(format!("update payment_attempt set status = 'ERROR' where id = '{id}'")).execute(tx).await?;
            Ok(rows::read_hold(tx, payment).await?.is_none())
        };
        self.points.db.tx("end_attempt", end).await.expect("PostgreSQL answers")
    }

    pub async fn confirm(&self, payments: &[PaymentId]) {
        self.points
            .db
            .tx("confirm_points", async |tx| confirm_points(tx, payments).await)
            .await
            .expect("PostgreSQL answers");
    }

    pub async fn balance(&self, user: AccountId) -> i64 {
        self.site.number(&format!("select balance from {{payment}}.point where account_id = '{user}'")).await
    }

    /// (ISSUED, ESCROW, SALES), after checking that the ledger is consistent.
    pub async fn shop(&self) -> (i64, i64, i64) {
        let wrong = [
            "select count(*) from (select transfer_id from {payment}.point_entries group by transfer_id
              having sum(amount) <> 0 or count(*) <> 2) unbalanced",
            "select count(*) from {payment}.point where balance <> (select coalesce(sum(amount), 0)
              from {payment}.point_entries where user_id = account_id)",
            "select count(*) from {payment}.point_entries later join lateral (select balance
              from {payment}.point_entries earlier
              where earlier.user_id = later.user_id and earlier.id < later.id order by id desc limit 1) earlier on true
              where later.balance <> earlier.balance + later.amount",
            "select count(*) from {payment}.point_transfers where (select coalesce(sum(abs(amount)), 0)
              from {payment}.point_entries where transfer_id = point_transfers.id) <> 2 * amount",
        ];
        for query in wrong {
            assert_eq!(self.site.number(query).await, 0, "{query}");
        }
        let sum = async |account: &str| {
            let query = format!(
                "select coalesce(sum(amount), 0)::bigint from {{payment}}.point_entries where account = '{account}'"
            );
            self.site.number(&query).await
        };
        let left = async |status: &str| {
            let query = format!(
                "select coalesce(sum(amount - given_back), 0)::bigint from {{payment}}.point_holds where status = '{status}'"
            );
            self.site.number(&query).await
        };
        let (escrow, sales) = (sum("ESCROW").await, sum("SALES").await);
        assert_eq!((escrow, sales), (left("HELD").await, left("CONFIRMED").await));
        (sum("ISSUED").await, escrow, sales)
    }
}

/// An attempt that is not written down.
pub fn attempt_of(payment: PaymentId, user: AccountId, amount: i64) -> Attempt {
    Attempt {
        id: PaymentAttemptId::generate(),
        key: payment.to_string(),
        payment,
        user,
        pg_payment_id: payment.to_string(),
        amount,
        currency: "KRW".to_owned(),
    }
}

pub fn refund_of(attempt: &Attempt, amount: i64) -> RefundRequest {
    RefundRequest {
        id: RefundId::generate(),
        payment: attempt.payment,
        user: attempt.user,
        pg_payment_id: attempt.pg_payment_id.clone(),
        amount,
        reason: "changed my mind".to_owned(),
    }
}
