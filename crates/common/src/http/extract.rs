//! What handlers read a request with: `Path`, `Query`, `Json`. What is wrong is told with the name of its field.

use std::ops::Deref;

use actix_web::body::BoxBody;
use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap};
use actix_web::{FromRequest, HttpMessage, HttpRequest, HttpResponse, Responder, web};
use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Ready, ready};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::{BODY_BYTES_MAX, PAYLOAD_TOO_LARGE};
use crate::error::{Error, Refused, Result, UNSUPPORTED_MEDIA_TYPE};
use crate::object::Object;
use crate::words;

/// Larger bodies are refused unread, also those that are read as bytes.
pub fn configure_extractors(config: &mut web::ServiceConfig) {
    config.app_data(web::PayloadConfig::new(BODY_BYTES_MAX));
}

/// We read JSON as it is. Who compresses a body is told so, and not that the JSON is wrong.
pub fn check_encoding(headers: &HeaderMap) -> Result<(), Refused> {
    match headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?")) {
        None | Some("" | "identity") => Ok(()),
        Some(encoding) => {
            let message = format!("Send the body as it is; Content-Encoding {encoding} is not supported.");
            Err(unsupported("Content-Encoding", message))
        }
    }
}

fn unsupported(header: &str, message: impl Into<String>) -> Refused {
    Refused { code: UNSUPPORTED_MEDIA_TYPE, ..Refused::invalid(header, message) }
}

/// The parameters in a path.
#[derive(Debug)]
pub struct Path<T> {
    parameters: T,
}

impl<T> Path<T> {
    pub fn into_inner(self) -> T {
        self.parameters
    }
}

impl<T> Deref for Path<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.parameters
    }
}

impl<T: DeserializeOwned> FromRequest for Path<T> {
    type Error = Error;
    type Future = Ready<Result<Self>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let parameters = request.match_info();
        // What is wrong is looked for only when something is.
        if let Ok(parameters) = T::deserialize(actix_router::PathDeserializer::new(parameters)) {
            return ready(Ok(Path { parameters }));
        }
        let read = serde_path_to_error::deserialize(actix_router::PathDeserializer::new(parameters));
        ready(read.map(|parameters| Path { parameters }).map_err(|error| {
            let place = error.path().to_string();
            // One alone has no place; of several that are read in order it is a number.
            let index = place.trim_matches(['[', ']']).parse().unwrap_or(0);
            let named = parameters.iter().any(|(name, _)| name == place);
            let name =
                if named { place } else { parameters.iter().nth(index).map_or(place, |(name, _)| name.to_owned()) };
            Refused::invalid(&name, words::of_value(&error.inner().to_string())).into()
        }))
    }
}

/// The parameters behind the path.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T> Query<T> {
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Query<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: DeserializeOwned> FromRequest for Query<T> {
    type Error = Error;
    type Future = Ready<Result<Self>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let pairs = form_urlencoded::parse(request.query_string().as_bytes());
        let read = serde_path_to_error::deserialize(serde_urlencoded::Deserializer::new(pairs));
        let refused = |error: serde_path_to_error::Error<serde::de::value::Error>| {
            wrong(&error.path().to_string(), &error.inner().to_string(), words::of_parameter)
        };
        ready(read.map(Query).map_err(|error| refused(error).into()))
    }
}

/// For [`Query`] of a list that always comes whole: who asks for a part of it is told that there are none.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParameters {}

/// A JSON body or answer. As a body it must be an object, see [`object`](crate::object).
pub struct Json<T>(pub T);

impl<T> Json<T> {
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T: DeserializeOwned + 'static> FromRequest for Json<T> {
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        // As `application/json`, whatever its parameters, or as something that ends in `+json`.
        let is_json = request.mime_type().ok().flatten().is_some_and(|mime| {
            mime.type_() == "application" && (mime.subtype() == "json" || mime.suffix().is_some_and(|it| it == "json"))
        });
        if !is_json {
            return ready(Err(unsupported("Content-Type", "Send the body as application/json.").into())).boxed_local();
        }
        let body = web::Bytes::from_request(request, payload);
        async move { Ok(Self(read(&body.await.map_err(unread)?)?)) }.boxed_local()
    }
}

