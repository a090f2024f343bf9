//! The sale: orders, units, coupons and money.

use super::Unit::{Count, PerSecond, Seconds};
use super::{Dashboard, Row, lines, number};

pub(super) const DASHBOARD: Dashboard = Dashboard {
    uid: "stampede-sale",
    title: "Stampede: sale",
    description: "Does the sale go on, who gets units, and does the money come in?",
    rows: &[
        Row {
            title: "Now",
            panels: &[
                number(
                    "Orders placed",
                    PerSecond,
                    None,
                    "New orders a second, over all replicas.",
                    &[("sum(rate(stampede_orders_total{outcome='placed'}[$__rate_interval]))", "placed")],
                ),
                number(
                    "Orders paid",
                    PerSecond,
                    None,
                    "Orders a second that became PAID.",
                    &[("sum(rate(stampede_orders_total{outcome='paid'}[$__rate_interval]))", "paid")],
                ),
                number(
                    "Orders failed",
                    PerSecond,
                    Some(1),
                    "Orders a second to which inventory did not answer. Buyers get 503 and may try again.",
                    &[("sum(rate(stampede_orders_total{outcome='failed'}[$__rate_interval]))", "failed")],
                ),
                number(
                    "Payments unknown",
                    Count,
                    Some(10),
                    "Payments of which nobody knows whether they were captured. They end by themselves once the \
                     provider answers.",
                    &[("max(stampede_payments_unknown)", "unknown")],
                ),
                number(
                    "Oldest unknown payment",
                    Seconds,
                    Some(900),
                    "Somebody is called above 900 s.",
                    &[("max(stampede_payments_unknown_oldest_seconds)", "oldest")],
                ),
                number(
                    "Oldest pending refund",
                    Seconds,
                    Some(900),
                    "Money that a buyer was promised and has no answer about. Somebody is called above 900 s.",
                    &[("max(stampede_refunds_pending_oldest_seconds)", "oldest")],
                ),
            ],
        },
        Row {
            title: "Orders and units",
            panels: &[
                lines(
                    "Orders",
                    PerSecond,
                    "What became of orders. Refused is sold out; failed means that inventory did not answer.",
                    &[("sum by (outcome) (rate(stampede_orders_total[$__rate_interval]))", "{{outcome}}")],
                ),
                lines(
                    "Time of an order",
                    Seconds,
                    "From the request to the answer of POST /api/v1/orders, as the service sees it.",
                    &[
                        (
                            "histogram_quantile(0.5, sum by (le) \
                             (rate(http_server_request_duration_seconds_bucket{http_request_method='POST', \
                             http_route='/api/v1/orders'}[$__rate_interval])))",
                            "p50",
                        ),
                        (
                            "histogram_quantile(0.99, sum by (le) \
                             (rate(http_server_request_duration_seconds_bucket{http_request_method='POST', \
                             http_route='/api/v1/orders'}[$__rate_interval])))",
                            "p99",
                        ),
                    ],
                ),
                lines(
                    "Holds",
                    PerSecond,
                    "What became of holds. Held without orders placed beside it: orders are not stored.",
                    &[("sum by (outcome) (rate(stampede_holds_total[$__rate_interval]))", "{{outcome}}")],
                ),
                lines(
                    "The gate",
                    PerSecond,
                    "What Redis' counter said of each line. Away: PostgreSQL decides alone. A steady drift is a bug.",
                    &[("sum by (outcome) (rate(stampede_gate_total[$__rate_interval]))", "{{outcome}}")],
                ),
                lines(
                    "Gates loaded, and products sold",
                    Count,
                    "Gates loaded from PostgreSQL in five minutes, and products that were sold lately. Many loads: \
                     Redis loses its data.",
                    &[
                        ("sum(increase(stampede_gate_rebuilds_total[5m]))", "gates loaded"),
                        ("sum(increase(stampede_coupon_gate_loads_total[5m]))", "coupon gates loaded"),
                        ("max(stampede_gate_products)", "products sold"),
                    ],
                ),
                lines(
                    "Expired holds that wait",
                    Count,
                    "Holds that the last sweep found expired. Steady: the sweeper does not keep up; nobody is refused \
                     because of it.",
                    &[
                        ("max(stampede_holds_overdue)", "holds"),
                        ("max(stampede_coupon_takes_left)", "takes of coupons"),
                    ],
                ),
            ],
        },
        Row {
            title: "Coupons",
            panels: &[
                lines(
                    "Coupons issued",
                    PerSecond,
                    "What became of requests for a coupon. Recovered follows a crash; failed: is PostgreSQL up?",
                    &[("sum by (outcome) (rate(stampede_coupons_issued_total[$__rate_interval]))", "{{outcome}}")],
                ),
                lines(
                    "Coupons in orders",
                    PerSecond,
                    "What became of redemptions.",
                    &[("sum by (outcome) (rate(stampede_coupon_redemptions_total[$__rate_interval]))", "{{outcome}}")],
                ),
            ],
        },
        Row {
            title: "Money",
            panels: &[
                lines(
                    "Payments",
                    PerSecond,
                    "What became of payments that were approved. Many PENDING or FAILED beside few PAID: look at the \
                     provider.",
                    &[("sum by (status) (rate(stampede_payments_total[$__rate_interval]))", "{{status}}")],
                ),
                lines(
                    "Time of a request for money",
                    Seconds,
                    "The 95th percentile, by what the provider answered. Unknown: it does not answer, or not clearly.",
                    &[(
                        "histogram_quantile(0.95, sum by (method, outcome, le) \
                         (rate(stampede_payment_approve_seconds_bucket[$__rate_interval])))",
                        "{{method}} {{outcome}}",
                    )],
                ),
                lines(
                    "Refunds",
                    PerSecond,
                    "Answers of the provider to refunds. FAILED is an alert.",
                    &[("sum by (status) (rate(stampede_refunds_total[$__rate_interval]))", "{{status}}")],
                ),
                lines(
                    "Money that came late, or twice",
                    Count,
                    "In an hour: money of which one learnt after the order's time, and captures that belong to no \
                     payment.",
                    &[
                        ("sum by (outcome) (increase(stampede_payments_late_total[1h]))", "late, {{outcome}}"),
                        ("sum(increase(stampede_payments_stray_total[1h]))", "captured twice"),
                    ],
                ),
                lines(
                    "Reconciliation",
                    Count,
                    "Differences between the provider's book and ours, found in a day, and runs that ended. Any \
                     difference is an alert, and so are runs that go on failing.",
                    &[
                        ("sum by (kind) (increase(stampede_reconciliation_findings_total[1d]))", "{{kind}}"),
                        ("sum by (outcome) (increase(stampede_reconciliation_runs_total[1d]))", "runs {{outcome}}"),
                    ],
                ),
                lines(
                    "Webhooks of the provider",
                    PerSecond,
                    "Refused without stored: is the secret the provider's?",
                    &[("sum by (outcome) (rate(stampede_psp_webhooks_total[$__rate_interval]))", "{{outcome}}")],
                ),
            ],
        },
    ],
};
