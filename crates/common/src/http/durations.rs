//! How long requests take, by method, route and status.

use std::time::Duration;

use actix_web::http::StatusCode;
use metrics::Histogram;
use parking_lot::RwLock;

/// The histograms of one route. To look one up by its labels for each request would cost more than to record in it.
#[derive(Default)]
pub struct Durations(RwLock<Vec<(&'static str, StatusCode, Histogram)>>);

impl Durations {
    pub fn record(&self, method: &'static str, route: &str, status: StatusCode, duration: Duration) {
        if let Some((_, _, known)) = self.0.read().iter().find(|known| (known.0, known.1) == (method, status)) {
            known.record(duration);
            return;
        }
        let new = of(method, route, status);
        new.record(duration);
        // Two requests that come first together add it twice; both are the same histogram.
        self.0.write().push((method, status, new));
    }
}

/// The histogram of these labels.
pub fn of(method: &'static str, route: &str, status: StatusCode) -> Histogram {
    metrics::histogram!(
        "http_server_request_duration_seconds",
        "http_request_method" => method,
        "http_route" => route.to_owned(),
        "http_response_status_code" => status.as_str().to_owned(),
    )
}
