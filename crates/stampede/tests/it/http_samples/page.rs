//! `docs/api-examples.md`: the samples as `curl` would send them, each with its answer.

use std::fmt::Write as _;

use super::sample::{Exchange, Request, Variables};

/// Lines of an answer that are shown.
const LINES_MAX: usize = 40;
/// A text that is longer is a token, or prose.
const TEXT_MAX: usize = 100;

pub fn head() -> String {
    "# Examples\n\n\
     Requests of every area, as `curl` sends them, with real answers. They are the samples in [`docs/http/`](http/), files of the REST client of VS Code:\n\
     set `host` there, and send them from top to bottom. Other clients open them too, and may not know references from one request to another. A test\n\
     sends them to a real system and compares this page with what it is answered; ids, times and numbers may differ.\n\n\
     ```sh\n\
     API=http://127.0.0.1:8080/api/v1; HOST=http://127.0.0.1:8080\n\
     ```\n\n\
     `$TOKEN` and `$ADMIN` are the `accessToken` of a log-in, `$PASS` is a `passToken`, `$APIKEY` the key of a program. What is wrong is always told in\n\
     one form: [errors.md](errors.md). All operations are in [openapi.json](../openapi.json) and under `/docs/`.\n\n\
     Lists take `limit` and `cursor`: an answer's `nextCursor` is the `cursor` of the next page, and null on the last one. Products alone are a catalogue\n\
     with numbered pages, and take `page`, from 0, and `size`. A parameter that a list does not have is answered 400, and the message names those that it\n\
     has.\n"
        .to_owned()
}

pub fn section(name: &str, title: &str) -> String {
    let heading = name.chars().take(1).flat_map(char::to_uppercase).chain(name.chars().skip(1)).collect::<String>();
    format!("\n## {heading}\n\n{title} ([`{name}.http`](http/{name}.http))\n")
}

/// A request and its answer.
pub struct Shown<'a> {
    pub request: &'a Request,
    pub exchange: &'a Exchange,
    pub variables: &'a Variables,
}

impl Shown<'_> {
    pub fn text(&self, headers: &[&str]) -> String {
        let Exchange { status, answered, body, request_body, .. } = self.exchange;
        let mut text = format!("\n**{}.**\n\n```sh\n", self.request.title);
        let told = |text: &str| self.variables.shown(text, in_the_shell);
        let method = match (self.request.method.as_str(), request_body.is_empty()) {
            ("GET", true) | ("POST", false) => String::new(),
            (method, _) => format!(" -X {method}"),
        };
        let _ = write!(text, "curl -s{method} \"{}\"", told(&self.request.url));
        for (name, value) in &self.request.headers {
            let _ = write!(text, " \\\n  -H \"{name}: {}\"", told(value).replace('"', "\\\""));
        }
        if !request_body.is_empty() {
            let _ = write!(text, " \\\n  -d '{request_body}'");
        }
        let _ = write!(text, "\n```\n\n```text\n{status}\n");
        for (name, value) in answered.iter().filter(|(name, _)| headers.contains(&name.as_str())) {
            let _ = writeln!(text, "{name}: {value}");
        }
        let is_json = body.starts_with(['{', '[']);
        let body = if is_json { pretty(body) } else { body.trim_end().to_owned() };
        let lines: Vec<&str> = body.lines().collect();
        // Metrics are in no order.
        let shown = if is_json || lines.len() <= LINES_MAX { LINES_MAX } else { 0 };
        for line in lines.iter().take(shown) {
            let _ = writeln!(text, "{}", shortened(line));
        }
        text.push_str(if lines.len() > LINES_MAX { "…\n```\n" } else { "```\n" });
        text
    }
}

/// Addresses and tokens are variables of the shell.
fn in_the_shell(name: &str) -> Option<String> {
    match name {
        "api" | "host" | "token" | "admin" | "pass" | "apiKey" => Some(format!("${}", name.to_uppercase())),
        _ => None,
    }
}

/// A line for each member. The members stay in the order of the answer.
fn pretty(json: &str) -> String {
    let (mut text, mut depth, mut in_string, mut is_escaped) = (String::new(), 0_usize, false, false);
    let mut characters = json.chars().peekable();
    let line = |depth: usize| format!("\n{}", "  ".repeat(depth));
    while let Some(character) = characters.next() {
        if in_string {
            text.push(character);
            in_string = is_escaped || character != '"';
            is_escaped = character == '\\' && !is_escaped;
            continue;
        }
        match character {
            '{' | '[' if matches!(characters.peek(), Some('}' | ']')) => text.push(character),
            '{' | '[' => {
                depth += 1;
                text.push(character);
                text.push_str(&line(depth));
            }
            '}' | ']' if text.ends_with(['{', '[']) => text.push(character),
            '}' | ']' => {
                depth -= 1;
                text.push_str(&line(depth));
                text.push(character);
            }
            ',' => {
                text.push(',');
                text.push_str(&line(depth));
            }
            ':' => text.push_str(": "),
            '"' => {
                in_string = true;
                text.push('"');
            }
            other => text.push(other),
        }
    }
    text
}

/// Long texts, such as tokens, end with `…`.
fn shortened(line: &str) -> String {
    if line.chars().count() <= TEXT_MAX {
        return line.to_owned();
    }
    let end = if line.ends_with(',') { "…\"," } else { "…\"" };
    let start: String = line.chars().take(TEXT_MAX / 2).collect();
    start + end
}

/// Members whose texts are made up by chance, and need not have a digit.
const BY_CHANCE: [&str; 3] = ["\"kid\": ", "\"x\": ", "\"refreshToken\": "];

/// `page` without what is another each time: words with digits are 0, but for the statuses.
pub fn masked(page: &str) -> String {
    let is_status = |line: &str| line.len() == 3 && line.chars().all(|c| c.is_ascii_digit());
    let masked = |line: &str| match BY_CHANCE.iter().find(|name| line.trim_start().starts_with(**name)) {
        Some(name) => format!("{name}\n"),
        None if is_status(line) => format!("{line}\n"),
        None => without_numbers(line),
    };
    page.lines().map(masked).collect()
}

fn without_numbers(line: &str) -> String {
    let (mut masked, mut word) = (String::new(), String::new());
    for character in line.chars().chain(['\n']) {
        if character.is_ascii_alphanumeric() || character == '-' || character == '_' {
            word.push(character);
            continue;
        }
        masked.push_str(if word.contains(|c: char| c.is_ascii_digit()) { "0" } else { &word });
        word.clear();
        masked.push(character);
    }
    // A time that is a whole second has no fraction.
    masked.replace(":0.0", ":0")
}

#[test]
fn what_is_another_each_time_is_masked_and_the_rest_is_not() {
    let first = "201\n\"orderId\": \"6f0c7a1e-4d5b-5c1a-9a53-0f6f3b6d2c11\", \"at\": \"2026-11-28T19:00:00.123Z\", \"status\": \"PAID\"";
    let second = "201\n\"orderId\": \"01936f2e-52f0-7a41-9d0c-5b8f0c2d4e66\", \"at\": \"2027-01-02T03:04:05Z\", \"status\": \"PAID\"";
    assert_eq!(masked(first), masked(second));
    assert_ne!(masked(first), masked(&second.replace("PAID", "CREATED")));
    assert_ne!(masked(first), masked(&second.replace("201", "200")));
    assert_eq!(
        pretty(r#"{"a":[],"b":{"c":"x:,\"{"}}"#),
        "{\n  \"a\": [],\n  \"b\": {\n    \"c\": \"x:,\\\"{\"\n  }\n}"
    );
}
