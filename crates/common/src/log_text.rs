//! Fields of log lines for people: without those that spans have for traces only.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use crate::log_json::is_for_traces;

/// `message name=value name=value`.
pub struct TextFields;

impl<'w> FormatFields<'w> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut text = Text { writer, is_first: true, outcome: Ok(()) };
        fields.record(&mut text);
        text.outcome
    }
}

struct Text<'w> {
    writer: Writer<'w>,
    is_first: bool,
    outcome: fmt::Result,
}

impl Text<'_> {
    fn write(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if is_for_traces(field) || self.outcome.is_err() {
            return;
        }
        let space = if self.is_first { "" } else { " " };
        self.is_first = false;
        self.outcome = match field.name() {
            "message" => write!(self.writer, "{space}{value}"),
            name => write!(self.writer, "{space}{name}={value}"),
        };
    }
}

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.write(field, format_args!("{value}")),
            _ => self.write(field, format_args!("{value:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn a_line_has_no_fields_that_are_for_traces() {
        let lines: Arc<Mutex<Vec<u8>>> = Arc::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || Lines(writer.clone()))
            .with_ansi(false)
            .fmt_fields(TextFields);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let span = tracing::info_span!("http", otel.kind = "server", url.path = "/orders", method = "GET");
            let _entered = span.enter();
            tracing::info!(order.id = 7, "Placed order {}", 7);
        });
        let text = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
        assert!(text.contains("http{method=\"GET\"}"), "{text}");
        assert!(text.contains("Placed order 7 order.id=7"), "{text}");
    }

    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
