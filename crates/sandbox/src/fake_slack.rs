//! A fake of Slack's incoming webhooks: takes what Slack takes, refuses what Slack refuses, and keeps what came.
//!
//! | request | is |
//! |---|---|
//! | `POST /slack/services/{team}/{bot}/{token}` | an incoming webhook of Slack |
//! | `GET /slack/messages`, `GET /slack/faults`, `PUT /slack/faults` | what came in; how Slack misbehaves |

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use actix_web::web::{Bytes, Data, Json, Path, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, get, post, put};
use chrono::{DateTime, Utc};
use parking_lot::{Mutex, MutexGuard};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::connection::cut;

/// The oldest are forgotten.
const MESSAGES_MAX: usize = 10_000;

/// Slack cuts longer texts; a sender that relies on it has a fault.
const TEXT_CHARS_MAX: usize = 40_000;

const BLOCKS_MAX: usize = 50;

/// Each webhook may post so often, if the rule is on.
const PERIOD: Duration = Duration::from_secs(1);

const RETRY_AFTER_SECONDS: u64 = 1;

/// Webhooks whose last message is remembered for that rule up to this number, and then all forgotten.
const WEBHOOKS_MAX: usize = 1_000;

const HANG_MS: u64 = 90_000;

#[derive(Clone, Debug, Serialize)]
struct Message {
    at: DateTime<Utc>,
    /// `T/B/X` of the address.
    webhook: String,
    text: String,
    blocks: Option<Value>,
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

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    RateLimited,
    Error500,
    LostAfter,
    Hang,
    Archived,
}

struct State {
    messages: VecDeque<Message>,
    /// Forgotten ones included.
    total: u64,
    last: HashMap<String, Instant>,
    rates: Rates,
    dice: StdRng,
}

impl State {
    fn strike(&mut self, webhook: &str, now: Instant) -> Option<Fault> {
        if self.rates.one_per_second {
            if self.last.get(webhook).is_some_and(|last| now.duration_since(*last) < PERIOD) {
                return Some(Fault::RateLimited);
            }
            if self.last.len() >= WEBHOOKS_MAX {
                self.last.clear();
            }
            self.last.insert(webhook.to_owned(), now);
        }
        let rates = &self.rates;
        let faults = [
            (rates.rate_limited, Fault::RateLimited),
            (rates.error500, Fault::Error500),
            (rates.lost_after, Fault::LostAfter),
            (rates.hang, Fault::Hang),
            (rates.archived, Fault::Archived),
        ];
        let mut left: f64 = self.dice.random();
        for (rate, fault) in faults {
            if left < rate {
                return Some(fault);
            }
            left -= rate;
        }
        None
    }

    fn keep(&mut self, message: Message) {
        if self.messages.len() >= MESSAGES_MAX {
            self.messages.pop_front();
        }
        self.messages.push_back(message);
        self.total += 1;
    }
}

/// What came in, and how Slack misbehaves.
pub(crate) struct FakeSlack(Mutex<State>);

impl Default for FakeSlack {
    fn default() -> FakeSlack {
        let rates = Rates::default();
        let dice = StdRng::seed_from_u64(rates.seed);
        FakeSlack(Mutex::new(State { messages: VecDeque::new(), total: 0, last: HashMap::new(), rates, dice }))
    }
}

impl FakeSlack {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
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
    let fault = slack.state().strike(&webhook, Instant::now());
    match fault {
        Some(Fault::RateLimited) => {
            return HttpResponse::TooManyRequests()
                .insert_header(("Retry-After", RETRY_AFTER_SECONDS))
                .body("rate_limited");
        }
        Some(Fault::Error500) => return HttpResponse::InternalServerError().body("rollup_error"),
        Some(Fault::Archived) => return HttpResponse::Gone().body("channel_is_archived"),
        Some(Fault::Hang) => {
            let hang_ms = slack.state().rates.hang_ms;
            sleep(Duration::from_millis(hang_ms)).await;
            return cut(&request);
        }
        Some(Fault::LostAfter) | None => {}
    }
    match read(&body) {
        Ok((text, blocks)) => slack.state().keep(Message { at: Utc::now(), webhook, text, blocks }),
        Err(message) => return HttpResponse::BadRequest().body(message),
    }
    if fault == Some(Fault::LostAfter) { cut(&request) } else { HttpResponse::Ok().body("ok") }
}

/// The text and the blocks, or what Slack says about them.
fn read(body: &[u8]) -> Result<(String, Option<Value>), &'static str> {
    let Ok(Value::Object(mut message)) = serde_json::from_slice(body) else { return Err("invalid_payload") };
    let text = match message.remove("text") {
        Some(Value::String(text)) if !text.trim().is_empty() => text,
        _ => return Err("invalid_payload"),
    };
    if text.chars().count() > TEXT_CHARS_MAX {
        return Err("msg_too_long");
    }
    let blocks = message.remove("blocks");
    let is_block = |block: &Value| block.get("type").is_some_and(Value::is_string);
    match &blocks {
        None => {}
        Some(Value::Array(blocks)) if blocks.len() <= BLOCKS_MAX && blocks.iter().all(is_block) => {}
        Some(_) => return Err("invalid_blocks"),
    }
    Ok((text, blocks))
}

/// Newest last.
#[get("/slack/messages")]
async fn read_messages(slack: Data<FakeSlack>) -> Json<Value> {
    let state = slack.state();
    Json(json!({ "total": state.total, "messages": state.messages }))
}

#[get("/slack/faults")]
async fn read_faults(slack: Data<FakeSlack>) -> Json<Rates> {
    Json(slack.state().rates.clone())
}

#[put("/slack/faults")]
async fn set_faults(slack: Data<FakeSlack>, rates: Json<Rates>) -> HttpResponse {
    if let Err(message) = rates.check() {
        return HttpResponse::BadRequest().body(message);
    }
    let mut state = slack.state();
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
        let check = |body: &str| read(body.as_bytes()).map(|(text, _)| text);
        assert_eq!(check(r#"{"text":"hello"}"#), Ok("hello".to_owned()));
        assert_eq!(check(r#"{"text":"hello","blocks":[{"type":"divider"}]}"#), Ok("hello".to_owned()));
        for body in ["", "hello", "[]", "{}", r#"{"text":1}"#, r#"{"text":" "}"#, r#"{"blocks":[]}"#] {
            assert_eq!(check(body), Err("invalid_payload"), "{body}");
        }
        assert_eq!(check(r#"{"text":"hello","blocks":[{}]}"#), Err("invalid_blocks"));
        assert_eq!(check(r#"{"text":"hello","blocks":{}}"#), Err("invalid_blocks"));
        assert_eq!(check(&json!({ "text": "x".repeat(40_001) }).to_string()), Err("msg_too_long"));
    }

    #[test]
    fn each_webhook_may_post_once_a_second() {
        let slack = FakeSlack::default();
        let mut state = slack.state();
        state.rates.one_per_second = true;
        let now = Instant::now();
        assert_eq!(state.strike("a", now), None);
        assert_eq!(state.strike("a", now + PERIOD / 2), Some(Fault::RateLimited));
        assert_eq!(state.strike("b", now + PERIOD / 2), None);
        assert_eq!(state.strike("a", now + PERIOD), None);
    }
}
