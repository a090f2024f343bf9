//! The sandbox's payment provider: its book, and its faults, which are read from the command line and set over HTTP.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Map, Value};

use super::RushArgs;
use crate::audit::provider_book::{self, Totals};
use crate::site::Site;

const TIMEOUT: Duration = Duration::from_secs(10);
/// From 0 to 1 each: of requests, and of webhooks.
const RATES: [&str; 11] = [
    "lost-before",
    "lost-after",
    "hang",
    "declined",
    "late",
    "wrong-payment",
    "error500",
    "lost-query",
    "duplicate-webhooks",
    "reorder-webhooks",
    "forged-webhooks",
];
/// How long `hang` and `late` are, and the seed of the provider's dice.
const NUMBERS: [&str; 3] = ["hang-ms", "late-ms", "seed"];

/// What `PUT /faults` is sent. Empty: the provider behaves.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Faults(Map<String, Value>);

impl Faults {
    /// The provider takes this long for each capture, and makes no mistakes.
    pub fn late(ms: u64) -> Faults {
        let late = [("late", Value::from(1.0)), ("lateMs", Value::from(ms))];
        Faults(late.into_iter().filter(|_| ms > 0).map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

/// The provider while a rush is on, and its book before anybody paid.
pub struct Provider {
    pub address: String,
    pub before: Totals,
}

impl Provider {
    /// The provider, with the faults that are asked for. None: nobody pays.
    pub async fn open(args: &RushArgs, site: &Site) -> anyhow::Result<Option<Provider>> {
        if !args.pay {
            return Ok(None);
        }
        let address = provider_book::address(site.settings()).context("--pay needs the sandbox's payment provider")?;
        let before =
            provider_book::read_totals(&address).await.context("--pay needs the sandbox's payment provider")?;
        set_faults(&address, &args.provider_faults.clone().unwrap_or_default()).await?;
        Ok(Some(Provider { address, before }))
    }

    /// Makes no mistakes any more: what is still unknown is found out from a provider that answers.
    pub async fn behave(&self) -> anyhow::Result<()> {
        set_faults(&self.address, &Faults::default()).await
    }
}

/// Reads `lost-before=0.1,hang=0.03`.
pub fn faults(text: &str) -> Result<Faults, String> {
    let mut faults = Map::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not NAME=RATE"))?;
        let value = if RATES.contains(&name) {
            let rate: f64 = value.parse().map_err(|error| format!("{name}: {error}"))?;
            if !(0.0..=1.0).contains(&rate) {
                return Err(format!("{name} must be from 0 to 1"));
            }
            Value::from(rate)
        } else if NUMBERS.contains(&name) {
            Value::from(value.parse::<u64>().map_err(|error| format!("{name}: {error}"))?)
        } else {
            return Err(format!("{name:?} is none of {}, {}", RATES.join(", "), NUMBERS.join(", ")));
        };
        if faults.insert(camel_case(name), value).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    Ok(Faults(faults))
}

/// From now on, the provider at `address` has these faults.
pub async fn set_faults(address: &str, faults: &Faults) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
    let response = client.put(format!("{address}/faults")).json(&faults.0).send().await?;
    if !response.status().is_success() {
        bail!("the provider answered {}: {}", response.status(), response.text().await?);
    }
    Ok(())
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('-');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |text, word| {
        let (initial, rest) = word.split_at(word.len().min(1));
        text + &initial.to_uppercase() + rest
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn faults_are_named_as_the_provider_names_them() {
        let read = faults("lost-before=0.10, hang=0.03,error500=1,duplicate-webhooks=0.5,late-ms=20").unwrap();
        let spelt = json!({ "lostBefore": 0.1, "hang": 0.03, "error500": 1.0, "duplicateWebhooks": 0.5, "lateMs": 20 });
        assert_eq!(Value::Object(read.0), spelt);
        assert_eq!(faults("").unwrap(), Faults::default());
    }

    #[test]
    fn a_fault_that_the_provider_does_not_have_is_refused() {
        for wrong in
            ["hang", "hang=2", "hang=-0.1", "hang=NaN", "hang=x", "sleepy=0.1", "hang=0.1,hang=0.2", "seed=0.5"]
        {
            assert!(faults(wrong).is_err(), "{wrong}");
        }
    }
}
