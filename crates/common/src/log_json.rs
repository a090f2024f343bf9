//! One JSON object a line, with the fields of all enclosing spans at the top level: `requestId` is found where one looks.

use std::fmt;
use std::io::Write;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Writes every event as one line to what `make` returns.
pub struct JsonLines<M> {
    make: M,
}

impl<M> JsonLines<M> {
    pub fn new(make: M) -> Self {
        Self { make }
    }
}

/// The fields that a span has so far, kept in its extensions, or those of an event. Every request makes them, and few are
/// ever written: so they are a list.
#[derive(Default)]
struct Fields(Vec<(&'static str, Value)>);

impl<S, M, W> Layer<S> for JsonLines<M>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    M: Fn() -> W + 'static,
    W: Write,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = Map::new();
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        line.insert("timestamp".to_owned(), now.into());
        line.insert("level".to_owned(), event.metadata().level().as_str().into());
        line.insert("target".to_owned(), event.metadata().target().into());
        if let Some(trace) = crate::telemetry::trace_id() {
            line.insert("traceId".to_owned(), trace.into());
        }
        for span in context.event_scope(event).into_iter().flatten().collect::<Vec<_>>().into_iter().rev() {
            if let Some(fields) = span.extensions().get::<Fields>() {
                line.extend(fields.0.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
            }
        }
        let mut own = Fields::default();
        event.record(&mut own);
        line.extend(own.0.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let mut text = Value::Object(line).to_string();
        text.push('\n');
        // A log line that cannot be written has nowhere to be reported.
        drop((self.make)().write_all(text.as_bytes()));
    }
}

/// What spans have for traces only; `method` and `path` say the same in a log.
const FOR_TRACES: [&str; 6] = ["otel.", "http.", "url.", "rpc.", "server.", "error."];

pub fn is_for_traces(field: &Field) -> bool {
    FOR_TRACES.iter().any(|prefix| field.name().starts_with(prefix))
}

impl Fields {
    fn insert(&mut self, field: &Field, value: Value) {
        // Of a field that is recorded again the last value is written.
        if !is_for_traces(field) {
            self.0.push((field.name(), value));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_carries_the_fields_of_its_spans() {
        let sink = Sink::default();
        let layer = JsonLines::new({
            let sink = sink.clone();
            move || sink.clone()
        });
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let request = tracing::info_span!("request", requestId = "r-1", userId = tracing::field::Empty);
            let _in_request = request.enter();
            request.record("userId", "u-1");
            let _in_tx = tracing::info_span!("tx").entered();
            tracing::info!(orderId = "o-1", lines = 2, "Placed \"it\"");
        });
        let line: Value = serde_json::from_slice(&sink.0.lock().unwrap()).unwrap();
        assert_eq!(line["requestId"], "r-1");
        assert_eq!(line["userId"], "u-1");
        assert_eq!(line["orderId"], "o-1");
        assert_eq!(line["lines"], 2);
        assert_eq!(line["message"], "Placed \"it\"");
    }
}
