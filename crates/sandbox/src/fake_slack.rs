//! A fake of Slack's incoming webhooks: takes what Slack takes, refuses what Slack refuses, and keeps what came.
//!
//! | request | is |
//! |---|---|
//! | `POST /slack/services/{team}/{bot}/{token}` | an incoming webhook of Slack |
//! | `GET /slack/messages`, `GET /slack/faults`, `PUT /slack/faults` | what came in; how Slack misbehaves |

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;
use actix_web::http::header::{LOCATION, RETRY_AFTER};
use actix_web::web::{Bytes, Data, Json, Path, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, get, post, put};
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::connection::cut;
use crate::silences::Silences;

/// The oldest are forgotten.
const ATTEMPTS_MAX: usize = 10_000;

/// Slack cuts longer texts; a sender that relies on it has a fault.
const TEXT_CHARS_MAX: usize = 40_000;

const BLOCKS_MAX: usize = 50;

/// Each webhook may post so often, if the rule is on.
const PERIOD: Duration = Duration::from_secs(1);

const RETRY_AFTER_SECONDS: u64 = 1;

/// Webhooks whose last message is remembered for that rule up to this number, and then all forgotten.
const WEBHOOKS_MAX: usize = 1_000;

const HANG_MS: u64 = 90_000;

/// How a message is answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SlackAnswer {
    /// The message came in. Slack refuses a malformed one with 400 all the same.
    Ok,
    /// The message came in, and the connection is lost.
    LostAfter,
    /// 429; to be tried again after so many seconds.
    RateLimited { retry_after_seconds: u64 },
    /// This status; the message did not come in.
    Status(u16),
    /// 302 to the very address that was called.
    Redirect,
    /// Silence for `hangMs` or until [`crate::Fakes::end_silences`], then the connection is lost.
    Hang,
}

/// A message that was sent, whatever became of it.
#[derive(Clone, Debug)]
pub struct SlackAttempt {
    pub at: DateTime<Utc>,
    /// `T/B/X` of the address.
    pub webhook: String,
    /// Null if it is no JSON.
    pub message: Value,
    pub answer: SlackAnswer,
}

impl SlackAttempt {
    /// Whether the message came in.
    pub fn is_taken(&self) -> bool {
        matches!(self.answer, SlackAnswer::Ok | SlackAnswer::LostAfter)
    }
}

/// `PUT /slack/faults`: the whole of it; what is missing does not happen.
///
/// At most one of the rates befalls a message, so their sum is at most 1.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Rates {
    /// One message a second for each webhook; 429 with Retry-After for more.
    one_per_second: bool,
    /// 429 by chance.
    rate_limited: f64,
    /// 500; the message did not come in.
    error500: f64,
    /// The message came in; there is no answer.
    lost_after: f64,
    /// No answer for `hangMs`; the message did not come in.
    hang: f64,
    /// 410 channel_is_archived, as when somebody has tidied up.
    archived: f64,
    hang_ms: u64,
    seed: u64,
}

impl Default for Rates {
    fn default() -> Rates {
        Rates {
            one_per_second: false,
            rate_limited: 0.0,
            error500: 0.0,
            lost_after: 0.0,
            hang: 0.0,
            archived: 0.0,
            hang_ms: HANG_MS,
            seed: 1,
        }
    }
}

impl Rates {
    fn check(&self) -> Result<(), &'static str> {
        let rates = [self.rate_limited, self.error500, self.lost_after, self.hang, self.archived];
        if rates.iter().any(|rate| !(0.0..=1.0).contains(rate)) || rates.iter().sum::<f64>() > 1.0 + 1e-9 {
            return Err("a rate is not between 0 and 1, or their sum is over 1");
        }
        if self.hang_ms > HANG_MS {
            return Err("hangMs is at most 90000");
        }
        Ok(())
    }
}

struct State {
    /// The oldest first.
    attempts: VecDeque<SlackAttempt>,
    /// How many messages came in, forgotten ones included.
    taken: u64,
    /// For the next messages, before chance decides.
    answers: VecDeque<SlackAnswer>,
    last: HashMap<String, Instant>,
    rates: Rates,
    dice: StdRng,
}

