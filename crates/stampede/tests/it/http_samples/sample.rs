//! A file of samples: its variables and requests, and what stands in double braces.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde_json::Value;
use uuid::Uuid;

pub struct File {
    /// The first line.
    pub title: String,
    pub variables: HashMap<String, String>,
    pub requests: Vec<Request>,
}

pub struct Request {
    pub title: String,
    pub name: Option<String>,
    pub expected: Expected,
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// `201`, or `200 "PAID"`.
#[derive(Debug)]
pub struct Expected {
    pub status: u16,
    words: Option<String>,
}

/// A request as it was sent, and its answer.
pub struct Exchange {
    pub headers: Vec<(String, String)>,
    pub request_body: String,
    pub status: u16,
    /// The headers of the answer, in lower case.
    pub answered: BTreeMap<String, String>,
    pub body: String,
}

impl File {
    pub fn parse(text: &str) -> File {
        let mut blocks = text.split("\n### ");
        let head = blocks.next().unwrap_or_default();
        let title = head.lines().next().unwrap_or_default().trim_start_matches(['#', ' ']).to_owned();
        let assigned = text.lines().filter_map(|line| line.strip_prefix('@')?.split_once('='));
        let variables = assigned.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect();
        File { title, variables, requests: blocks.map(Request::parse).collect() }
    }
}

impl Request {
    fn parse(block: &str) -> Request {
        let mut lines = block.lines().filter(|line| !line.starts_with('@'));
        let title = lines.next().unwrap_or_default().to_owned();
        let mut line = lines.next().unwrap_or_default();
        let (mut name, mut expected) = (None, None);
        while let Some(comment) = line.strip_prefix("# ") {
            match comment.split_once(' ') {
                Some(("@name", text)) => name = Some(text.to_owned()),
                Some(("->", text)) => expected = Some(Expected::parse(text)),
                _ => {}
            }
            line = lines.next().unwrap_or_default();
        }
        let (method, url) = line.split_once(' ').unwrap_or_else(|| panic!("{title}: {line:?} is no request"));
        let mut headers = Vec::new();
        for header in lines.by_ref().take_while(|line| !line.is_empty()) {
            let (name, value) = header.split_once(": ").unwrap_or_else(|| panic!("{title}: {header:?} is no header"));
            headers.push((name.to_owned(), value.to_owned()));
        }
        let body = lines.collect::<Vec<_>>().join("\n").trim().to_owned();
        let expected = expected.unwrap_or_else(|| panic!("{title}: say what it is answered, `# -> 200`"));
        Request { title, name, expected, method: method.to_owned(), url: url.to_owned(), headers, body }
    }

    /// Whether it is this operation of the description.
    pub fn is_for(&self, method: &str, path: &str) -> bool {
        let own = self.url.replace("{{api}}", "/api/v1").replace("{{host}}", "");
        let own: Vec<&str> = own.split('?').next().unwrap_or_default().split('/').collect();
        let described: Vec<&str> = path.split('/').collect();
        let is_same = |(own, described): (&&str, &&str)| own == described || described.starts_with('{');
        self.method.eq_ignore_ascii_case(method)
            && own.len() == described.len()
            && own.iter().zip(&described).all(is_same)
    }
}

impl Expected {
    fn parse(text: &str) -> Expected {
        let (status, words) = text.split_once(' ').map_or((text, None), |(status, words)| (status, Some(words)));
        Expected { status: status.parse().expect("a status"), words: words.map(str::to_owned) }
    }

    pub fn words_are_in(&self, body: &str) -> bool {
        self.words.as_ref().is_none_or(|words| body.contains(words.as_str()))
    }

    /// What becomes true in the end is asked for again: a read whose words are not there yet.
    pub fn may_wait(&self, status: u16) -> bool {
        self.words.is_some() && status < 400 && self.status < 400
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.words.as_deref().unwrap_or_default())
    }
}

/// What stands for `{{…}}`.
pub struct Variables {
    plain: HashMap<String, String>,
    exchanges: HashMap<String, Exchange>,
    /// `{{$guid}}` is another one at each place, and the same where one request is repeated.
    guids: RefCell<HashMap<String, String>>,
}

impl Variables {
    pub fn new(plain: HashMap<String, String>) -> Variables {
        Variables { plain, exchanges: HashMap::new(), guids: RefCell::default() }
    }

    /// Takes the place of what the file says.
    pub fn set(&mut self, name: &str, value: &str) {
        self.plain.insert(name.to_owned(), value.to_owned());
    }

    /// The request is over: what it was answered is known by its name.
    pub fn remember(&mut self, name: Option<&str>, exchange: Exchange) {
        self.guids.borrow_mut().clear();
        if let Some(name) = name {
            self.exchanges.insert(name.to_owned(), exchange);
        }
    }

    pub fn resolved(&self, text: &str) -> String {
        self.shown(text, |_| None)
    }

    /// With `instead` of some variables.
    pub fn shown(&self, text: &str, instead: impl Fn(&str) -> Option<String> + Copy) -> String {
        let mut shown = String::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("{{") {
            let (name, after) = behind.split_once("}}").unwrap_or_else(|| panic!("{text:?}: a brace is not closed"));
            shown.push_str(before);
            shown.push_str(&instead(name).unwrap_or_else(|| self.value(name, text, instead)));
            rest = after;
        }
        shown + rest
    }

    fn value(&self, name: &str, place: &str, instead: impl Fn(&str) -> Option<String> + Copy) -> String {
        if name == "$guid" {
            return self
                .guids
                .borrow_mut()
                .entry(place.to_owned())
                .or_insert_with(|| Uuid::new_v4().to_string())
                .clone();
        }
        if let Some(value) = self.plain.get(name) {
            return self.shown(value, instead);
        }
        let parts: Vec<&str> = name.splitn(4, '.').collect();
        let [of, side, part, path] = parts[..] else { panic!("{{{{{name}}}}} is not known") };
        let exchange = self.exchanges.get(of).unwrap_or_else(|| panic!("no request before is called {of}"));
        match (side, part) {
            ("response", "headers") => exchange.answered.get(&path.to_lowercase()).cloned().unwrap_or_default(),
            ("request", "headers") => {
                let found = exchange.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(path));
                found.map(|(_, value)| value.clone()).unwrap_or_default()
            }
            ("response", "body") => at(&exchange.body, path),
            _ => panic!("{{{{{name}}}}} is not known here"),
        }
    }
}

/// The value at `$.items[0].id` in `body`.
fn at(body: &str, path: &str) -> String {
    let mut value: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
    for step in path.trim_start_matches("$.").split('.') {
        let (name, index) =
            step.trim_end_matches(']').split_once('[').map_or((step, None), |(name, n)| (name, Some(n)));
        value = value[name].take();
        if let Some(index) = index {
            value = value[index.parse::<usize>().expect("an index")].take();
        }
    }
    match value {
        Value::String(text) => text,
        Value::Null => panic!("{path} is not in {body}"),
        other => other.to_string(),
    }
}
