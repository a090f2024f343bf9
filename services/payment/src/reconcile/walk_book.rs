//! One run: reads the book window by window, so that only one window is in memory, and our payments of the same time.
//!
//! A window only filters: payments on which both sides agree are done. Of every other payment, all that both sides know is
//! read and compared.

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
use super::remedy;
use super::remedy::Remedies;
use super::runs::{Run, Totals, renew};
use crate::App;
use crate::naverpay::{Entry, HistoryUnreadable, Movement, Of, Page};
use crate::payment::{Method, Status};

/// The window that is read first; it is halved where it has more than [`WINDOW_ROWS_MAX`] rows.
const WINDOW_MAX: TimeDelta = TimeDelta::days(1);
/// The provider knows whole seconds only.
const WINDOW_MIN: TimeDelta = TimeDelta::seconds(1);
/// About 5 MB.
const WINDOW_ROWS_MAX: u64 = 20_000;
/// Payments that one statement reads.
const CHUNK: usize = 500;
/// Requests for one page while the provider does not answer.
const TRIES_MAX: u32 = 4;
const DELAY: Backoff = Backoff { first: Duration::from_millis(300), max: Duration::from_secs(5) };
/// Often enough for the shortest lease that makes sense.
const RENEWED_EVERY: Duration = Duration::from_secs(5);

struct Walk<'a> {
    app: &'a App,
    run: &'a Run,
    totals: Totals,
    renewed_at: Instant,
    remedies: Remedies,
}

/// Compares the two sides for the time of `run`.
pub async fn walk_book(app: &App, run: &Run) -> Result<()> {
    let mut walk = Walk {
        app,
        run,
        totals: Totals::default(),
        renewed_at: Instant::now(),
        remedies: Remedies::of_today(app).await?,
    };
    let (mut from, end) = (whole_seconds(run.from_time), whole_seconds(run.to_time));
    let mut length = WINDOW_MAX;
    while from < end {
        let to = (from + length).min(end);
        let book = match walk.read(from, to).await? {
            Window::Read(book) => book,
            Window::TooLarge => {
                length = TimeDelta::seconds((length / 2).num_seconds()).max(WINDOW_MIN);
                continue;
            }
        };
        let mut suspected = walk.compare_book(&book).await?;
        let seen: BTreeSet<&str> = book.iter().map(|entry| entry.merchant_pay_key.as_str()).collect();
        suspected.extend(walk.compare_ours(from, to, &seen).await?);
        for name in suspected {
            walk.compare_payment(&name).await?;
        }
        from = to;
        length = (length * 2).min(WINDOW_MAX);
    }
    renew(app, run, &walk.totals).await
}

/// As the provider knows times.
fn whole_seconds(at: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp(at.timestamp(), 0).unwrap_or(at)
}

enum Window {
    Read(Vec<Entry>),
    /// More than [`WINDOW_ROWS_MAX`] rows.
    TooLarge,
}

