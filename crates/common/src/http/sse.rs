//! Server-sent events: frames, the hint when to come back, and the answer that carries them.

use std::fmt::Display;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::header::CACHE_CONTROL;
use actix_web::web::Bytes;
use futures_util::Stream;
use rand::RngExt;
use serde::Serialize;

use crate::error::{Error, Result};

/// A stream that says nothing for longer may be taken for dead by proxies.
pub const SILENCE_MAX: Duration = Duration::from_secs(15);

/// What a stream says when it has nothing to say. Clients do not see it.
pub const HEARTBEAT: Bytes = Bytes::from_static(b": ping\n\n");

/// After how long a client that lost its stream comes back: not all at once after a restart.
const RETRY_MS: std::ops::Range<u32> = 2_500..4_500;

/// One event with its id, if it has one. `kind` is what `addEventListener` takes.
pub fn frame(id: Option<&dyn Display>, kind: &str, data: &impl Serialize) -> Result<String> {
    // JSON has no line breaks of its own, so one line of data is enough.
    let json = serde_json::to_string(data).map_err(Error::fault)?;
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    Ok(format!("{id}event: {kind}\ndata: {json}\n\n"))
}

/// The line that says when to come back. It belongs before a frame.
pub fn retry() -> String {
    format!("retry: {}\n", rand::rng().random_range(RETRY_MS))
}

/// The answer that goes on for as long as `frames` does.
pub fn answer(frames: impl Stream<Item = Result<Bytes>> + 'static) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((CACHE_CONTROL, "no-store"))
        // nginx hands on each frame at once.
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(Box::pin(frames))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_one_event_whatever_its_data() {
        let data = serde_json::json!({ "name": "two\nlines\r\n\ndata: forged" });
        let written = frame(Some(&"e-7"), "event.open", &data).unwrap();
        assert_eq!(written, "id: e-7\nevent: event.open\ndata: {\"name\":\"two\\nlines\\r\\n\\ndata: forged\"}\n\n");
        assert_eq!(frame(None, "end", &1).unwrap(), "event: end\ndata: 1\n\n");
    }

    #[test]
    fn clients_come_back_at_different_times() {
        let hints: std::collections::BTreeSet<u32> = (0..100)
            .map(|_| retry().strip_prefix("retry: ").unwrap().trim_end().parse().unwrap())
            .inspect(|hint| assert!(RETRY_MS.contains(hint), "{hint}"))
            .collect();
        assert!(hints.len() > 10, "{hints:?}");
    }
}
