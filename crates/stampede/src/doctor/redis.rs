//! Redis: whether it answers, and whether it keeps what it is given for as long as it runs.

use std::collections::HashMap;

use common::redis::{Redis, RedisSettings, cmd};
use common::settings::Settings;

use super::{ANSWER_MAX, Report};
use crate::reach::shown;

const CHECK: &str = "redis";
/// Scripts of ours ask for the time and write after that, which older ones refuse.
const VERSION_MIN: u32 = 5;

/// A connection. None: Redis does not answer, and the report says so.
pub async fn examine(settings: &Settings, report: &mut Report) -> anyhow::Result<Option<Redis>> {
    let address = shown(settings, "redis.url");
    let own: RedisSettings = settings.section("redis")?;
    let patient = RedisSettings { timeout_ms: ANSWER_MAX.as_millis() as u64, ..own };
    let namespace: String = settings.section("host.namespace")?;
    let redis = Redis::open(&patient, &namespace)?;
    let info: String = match redis.command(cmd("INFO").arg("everything")).await {
        Ok(info) => info,
        Err(error) => {
            report.fail(
                CHECK,
                format!("Redis at {address} does not answer: {error}"),
                "start Redis, or set redis.url (STAMPEDE__REDIS__URL); until then waiting rooms let nobody in, and sales and \
                 coupons without one are slower",
            );
            return Ok(None);
        }
    };
    let save: Vec<String> = redis.command(cmd("CONFIG").arg("GET").arg("save")).await.unwrap_or_default();
    judge(&facts(&info), save.get(1).map_or("", String::as_str), &address, report);
    Ok(Some(redis))
}

/// The lines of `INFO`.
fn facts(info: &str) -> HashMap<&str, &str> {
    info.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim())).collect()
}

fn judge(facts: &HashMap<&str, &str>, save: &str, address: &str, report: &mut Report) {
    let fact = |name: &str| facts.get(name).copied().unwrap_or_default();
    let policy = fact("maxmemory_policy");
    let limit = match fact("maxmemory") {
        "0" => "without a limit".to_owned(),
        bytes => format!("of {bytes} bytes"),
    };
    let version = fact("redis_version");
    report.ok(
        CHECK,
        format!(
            "Redis {version} at {address}: maxmemory-policy {policy}, {} bytes {limit} in use",
            fact("used_memory")
        ),
    );
    if version.split('.').next().and_then(|major| major.parse().ok()).is_none_or(|major: u32| major < VERSION_MIN) {
        report.fail(CHECK, format!("Redis {version} is too old"), "use Redis 7");
    }
    if policy != "noeviction" {
        report.warn(
            CHECK,
            format!("maxmemory-policy is {policy}: Redis throws gates and waiting rooms away in the middle of a sale"),
            "redis-cli config set maxmemory-policy noeviction, and the same in redis.conf",
        );
    }
    if fact("role") == "slave" {
        report.fail(CHECK, "this Redis is a replica and takes no writes", "let redis.url name the primary");
    }
    if fact("cluster_enabled") == "1" {
        report.fail(
            CHECK,
            "this Redis is a node of a cluster, and the services follow no redirection",
            "let redis.url name one server, with a replica beside it if it must not be lost",
        );
    }
    let persistence = [(fact("aof_enabled") == "1", "appendonly no"), (!save.is_empty(), "save \"\"")];
    for (_, setting) in persistence.iter().filter(|(is_on, _)| *is_on) {
        report.warn(
            CHECK,
            "Redis writes to its disk, which nothing here needs: a fork or a slow disk stops all gates for a moment",
            format!("redis-cli config set {setting}, and the same in redis.conf"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn judged(info: &str, save: &str) -> Vec<String> {
        let mut report = Report::default();
        judge(&facts(info), save, "redis://r", &mut report);
        report
            .findings
            .iter()
            .filter(|finding| finding.level > Level::Ok)
            .map(|finding| finding.found.clone())
            .collect()
    }

    #[test]
    fn each_setting_that_loses_or_stops_gates_is_named() {
        let sound =
            "redis_version:7.0.15\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\nrole:master\r\naof_enabled:0\r\n";
        assert_eq!(judged(sound, ""), Vec::<String>::new());
        for (from, to, save, told) in [
            ("noeviction", "allkeys-lru", "", "allkeys-lru"),
            ("7.0.15", "4.0.14", "", "too old"),
            ("role:master", "role:slave", "", "replica"),
            ("aof_enabled:0", "aof_enabled:1", "", "disk"),
            ("aof_enabled:0", "cluster_enabled:1", "", "cluster"),
            ("", "", "3600 1", "disk"),
        ] {
            let found = judged(&sound.replace(from, to), save);
            assert!(found.len() == 1 && found[0].contains(told), "{told}: {found:?}");
        }
    }
}