/// Reads a body that nobody wants: a connection with a body that nobody has read cannot be used again. Clients send none with
/// a GET, so one that does may connect again.
pub async fn skip_body(request: &HttpRequest, payload: &mut Payload) -> Result<()> {
    if !matches!(payload, Payload::None) && request.method() != Method::GET {
        web::Bytes::from_request(request, payload).await.map_err(unread)?;
    }
    Ok(())
}

/// A body that did not come, or not whole.
fn unread(error: actix_web::Error) -> Error {
    match error.as_error::<PayloadError>() {
        Some(PayloadError::Overflow) => {
            Refused::new(PAYLOAD_TOO_LARGE, format!("The body is larger than {BODY_BYTES_MAX} bytes.")).into()
        }
        _ => Refused::invalid("", "The body cannot be read.").into(),
    }
}

/// What is wrong is told with its place.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    if body.starts_with("\u{feff}".as_bytes()) {
        return Err(Refused::invalid("", "The body begins with a byte order mark; send it without.").into());
    }
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Refused::invalid("", "The body is empty; send a JSON object.").into());
    }
    let mut text = serde_json::Deserializer::from_slice(body);
    match serde_path_to_error::deserialize::<_, Object<T>>(&mut text) {
        Ok(Object(value)) => match text.end() {
            Ok(()) => Ok(value),
            Err(error) => Err(not_json(&error).into()),
        },
        Err(error) if error.inner().is_data() => {
            let cause = without_position(error.inner());
            Err(wrong(&error.path().to_string(), &cause, words::of_value).into())
        }
        // serde_json calls a value of another type than a word a fault of the text where a list of words is expected.
        Err(error) if serde_json::from_slice::<IgnoredAny>(body).is_ok() => {
            Err(Refused::invalid(&error.path().to_string(), "must be one of the words that are allowed here").into())
        }
        Err(error) => Err(not_json(error.inner()).into()),
    }
}

/// The refusal of a text that is no JSON.
fn not_json(error: &serde_json::Error) -> Refused {
    let (line, column) = (error.line(), error.column());
    let cause = words::of_json(&without_position(error));
    Refused::invalid("", format!("The body is not valid JSON at line {line}, column {column}: {cause}."))
}

/// What is wrong, without the place that serde_json writes behind it.
fn without_position(error: &serde_json::Error) -> String {
    let (text, position) = (error.to_string(), format!(" at line {} column {}", error.line(), error.column()));
    text.strip_suffix(&position).map(str::to_owned).unwrap_or(text)
}

/// The refusal of what serde could not read at `place`. `plain` says its cause in plain words.
fn wrong(place: &str, cause: &str, plain: impl Fn(&str) -> String) -> Refused {
    let place = if place == "." || place == "?" { "" } else { place };
    // What is missing has no place of its own yet.
    let field = match (words::missing_field(cause), place) {
        (Some(name), "") => name.to_owned(),
        (Some(name), place) => format!("{place}.{name}"),
        (None, place) => place.to_owned(),
    };
    Refused::invalid(&field, plain(cause))
}

impl<T: Serialize> Responder for Json<T> {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::Ok().json(self.0)
    }
}

/// A JSON body that may be left out. One that is there must be right: a broken body is refused, not overlooked.
pub struct OptionalJson<T>(pub Option<T>);

impl<T: DeserializeOwned + 'static> FromRequest for OptionalJson<T> {
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<Self>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let headers = request.headers();
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        if length.is_none_or(|length| length == "0") && !headers.contains_key(header::TRANSFER_ENCODING) {
            return ready(Ok(Self(None))).boxed_local();
        }
        let body = Json::<T>::from_request(request, payload);
        async move { Ok(Self(Some(body.await?.into_inner()))) }.boxed_local()
    }
}

#[cfg(test)]
mod tests;
