//! Rate, errors and duration of each service.

use super::Unit::{PerSecond, Seconds, Share};
use super::{Dashboard, Row, lines};

pub(super) const DASHBOARD: Dashboard = Dashboard {
    uid: "stampede-services",
    title: "Stampede: services",
    description: "Rate, errors and duration of the requests to each service.",
    rows: &[
        Row {
            title: "Services",
            panels: &[
                lines(
                    "Requests",
                    PerSecond,
                    "Answered requests a second.",
                    &[(
                        "sum by (service) \
                         (rate(http_server_request_duration_seconds_count{service=~'$service'}[$__rate_interval]))",
                        "{{service}}",
                    )],
                ),
                lines(
                    "Faults of ours",
                    Share,
                    "The share of requests that ended with a 5xx other than 503. Somebody is called above 1 %.",
                    &[(
                        "sum by (service) (rate(http_server_request_duration_seconds_count{service=~'$service', \
                         http_response_status_code=~'5..', http_response_status_code!='503'}[$__rate_interval])) / \
                         sum by (service) \
                         (rate(http_server_request_duration_seconds_count{service=~'$service'}[$__rate_interval]))",
                        "{{service}}",
                    )],
                ),
                lines(
                    "Turned away",
                    Share,
                    "The share of requests that ended with 503: something is away, or a queue is full. Somebody is \
                     called above 5 %.",
                    &[(
                        "sum by (service) (rate(http_server_request_duration_seconds_count{service=~'$service', \
                         http_response_status_code='503'}[$__rate_interval])) / sum by (service) \
                         (rate(http_server_request_duration_seconds_count{service=~'$service'}[$__rate_interval]))",
                        "{{service}}",
                    )],
                ),
                lines(
                    "Answers",
                    PerSecond,
                    "By status. 409 during a sale is the sale.",
                    &[(
                        "sum by (http_response_status_code) \
                         (rate(http_server_request_duration_seconds_count{service=~'$service'}[$__rate_interval]))",
                        "{{http_response_status_code}}",
                    )],
                ),
                lines(
                    "Duration, median",
                    Seconds,
                    "Half of the requests are answered sooner.",
                    &[(
                        "histogram_quantile(0.5, sum by (service, le) \
                         (rate(http_server_request_duration_seconds_bucket{service=~'$service'}[$__rate_interval])))",
                        "{{service}}",
                    )],
                ),
                lines(
                    "Duration, 99th percentile",
                    Seconds,
                    "One request in a hundred takes longer. The stream's requests end when their client goes.",
                    &[(
                        "histogram_quantile(0.99, sum by (service, le) \
                         (rate(http_server_request_duration_seconds_bucket{service=~'$service', \
                         http_route!='/api/v1/stream'}[$__rate_interval])))",
                        "{{service}}",
                    )],
                ),
            ],
        },
        Row {
            title: "Routes",
            panels: &[
                lines(
                    "The ten busiest",
                    PerSecond,
                    "Requests a second by route; made-up paths have none.",
                    &[(
                        "topk(10, sum by (http_request_method, http_route) \
                         (rate(http_server_request_duration_seconds_count{service=~'$service'}[$__rate_interval])))",
                        "{{http_request_method}} {{http_route}}",
                    )],
                ),
                lines(
                    "The ten slowest",
                    Seconds,
                    "The 99th percentile by route.",
                    &[(
                        "topk(10, histogram_quantile(0.99, sum by (http_request_method, http_route, le) \
                         (rate(http_server_request_duration_seconds_bucket{service=~'$service', \
                         http_route!='/api/v1/stream'}[$__rate_interval]))))",
                        "{{http_request_method}} {{http_route}}",
                    )],
                ),
            ],
        },
        Row {
            title: "Who may",
            panels: &[
                lines(
                    "Refused by a limiter",
                    PerSecond,
                    "RATE_LIMITED: a program asks too often. TOO_MANY_ATTEMPTS: somebody may be guessing passwords.",
                    &[(
                        "sum by (code) (rate(stampede_rate_limited_total{service=~'$service'}[$__rate_interval]))",
                        "{{code}}",
                    )],
                ),
                lines(
                    "Tokens",
                    PerSecond,
                    "Access tokens that were not accepted, refresh tokens that came twice, and passwords turned away \
                     because too many were hashed.",
                    &[
                        (
                            "sum by (service) \
                             (rate(stampede_tokens_refused_total{service=~'$service'}[$__rate_interval]))",
                            "refused by {{service}}",
                        ),
                        ("sum(rate(stampede_refresh_tokens_reused_total[$__rate_interval]))", "refreshed twice"),
                        ("sum(rate(stampede_password_hashing_refused_total[$__rate_interval]))", "hashing turned away"),
                    ],
                ),
            ],
        },
    ],
};
