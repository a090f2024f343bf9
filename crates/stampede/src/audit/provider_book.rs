//! The payment provider's own book, where there is one to read: that of the sandbox's provider.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use common::settings::Settings;
use reqwest::Client;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

const TIMEOUT: Duration = Duration::from_secs(10);
/// What the book gives at once.
const PAGE: usize = 10_000;
/// Why there may be no book.
pub const NOT_SHOWN: &str = "only the sandbox's provider shows it";

/// What the provider has taken and given back. Amounts are won.
#[derive(Debug, Clone)]
pub struct Book {
    pub totals: Totals,
    pub entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Totals {
    pub captured: i64,
    pub cancelled: i64,
}

/// A capture, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// The provider's name for it.
    pub payment_id: String,
    /// Ours.
    pub merchant_pay_key: String,
    pub captured: i64,
    pub cancelled: i64,
}

/// What we say about one of our payments.
#[derive(Debug, Clone, Copy, diesel::QueryableByName)]
pub struct Ours {
    #[diesel(sql_type = diesel::sql_types::Uuid)]
    pub id: Uuid,
    #[diesel(sql_type = diesel::sql_types::Uuid)]
    pub order_id: Uuid,
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    pub captured: i64,
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    pub refunded: i64,
}

/// The address of the provider, if it shows its book: the sandbox's does and speaks plain HTTP, real ones do neither.
pub fn shown_at(settings: &Settings) -> anyhow::Result<Option<String>> {
    let url: String = settings.section("payment.naverpay.url")?;
    Ok(url.starts_with("http://").then(|| url.trim_end_matches('/').to_owned()))
}

/// The same for those who cannot do without the book.
pub fn address(settings: &Settings) -> anyhow::Result<String> {
    shown_at(settings)?.context(NOT_SHOWN)
}

/// Only the sums.
pub async fn read_totals(address: &str) -> anyhow::Result<Totals> {
    get(&client()?, &format!("{address}/book/totals")).await
}

/// All of it. Fails when it cannot be had whole.
pub async fn read(address: &str) -> anyhow::Result<Book> {
    #[derive(Deserialize)]
    struct Page {
        payments: Vec<Entry>,
    }
    let client = client()?;
    let mut entries = Vec::new();
    loop {
        let url = format!("{address}/book/payments?from={}&limit={PAGE}", entries.len());
        let page: Page = get(&client, &url).await?;
        let is_last = page.payments.len() < PAGE;
        entries.extend(page.payments);
        if is_last {
            break;
        }
    }
    let totals: Totals = get(&client, &format!("{address}/book/totals")).await?;
    let sum = |amount: &dyn Fn(&Entry) -> i64| entries.iter().map(amount).sum::<i64>();
    let listed = Totals { captured: sum(&|entry| entry.captured), cancelled: sum(&|entry| entry.cancelled) };
    ensure!(listed == totals, "it moves while it is read: {listed:?}, then {totals:?}");
    Ok(Book { totals, entries })
}

fn client() -> anyhow::Result<Client> {
    Ok(Client::builder().no_proxy().timeout(TIMEOUT).build()?)
}

async fn get<T: DeserializeOwned>(client: &Client, url: &str) -> anyhow::Result<T> {
    let response = client.get(url).send().await?;
    if !response.status().is_success() {
        bail!("{url} answered {}", response.status());
    }
    response.json().await.with_context(|| format!("{url} answered something else than a book"))
}

/// Compares the book with our payments; a sentence for each offence.
pub fn compare(ours: &[Ours], book: &Book) -> Vec<String> {
    let mut known: HashMap<String, (Totals, usize)> =
        ours.iter().map(|payment| (payment.id.to_string(), (Totals { captured: 0, cancelled: 0 }, 0))).collect();
    let mut offences = Vec::new();
    for Entry { payment_id, merchant_pay_key, captured, cancelled } in &book.entries {
        match known.get_mut(merchant_pay_key) {
            Some((sums, kept)) => {
                sums.captured += captured;
                sums.cancelled += cancelled;
                *kept += usize::from(captured > cancelled);
            }
            None if captured > cancelled => {
                let amount = captured - cancelled;
                offences.push(format!(
                    "the provider keeps {amount} as {payment_id} for {merchant_pay_key}, which is no payment"
                ));
            }
            None => {}
        }
    }
    for Ours { id, captured, refunded, .. } in ours {
        let Some((theirs, kept)) = known.get(&id.to_string()) else { continue };
        if theirs.captured - theirs.cancelled != captured - refunded {
            let Totals { captured: taken, cancelled } = theirs;
            offences.push(format!(
                "payment {id}: captured {captured}, refunded {refunded}; the provider has captured {taken}, cancelled {cancelled}"
            ));
        }
        if *kept > 1 {
            offences.push(format!("payment {id}: the provider keeps {kept} captures for it"));
        }
    }
    offences
}

