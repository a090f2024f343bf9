//! Which routes there are: of which a request is, what answers a wrong method, and a HEAD wherever there is a GET.

use std::collections::HashMap;
use std::sync::Arc;

use actix_web::body::{BodySize, BodyStream, BoxBody, MessageBody, SizedStream};
use actix_web::dev::{ResourceDef, ServiceRequest};
use actix_web::http::Method;
use actix_web::http::header::{ALLOW, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::stream;
use percent_encoding::percent_decode_str;
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

/// The paths of some routes.
///
/// The framework tries one route after the other with a regular expression each. Of a hundred routes that cost more than all
/// else of a small request; here a path is compared part by part.
#[derive(Clone, Default)]
pub struct Paths(HashMap<usize, Vec<Template>>);

/// `/api/v1/orders/{orderId}`
#[derive(Clone)]
struct Template {
    whole: Arc<str>,
    /// None: anything but nothing.
    parts: Vec<Option<String>>,
}

impl Paths {
    pub fn new<'a>(templates: impl IntoIterator<Item = &'a str>) -> Paths {
        let mut paths: HashMap<usize, Vec<Template>> = HashMap::new();
        for template in templates {
            let part = |part: &str| (!part.starts_with('{')).then(|| part.to_owned());
            let parts: Vec<Option<String>> = template.split('/').map(part).collect();
            paths.entry(parts.len()).or_default().push(Template { whole: template.into(), parts });
        }
        for templates in paths.values_mut() {
            // What is spelt out comes before what may be anything.
            templates.sort_by_key(|template| template.parts.iter().filter(|part| part.is_none()).count());
        }
        Paths(paths)
    }

    /// The template that `path` fits.
    pub fn find(&self, path: &str) -> Option<&Arc<str>> {
        let templates = self.0.get(&path.split('/').count())?;
        let fits = |template: &&Template| {
            let mut parts = template.parts.iter().zip(path.split('/'));
            parts.all(|(part, found)| part.as_ref().map_or(!found.is_empty(), |part| is_spelt(part, found)))
        };
        templates.iter().find(fits).map(|template| &template.whole)
    }
}

/// Whether `found` is `part`, with or without escapes.
fn is_spelt(part: &str, found: &str) -> bool {
    part == found || (found.contains('%') && percent_decode_str(found).eq(part.bytes()))
}

/// Every path that is served, with the methods that it has.
#[derive(Clone)]
pub struct RouteTable {
    methods: Vec<(ResourceDef, HeaderValue)>,
    paths: Paths,
}

/// The route that a request is of, as the description has it. None: there is none.
pub fn route_of(request: &ServiceRequest) -> Option<Arc<str>> {
    let table = request.app_data::<web::Data<RouteTable>>();
    let found = table.and_then(|table| table.paths.find(request.path()).cloned());
    found.or_else(|| request.match_pattern().map(Arc::from))
}

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
        let paths = Paths::new(document["paths"].as_object().into_iter().flatten().map(|(path, _)| path.as_str()));
        Ok(RouteTable { methods: table, paths })
    }

    /// The value of `Allow` for `path`. None: there is nothing there.
    fn allowed(&self, path: &str) -> Option<&HeaderValue> {
        self.methods.iter().find(|(pattern, _)| pattern.is_match(path)).map(|(_, methods)| methods)
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
    fn a_path_is_of_the_route_that_spells_out_most_of_it() {
        let paths = Paths::new(["/a/{id}", "/a/{id}/b", "/a/me", "/", "/{x}/{y}/{z}"]);
        let found = |path| paths.find(path).map(|template| &**template);
        assert_eq!(found("/a/7"), Some("/a/{id}"));
        assert_eq!(found("/a/me"), Some("/a/me"));
        assert_eq!(found("/a/7/b"), Some("/a/{id}/b"));
        assert_eq!(found("/a/7/c"), Some("/{x}/{y}/{z}"));
        assert_eq!(found("/"), Some("/"));
        assert_eq!(found("/%61/m%65"), Some("/a/me"));
        for other in ["/a", "/a/", "/a/7/", "/b/7", "//a/7", "", "a/7", "/A/7", "/%2561/7", "/a%2F7"] {
            assert_eq!(found(other), None, "{other}");
        }
    }

    #[test]
    fn invented_methods_are_one_value_in_metrics() {
        assert_eq!(known_method(&Method::PATCH), "PATCH");
        for invented in [b"M1".as_slice(), b"get", b"PROPFIND"] {
            assert_eq!(known_method(&Method::from_bytes(invented).unwrap()), "_OTHER");
        }
    }
}
