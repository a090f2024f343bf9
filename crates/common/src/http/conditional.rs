//! Conditional reads: `If-None-Match` (RFC 9110, section 13.1.2).

use actix_web::http::header::{ETAG, Header, IfNoneMatch};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};

/// Begins the answer to a read of what `etag` names: 304 if the client has it, else 200. Both carry the tag.
///
/// The comparison is the weak one: a proxy that compresses an answer makes the tag a weak one.
pub fn answer_unless_known(request: &HttpRequest, etag: &str) -> (HttpResponseBuilder, bool) {
    let known = match IfNoneMatch::parse(request) {
        Ok(IfNoneMatch::Any) => true,
        Ok(IfNoneMatch::Items(tags)) if tags.is_empty() => false,
        Ok(IfNoneMatch::Items(tags)) => etag.parse().is_ok_and(|current| tags.iter().any(|tag| tag.weak_eq(&current))),
        Err(_) => false,
    };
    let mut response = if known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response.insert_header((ETAG, etag));
    (response, known)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::IF_NONE_MATCH;
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_tag_is_known_in_every_form_that_proxies_make_of_it() {
        for (sent, known) in [
            (&["\"3-10-0\""][..], true),
            (&["W/\"3-10-0\""], true),
            (&["*"], true),
            (&["\"x\", W/\"3-10-0\""], true),
            (&["\"x\",\"3-10-0\" "], true),
            (&["\"x\"", "\"3-10-0\""], true),
            (&["\"x\""], false),
            (&["3-10-0"], false),
            (&[""], false),
            (&[], false),
        ] {
            let mut request = TestRequest::default();
            for value in sent {
                request = request.append_header((IF_NONE_MATCH, *value));
            }
            let (mut response, is) = answer_unless_known(&request.to_http_request(), "\"3-10-0\"");
            let response = response.finish();
            assert_eq!((is, response.status().as_u16()), (known, if known { 304 } else { 200 }), "{sent:?}");
            assert_eq!(response.headers().get(ETAG).unwrap(), "\"3-10-0\"");
        }
    }
}