/// Orders that more than one capture was kept for.
pub fn charged_twice(ours: &[Ours], book: &Book) -> u64 {
    let order_of: HashMap<String, Uuid> =
        ours.iter().map(|payment| (payment.id.to_string(), payment.order_id)).collect();
    let mut kept: HashMap<Uuid, u64> = HashMap::new();
    for entry in book.entries.iter().filter(|entry| entry.captured > entry.cancelled) {
        if let Some(order) = order_of.get(&entry.merchant_pay_key) {
            *kept.entry(*order).or_default() += 1;
        }
    }
    kept.values().filter(|captures| **captures > 1).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(id: u128, order: u128, captured: i64, refunded: i64) -> Ours {
        Ours { id: Uuid::from_u128(id), order_id: Uuid::from_u128(order), captured, refunded }
    }

    fn entry(name: &str, id: u128, captured: i64, cancelled: i64) -> Entry {
        let merchant_pay_key = Uuid::from_u128(id).to_string();
        Entry { payment_id: name.to_owned(), merchant_pay_key, captured, cancelled }
    }

    fn book(entries: &[Entry]) -> Book {
        Book { totals: Totals { captured: 0, cancelled: 0 }, entries: entries.to_vec() }
    }

    #[test]
    fn equal_books_have_no_offence() {
        let ours = [ours(1, 1, 100, 0), ours(2, 2, 100, 100), ours(3, 3, 100, 40), ours(4, 4, 0, 0)];
        let theirs = book(&[entry("a", 1, 100, 0), entry("b", 2, 100, 100), entry("c", 3, 100, 40)]);
        assert_eq!(compare(&ours, &theirs), [""; 0]);
        assert_eq!(charged_twice(&ours, &theirs), 0);
    }

    #[test]
    fn what_was_taken_and_given_back_at_once_is_no_offence() {
        let theirs = book(&[entry("a", 1, 100, 0), entry("b", 1, 100, 100), entry("stray", 9, 100, 100)]);
        assert_eq!(compare(&[ours(1, 1, 100, 0)], &theirs), [""; 0]);
    }

    #[test]
    fn each_kind_of_difference_is_named() {
        let cases = [
            (ours(1, 1, 100, 0), vec![], "the provider has captured 0"),
            (ours(1, 1, 0, 0), vec![entry("a", 1, 100, 0)], "the provider has captured 100"),
            (ours(1, 1, 100, 100), vec![entry("a", 1, 100, 0)], "cancelled 0"),
            (ours(1, 1, 100, 0), vec![entry("a", 1, 100, 0), entry("b", 9, 70, 0)], "which is no payment"),
            (ours(1, 1, 100, 0), vec![entry("a", 1, 50, 0), entry("b", 1, 50, 0)], "keeps 2 captures"),
        ];
        for (ours, theirs, why) in cases {
            let found = compare(&[ours], &book(&theirs));
            assert!(found.len() == 1 && found[0].contains(why), "{why}: {found:?}");
        }
    }

    #[test]
    fn two_payments_of_one_order_that_are_both_kept_are_a_double_charge() {
        let ours = [ours(1, 7, 100, 0), ours(2, 7, 100, 0), ours(3, 8, 100, 0)];
        let kept = book(&[entry("a", 1, 100, 0), entry("b", 2, 100, 0), entry("c", 3, 100, 0)]);
        assert_eq!(charged_twice(&ours, &kept), 1);
        let returned = book(&[entry("a", 1, 100, 0), entry("b", 2, 100, 100), entry("c", 3, 100, 0)]);
        assert_eq!(charged_twice(&ours, &returned), 0);
    }
}
