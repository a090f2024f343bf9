//! Deliveries in the traces of what led to their notifications: each attempt is a span, from its claim until its result is
//! recorded.

use std::collections::HashMap;

use common::telemetry::{self, Context, span_in_trace};
use contract::ids::DeliveryId;
use tracing::{Instrument, Span};

use crate::claims::{AttemptResult, Claimed};
use crate::delivery::Failure;

/// The spans of deliveries that are being sent. Those that belong to no trace have none.
pub struct DeliverySpans(HashMap<DeliveryId, Span>);

/// Begins the spans of `claimed`. What is done for a delivery from here on is a part of its span.
pub fn begin(claimed: &mut [Claimed]) -> DeliverySpans {
    let mut spans = HashMap::new();
    for delivery in claimed {
        let span = span_in_trace(delivery.traceparent.as_deref(), || delivery_span(delivery));
        if let Some(span) = span {
            delivery.traceparent = span.in_scope(telemetry::traceparent);
            spans.insert(delivery.attempt.delivery, span);
        }
    }
    DeliverySpans(spans)
}

impl DeliverySpans {
    /// Ends them with what became of the attempts.
    pub fn end(self, results: &[AttemptResult]) {
        for result in results {
            let Some(span) = self.0.get(&result.attempt.delivery) else { continue };
            span.record("delivery.outcome", result.next.name());
            if let Some(failure) = result.next.failure {
                span.record("otel.status_code", "ERROR");
                span.record("error.type", Failure::name(failure));
            }
        }
    }
}

impl Claimed {
    pub fn context(&self) -> Context {
        Context { traceparent: self.traceparent.clone(), ..Context::default() }
    }

    /// Runs `work`, which is for this delivery alone, in its trace: the lines that it logs have the trace's id.
    pub async fn in_trace<T>(&self, work: impl Future<Output = T>) -> T {
        self.context().scope(Span::none(), work).await
    }
}

/// Runs `work`, which is one call for all of `together`: in the trace of the first, with a link to each of the others.
pub async fn in_first_trace<T>(together: &[Claimed], work: impl Future<Output = T>) -> T {
    let [first, others @ ..] = together else { return work.await };
    if others.is_empty() {
        return first.in_trace(work).await;
    }
    let span = span_in_trace(first.traceparent.as_deref(), || {
        let name = first.attempt.channel.name();
        tracing::info_span!(
            "send_together",
            otel.name = format!("send {name}"),
            otel.kind = "client",
            messaging.destination.name = name,
            messaging.batch.message_count = i64::try_from(together.len()).unwrap_or(i64::MAX),
        )
    });
    let Some(span) = span else { return first.in_trace(work).await };
    telemetry::link(&span, others.iter().filter_map(|other| other.traceparent.clone()));
    first.in_trace(work.instrument(span)).await
}

/// In the terms of OpenTelemetry: the table is the queue.
fn delivery_span(delivery: &Claimed) -> Span {
    let channel = delivery.attempt.channel.name();
    tracing::info_span!(
        "deliver",
        otel.name = format!("deliver {channel}"),
        otel.kind = "consumer",
        otel.status_code = tracing::field::Empty,
        messaging.system = "postgresql",
        messaging.operation.name = "deliver",
        messaging.operation.r#type = "process",
        messaging.destination.name = channel,
        messaging.message.id = %delivery.attempt.delivery,
        notification.id = %delivery.notification,
        delivery.attempt = delivery.attempt.number,
        delivery.outcome = tracing::field::Empty,
        error.r#type = tracing::field::Empty,
    )
}
