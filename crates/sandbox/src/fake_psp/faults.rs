//! How the provider misbehaves: by an amount's last digits, else by chance.

use std::collections::HashSet;
use std::time::Duration;

use actix_web::web::{Data, Json, ServiceConfig};
use actix_web::{HttpResponse, get, put};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::book::Code;

/// Requests that misbehave "once" are remembered up to this number, and then all forgotten.
const PICKED_MAX: usize = 100_000;

const HANG_MS: u64 = 90_000;

const LATE_MS: u64 = 12_000;

const REORDER_MS: u64 = 2_000;

/// No silence is longer.
const SILENCE_MS_MAX: u64 = 90_000;

/// What is wrong with one request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    /// No work, and no answer.
    LostBefore,
    /// The work, and no answer.
    LostAfter,
    /// No work, silence, no answer.
    Hang,
    /// Silence, the work, the answer.
    Late,
    /// The work, and an answer about another payment.
    WrongPayment,
    ErrorBefore,
    ErrorAfter,
    Declined(Code),
    /// Silence, then declined.
    DeclinedLate,
    Maintenance,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Operation {
    Capture,
    Cancel,
}

/// `PUT /faults`: the whole of it; what is missing does not happen.
///
/// Of those up to `error500` at most one befalls a request, so their sum is at most 1.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Rates {
    lost_before: f64,
    lost_after: f64,
    hang: f64,
    declined: f64,
    late: f64,
    wrong_payment: f64,
    /// Half of them before the work, half of them after it.
    error500: f64,
    /// Of queries of the history.
    lost_query: f64,
    /// Of webhooks: told twice.
    duplicate_webhooks: f64,
    /// Told so late that others overtake it.
    reorder_webhooks: f64,
    /// Another comes beside it, a lie that somebody else has signed.
    forged_webhooks: f64,
    hang_ms: u64,
    late_ms: u64,
    reorder_ms: u64,
    /// The same seed and the same requests make the same faults.
    seed: u64,
}

impl Default for Rates {
    fn default() -> Rates {
        Rates {
            lost_before: 0.0,
            lost_after: 0.0,
            hang: 0.0,
            declined: 0.0,
            late: 0.0,
            wrong_payment: 0.0,
            error500: 0.0,
            lost_query: 0.0,
            duplicate_webhooks: 0.0,
            reorder_webhooks: 0.0,
            forged_webhooks: 0.0,
            hang_ms: HANG_MS,
            late_ms: LATE_MS,
            reorder_ms: REORDER_MS,
            seed: 1,
        }
    }
}

impl Rates {
    fn check(&self) -> Result<(), &'static str> {
        let exclusive =
            [self.lost_before, self.lost_after, self.hang, self.declined, self.late, self.wrong_payment, self.error500];
        let others = [self.lost_query, self.duplicate_webhooks, self.reorder_webhooks, self.forged_webhooks];
        if exclusive.iter().chain(&others).any(|rate| !(0.0..=1.0).contains(rate)) {
            return Err("a rate is not between 0 and 1");
        }
        // Sums of decimal fractions are not exact.
        if exclusive.iter().sum::<f64>() > 1.0 + 1e-9 {
            return Err("more faults than requests: the rates up to error500 add up to more than 1");
        }
        if self.hang_ms.max(self.late_ms).max(self.reorder_ms) > SILENCE_MS_MAX {
            return Err("hangMs, lateMs and reorderMs are at most 90000");
        }
        Ok(())
    }
}

struct State {
    rates: Rates,
    dice: StdRng,
    picked: HashSet<(Operation, String, i64)>,
}

/// The rates in force, and the dice.
pub(super) struct Faults(Mutex<State>);

impl Default for Faults {
    fn default() -> Faults {
        let rates = Rates::default();
        let dice = StdRng::seed_from_u64(rates.seed);
        Faults(Mutex::new(State { rates, dice, picked: HashSet::new() }))
    }
}

impl Faults {
    /// The fault of this request. `amount` is in won, None if it is unknown.
    pub(super) fn pick(&self, operation: Operation, payment_id: &str, amount: Option<i64>) -> Option<Fault> {
        self.with(|state| {
            if let Some(amount) = amount
                && let Some(fault) = by_amount(amount)
            {
                if matches!(fault, Fault::Declined(_) | Fault::DeclinedLate) {
                    return Some(fault);
                }
                if state.picked.len() >= PICKED_MAX {
                    state.picked.clear();
                }
                if state.picked.insert((operation, payment_id.to_owned(), amount)) {
                    return Some(fault);
                }
            }
            by_chance(&state.rates, &mut state.dice)
        })
    }

    pub(super) fn loses_query(&self) -> bool {
        self.with(|state| state.dice.random_bool(state.rates.lost_query))
    }

    /// Whether a webhook is told twice, late, and accompanied by a forged one.
    pub(super) fn pick_for_webhook(&self) -> [bool; 3] {
        self.with(|State { rates, dice, .. }| {
            [rates.duplicate_webhooks, rates.reorder_webhooks, rates.forged_webhooks].map(|rate| dice.random_bool(rate))
        })
    }

    pub(super) fn hang(&self) -> Duration {
        self.with(|state| Duration::from_millis(state.rates.hang_ms))
    }

