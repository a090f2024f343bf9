//! Points in a schema of their own for each test, on a server that all tests share.

use common::Error;
use common::db::{Db, DbSettings, Tx};
use common::idempotency::IdempotencyKey;
use common::settings::Settings as AllSettings;
use contract::ids::{AccountId, PaymentAttemptId, PaymentId, RefundId};
use contract::money::Money;
use diesel::QueryableByName;
use diesel::sql_types::BigInt;
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use sandbox::{External, Options, Sandbox};
use tokio::sync::{OnceCell, RwLock};

use crate::points::charge_points::{ChargePoints, Charged, charge};
use crate::points::{Points, Settings, books, confirm_points};
use crate::provider::{Approval, Approved, Giveback};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/payment");

/// Held for reading by tests that need the server to stay, for writing by the one that kills it.
pub static PEACE: RwLock<()> = RwLock::const_new(());

/// Points need nothing but PostgreSQL.
pub async fn server() -> &'static Sandbox {
    static SERVER: OnceCell<Sandbox> = OnceCell::const_new();
    SERVER
        .get_or_init(async || {
            let data_dir = std::env::temp_dir().join(format!("stampede-points-{}", std::process::id()));
            let external = External {
                redis_url: Some("redis://127.0.0.1:1/0".to_owned()),
                kafka_brokers: Some("127.0.0.1:1".to_owned()),
                ..External::default()
            };
            let options = Options { data_dir, fresh: true, ephemeral: true, external, ..Options::default() };
            Sandbox::start(options).await.expect("the test's site answers")
        })
        .await
}

/// Points in a schema of their own.
pub async fn open(schema: &str) -> Points {
    let defaults = AllSettings::defaults().expect("the test's site answers");
    let postgres: DbSettings = defaults.section("postgres").expect("the test's site answers");
    let url = server().await.postgres_url().into();
    let db = Db::open(&DbSettings { url, acquire_timeout_ms: 10_000, ..postgres }, schema)
        .await
        .expect("the test's site answers");
    db.migrate([MIGRATIONS]).await.expect("the test's site answers");
    let settings: Settings = defaults.section("payment.points").expect("the test's site answers");
    Points::new(&db, &settings)
}

impl Points {
    pub async fn charge(&self, user: AccountId, key: &str, amount: i64) -> Result<Charged, Error> {
        let key = IdempotencyKey::parse(key.as_bytes()).expect("the test's site answers");
        charge(self, user, &key, &ChargePoints { amount: Money::krw(amount) }).await
    }

    /// Somebody new who has `amount`.
    pub async fn user_with(&self, amount: i64) -> AccountId {
        let user = AccountId::generate();
        assert_eq!(self.charge(user, "first", amount).await.expect("the test's site answers").balance, amount);
        user
    }

    /// A first attempt at a new payment, written down as the flow does before it asks for money.
    pub async fn approval(&self, user: AccountId, amount: i64) -> Approval {
        let approval = attempt_of(PaymentId::generate(), user, amount);
        self.begin(&approval).await;
        approval
    }

    /// Another attempt at the same payment.
    pub async fn again(&self, earlier: &Approval) -> Approval {
        let approval = attempt_of(earlier.payment, earlier.user, earlier.amount);
        self.begin(&approval).await;
        approval
    }

    async fn begin(&self, approval: &Approval) {
        let Approval { attempt, key, payment, user, pg_payment_id, amount, currency } = approval;
        let begin = format!(
            "insert into payments
                 (id, order_id, user_id, method, amount, currency, idempotency_key, fingerprint, expires_at)
             values ('{payment}', '{payment}', '{user}', 'POINTS', {amount}, '{currency}', '{key}', '', 'infinity')
             on conflict do nothing;
             insert into payment_attempt (id, payment_id, pg_payment_id, idempotency_key, amount)
             values ('{attempt}', '{payment}', '{pg_payment_id}', '{key}', {amount})"
        );
        self.db
            .read()
            .await
            .expect("the test's site answers")
            .batch_execute(&begin)
            .await
            .expect("the test's site answers");
    }

