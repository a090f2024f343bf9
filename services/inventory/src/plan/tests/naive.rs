//! Holds as somebody would keep them who knows neither PostgreSQL nor locks: what the plan is compared with.

use super::*;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Life {
    Until(DateTime<Utc>),
    Pinned {
        by: u128,
        late: bool,
        before: DateTime<Utc>,
    },
    Sold,
    Returned,
    /// Released or expired: the same to everybody.
    Gone {
        before: DateTime<Utc>,
    },
}

pub struct Naive {
    pub now: DateTime<Utc>,
    pub on_hand: [i64; PRODUCTS],
    pub holds: BTreeMap<u128, ([i32; PRODUCTS], Life)>,
    /// Holds and attempts at them that have ended.
    pub ended: BTreeSet<(u128, u128)>,
}

impl Naive {
    fn life(&self, hold: u128) -> Option<Life> {
        match self.holds.get(&hold)?.1 {
            Life::Until(time) if time <= self.now => Some(Life::Gone { before: time }),
            life => Some(life),
        }
    }

    fn has(&self, wanted: &[i32; PRODUCTS]) -> bool {
        let takes = |hold: &u128| matches!(self.life(*hold), Some(Life::Until(_) | Life::Pinned { .. }));
        (0..PRODUCTS).all(|n| {
            let taken: i32 = self.holds.iter().filter(|(id, _)| takes(id)).map(|(_, (lines, _))| lines[n]).sum();
            i64::from(taken + wanted[n]) <= self.on_hand[n]
        })
    }

    fn stock(&mut self, hold: u128, sign: i64) {
        let lines = self.holds[&hold].0;
        (0..PRODUCTS).for_each(|n| self.on_hand[n] += sign * i64::from(lines[n]));
    }

    pub fn act(&mut self, hold: u128, act: &Act) -> &'static str {
        let life = self.life(hold);
        let lines = self.holds.get(&hold).map_or([0; PRODUCTS], |(lines, _)| *lines);
        let tombstone = lines == [0; PRODUCTS];
        let next = match (act, life) {
            (Act::Sweep, _) => return "ok",
            (Act::Wait { seconds }, _) => {
                self.now += Duration::seconds(*seconds);
                return "ok";
            }
            (Act::Hold { quantities }, _) if *quantities == [0; PRODUCTS] => return "ok",
            (Act::Hold { quantities }, None) if self.has(quantities) => {
                self.holds.insert(hold, (*quantities, Life::Until(self.now + Duration::seconds(TTL_SECONDS))));
                return "ok";
            }
            (Act::Hold { .. }, None) => return "OUT_OF_STOCK",
            (Act::Hold { .. }, Some(Life::Gone { .. } | Life::Returned)) => return "GONE",
            (Act::Hold { .. }, Some(_)) => return "ok",

            (Act::Release { .. }, None) => Life::Gone { before: self.now },
            (Act::Return | Act::Refund, None) => return "HOLD_NOT_CONFIRMED",
            (_, None) => return "HOLD_NOT_FOUND",

            (Act::Pin { attempt, .. }, Some(Life::Until(_) | Life::Gone { .. }))
                if self.ended.contains(&(hold, *attempt)) =>
            {
                return "PAYMENT_IN_PROGRESS";
            }
            (Act::Pin { attempt, retake }, Some(Life::Until(before))) => {
                Life::Pinned { by: *attempt, late: *retake, before }
            }
            (Act::Pin { attempt, retake }, Some(Life::Pinned { by, late, before })) if by == *attempt => {
                Life::Pinned { by, late: late || *retake, before }
            }
            (Act::Pin { .. }, Some(Life::Pinned { .. })) => return "PAYMENT_IN_PROGRESS",
            (Act::Pin { .. }, Some(Life::Sold | Life::Returned)) => return "HOLD_ALREADY_CONFIRMED",
            (Act::Pin { retake: false, .. }, Some(Life::Gone { .. })) => return "GONE",
            (Act::Pin { attempt, .. }, Some(Life::Gone { before })) if !tombstone && self.has(&lines) => {
                Life::Pinned { by: *attempt, late: true, before: before.min(self.now) }
            }
            (Act::Pin { .. }, Some(Life::Gone { .. })) => return "OUT_OF_STOCK",

            (Act::Unpin { attempt }, Some(Life::Pinned { by, before, late })) if by == *attempt => {
                self.ended.insert((hold, *attempt));
                self.unpinned(before, late)
            }
            (Act::Unpin { attempt }, Some(Life::Until(_) | Life::Gone { .. })) if !tombstone => {
                self.ended.insert((hold, *attempt));
                return "ok";
            }
            (Act::Unpin { .. }, Some(_)) => return "ok",

            (Act::Release { known_version: false }, Some(Life::Sold)) => return "HOLD_ALREADY_CONFIRMED",
            (Act::Release { .. }, Some(Life::Until(before) | Life::Pinned { before, late: false, .. })) => {
                Life::Gone { before }
            }
            (Act::Release { .. }, Some(_)) => return "ok",

            (Act::Confirm, Some(Life::Until(_) | Life::Pinned { .. })) => {
                self.stock(hold, -1);
                Life::Sold
            }
            (Act::Confirm, Some(Life::Gone { .. })) => return "GONE",
            (Act::Confirm, Some(Life::Sold | Life::Returned)) => return "ok",

            (Act::Refund, Some(Life::Until(_) | Life::Pinned { .. })) => Life::Returned,
            (Act::Refund | Act::Return, Some(Life::Sold)) => {
                self.stock(hold, 1);
                Life::Returned
            }
            (Act::Refund | Act::Return, Some(Life::Returned)) => return "ok",
            (Act::Refund | Act::Return, Some(_)) => return "HOLD_NOT_CONFIRMED",
        };
        self.holds.insert(hold, (lines, next));
        "ok"
    }

    /// What was taken again after its time is held for nobody.
    fn unpinned(&self, before: DateTime<Utc>, late: bool) -> Life {
        match late && before <= self.now {
            true => Life::Gone { before },
            false => Life::Until(before.max(self.now + Duration::seconds(LIVES_MIN_SECONDS))),
        }
    }

    pub fn expected(&self, hold: u128) -> Option<&'static str> {
        Some(match self.life(hold)? {
            Life::Until(_) => "HELD",
            Life::Pinned { .. } => "PINNED",
            Life::Sold => "CONFIRMED",
            Life::Returned => "RETURNED",
            Life::Gone { .. } => "GONE",
        })
    }
}