impl State {
    fn answer(&mut self, webhook: &str, now: Instant) -> SlackAnswer {
        let too_fast = SlackAnswer::RateLimited { retry_after_seconds: RETRY_AFTER_SECONDS };
        if let Some(answer) = self.answers.pop_front() {
            return answer;
        }
        if self.rates.one_per_second {
            if self.last.get(webhook).is_some_and(|last| now.duration_since(*last) < PERIOD) {
                return too_fast;
            }
            if self.last.len() >= WEBHOOKS_MAX {
                self.last.clear();
            }
            self.last.insert(webhook.to_owned(), now);
        }
        let rates = &self.rates;
        let faults = [
            (rates.rate_limited, too_fast),
            (rates.error500, SlackAnswer::Status(500)),
            (rates.lost_after, SlackAnswer::LostAfter),
            (rates.hang, SlackAnswer::Hang),
            (rates.archived, SlackAnswer::Status(410)),
        ];
        let mut left: f64 = self.dice.random();
        for (rate, fault) in faults {
            if left < rate {
                return fault;
            }
            left -= rate;
        }
        SlackAnswer::Ok
    }

    fn keep(&mut self, attempt: SlackAttempt) {
        if self.attempts.len() >= ATTEMPTS_MAX {
            self.attempts.pop_front();
        }
        self.taken += u64::from(attempt.is_taken());
        self.attempts.push_back(attempt);
    }
}

/// What was sent, and how Slack misbehaves.
pub struct FakeSlack {
    state: Mutex<State>,
    silences: Arc<Silences>,
}

impl FakeSlack {
    pub(crate) fn new(silences: Arc<Silences>) -> FakeSlack {
        let rates = Rates::default();
        let state = State {
            attempts: VecDeque::new(),
            taken: 0,
            answers: VecDeque::new(),
            last: HashMap::new(),
            dice: StdRng::seed_from_u64(rates.seed),
            rates,
        };
        FakeSlack { state: Mutex::new(state), silences }
    }

    /// Answers the next messages so, in this order, before chance decides again.
    pub fn answer_next(&self, answers: &[SlackAnswer]) {
        self.state.lock().answers.extend(answers);
    }

    /// Every message that was sent, the oldest first.
    pub fn attempts(&self) -> Vec<SlackAttempt> {
        self.state.lock().attempts.iter().cloned().collect()
    }

    /// The messages that came in, the oldest first.
    pub fn taken(&self) -> Vec<Value> {
        let state = self.state.lock();
        state.attempts.iter().filter(|attempt| attempt.is_taken()).map(|attempt| attempt.message.clone()).collect()
    }
}

#[post("/slack/services/{team}/{bot}/{token}")]
async fn take_message(
    slack: Data<FakeSlack>,
    request: HttpRequest,
    path: Path<(String, String, String)>,
    body: Bytes,
) -> HttpResponse {
    let (team, bot, token) = path.into_inner();
    let webhook = format!("{team}/{bot}/{token}");
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let malformed = check(&message).err();
    let (answer, hang_limit) = {
        let mut state = slack.state.lock();
        let mut attempt =
            SlackAttempt { at: Utc::now(), answer: state.answer(&webhook, Instant::now()), webhook, message };
        if attempt.is_taken() && malformed.is_some() {
            attempt.answer = SlackAnswer::Status(400);
        }
        state.keep(attempt.clone());
        (attempt.answer, Duration::from_millis(state.rates.hang_ms))
    };
    match answer {
        SlackAnswer::Ok => HttpResponse::Ok().body("ok"),
        SlackAnswer::LostAfter => cut(&request),
        SlackAnswer::RateLimited { retry_after_seconds } => {
            HttpResponse::TooManyRequests().insert_header((RETRY_AFTER, retry_after_seconds)).body("rate_limited")
        }
        SlackAnswer::Status(status) => refuse(status, malformed),
        SlackAnswer::Redirect => HttpResponse::Found().insert_header((LOCATION, request.full_url().as_str())).finish(),
        SlackAnswer::Hang => {
            slack.silences.keep(hang_limit).await;
            cut(&request)
        }
    }
}