    /// Records that nothing came of the attempt, unless something has; returns whether that was so.
    pub async fn end(&self, approval: &Approval) -> bool {
        let (attempt, payment) = (approval.attempt, approval.payment);
        let end = async |tx: &mut Tx| {
            let end = format!("update payment_attempt set status = 'ERROR' where id = '{attempt}'");
            diesel::sql_query(end).execute(tx).await?;
            Ok(books::read_hold(tx, payment).await?.is_none())
        };
        self.db.tx("end_attempt", end).await.expect("the test's site answers")
    }

    pub async fn confirm(&self, payments: &[PaymentId]) {
        self.db
            .tx("confirm_points", async |tx| confirm_points(tx, payments).await)
            .await
            .expect("the test's site answers");
    }

    pub async fn number(&self, query: &str) -> i64 {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = BigInt)]
            number: i64,
        }
        let query = diesel::sql_query(format!("select ({query})::bigint as number"));
        query
            .get_result::<Row>(&mut *self.db.read().await.expect("the test's site answers"))
            .await
            .expect("the test's site answers")
            .number
    }

    pub async fn balance(&self, user: AccountId) -> i64 {
        self.number(&format!("select balance from point where account_id = '{user}'")).await
    }

    /// (ISSUED, ESCROW, SALES), after checking that the books are right.
    pub async fn shop(&self) -> (i64, i64, i64) {
        let wrong = [
            "select count(*) from (select transfer_id from point_entries group by transfer_id
              having sum(amount) <> 0 or count(*) <> 2) unbalanced",
            "select count(*) from point where balance <> (select coalesce(sum(amount), 0) from point_entries
              where user_id = account_id)",
            "select count(*) from point_entries later join lateral (select balance from point_entries earlier
              where earlier.user_id = later.user_id and earlier.id < later.id order by id desc limit 1) earlier on true
              where later.balance <> earlier.balance + later.amount",
            "select count(*) from point_transfers where (select coalesce(sum(abs(amount)), 0) from point_entries
              where transfer_id = point_transfers.id) <> 2 * amount",
        ];
        for query in wrong {
            assert_eq!(self.number(query).await, 0, "{query}");
        }
        let sum = async |account: &str| {
            let query = format!("select coalesce(sum(amount), 0) from point_entries where account = '{account}'");
            self.number(&query).await
        };
        let left = async |status: &str| {
            let query =
                format!("select coalesce(sum(amount - given_back), 0) from point_holds where status = '{status}'");
            self.number(&query).await
        };
        let (escrow, sales) = (sum("ESCROW").await, sum("SALES").await);
        assert_eq!((escrow, sales), (left("HELD").await, left("CONFIRMED").await));
        (sum("ISSUED").await, escrow, sales)
    }
}

/// Another attempt at the same payment, or a first one at a new payment.
pub fn attempt_of(payment: PaymentId, user: AccountId, amount: i64) -> Approval {
    Approval {
        attempt: PaymentAttemptId::generate(),
        key: payment.to_string(),
        payment,
        user,
        pg_payment_id: payment.to_string(),
        amount,
        currency: "KRW".to_owned(),
    }
}

pub fn giveback(approval: &Approval, amount: i64) -> Giveback {
    Giveback {
        refund: RefundId::generate(),
        payment: approval.payment,
        user: approval.user,
        pg_payment_id: approval.pg_payment_id.clone(),
        amount,
        reason: "changed my mind".to_owned(),
    }
}

pub fn is_insufficient(approved: &Approved) -> bool {
    matches!(approved, Approved::Declined { code, .. } if code == "INSUFFICIENT_POINTS")
}

pub fn code(approved: Approved) -> String {
    match approved {
        Approved::Captured => "Captured".to_owned(),
        Approved::Declined { code, .. } | Approved::NotDone { code, .. } | Approved::Unknown { code, .. } => code,
    }
}
