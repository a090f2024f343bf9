//! One run: the book window by window, so that no more than a window of it is in memory, then our payments of that time.
//!
//! A window is a filter: it clears what agrees. All that is known of the others is read, and judged as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use common::backoff::Backoff;
use common::db::Prepared;
use common::{Error, Result, rpc};
use contract::codes;
use contract::ids::{OrderId, PaymentId};
use contract::order::GetOrderRequest;
use diesel::sql_types::{Array, BigInt, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::RunQueryDsl;

use super::compare::{OrderSeen, Ours, check_order, reconcile, suspects};
use super::remedy::Remedies;
use super::runs::{Run, Totals, renew};
use super::{remedy, whole_seconds};
use crate::App;
use crate::naverpay::{Entry, Movement, Of, Page, Unread};
use crate::payment::Method;
use crate::rows::StatusColumn;

/// What is read at once, and less where more has happened.
const WINDOW_MAX: TimeDelta = TimeDelta::days(1);
/// The provider tells no two times within a second apart.
const WINDOW_MIN: TimeDelta = TimeDelta::seconds(1);
/// About 5 MB.
const WINDOW_ROWS_MAX: u64 = 20_000;
/// Payments of ours that one statement reads.
const CHUNK: usize = 500;
/// Questions to a provider that does not answer.
const TRIES_MAX: u32 = 4;
const PAUSE: Backoff = Backoff { first: Duration::from_millis(300), max: Duration::from_secs(5) };
/// Often enough for the shortest lease.
const RENEWED_EVERY: Duration = Duration::from_secs(5);

struct Walk<'a> {
    app: &'a App,
    run: &'a Run,
    totals: Totals,
    renewed: Instant,
    remedies: Remedies,
}

/// Compares what `run` is about.
pub async fn walk_book(app: &App, run: &Run) -> Result<()> {
    let mut walk =
        Walk { app, run, totals: Totals::default(), renewed: Instant::now(), remedies: Remedies::of_today(app).await? };
    let (mut from, end) = (whole_seconds(run.from_time), whole_seconds(run.to_time));
    let mut length = WINDOW_MAX;
    while from < end {
        let to = (from + length).min(end);
        let Some(book) = walk.read(from, to).await? else {
            length = whole(length / 2).max(WINDOW_MIN);
            continue;
        };
        let mut suspected = walk.compare_book(&book).await?;
        let seen: BTreeSet<&str> = book.iter().map(|entry| entry.merchant_pay_key.as_str()).collect();
        suspected.extend(walk.compare_ours(from, to, &seen).await?);
        for name in suspected {
            walk.judge(&name).await?;
        }
        from = to;
        length = (length * 2).min(WINDOW_MAX);
    }
    renew(app, run, &walk.totals).await
}

fn whole(length: TimeDelta) -> TimeDelta {
    TimeDelta::seconds(length.num_seconds())
}