    pub(super) fn late(&self) -> Duration {
        self.with(|state| Duration::from_millis(state.rates.late_ms))
    }

    /// How late a webhook is sent that others are to overtake.
    pub(super) fn reorder(&self) -> Duration {
        self.with(|state| Duration::from_millis(state.rates.reorder_ms))
    }

    fn set(&self, rates: Rates) {
        self.with(|state| {
            state.dice = StdRng::seed_from_u64(rates.seed);
            state.rates = rates;
        });
    }

    fn with<T>(&self, body: impl FnOnce(&mut State) -> T) -> T {
        body(&mut self.0.lock())
    }
}

/// The table of amounts in `fake_psp.rs`.
fn by_amount(amount: i64) -> Option<Fault> {
    Some(match amount.rem_euclid(10_000) {
        2 => Fault::Declined(Code::NotEnoughAccountBalance),
        3 => Fault::Declined(Code::OwnerAuthFail),
        4 => Fault::Maintenance,
        341 => Fault::LostAfter,
        342 => Fault::LostBefore,
        343 => Fault::Late,
        344 => Fault::WrongPayment,
        345 => Fault::ErrorBefore,
        346 => Fault::ErrorAfter,
        347 => Fault::DeclinedLate,
        9995 => Fault::Hang,
        _ => return None,
    })
}

fn by_chance(rates: &Rates, dice: &mut StdRng) -> Option<Fault> {
    let mut left: f64 = dice.random();
    let faults = [
        (rates.lost_before, Fault::LostBefore),
        (rates.lost_after, Fault::LostAfter),
        (rates.hang, Fault::Hang),
        (rates.declined, Fault::Declined(Code::NotEnoughAccountBalance)),
        (rates.late, Fault::Late),
        (rates.wrong_payment, Fault::WrongPayment),
        (rates.error500 / 2.0, Fault::ErrorBefore),
        (rates.error500 / 2.0, Fault::ErrorAfter),
    ];
    for (rate, fault) in faults {
        if left < rate {
            return Some(fault);
        }
        left -= rate;
    }
    None
}

pub(super) fn routes(routes: &mut ServiceConfig) {
    routes.service(read_faults).service(set_faults);
}

#[get("/faults")]
async fn read_faults(faults: Data<Faults>) -> Json<Rates> {
    Json(faults.with(|state| state.rates.clone()))
}

#[put("/faults")]
async fn set_faults(faults: Data<Faults>, rates: Json<Rates>) -> HttpResponse {
    match rates.check() {
        Ok(()) => {
            faults.set(rates.clone());
            HttpResponse::Ok().json(rates)
        }
        Err(message) => HttpResponse::BadRequest().body(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_has_its_fault_once_and_declines_always() {
        let faults = Faults::default();
        for amount in [341, 20_341] {
            assert_eq!(faults.pick(Operation::Capture, "a", Some(amount)), Some(Fault::LostAfter));
            assert_eq!(faults.pick(Operation::Capture, "a", Some(amount)), None);
            assert_eq!(faults.pick(Operation::Cancel, "a", Some(amount)), Some(Fault::LostAfter));
            assert_eq!(faults.pick(Operation::Capture, "b", Some(amount)), Some(Fault::LostAfter));
        }
        for _ in 0..3 {
            let declined = Some(Fault::Declined(Code::NotEnoughAccountBalance));
            assert_eq!(faults.pick(Operation::Capture, "a", Some(30_002)), declined);
        }
        assert_eq!(faults.pick(Operation::Capture, "a", Some(3_410)), None);
        assert_eq!(faults.pick(Operation::Capture, "a", None), None);
    }

    #[test]
    fn chance_keeps_to_its_rates_and_repeats_with_its_seed() {
        let rates = Rates { lost_before: 0.1, lost_after: 0.15, hang: 0.03, seed: 7, ..Rates::default() };
        let draw = || {
            let faults = Faults::default();
            faults.set(rates.clone());
            (0..20_000).map(|_| faults.pick(Operation::Capture, "a", Some(1_000))).collect::<Vec<_>>()
        };
        let drawn = draw();
        assert_eq!(drawn, draw());
        let share = |fault| drawn.iter().filter(|drawn| **drawn == fault).count() as f64 / drawn.len() as f64;
        let expected = [(Some(Fault::LostBefore), 0.1), (Some(Fault::LostAfter), 0.15), (Some(Fault::Hang), 0.03)];
        for (fault, rate) in expected.into_iter().chain([(None, 0.72)]) {
            assert!((share(fault) - rate).abs() < 0.02, "{fault:?}: {} instead of {rate}", share(fault));
        }
    }

    #[test]
    fn rates_are_bounded() {
        assert!(Rates { late: 1.0, ..Rates::default() }.check().is_ok());
        assert!(Rates { late: 1.1, ..Rates::default() }.check().is_err());
        assert!(Rates { late: f64::NAN, ..Rates::default() }.check().is_err());
        assert!(Rates { late: 0.6, hang: 0.6, ..Rates::default() }.check().is_err());
        assert!(Rates { hang_ms: 90_001, ..Rates::default() }.check().is_err());
        assert!(Rates { lost_before: 0.7, lost_after: 0.2, hang: 0.1, ..Rates::default() }.check().is_ok());
    }
}