impl Walk<'_> {
    /// Reads a window of the book.
    async fn read(&mut self, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<Window> {
        let of = Of::Between(from, to);
        let (mut entries, mut rows) = (Vec::new(), 0);
        for number in 1.. {
            let Page { entries: read, rows: here, total, is_last } = self.page(&of, number).await?;
            if total > WINDOW_ROWS_MAX && to - from > WINDOW_MIN {
                return Ok(Window::TooLarge);
            }
            entries.extend(read);
            rows += here;
            if is_last {
                // Rows that are added while the pages are read move other rows to other pages.
                return if rows == total {
                    Ok(Window::Read(entries))
                } else {
                    Err(unreadable(&HistoryUnreadable("it has changed while it was read".to_owned())))
                };
            }
        }
        Ok(Window::Read(entries))
    }

    async fn page(&mut self, of: &Of<'_>, number: u32) -> Result<Page> {
        let mut attempt = 0;
        loop {
            self.renew_if_due().await?;
            attempt += 1;
            match self.app.naverpay.book_page(of, number).await {
                Ok(page) => return Ok(page),
                Err(cause) if attempt >= TRIES_MAX => return Err(unreadable(&cause)),
                Err(_) => tokio::time::sleep(DELAY.delay(attempt)).await,
            }
        }
    }

    /// All entries of one payment, by our id of it.
    async fn book_of(&mut self, name: &str) -> Result<Vec<Entry>> {
        let mut attempt = 0;
        loop {
            self.renew_if_due().await?;
            attempt += 1;
            match self.app.naverpay.book_of(&Of::MerchantPayKey(name)).await {
                Ok(entries) => return Ok(entries),
                Err(cause) if attempt >= TRIES_MAX => return Err(unreadable(&cause)),
                Err(_) => tokio::time::sleep(DELAY.delay(attempt)).await,
            }
        }
    }

    /// Counts a window of the book. Returns the payments on which it does not agree with ours.
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
            self.renew_if_due().await?;
            let names: Vec<&str> = chunk.iter().map(|(name, _)| *name).collect();
            let ours = self.payments_named(&names).await?;
            let entries: Vec<Entry> = chunk.iter().flat_map(|(_, entries)| entries.clone()).collect();
            suspected.extend(suspects(&entries, &ours));
        }
        Ok(suspected)
    }

    /// Counts our payments of this time and compares them with their orders. Returns those that the window lacks.
    async fn compare_ours(
        &mut self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        seen: &BTreeSet<&str>,
    ) -> Result<BTreeSet<String>> {
        let mut suspected = BTreeSet::new();
        let mut after = (from, PaymentId::from(uuid::Uuid::nil()));
        loop {
            let paid = self.payments_paid(after, to).await?;
            for row in &paid {
                self.renew_if_due().await?;
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

    /// Compares one payment by everything that both sides know of it.
    async fn compare_payment(&mut self, name: &str) -> Result<()> {
        // The book first: a payment of ours that changes after that counts as moving.
        let book = self.book_of(name).await?;
        let settled = Utc::now() - self.app.reconciliation.grace();
        if book.iter().any(|entry| entry.at > settled) {
            return Ok(());
        }
        let ours = self.payments_named(&[name]).await?;
        for found in reconcile(&book, &ours) {
            self.renew_if_due().await?;
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

    async fn renew_if_due(&mut self) -> Result<()> {
        if self.renewed_at.elapsed() >= RENEWED_EVERY {
            renew(self.app, self.run, &self.totals).await?;
            self.renewed_at = Instant::now();
        }
        Ok(())
    }

    /// Our payments with these ids, as far as they are ours.
    async fn payments_named(&self, names: &[&str]) -> Result<Vec<Ours>> {
        let ids: Vec<PaymentId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        let query = sql_query(include_str!("payments_named.sql"))
            .bind::<Array<SqlUuid>, _>(ids)
            .bind::<Integer, _>(self.grace())
            .bind::<Text, _>(Method::NaverPay);
        let rows: Vec<OursRow> = Prepared(query).load(&mut *self.app.db.read().await?).await?;
        // A name that is another spelling of one of our ids is not ours.
        Ok(rows.iter().map(OursRow::ours).filter(|ours| names.contains(&ours.id.to_string().as_str())).collect())
    }

    /// Payments with money that were prepared after `after` and before `to`, in the order in which they were prepared.
    async fn payments_paid(&self, after: (DateTime<Utc>, PaymentId), to: DateTime<Utc>) -> Result<Vec<OursRow>> {
        let query = sql_query(include_str!("payments_paid.sql"))
            .bind::<Timestamptz, _>(after.0)
            .bind::<SqlUuid, _>(after.1)
            .bind::<Timestamptz, _>(to)
            .bind::<Integer, _>(self.grace())
            .bind::<Text, _>(Method::NaverPay)
            .bind::<BigInt, _>(CHUNK as i64);
        Ok(Prepared(query).load(&mut *self.app.db.read().await?).await?)
    }

    fn grace(&self) -> i32 {
        i32::try_from(self.app.reconciliation.grace_seconds).unwrap_or(i32::MAX)
    }
}

fn unreadable(cause: &HistoryUnreadable) -> Error {
    Error::transient(anyhow::Error::new(cause.clone()))
}

#[derive(Debug, QueryableByName)]
struct OursRow {
    #[diesel(sql_type = SqlUuid)]
    id: PaymentId,
    #[diesel(sql_type = SqlUuid)]
    order_id: OrderId,
    #[diesel(sql_type = Text)]
    status: Status,
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
            status: self.status,
            pg_payment_id: self.pg_payment_id.clone(),
            amount: self.amount,
            captured: self.captured,
            refunded: self.refunded,
            is_moving: self.is_moving,
        }
    }
}
