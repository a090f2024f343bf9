//! Reads who has a coupon that is sold out, so that everybody else is refused without the gate.

use std::time::Instant;

use common::redis::{Unavailable, cmd};
use contract::ids::{AccountId, CouponId};

use crate::gate::Gate;
use crate::refusals::Version;

/// Users that one call reads, about: Redis serves nobody else meanwhile.
const CHUNK: usize = 1_000;

/// Reads the users that the gate of `coupon` has at `version`, without waiting.
pub fn read_users_later(gate: &Gate, coupon: CouponId, version: Version) {
    let gate = gate.clone();
    tokio::spawn(async move {
        let begun = Instant::now();
        // Without Redis, or when the users have changed meanwhile, the gate goes on being asked.
        let users = read_users(&gate, coupon, version).await.ok().flatten();
        gate.refusals.know(coupon, version, users, begun, Instant::now());
        gate.db.point("coupon.after_reading_users").await;
    });
}

async fn read_users(gate: &Gate, coupon: CouponId, version: Version) -> Result<Option<Vec<AccountId>>, Unavailable> {
    let [meta, _, issued, _] = gate.keys(coupon);
    let (mut users, mut cursor) = (Vec::new(), "0".to_owned());
    loop {
        let scan = cmd("HSCAN").arg(&issued).arg(&cursor).arg("COUNT").arg(CHUNK).to_owned();
        let (next, pairs): (String, Vec<(String, String)>) = gate.redis.command(&scan).await?;
        users.extend(pairs.iter().filter_map(|(user, _)| user.parse::<AccountId>().ok()));
        cursor = next;
        if cursor == "0" {
            break;
        }
    }
    gate.db.point("coupon.reading_users").await;
    users.sort_unstable();
    users.dedup();
    // In this order: while nothing is undone users only come, so as many as before are the same, and were so all the time.
    let count: i64 = gate.redis.command(cmd("HLEN").arg(&issued)).await?;
    let (epoch, undone): (Option<i64>, Option<i64>) =
        gate.redis.command(cmd("HMGET").arg(&meta).arg("epoch").arg("undone")).await?;
    let is_same = (epoch, undone.unwrap_or(0), count) == (Some(version.epoch), version.undone, version.users);
    let is_whole = i64::try_from(users.len()).is_ok_and(|read| read == version.users);
    Ok((is_same && is_whole).then_some(users))
}
