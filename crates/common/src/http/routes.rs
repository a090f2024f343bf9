//! Which methods a path has: what answers a wrong method, and a HEAD wherever there is a GET.

use actix_web::body::{BodySize, BodyStream, BoxBody, MessageBody, SizedStream};
use actix_web::dev::{ResourceDef, ServiceRequest};
use actix_web::http::Method;
use actix_web::http::header::{ALLOW, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::stream;
use serde_json::Value;

use crate::error::{Error, METHOD_NOT_ALLOWED, NOT_FOUND, Refused};

/// The methods that metrics tell apart. Anybody may invent others.
const METHODS: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
    Method::TRACE,
    Method::CONNECT,
];

/// The method as a label of metrics: one value for all that HTTP does not know, as OpenTelemetry says.
pub fn known_method(method: &Method) -> &'static str {
    let names = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];
    METHODS.iter().position(|known| known == method).map_or("_OTHER", |place| names[place])
}

/// Every path that is served, with the methods that it has.
#[derive(Clone)]
pub struct RouteTable(Vec<(ResourceDef, HeaderValue)>);

impl RouteTable {
    /// The paths of `document`, and `read_only` ones beside them.
    pub fn new(document: &Value, read_only: &[&str]) -> anyhow::Result<RouteTable> {
        let mut table = Vec::new();
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            table.push((ResourceDef::new(path.as_str()), HeaderValue::from_str(&methods_of(item).join(", "))?));
        }
        for path in read_only {
            table.push((ResourceDef::new(*path), HeaderValue::from_static("GET, HEAD, OPTIONS")));
        }
        Ok(RouteTable(table))
    }

    /// The value of `Allow` for `path`. None: there is nothing there.
    fn allowed(&self, path: &str) -> Option<&HeaderValue> {
        self.0.iter().find(|(pattern, _)| pattern.is_match(path)).map(|(_, methods)| methods)
    }
}

fn methods_of(item: &Value) -> Vec<&'static str> {
    let described =
        ["get", "post", "put", "patch", "delete"].into_iter().zip(["GET", "POST", "PUT", "PATCH", "DELETE"]);
    let mut methods: Vec<_> =
        described.filter(|(name, _)| item.get(name).is_some()).map(|(_, method)| method).collect();
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    methods.push("OPTIONS");
    methods
}

/// What answers where no route matches: 404 where the path has no method at all, and 405 where it has others.
pub async fn unmatched(request: HttpRequest, table: web::Data<RouteTable>) -> HttpResponse {
    let Some(allowed) = table.allowed(request.path()) else {
        return HttpResponse::from_error(Error::from(Refused::new(NOT_FOUND, "There is nothing here.")));
    };
    let mut response = match *request.method() {
        Method::OPTIONS => HttpResponse::NoContent().finish(),
        _ => {
            let message = "This path has other methods; the header Allow names them.";
            HttpResponse::from_error(Error::from(Refused::new(METHOD_NOT_ALLOWED, message)))
        }
    };
    response.headers_mut().insert(ALLOW, allowed.clone());
    response
}

/// Has a HEAD answered as a GET would be. Whether it was one; then [`without_body`] belongs around the answer's body.
pub fn read_head_as_get(request: &mut ServiceRequest) -> bool {
    let is_head = request.method() == Method::HEAD;
    if is_head {
        request.head_mut().method = Method::GET;
    }
    is_head
}

/// Nothing, with the length that `body` would have had: a stream of events would never end.
pub fn without_body(body: BoxBody) -> BoxBody {
    match body.size() {
        BodySize::None => BoxBody::new(()),
        BodySize::Sized(length) => BoxBody::new(SizedStream::new(length, stream::empty::<Result<_, std::io::Error>>())),
        BodySize::Stream => BoxBody::new(BodyStream::new(stream::empty::<Result<_, std::io::Error>>())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invented_methods_are_one_value_in_metrics() {
        assert_eq!(known_method(&Method::PATCH), "PATCH");
        for invented in [b"M1".as_slice(), b"get", b"PROPFIND"] {
            assert_eq!(known_method(&Method::from_bytes(invented).unwrap()), "_OTHER");
        }
    }
}
