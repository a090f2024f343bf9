//! Rules: whether the coupons are right, from what the buyers were told and what is stored.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::Offer;
use crate::rush::record::Record;

/// What one request for a coupon came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// 201.
    Issued(Uuid),
    /// 409 `COUPON_ALREADY_ISSUED`, with the coupon.
    Had(Uuid),
    SoldOut,
    /// No buyer of a rush should get any other answer.
    Other {
        status: u16,
        code: String,
    },
    /// No definite answer before the time was up.
    Unknown,
}

impl Attempt {
    pub fn issue(&self) -> Option<Uuid> {
        match self {
            Attempt::Issued(issue) | Attempt::Had(issue) => Some(*issue),
            Attempt::SoldOut | Attempt::Other { .. } | Attempt::Unknown => None,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Asked {
    pub buyer: usize,
    pub answer: Attempt,
}

/// The answer to an order with somebody else's coupon.
#[derive(Debug, Clone)]
pub struct Theft {
    pub status: u16,
    pub code: String,
}

/// A coupon in somebody's hands, as the database has it.
#[derive(Debug, Clone, Copy)]
pub struct Issue {
    pub id: Uuid,
    pub user: Uuid,
    /// `COUPON_ISSUED` events of it.
    pub events: u64,
}

/// What is known of the coupons when the system is at rest.
#[derive(Debug, Clone)]
pub struct Found {
    pub offer: Offer,
    pub asked: Vec<Asked>,
    pub thefts: Vec<Theft>,
    pub issues: Vec<Issue>,
    /// Won between what orders took off and what their redemptions say.
    pub stored_difference: i64,
}

/// All but `coupons_issued` and `thefts_refused` must be 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Rows.
    pub coupons_issued: u64,
    pub coupons_over_issued: u64,
    /// Buyers who were told of a coupon that is not theirs in the database, or has not exactly one event.
    pub coupons_told_but_missing: u64,
    /// Accounts with two coupons, or told twice that they have just got one.
    pub coupons_per_user_violations: u64,
    /// Won between what orders should have cost less, what they were told, what is stored and what is redeemed.
    pub discount_difference: i64,
    /// Orders with somebody else's coupon that were refused.
    pub thefts_refused: u64,
    /// Coupons that are left although somebody was told that none is.
    #[serde(skip)]
    pub left: u64,
    #[serde(skip)]
    pub stolen: u64,
    #[serde(skip)]
    pub unknown: u64,
    /// By code.
    #[serde(skip)]
    pub unexpected: BTreeMap<String, u64>,
}

/// Judges. `records[n]` is what the buyer with account `buyers[n]` remembers of ordering.
pub fn judge(buyers: &[Uuid], records: &[Record], found: &Found) -> Verdict {
    let owners: HashMap<Uuid, Issue> = found.issues.iter().map(|issue| (issue.id, *issue)).collect();
    let rows = found.issues.len() as u64;
    let mut verdict = Verdict {
        coupons_issued: rows,
        coupons_over_issued: rows.saturating_sub(found.offer.total),
        discount_difference: found.stored_difference,
        ..Verdict::default()
    };
    let mut accounts = HashSet::new();
    verdict.coupons_per_user_violations +=
        found.issues.iter().filter(|issue| !accounts.insert(issue.user)).count() as u64;
    let mut just_got: HashMap<usize, u64> = HashMap::new();
    let mut has: HashMap<usize, Uuid> = HashMap::new();
    let mut is_refused = false;
    for Asked { buyer, answer } in &found.asked {
        if let Some(issue) = answer.issue() {
            let is_theirs = owners.get(&issue).is_some_and(|row| row.user == buyers[*buyer] && row.events == 1);
            verdict.coupons_told_but_missing += u64::from(!is_theirs);
            has.insert(*buyer, issue);
        }
        match answer {
            Attempt::Issued(_) => *just_got.entry(*buyer).or_default() += 1,
            Attempt::SoldOut => is_refused = true,
            Attempt::Other { status, code } => {
                *verdict.unexpected.entry(format!("coupon: {status} {code}")).or_default() += 1;
            }
            Attempt::Unknown => verdict.unknown += 1,
            Attempt::Had(_) => {}
        }
    }
    verdict.coupons_per_user_violations += just_got.values().filter(|times| **times > 1).count() as u64;
    verdict.left = if is_refused { found.offer.total.saturating_sub(rows) } else { 0 };
    verdict.discount_difference += told_difference(records, &has, found.offer.discount);
    for Theft { status, code } in &found.thefts {
        match (*status, code.as_str()) {
            (404, "COUPON_ISSUE_NOT_FOUND") => verdict.thefts_refused += 1,
            (201, _) => verdict.stolen += 1,
            _ => *verdict.unexpected.entry(format!("another's coupon: {status} {code}")).or_default() += 1,
        }
    }
    verdict
}

/// Won between what orders were told to cost less and what they should.
fn told_difference(records: &[Record], has: &HashMap<usize, Uuid>, discount: i64) -> i64 {
    let told = records.iter().enumerate().flat_map(|(buyer, record)| {
        let expected = if has.contains_key(&buyer) { discount } else { 0 };
        record.placed().map(move |(_, body)| {
            let order: Value = serde_json::from_slice(body).unwrap_or_default();
            let amount = |name: &str| order["totals"][name]["amount"].as_i64().unwrap_or(i64::MIN / 4);
            let adds_up = amount("items") - amount("discount") - amount("amount");
            (amount("discount") - expected).abs() + adds_up.abs()
        })
    });
    told.fold(0, i64::saturating_add)
}

impl Verdict {
    /// What is wrong, a sentence each. `killed`: something was killed, so a take that was undone may have been refused.
    pub fn violations(&self, killed: bool) -> impl Iterator<Item = (u64, &'static str)> {
        [
            (self.coupons_over_issued, "coupons were issued that do not exist"),
            (self.coupons_told_but_missing, "times a buyer was told of a coupon that is not stored with one event"),
            (self.coupons_per_user_violations, "accounts have got the coupon twice"),
            (self.discount_difference.unsigned_abs(), "won are between what coupons should take off and what they did"),
            (if killed { 0 } else { self.left }, "coupons were left although buyers were told that none is"),
            (self.stolen, "orders were placed with somebody else's coupon"),
        ]
        .into_iter()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rush::record::{Answer, Call};

    const OFFER: Offer = Offer { coupon: Uuid::nil(), total: 2, discount: 10, bait: Uuid::nil() };

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn issue(n: u128) -> Issue {
        Issue { id: id(100 + n), user: id(n), events: 1 }
    }

    fn placed(discount: i64) -> Record {
        let won = |amount: i64| serde_json::json!({ "amount": amount, "currency": "KRW" });
        let totals = serde_json::json!({ "items": won(100), "discount": won(discount), "amount": won(100 - discount) });
        let body = serde_json::to_vec(&serde_json::json!({ "totals": totals })).unwrap();
        let answer = Some(Answer::Placed { order_id: id(7), body });
        let call = Call { sent_at: Duration::ZERO, ended_at: Duration::ZERO, answer, unknown_attempts: 0 };
        Record { calls: vec![call] }
    }

    /// Buyers 0 and 1 have a coupon, buyer 2 has none; all have ordered.
    fn judged(change: impl FnOnce(&mut Found, &mut Vec<Record>)) -> Verdict {
        let asked = |buyer, answer| Asked { buyer, answer };
        let mut found = Found {
            offer: OFFER,
            asked: vec![
                asked(0, Attempt::Issued(id(101))),
                asked(0, Attempt::Had(id(101))),
                asked(1, Attempt::Issued(id(102))),
                asked(2, Attempt::SoldOut),
            ],
            thefts: vec![Theft { status: 404, code: "COUPON_ISSUE_NOT_FOUND".to_owned() }],
            issues: vec![issue(1), issue(2)],
            stored_difference: 0,
        };
        let mut records = vec![placed(10), placed(10), placed(0)];
        change(&mut found, &mut records);
        judge(&[id(1), id(2), id(3)], &records, &found)
    }

    fn wrong(verdict: &Verdict) -> Vec<&'static str> {
        verdict.violations(false).filter(|(count, _)| *count > 0).map(|(_, what)| what).collect()
    }

    #[test]
    fn exactly_as_many_as_there_are_each_with_its_owner_and_its_discount_passes() {
        let verdict = judged(|_, _| {});
        assert_eq!(wrong(&verdict), [""; 0]);
        assert_eq!((verdict.coupons_issued, verdict.thefts_refused, verdict.unknown), (2, 1, 0));
    }

    #[test]
    fn every_wrong_coupon_is_counted() {
        assert_eq!(judged(|found, _| found.issues.push(issue(3))).coupons_over_issued, 1);
        assert_eq!(judged(|found, _| found.issues[0].events = 0).coupons_told_but_missing, 2);
        assert_eq!(judged(|found, _| found.issues[0].user = id(9)).coupons_told_but_missing, 2);
        assert_eq!(judged(|found, _| found.issues[1].user = id(1)).coupons_per_user_violations, 1);
        let told_twice = judged(|found, _| found.asked[1].answer = Attempt::Issued(id(101)));
        assert_eq!(told_twice.coupons_per_user_violations, 1);
        let left = judged(|found, _| found.issues.truncate(1));
        assert_eq!((left.left, left.violations(true).count()), (1, 6));
        let stolen = judged(|found, _| found.thefts[0] = Theft { status: 201, code: String::new() });
        assert_eq!(wrong(&stolen).len(), 1);
        let other = Attempt::Other { status: 410, code: "COUPON_EXPIRED".to_owned() };
        assert_eq!(judged(|found, _| found.asked[3].answer = other).unexpected["coupon: 410 COUPON_EXPIRED"], 1);
        assert_eq!(judged(|found, _| found.asked[3].answer = Attempt::Unknown).unknown, 1);
    }

    #[test]
    fn a_won_too_much_or_too_little_is_a_difference() {
        assert_eq!(judged(|_, records| records[0] = placed(9)).discount_difference, 1);
        assert_eq!(judged(|_, records| records[2] = placed(3)).discount_difference, 3);
        assert_eq!(judged(|found, _| found.stored_difference = 5).discount_difference, 5);
    }
}