fn refuse(status: u16, malformed: Option<&'static str>) -> HttpResponse {
    let error = match status {
        404 => "no_service",
        410 => "channel_is_archived",
        500.. => "rollup_error",
        _ => malformed.unwrap_or("invalid_payload"),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    HttpResponse::build(status).body(error)
}

/// What Slack says about a message that it does not take.
fn check(message: &Value) -> Result<(), &'static str> {
    let text = message["text"].as_str().unwrap_or_default();
    if text.trim().is_empty() {
        return Err("invalid_payload");
    }
    if text.chars().count() > TEXT_CHARS_MAX {
        return Err("msg_too_long");
    }
    let is_block = |block: &Value| block["type"].is_string();
    match message.get("blocks") {
        None => Ok(()),
        Some(Value::Array(blocks)) if blocks.len() <= BLOCKS_MAX && blocks.iter().all(is_block) => Ok(()),
        Some(_) => Err("invalid_blocks"),
    }
}

/// What came in, newest last.
#[get("/slack/messages")]
async fn read_messages(slack: Data<FakeSlack>) -> Json<Value> {
    let state = slack.state.lock();
    let taken = state.attempts.iter().filter(|attempt| attempt.is_taken());
    let messages: Vec<Value> = taken
        .map(|SlackAttempt { at, webhook, message, .. }| {
            json!({ "at": at, "webhook": webhook, "text": message["text"], "blocks": message["blocks"] })
        })
        .collect();
    Json(json!({ "total": state.taken, "messages": messages }))
}

#[get("/slack/faults")]
async fn read_faults(slack: Data<FakeSlack>) -> Json<Rates> {
    Json(slack.state.lock().rates.clone())
}

#[put("/slack/faults")]
async fn set_faults(slack: Data<FakeSlack>, rates: Json<Rates>) -> HttpResponse {
    if let Err(message) = rates.check() {
        return HttpResponse::BadRequest().body(message);
    }
    let mut state = slack.state.lock();
    state.dice = StdRng::seed_from_u64(rates.seed);
    state.rates = rates.clone();
    HttpResponse::Ok().json(rates)
}

pub(crate) fn routes(routes: &mut ServiceConfig) {
    routes.service(take_message).service(read_messages).service(read_faults).service(set_faults);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_needs_a_text_and_blocks_a_type() {
        assert_eq!(check(&json!({ "text": "hello" })), Ok(()));
        assert_eq!(check(&json!({ "text": "hello", "blocks": [{ "type": "divider" }] })), Ok(()));
        for message in [Value::Null, json!("text"), json!([]), json!({}), json!({ "text": 1 }), json!({ "text": " " })]
        {
            assert_eq!(check(&message), Err("invalid_payload"), "{message}");
        }
        assert_eq!(check(&json!({ "blocks": [] })), Err("invalid_payload"));
        assert_eq!(check(&json!({ "text": "hello", "blocks": [{}] })), Err("invalid_blocks"));
        assert_eq!(check(&json!({ "text": "hello", "blocks": {} })), Err("invalid_blocks"));
        assert_eq!(check(&json!({ "text": "x".repeat(40_001) })), Err("msg_too_long"));
    }

    #[test]
    fn each_webhook_may_post_once_a_second() {
        let slack = FakeSlack::new(Arc::default());
        let mut state = slack.state.lock();
        state.rates.one_per_second = true;
        let (now, too_fast) = (Instant::now(), SlackAnswer::RateLimited { retry_after_seconds: 1 });
        assert_eq!(state.answer("a", now), SlackAnswer::Ok);
        assert_eq!(state.answer("a", now + PERIOD / 2), too_fast);
        assert_eq!(state.answer("b", now + PERIOD / 2), SlackAnswer::Ok);
        assert_eq!(state.answer("a", now + PERIOD), SlackAnswer::Ok);
    }
}
