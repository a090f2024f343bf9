//! `RateLimit` and `RateLimit-Policy`: what is left of the limits that applied to a request
//! (draft-ietf-httpapi-ratelimit-headers).

use std::cell::RefCell;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

/// What a limit says about one request.
#[derive(Debug, Clone)]
pub struct Allowance {
    /// What is limited, such as `account`.
    pub name: &'static str,
    /// So many in `window_seconds`.
    pub quota: u32,
    pub window_seconds: u64,
    pub remaining: u32,
    /// Until all of it is back.
    pub reset_seconds: u64,
}

tokio::task_local! {
    static APPLIED: RefCell<Vec<Allowance>>;
}

/// Notes a limit for the answer to the running request. Outside of one there is nobody to tell.
pub fn note(allowance: Allowance) {
    // Background work has no request.
    let _ = APPLIED.try_with(|applied| applied.borrow_mut().push(allowance));
}

/// Runs `work`, and returns with its outcome what limits it noted.
pub async fn noting<T>(work: impl Future<Output = T>) -> (T, Vec<Allowance>) {
    APPLIED
        .scope(RefCell::default(), async {
            let outcome = work.await;
            (outcome, APPLIED.with(RefCell::take))
        })
        .await
}

/// Writes the two headers, if any limit applied.
pub fn write_headers(applied: &[Allowance], headers: &mut HeaderMap) {
    if applied.is_empty() {
        return;
    }
    let (mut limits, mut policies) = (String::new(), String::new());
    for Allowance { name, quota, window_seconds, remaining, reset_seconds } in applied {
        let comma = if limits.is_empty() { "" } else { ", " };
        limits.push_str(&format!("{comma}\"{name}\";r={remaining};t={reset_seconds}"));
        policies.push_str(&format!("{comma}\"{name}\";q={quota};w={window_seconds}"));
    }
    for (name, value) in [("ratelimit", limits), ("ratelimit-policy", policies)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_limits_of_a_request_are_told() {
        let allowance =
            |name, remaining| Allowance { name, quota: 20, window_seconds: 60, remaining, reset_seconds: 3 };
        let ((), applied) = noting(async {
            note(allowance("address", 19));
            note(allowance("account", 4));
        })
        .await;
        let mut headers = HeaderMap::new();
        write_headers(&applied, &mut headers);
        assert_eq!(headers.get("ratelimit").unwrap(), "\"address\";r=19;t=3, \"account\";r=4;t=3");
        assert_eq!(headers.get("ratelimit-policy").unwrap(), "\"address\";q=20;w=60, \"account\";q=20;w=60");
    }
}
