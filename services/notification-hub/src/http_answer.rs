//! Rules: what the answer of a target that is called over HTTP means for the message. The one table for all of them.

use std::time::Duration;

use crate::delivery::{Failure, Outcome};

/// The pause where the target asks for one and does not say how long: what Slack's limit of one message a second suggests.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// `refusal` is what a status means that will not pass by itself; it is the target's own language.
pub fn classify(
    status: u16,
    retry_after: Option<&str>,
    retry_after_max: Duration,
    refusal: impl FnOnce(u16) -> Failure,
) -> Outcome {
    let pause = || {
        let asked = retry_after.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
        asked.unwrap_or(PAUSE_MIN).clamp(PAUSE_MIN, retry_after_max.max(PAUSE_MIN))
    };
    match status {
        200..=299 => Outcome::Sent,
        429 => Outcome::Throttled(pause()),
        503 if retry_after.is_some() => Outcome::Throttled(pause()),
        408 | 500..=599 => Outcome::NotSent(Failure::Unavailable),
        // A redirect too: where it leads, nobody has entered.
        status => Outcome::NotSent(refusal(status)),
    }
}

/// Slack's incoming webhooks.
pub fn slack_refusal(status: u16) -> Failure {
    match status {
        // invalid_payload and its like.
        400 | 413 | 415 | 422 => Failure::MessageRefused,
        // no_service, invalid_token, channel_not_found, channel_is_archived; an address that has moved.
        _ => Failure::WebhookRefused,
    }
}

/// Receivers of Standard Webhooks: 410 is for ever, anything else may pass.
pub fn webhook_refusal(status: u16) -> Failure {
    if status == 410 { Failure::WebhookRefused } else { Failure::Rejected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_has_one_meaning_and_refusals_are_each_targets_own() {
        use Failure::{MessageRefused, Rejected, Unavailable, WebhookRefused};
        let throttled = |seconds| Outcome::Throttled(Duration::from_secs(seconds));
        let failed = Outcome::NotSent;
        for (status, retry_after, slack, webhook) in [
            (200, None, Outcome::Sent, Outcome::Sent),
            (204, None, Outcome::Sent, Outcome::Sent),
            (429, Some("30"), throttled(30), throttled(30)),
            (429, Some(" 5 "), throttled(5), throttled(5)),
            (429, Some("0"), throttled(1), throttled(1)),
            (429, Some("86400"), throttled(60), throttled(60)),
            (429, Some("99999999999999999999"), throttled(1), throttled(1)),
            (429, Some("Wed, 21 Oct 2026 07:28:00 GMT"), throttled(1), throttled(1)),
            (429, Some("-1"), throttled(1), throttled(1)),
            (429, None, throttled(1), throttled(1)),
            (503, Some("7"), throttled(7), throttled(7)),
            (503, None, failed(Unavailable), failed(Unavailable)),
            (500, Some("7"), failed(Unavailable), failed(Unavailable)),
            (502, None, failed(Unavailable), failed(Unavailable)),
            (408, None, failed(Unavailable), failed(Unavailable)),
            (400, None, failed(MessageRefused), failed(Rejected)),
            (413, None, failed(MessageRefused), failed(Rejected)),
            (301, None, failed(WebhookRefused), failed(Rejected)),
            (302, None, failed(WebhookRefused), failed(Rejected)),
            (401, None, failed(WebhookRefused), failed(Rejected)),
            (404, None, failed(WebhookRefused), failed(Rejected)),
            (410, None, failed(WebhookRefused), failed(WebhookRefused)),
        ] {
            let max = Duration::from_secs(60);
            assert_eq!(classify(status, retry_after, max, slack_refusal), slack, "Slack: {status} {retry_after:?}");
            assert_eq!(classify(status, retry_after, max, webhook_refusal), webhook, "{status} {retry_after:?}");
        }
    }
}
