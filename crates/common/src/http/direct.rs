//! Routes that are answered without the framework's routing: those that a crowd asks for again and again.
//!
//! The framework compares a path with a regular expression, and makes a future for each of its layers. Of an answer that comes
//! from memory that is the larger part. What the framework does for browsers of other origins it still does.

use std::sync::Arc;

use actix_web::http::Method;
use actix_web::http::header::ORIGIN;
use actix_web::{HttpRequest, HttpResponse};
use futures_util::future::LocalBoxFuture;

use crate::error::Result;

/// What answers a request, if it does.
pub type Answer = Option<LocalBoxFuture<'static, Result<HttpResponse>>>;

/// Makes the answer of a request and of the parts of its path in the places of the route's parameters.
type Answering = dyn Fn(&HttpRequest, &[&str]) -> Answer + Send + Sync;

/// Answers the requests of one route and method. A body is not looked at.
#[derive(Clone)]
pub struct Direct {
    pub method: Method,
    /// As the description has it.
    pub template: &'static str,
    /// None: the handler that the framework has for the same route answers, and says what is wrong.
    pub answer: Arc<Answering>,
}

impl Direct {
    /// The answer to `request`, whose path fits the template. None: it goes through the framework.
    pub fn answer(&self, request: &HttpRequest) -> Answer {
        let is_plain = *request.method() == self.method
            && !request.headers().contains_key(ORIGIN)
            && !request.path().contains('%');
        if !is_plain {
            return None;
        }
        (self.answer)(request, &parameters(self.template, request.path()))
    }
}

/// The parts of `path` in the places of the parameters of `template`.
fn parameters<'path>(template: &str, path: &'path str) -> Vec<&'path str> {
    let parts = template.split('/').zip(path.split('/'));
    parts.filter(|(known, _)| known.starts_with('{')).map(|(_, part)| part).collect()
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_path_has_its_parameters_in_the_places_of_the_template() {
        let template = "/api/v1/queues/{eventId}/tickets/{ticketId}";
        assert_eq!(parameters(template, "/api/v1/queues/a/tickets/b"), ["a", "b"]);
        assert_eq!(parameters("/api/v1/events", "/api/v1/events"), [""; 0]);
    }

    #[test]
    fn other_methods_origins_and_escaped_paths_go_through_the_framework() {
        let direct = Direct {
            method: Method::GET,
            template: "/a/{id}",
            answer: Arc::new(|_, parts| {
                (parts == ["7"]).then(|| async { Ok(HttpResponse::Ok().finish()) }.boxed_local())
            }),
        };
        let is_answered = |request: TestRequest| direct.answer(&request.to_http_request()).is_some();
        assert!(is_answered(TestRequest::with_uri("/a/7")));
        assert!(!is_answered(TestRequest::with_uri("/a/8")), "its own answer is none");
        assert!(!is_answered(TestRequest::with_uri("/a/7").method(Method::POST)));
        assert!(!is_answered(TestRequest::with_uri("/a/%37")));
        assert!(!is_answered(TestRequest::with_uri("/a/7").insert_header((ORIGIN, "https://shop.example.com"))));
    }
}
