//! Rules: texts with places for variables. Rendering is bounded in steps and in size, and a variable that is missing is an
//! error, so that nobody gets a message with a hole in it.

pub mod builtin;
mod filters;

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::Text;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};
use serde::{Deserialize, Serialize};
use serde_json::json;
use strum::{EnumString, IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use crate::channel::{Channel, Message};
use crate::notification::Refused;
use crate::request::check_name;

/// Instructions, or 64 bytes copied each: a thousand times what a message needs, and some milliseconds.
const FUEL: u64 = 50_000;
const DEPTH_MAX: usize = 20;
/// Of a subject; mail servers fold longer lines.
pub const SUBJECT_CHARS_MAX: usize = 500;
/// Of a body: an order of fifty lines has a tenth of it.
const BODY_BYTES_MAX: usize = 128 * 1024;

/// A language that messages are written in.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    VariantArray,
    IntoStaticStr,
    EnumString,
    AsExpression,
    FromSqlRow,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[diesel(sql_type = Text)]
#[strum(serialize_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Language {
    En,
    Ko,
}

impl Language {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl FromSql<Text, Pg> for Language {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let name = <String as FromSql<Text, Pg>>::from_sql(value)?;
        name.parse().map_err(|_| format!("unknown language {name:?}").into())
    }
}

impl ToSql<Text, Pg> for Language {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <str as ToSql<Text, Pg>>::to_sql(self.name(), out)
    }
}

/// Which text: each has its own versions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TemplateKey {
    pub name: String,
    pub channel: Channel,
    pub language: Language,
}

impl TemplateKey {
    pub fn new(name: &str, channel: Channel, language: Language) -> TemplateKey {
        TemplateKey { name: name.to_owned(), channel, language }
    }

    /// The order of lists.
    pub fn parts(&self) -> (&str, &'static str, &'static str) {
        (&self.name, self.channel.name(), self.language.name())
    }
}

impl fmt::Display for TemplateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, channel, language) = self.parts();
        write!(f, "{name}:{channel}:{language}")
    }
}

/// The text is not `NAME:CHANNEL:language`.
#[derive(Debug, thiserror::Error)]
#[error("not the name of a text")]
pub struct NotAKey;

impl FromStr for TemplateKey {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<TemplateKey, NotAKey> {
        let parts: Vec<&str> = text.split(':').collect();
        let [name, channel, language] = parts[..] else { return Err(NotAKey) };
        check_name("name", name).map_err(|_| NotAKey)?;
        let (channel, language) = (channel.parse().map_err(|_| NotAKey)?, language.parse().map_err(|_| NotAKey)?);
        Ok(TemplateKey::new(name, channel, language))
    }
}

/// The languages to look for a text in, in this order. Who asks for one gets that one or none.
pub fn languages(asked: Option<Language>, of_user: Option<Language>, default: Language) -> Vec<Language> {
    match asked {
        Some(asked) => vec![asked],
        None => {
            let mut languages = vec![of_user.unwrap_or(default), default];
            languages.extend(Language::VARIANTS);
            let mut seen = Vec::new();
            languages.retain(|language| {
                !seen.contains(language) && {
                    seen.push(*language);
                    true
                }
            });
            languages
        }
    }
}

/// Why a text cannot be compiled or rendered, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part}, line {line}: {message}")]
pub struct Flaw {
    /// `subject` or `body`.
    pub part: &'static str,
    /// The first is 1.
    pub line: usize,
    pub message: String,
}

impl Flaw {
    fn new(part: &'static str, message: impl Into<String>) -> Flaw {
        Flaw { part, line: 1, message: message.into() }
    }

