//! The waiting room: who waits, who comes in, and whether sales open on time.

use super::Unit::{Count, PerSecond, Seconds};
use super::{Dashboard, Row, lines, number};

pub(super) const DASHBOARD: Dashboard = Dashboard {
    uid: "stampede-waiting-room",
    title: "Stampede: waiting room",
    description: "Do sales open on time, and does the line move?",
    rows: &[
        Row {
            title: "Now",
            panels: &[
                number(
                    "People who wait",
                    Count,
                    None,
                    "In all rooms together, when they were last saved.",
                    &[("max(stampede_queue_waiting)", "waiting")],
                ),
                number(
                    "Passes in use",
                    Count,
                    None,
                    "People whose turn it is, in all rooms together.",
                    &[("max(stampede_queue_active)", "active")],
                ),
                number(
                    "Let in without a pass",
                    PerSecond,
                    Some(1),
                    "The queue is dead, and buyers come in at the rate of the room. Any is an alert.",
                    &[("sum(rate(stampede_entries_total{outcome='bypass'}[$__rate_interval]))", "bypass")],
                ),
                number(
                    "Rooms",
                    Count,
                    None,
                    "Rooms that are run, by the replica that runs most. 0 while a sale is open: it cannot read its \
                     database.",
                    &[("max(stampede_queue_rooms)", "rooms")],
                ),
            ],
        },
        Row {
            title: "The line",
            panels: &[
                lines(
                    "Waiting, and in",
                    Count,
                    "The line moves when the first falls while the second stays.",
                    &[("max(stampede_queue_waiting)", "wait"), ("max(stampede_queue_active)", "have a pass")],
                ),
                lines(
                    "Places asked for",
                    PerSecond,
                    "Many known: a client does not keep its ticket.",
                    &[("sum by (outcome) (rate(stampede_queue_entries_total[$__rate_interval]))", "{{outcome}}")],
                ),
                lines(
                    "Passes",
                    PerSecond,
                    "Looks at passes, and passes that were used up. Many invalid: somebody makes passes up, or shares \
                     them.",
                    &[("sum by (outcome) (rate(stampede_queue_passes_total[$__rate_interval]))", "{{outcome}}")],
                ),
                lines(
                    "Turns that nobody took",
                    PerSecond,
                    "Slots that were offered and not claimed in time. A large share: claimSeconds is too short.",
                    &[("sum(rate(stampede_queue_no_shows_total[$__rate_interval]))", "no-shows")],
                ),
                lines(
                    "Not let in",
                    PerSecond,
                    "Requests at the door of the sale by code, and those let in without a pass.",
                    &[("sum by (outcome) (rate(stampede_entries_total[$__rate_interval]))", "{{outcome}}")],
                ),
                lines(
                    "Rooms that Redis lost",
                    Count,
                    "In an hour. More than one for each restart of Redis: it throws keys away.",
                    &[("sum(increase(stampede_queue_rooms_restored_total[1h]))", "restored")],
                ),
            ],
        },
        Row {
            title: "Openings",
            panels: &[
                lines(
                    "Sales opened",
                    Count,
                    "In an hour, by what was first. Recovery: the others were away or late.",
                    &[("sum by (trigger) (increase(stampede_events_opened_total[1h]))", "{{trigger}}")],
                ),
                lines(
                    "How late",
                    Seconds,
                    "The slowest opening of an hour. Above 0.3 s: no replica was awake, or PostgreSQL was away.",
                    &[(
                        "histogram_quantile(1, sum by (le) (increase(stampede_event_open_late_seconds_bucket[1h])))",
                        "slowest",
                    )],
                ),
            ],
        },
    ],
};
