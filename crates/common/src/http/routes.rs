//! Which routes there are: of which a request is, what answers a wrong method, and a HEAD wherever there is a GET.

use std::collections::HashMap;
use std::sync::Arc;

use actix_web::body::{BodySize, BodyStream, BoxBody, MessageBody, SizedStream};
use actix_web::dev::ServiceRequest;
use actix_web::http::Method;
use actix_web::http::header::{ALLOW, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::stream;
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::direct::{self, Direct};
use super::durations::Durations;
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

/// What is served at some paths.
///
/// The framework tries one route after the other with a regular expression each. Of a hundred routes that cost more than all
/// else of a small request; here a path is followed part by part.
#[derive(Clone)]
struct Paths<T> {
    /// What is spelt out comes before what may be anything.
    spelt: Vec<(String, Paths<T>)>,
    /// Anything but nothing.
    any: Option<Box<Paths<T>>>,
    here: Option<T>,
}

impl<T> Default for Paths<T> {
    fn default() -> Self {
        Paths { spelt: Vec::new(), any: None, here: None }
    }
}

impl<T> Paths<T> {
    /// `/api/v1/orders/{orderId}`. What is there already stays.
    fn add(&mut self, template: &str, here: T) {
        let mut node = self;
        for part in template.split('/') {
            node = if part.starts_with('{') {
                node.any.get_or_insert_default()
            } else {
                let place = node.spelt.iter().position(|(known, _)| known == part).unwrap_or_else(|| {
                    node.spelt.push((part.to_owned(), Paths::default()));
                    node.spelt.len() - 1
                });
                &mut node.spelt[place].1
            };
        }
        node.here.get_or_insert(here);
    }

    fn find(&self, path: &str) -> Option<&T> {
        let (part, rest) = path.split_once('/').map_or((path, None), |(part, rest)| (part, Some(rest)));
        let spelt = self.spelt.iter().find(|(known, _)| is_spelt(known, part)).map(|(_, node)| node);
        let any = self.any.as_deref().filter(|_| !part.is_empty());
        spelt.into_iter().chain(any).find_map(|node| match rest {
            Some(rest) => node.find(rest),
            None => node.here.as_ref(),
        })
    }
}

/// Whether `found` is `part`, with or without escapes.
fn is_spelt(part: &str, found: &str) -> bool {
    part == found || (found.contains('%') && percent_decode_str(found).eq(part.bytes()))
}

/// A path that is served.
pub struct Route {
    /// As the description has it.
    pub template: Arc<str>,
    /// The place of its service among those of the process. None: it is no service's.
    pub service: Option<usize>,
    methods: HeaderValue,
    /// The same without OPTIONS, and a HEAD is read as a GET.
    handled: Vec<Method>,
    direct: Option<Direct>,
    pub(super) durations: Durations,
}

impl Route {
    /// Whether a handler of this very path has the method. Another path, which has a parameter in its place, may have it too:
    /// `GET /payments/{paymentId}` is no answer to `GET /payments/prepare`.
    pub fn handles(&self, method: &Method) -> bool {
        self.handled.contains(method)
    }

    /// None: `request` goes through the framework's routing.
    pub(super) fn direct_answer(&self, request: &HttpRequest) -> direct::Answer {
        self.direct.as_ref()?.answer(request)
    }
}

/// Every path that is served.
#[derive(Clone)]
pub struct RouteTable(Paths<Arc<Route>>);

/// The route that a request is of. None: there is none.
pub fn route_of(request: &ServiceRequest) -> Option<Arc<Route>> {
    request.app_data::<web::Data<RouteTable>>()?.0.find(request.path()).cloned()
}

impl RouteTable {
    /// The paths of `document`, and `read_only` ones beside them. `services` are the paths of each service. `directs` are
    /// answered without the framework's routing.
    pub fn new<'a>(
        document: &Value,
        read_only: &[&str],
        services: impl IntoIterator<Item = &'a [String]>,
        mut directs: Vec<Direct>,
    ) -> anyhow::Result<RouteTable> {
        let owners: HashMap<&str, usize> = services
            .into_iter()
            .enumerate()
            .flat_map(|(place, paths)| paths.iter().map(move |path| (path.as_str(), place)))
            .collect();
        let described = document["paths"].as_object().into_iter().flatten();
        let described = described.map(|(path, item)| (path.as_str(), methods_of(item)));
        let read_only = read_only.iter().map(|path| (*path, vec!["GET", "HEAD", "OPTIONS"]));
        let mut paths = Paths::default();
        for (path, methods) in described.chain(read_only) {
            let handled =
                METHODS.into_iter().filter(|known| *known != Method::OPTIONS && methods.contains(&known.as_str()));
            let handled = handled.collect();
            let direct = directs.iter().position(|direct| direct.template == path);
            let direct = direct.map(|place| directs.swap_remove(place));
            let methods = HeaderValue::from_str(&methods.join(", "))?;
            paths.add(
                path,
                Arc::new(Route {
                    template: path.into(),
                    service: owners.get(path).copied(),
                    methods,
                    handled,
                    direct,
                    durations: Durations::default(),
                }),
            );
        }
        let left: Vec<_> = directs.iter().map(|direct| direct.template).collect();
        anyhow::ensure!(left.is_empty(), "nothing is described at {left:?}, or it is answered directly twice");
        Ok(RouteTable(paths))
    }

    /// The value of `Allow` for `path`. None: there is nothing there.
    fn allowed(&self, path: &str) -> Option<&HeaderValue> {
        self.0.find(path).map(|route| &route.methods)
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
        return HttpResponse::from_error(Error::from(Refused::new(NOT_FOUND, "There is nothing at this path.")));
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
        let mut paths = Paths::default();
        for template in ["/a/{id}", "/a/{id}/b", "/a/me", "/", "/{x}/{y}/{z}", "/c/me/d", "/c/{id}/e"] {
            paths.add(template, template);
        }
        let found = |path| paths.find(path).copied();
        assert_eq!(found("/a/7"), Some("/a/{id}"));
        assert_eq!(found("/a/me"), Some("/a/me"));
        assert_eq!(found("/a/me/b"), Some("/a/{id}/b"));
        assert_eq!(found("/a/7/b"), Some("/a/{id}/b"));
        assert_eq!(found("/a/7/c"), Some("/{x}/{y}/{z}"));
        assert_eq!(found("/c/me/d"), Some("/c/me/d"));
        assert_eq!(found("/c/me/e"), Some("/c/{id}/e"));
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