    fn of(part: &'static str, error: &Error) -> Flaw {
        let message = match error.kind() {
            ErrorKind::OutOfFuel => "the text takes too many steps".to_owned(),
            ErrorKind::WriteFailure => format!("the text is longer than {BODY_BYTES_MAX} bytes"),
            kind => error.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}")),
        };
        Flaw { part, line: error.line().unwrap_or(1), message }
    }

    /// The refusal of a text that was given with the request.
    pub fn refused(self) -> Refused {
        let detail = json!({ "field": self.part, "line": self.line, "message": self.message });
        Refused::TemplateInvalid { text: self.to_string(), detail }
    }

    /// The refusal of a request that names the text `key`.
    pub fn refused_of(self, key: &TemplateKey) -> Refused {
        let TemplateKey { name, channel, language } = key;
        let detail = json!({
            "template": name, "channel": channel, "language": language,
            "field": self.part, "line": self.line, "message": self.message,
        });
        Refused::TemplateInvalid {
            text: format!("{name} over {} in {}: {self}", channel.name(), language.name()),
            detail,
        }
    }
}

/// A text that is well formed.
pub struct Compiled {
    subject: Environment<'static>,
    body: Environment<'static>,
    is_markup: bool,
}

/// The name of the only template of an environment.
const TEXT: &str = "text";

impl Compiled {
    pub fn new(channel: Channel, subject: &str, body: &str) -> Result<Compiled, Flaw> {
        let is_markup = channel == Channel::Slack;
        Ok(Compiled {
            subject: compiled("subject", subject, |text| {
                text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
            })?,
            body: match is_markup {
                true => compiled("body", body, slack_escaped)?,
                false => compiled("body", body, str::to_owned)?,
            },
            is_markup,
        })
    }

    /// The message that `variables` make of the text.
    pub fn render(&self, variables: &serde_json::Value) -> Result<Message, Flaw> {
        let variables = Value::from(Serde(variables));
        let subject = rendered("subject", &self.subject, &variables)?.trim().to_owned();
        if subject.is_empty() || subject.chars().count() > SUBJECT_CHARS_MAX {
            return Err(Flaw::new("subject", format!("the subject must be 1 to {SUBJECT_CHARS_MAX} characters long")));
        }
        if subject.contains(char::is_control) {
            return Err(Flaw::new("subject", "the subject must be one line"));
        }
        let body = rendered("body", &self.body, &variables)?;
        if body.trim().is_empty() {
            return Err(Flaw::new("body", "the body is empty"));
        }
        if let Some(line) = body.lines().position(|line| line.contains(|c: char| c.is_control() && c != '\t')) {
            let message = "the body must not contain control characters other than line breaks and tabs";
            return Err(Flaw { line: line + 1, ..Flaw::new("body", message) });
        }
        Ok(Message { subject, body, is_markup: self.is_markup })
    }
}

/// Text that Slack shows as it is: its three control characters are entities.
fn slack_escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// `escape` is what becomes of each variable.
fn compiled(
    part: &'static str,
    source: &str,
    escape: impl Fn(&str) -> String + Send + Sync + 'static,
) -> Result<Environment<'static>, Flaw> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEPTH_MAX);
    // A line that has only a block tag leaves no empty line.
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| Flaw::of(part, &error))?);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(move |out, _, value| {
        if value.is_none() || value.is_undefined() {
            return Err(Error::new(ErrorKind::UndefinedError, "the value is null; ask with `if` first"));
        }
        Ok(out.write_str(&escape(&value.to_string()))?)
    });
    filters::add(&mut environment);
    let source = source.replace("\r\n", "\n");
    environment.add_template_owned(TEXT, source).map_err(|error| Flaw::of(part, &error))?;
    Ok(environment)
}

fn rendered(part: &'static str, environment: &Environment<'static>, variables: &Value) -> Result<String, Flaw> {
    let mut text = Bounded(Vec::new());
    let template = environment.get_template(TEXT).map_err(|error| Flaw::of(part, &error))?;
    template.render_captured_to(variables.clone(), &mut text).map_err(|error| Flaw::of(part, &error))?;
    String::from_utf8(text.0).map_err(|_| Flaw::new(part, "the text is no UTF-8"))
}

/// Takes no more than a body may have.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > BODY_BYTES_MAX {
            return Err(io::Error::other("too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
