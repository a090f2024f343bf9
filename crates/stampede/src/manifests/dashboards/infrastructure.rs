//! What the services stand on, as they see it: PostgreSQL, Redis, their own loops.

use super::Unit::{Count, PerSecond, Seconds};
use super::{Dashboard, Row, lines, number};

pub(super) const DASHBOARD: Dashboard = Dashboard {
    uid: "stampede-infrastructure",
    title: "Stampede: infrastructure",
    description: "Do PostgreSQL and Redis keep up, as the services see them? The servers' own exporters have \
     dashboards of their own.",
    rows: &[
        Row {
            title: "Now",
            panels: &[
                number(
                    "Replicas",
                    Count,
                    None,
                    "Processes that Prometheus reads.",
                    &[("count(up{service=~'$service'} == 1)", "up")],
                ),
                number(
                    "Replicas away",
                    Count,
                    Some(1),
                    "Processes that Prometheus cannot read.",
                    &[("count(up{service=~'$service'} == 0) or vector(0)", "away")],
                ),
                number(
                    "Calls that Redis did not answer",
                    PerSecond,
                    Some(1),
                    "PostgreSQL does the work of the gate meanwhile.",
                    &[("sum(rate(stampede_redis_failures_total[$__rate_interval]))", "failures")],
                ),
                number(
                    "Turned away by a full queue",
                    PerSecond,
                    Some(1),
                    "More comes than the database commits.",
                    &[("sum(rate(stampede_batch_refused_total[$__rate_interval]))", "refused")],
                ),
            ],
        },
        Row {
            title: "PostgreSQL",
            panels: &[
                lines(
                    "Transactions",
                    PerSecond,
                    "The ten most frequent.",
                    &[(
                        "topk(10, sum by (tx) \
                         (rate(stampede_db_tx_seconds_count{service=~'$service'}[$__rate_interval])))",
                        "{{tx}}",
                    )],
                ),
                lines(
                    "Time of transactions, 99th percentile",
                    Seconds,
                    "The ten slowest, waiting for a connection and retries included. The name tells the flow.",
                    &[(
                        "topk(10, histogram_quantile(0.99, sum by (tx, le) \
                         (rate(stampede_db_tx_seconds_bucket{service=~'$service'}[$__rate_interval]))))",
                        "{{tx}}",
                    )],
                ),
                lines(
                    "Conflicts",
                    PerSecond,
                    "Transactions that met a conflict or a deadlock and were run again. A steady rate: two flows lock \
                     in different orders.",
                    &[(
                        "sum by (tx) (rate(stampede_db_conflicts_total{service=~'$service'}[$__rate_interval])) > 0",
                        "{{tx}}",
                    )],
                ),
                lines(
                    "Requests that share a transaction",
                    Count,
                    "The mean size of batches. Large under load is what batches are for.",
                    &[(
                        "sum by (batch) (rate(stampede_batch_size_sum{service=~'$service'}[$__rate_interval])) / sum \
                         by (batch) (rate(stampede_batch_size_count{service=~'$service'}[$__rate_interval]))",
                        "{{batch}}",
                    )],
                ),
                lines(
                    "Turned away by a full queue",
                    PerSecond,
                    "Requests that got 503 because the queue of their batch was full.",
                    &[(
                        "sum by (batch) (rate(stampede_batch_refused_total{service=~'$service'}[$__rate_interval])) > \
                         0",
                        "{{batch}}",
                    )],
                ),
                lines(
                    "Archive",
                    Count,
                    "Orders moved to the archive and made live again in an hour, and runs that ended.",
                    &[
                        ("sum(increase(stampede_orders_archived_total[1h]))", "archived"),
                        ("sum(increase(stampede_orders_restored_total[1h]))", "restored"),
                        ("sum by (outcome) (increase(stampede_archive_runs_total[1h]))", "runs {{outcome}}"),
                    ],
                ),
            ],
        },
        Row {
            title: "Redis, loops and keys",
            panels: &[
                lines(
                    "Calls that Redis did not answer",
                    PerSecond,
                    "By what was asked. While Redis is away, nobody tries for redis.pause_ms after one. Refused: this \
                     call alone fails.",
                    &[(
                        "sum by (call, failure) \
                         (rate(stampede_redis_failures_total{service=~'$service'}[$__rate_interval])) > 0",
                        "{{call}} {{failure}}",
                    )],
                ),
                lines(
                    "Loops that fail",
                    Count,
                    "Runs in a quarter of an hour that failed and will be repeated. One that only grows: its log line \
                     has the cause.",
                    &[(
                        "sum by (service, loop) (increase(stampede_loop_failures_total{service=~'$service'}[15m])) > 0",
                        "{{service}} {{loop}}",
                    )],
                ),
                lines(
                    "Signing keys that could not be read",
                    Count,
                    "Readings in ten minutes that failed. Who has keys goes on with them; who has none cannot check a \
                     token.",
                    &[(
                        "sum by (service) (increase(stampede_jwks_failures_total{service=~'$service'}[10m]))",
                        "{{service}}",
                    )],
                ),
                lines(
                    "Calls between services that were not let in",
                    Count,
                    "In ten minutes, by the service that was called and why. Any is an alert.",
                    &[(
                        "sum by (service, reason) \
                         (increase(stampede_service_calls_refused_total{service=~'$service'}[10m])) > 0",
                        "{{service}} {{reason}}",
                    )],
                ),
            ],
        },
    ],
};