impl Walk<'_> {
    /// A window of the book; None when it is too large for the memory that it may take.
    async fn read(&mut self, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<Option<Vec<Entry>>> {
        let of = Of::Between(from, to);
        let (mut entries, mut rows) = (Vec::new(), 0);
        for number in 1.. {
            let Page { entries: read, rows: here, total, is_last } = self.page(&of, number).await?;
            if total > WINDOW_ROWS_MAX && to - from > WINDOW_MIN {
                return Ok(None);
            }
            entries.extend(read);
            rows += here;
            if is_last {
                // Rows that come while the pages are read would shift them.
                return if rows == total {
                    Ok(Some(entries))
                } else {
                    Err(unread(&Unread("it has changed".to_owned())))
                };
            }
        }
        Ok(Some(entries))
    }

    async fn page(&mut self, of: &Of<'_>, number: u32) -> Result<Page> {
        let mut attempt = 0;
        loop {
            self.breathe().await?;
            attempt += 1;
            match self.app.naverpay.book_page(of, number).await {
                Ok(page) => return Ok(page),
                Err(cause) if attempt >= TRIES_MAX => return Err(unread(&cause)),
                Err(_) => tokio::time::sleep(PAUSE.delay(attempt)).await,
            }
        }
    }

    /// All of one payment, by our name for it.
    async fn book_of(&mut self, name: &str) -> Result<Vec<Entry>> {
        let mut attempt = 0;
        loop {
            self.breathe().await?;
            attempt += 1;
            match self.app.naverpay.book_of(&Of::MerchantPayKey(name)).await {
                Ok(entries) => return Ok(entries),
                Err(cause) if attempt >= TRIES_MAX => return Err(unread(&cause)),
                Err(_) => tokio::time::sleep(PAUSE.delay(attempt)).await,
            }
        }
    }

    /// Counts a window, and clears what agrees with our payments.
    async fn compare_book(&mut self, book: &[Entry]) -> Result<BTreeSet<String>> {
        let mut by_name: BTreeMap<&str, Vec<Entry>> = BTreeMap::new();
        for entry in book {
            let sum = match entry.movement {
                Movement::Capture => &mut self.totals.captured,
                Movement::Cancel => &mut self.totals.cancelled,
            };
            *sum = sum.saturating_add(entry.amount);
            self.totals.book_entries += 1;
            by_name.entry(&entry.merchant_pay_key).or_default().push(entry.clone());
        }
        let mut suspected = BTreeSet::new();
        let payments: Vec<(&str, Vec<Entry>)> = by_name.into_iter().collect();
        for chunk in payments.chunks(CHUNK) {
            self.breathe().await?;
            let names: Vec<&str> = chunk.iter().map(|(name, _)| *name).collect();
            let ours = self.named(&names).await?;
            let entries: Vec<Entry> = chunk.iter().flat_map(|(_, entries)| entries.clone()).collect();
            suspected.extend(suspects(&entries, &ours));
        }
        Ok(suspected)
    }

    /// Counts our payments of this time, compares them with their orders, and finds those that the book lacks.
    async fn compare_ours(
        &mut self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        seen: &BTreeSet<&str>,
    ) -> Result<BTreeSet<String>> {
        let mut suspected = BTreeSet::new();
        let mut after = (from, PaymentId::from(uuid::Uuid::nil()));
        loop {
            let paid = self.paid(after, to).await?;
            for row in &paid {
                self.breathe().await?;
                let ours = row.ours();
                self.totals.payments += 1;
                self.totals.paid += ours.captured - ours.refunded;
                if !seen.contains(ours.id.to_string().as_str()) {
                    suspected.insert(ours.id.to_string());
                }
                if ours.is_moving {
                    continue;
                }
                if let Some(found) = check_order(&ours, self.order(ours.order_id).await?.as_ref()) {
                    remedy::report(self.app, self.run, &found, &mut self.remedies).await?;
                }
            }
            match paid.last() {
                Some(last) if paid.len() == CHUNK => after = (last.created_at, last.id),
                _ => return Ok(suspected),
            }
        }
    }

    /// Judges one payment by everything that both sides know of it.
    async fn judge(&mut self, name: &str) -> Result<()> {
        // The book first: what we have learnt meanwhile then makes the payment a moving one.
        let book = self.book_of(name).await?;
        let settled = Utc::now() - self.app.reconciliation.grace();
        if book.iter().any(|entry| entry.at > settled) {
            return Ok(());
        }
        let ours = self.named(&[name]).await?;
        for found in reconcile(&book, &ours) {
            self.breathe().await?;
            remedy::report(self.app, self.run, &found, &mut self.remedies).await?;
        }
        Ok(())
    }

    async fn order(&self, id: OrderId) -> Result<Option<OrderSeen>> {
        let got = rpc::retrying(|| {
            let mut order = self.app.order.clone();
            async move { order.get_order(GetOrderRequest { order_id: id.to_string() }).await }
        });
        match got.await {
            Ok(answer) => Ok(answer.order.map(|order| OrderSeen {
                status: order.status,
                amount: order.amount,
                paid_by: order.paid_payment_id,
            })),
            Err(error) if error.reason() == Some(&codes::ORDER_NOT_FOUND.reason) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn breathe(&mut self) -> Result<()> {
        if self.renewed.elapsed() >= RENEWED_EVERY {
            renew(self.app, self.run, &self.totals).await?;
            self.renewed = Instant::now();
        }
        Ok(())
    }

    /// Our payments with these names, as far as they are ours.
    async fn named(&self, names: &[&str]) -> Result<Vec<Ours>> {
        let ids: Vec<PaymentId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        let query = sql_query(include_str!("payments_named.sql")).bind::<Array<SqlUuid>, _>(ids);
        let query = query.bind::<Integer, _>(self.grace()).bind::<Text, _>(Method::NaverPay.name());
        let rows: Vec<OursRow> = Prepared(query).load(&mut *self.app.db.read().await?).await?;
        // The database reads more spellings of an id than there are of ours.
        Ok(rows.iter().map(OursRow::ours).filter(|ours| names.contains(&ours.id.to_string().as_str())).collect())
    }

    /// Payments with money that were prepared after `after` and before `to`, in that order.
    async fn paid(&self, after: (DateTime<Utc>, PaymentId), to: DateTime<Utc>) -> Result<Vec<OursRow>> {
        let query = sql_query(include_str!("payments_paid.sql")).bind::<Timestamptz, _>(after.0);
        let query = query.bind::<SqlUuid, _>(after.1).bind::<Timestamptz, _>(to);
        let query = query.bind::<Integer, _>(self.grace()).bind::<Text, _>(Method::NaverPay.name());
        Ok(Prepared(query.bind::<BigInt, _>(CHUNK as i64)).load(&mut *self.app.db.read().await?).await?)
    }

    fn grace(&self) -> i32 {
        i32::try_from(self.app.reconciliation.grace_seconds).unwrap_or(i32::MAX)
    }
}

fn unread(cause: &Unread) -> Error {
    Error::transient(anyhow::Error::new(cause.clone()))
}

#[derive(Debug, QueryableByName)]
struct OursRow {
    #[diesel(sql_type = SqlUuid)]
    id: PaymentId,
    #[diesel(sql_type = SqlUuid)]
    order_id: OrderId,
    #[diesel(sql_type = Text)]
    status: StatusColumn,
    #[diesel(sql_type = Nullable<Text>)]
    pg_payment_id: Option<String>,
    #[diesel(sql_type = BigInt)]
    amount: i64,
    #[diesel(sql_type = BigInt)]
    captured: i64,
    #[diesel(sql_type = BigInt)]
    refunded: i64,
    #[diesel(sql_type = Timestamptz)]
    created_at: DateTime<Utc>,
    #[diesel(sql_type = Bool)]
    is_moving: bool,
}

impl OursRow {
    fn ours(&self) -> Ours {
        Ours {
            id: self.id,
            order_id: self.order_id,
            status: self.status.0,
            pg_payment_id: self.pg_payment_id.clone(),
            amount: self.amount,
            captured: self.captured,
            refunded: self.refunded,
            is_moving: self.is_moving,
        }
    }
}
