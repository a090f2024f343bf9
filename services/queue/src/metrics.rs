//! What this service counts. `docs/operations.md` says what to do about it.

use common::telemetry::Metric;

pub const METRICS: &[Metric] = &[
    Metric::counter(
        "stampede_events_opened_total",
        "Sales opened, by what was first.",
        &[("trigger", &["timer", "expiry", "scan", "recovery", "visitor", "administrator"])],
    ),
    Metric::histogram("stampede_event_open_late_seconds", "How long after its time a sale was opened.", &[]),
    Metric::gauge("stampede_queue_waiting", "People who wait, in all rooms.", &[]),
    Metric::gauge("stampede_queue_active", "Passes in use, in all rooms.", &[]),
    Metric::counter(
        "stampede_queue_entries_total",
        "Places in a line that were asked for.",
        &[("outcome", &["new", "known"])],
    ),
    Metric::counter("stampede_queue_no_shows_total", "Slots that were offered and not claimed in time.", &[]),
    Metric::counter(
        "stampede_queue_passes_total",
        "Looks at passes, and passes that were used up.",
        &[("outcome", &["completed", "ok", "invalid", "expired", "ended"])],
    ),
    Metric::gauge("stampede_queue_rooms", "Rooms that this process runs.", &[]),
    Metric::counter("stampede_queue_rooms_restored_total", "Rooms that Redis had lost.", &[]),
];
