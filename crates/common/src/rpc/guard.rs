//! The guard at the gRPC port: whoever calls a service has to prove that it is a service which may.
//!
//! Calls within a process do not come this way: there is nobody between the two who could pretend to be another.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use futures_util::future::{Either, Ready, ready};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use tonic::Code as GrpcCode;
use tower::Service;

use super::Body;
use super::secure::CertifiedAs;
use super::token::{Callers, Unbelieved};
use crate::error::{Code, Error, Refused};

/// Answered with 500, because a caller cannot mend it and its own client has done nothing wrong.
pub const SERVICE_UNAUTHENTICATED: Code =
    Code::new("SERVICE_UNAUTHENTICATED", 500, GrpcCode::Unauthenticated, "호출한 서비스를 확인할 수 없습니다.");
pub const SERVICE_FORBIDDEN: Code =
    Code::new("SERVICE_FORBIDDEN", 500, GrpcCode::PermissionDenied, "이 서비스를 호출할 수 없는 서비스입니다.");

/// Who may call a gRPC service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// Everybody: health and reflection.
    Open,
    /// Those that may call the service which has mounted it.
    Of(&'static str),
    /// Nobody from outside of this process: no service has mounted it.
    Closed,
}

/// Which service of ours calls: an extension of requests that came through the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallingService(pub &'static str);

/// What the guard knows.
pub(crate) struct Access {
    /// By the name of the gRPC service: `stampede.inventory.v1.InventoryService`.
    pub doors: HashMap<&'static str, Door>,
    /// Who may call whom.
    pub edges: BTreeSet<(&'static str, &'static str)>,
    pub callers: Callers,
    /// Whether callers have shown a certificate.
    pub is_certified: bool,
}

/// Why a call is refused. The names are values of the metric's label.
enum Wrong {
    Unbelieved(Unbelieved),
    /// The certificate is not that of the caller of this name.
    Certificate(String),
    NotAllowed(String),
}

impl Access {
    /// Who calls. None: the door is open, or there is none, which the router says.
    fn check(
        &self,
        path: &str,
        headers: &HeaderMap,
        certified: Option<&CertifiedAs>,
        now: u64,
    ) -> Result<Option<CallingService>, Wrong> {
        let name = path.strip_prefix('/').and_then(|path| path.split('/').next()).unwrap_or_default();
        let callee = match self.doors.get(name) {
            None | Some(Door::Open) => return Ok(None),
            Some(Door::Closed) => {
                return Err(Wrong::NotAllowed(format!("{name} is there for its own process alone.")));
            }
            Some(Door::Of(service)) => *service,
        };
        let token = bearer(headers).ok_or(Wrong::Unbelieved(Unbelieved::Missing))?;
        let claims = self.callers.believe(token, callee, now).map_err(Wrong::Unbelieved)?;
        let has_certificate = || certified.is_some_and(|CertifiedAs(services)| services.contains(&claims.caller()));
        if self.is_certified && !has_certificate() {
            return Err(Wrong::Certificate(claims.caller().to_owned()));
        }
        let edge = self.edges.iter().find(|(from, to)| *from == claims.caller() && *to == callee);
        let (caller, _) = edge.ok_or_else(|| {
            let caller = claims.caller();
            Wrong::NotAllowed(format!("{caller} does not call {callee}: its manifest does not say so."))
        })?;
        Ok(Some(CallingService(caller)))
    }
}

impl Wrong {
    fn refusal(&self) -> Refused {
        match self {
            Wrong::Unbelieved(why) => Refused::new(SERVICE_UNAUTHENTICATED, why.to_string()),
            Wrong::Certificate(caller) => {
                let why = format!("The service token is that of {caller}, and the certificate is not.");
                Refused::new(SERVICE_UNAUTHENTICATED, why)
            }
            Wrong::NotAllowed(why) => Refused::new(SERVICE_FORBIDDEN, why),
        }
    }

    const fn reason(&self) -> &'static str {
        match self {
            Wrong::Unbelieved(Unbelieved::Missing) => "missing",
            Wrong::Unbelieved(Unbelieved::Invalid) => "invalid",
            Wrong::Unbelieved(Unbelieved::Audience) => "audience",
            Wrong::Unbelieved(Unbelieved::Expired) => "expired",
            Wrong::Certificate(_) => "certificate",
            Wrong::NotAllowed(_) => "not_allowed",
        }
    }
}

/// The token of the one `authorization` header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// Wraps the gRPC server of the network.
#[derive(Clone)]
pub(crate) struct Guard<S> {
    pub inner: S,
    pub access: Arc<Access>,
}

impl<S, B> Service<http::Request<B>> for Guard<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(task)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let now = jsonwebtoken::get_current_timestamp();
        let certified = request.extensions().get::<CertifiedAs>();
        let wrong = match self.access.check(request.uri().path(), request.headers(), certified, now) {
            Ok(caller) => {
                caller.map(|caller| request.extensions_mut().insert(caller));
                return Either::Left(self.inner.call(request));
            }
            Err(wrong) => wrong,
        };
        metrics::counter!("stampede_service_calls_refused_total", "reason" => wrong.reason()).increment(1);
        let refusal = Error::from(wrong.refusal());
        tracing::debug!(method = request.uri().path(), "Refused a call: {refusal}");
        Either::Right(ready(Ok(tonic::Status::from(refusal).into_http())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::token::{ServiceKey, key_of};

    const HOLD: &str = "/stampede.store.v1.StoreService/Hold";

    /// The store, which the shop calls. The bank has a key too.
    fn access() -> Access {
        let keys = [("shop", 1), ("bank", 2)].map(|(name, seed)| (name.to_owned(), key(seed).public().to_owned()));
        Access {
            doors: HashMap::from([
                ("grpc.health.v1.Health", Door::Open),
                ("stampede.store.v1.StoreService", Door::Of("store")),
                ("played.Service", Door::Closed),
            ]),
            edges: BTreeSet::from([("shop", "store"), ("shop", "bank")]),
            callers: Callers::new(&keys.into()).unwrap(),
            is_certified: false,
        }
    }

    fn key(seed: u8) -> ServiceKey {
        ServiceKey::read(&key_of([seed; 32])).unwrap()
    }

    /// The outcome of a call at the second 1000: the caller, or why not.
    fn outcome(path: &str, authorization: &[String]) -> Result<Option<&'static str>, &'static str> {
        let mut headers = HeaderMap::new();
        for value in authorization {
            headers.append(AUTHORIZATION, value.try_into().unwrap());
        }
        let caller = access().check(path, &headers, None, 1000);
        caller.map(|caller| caller.map(|CallingService(name)| name)).map_err(|wrong| wrong.reason())
    }

    fn token(seed: u8, caller: &str, callee: &str) -> String {
        format!("Bearer {}", key(seed).token(caller, callee, 1000).unwrap())
    }

    #[test]
    fn only_a_service_whose_manifest_says_so_gets_in() {
        let right = token(1, "shop", "store");
        assert_eq!(outcome(HOLD, std::slice::from_ref(&right)), Ok(Some("shop")));
        assert_eq!(outcome(HOLD, &[]), Err("missing"));
        assert_eq!(outcome(HOLD, &[right.clone(), right.clone()]), Err("missing"));
        assert_eq!(outcome(HOLD, &[right.replace("Bearer", "Basic")]), Err("missing"));
        assert_eq!(outcome(HOLD, &[token(2, "shop", "store")]), Err("invalid"));
        assert_eq!(outcome(HOLD, &[token(1, "shop", "bank")]), Err("audience"));
        assert_eq!(outcome(HOLD, &[token(2, "bank", "store")]), Err("not_allowed"));
        let old = format!("Bearer {}", key(1).token("shop", "store", 1000 - 300).unwrap());
        assert_eq!(outcome(HOLD, &[old]), Err("expired"));
    }

    #[test]
    fn token_and_certificate_are_of_one_service() {
        let access = Access { is_certified: true, ..access() };
        let headers = HeaderMap::from_iter([(AUTHORIZATION, token(1, "shop", "store").try_into().unwrap())]);
        for (services, may) in
            [(vec!["shop"], true), (vec!["bank", "shop"], true), (vec!["bank"], false), (vec![], false)]
        {
            let certified = CertifiedAs(services.clone().into());
            assert_eq!(access.check(HOLD, &headers, Some(&certified), 1000).is_ok(), may, "{services:?}");
        }
        assert!(access.check(HOLD, &headers, None, 1000).is_err());
    }

    #[test]
    fn health_is_open_and_what_no_service_has_mounted_is_closed() {
        assert_eq!(outcome("/grpc.health.v1.Health/Check", &[]), Ok(None));
        assert_eq!(outcome("/played.Service/Play", &[token(1, "shop", "store")]), Err("not_allowed"));
        // Nothing is behind these; the router says so.
        for path in ["/nothing.Here/Call", "", "/", "x"] {
            assert_eq!(outcome(path, &[]), Ok(None), "{path}");
        }
    }

    #[test]
    fn a_refusal_is_a_fault_of_ours_to_the_caller_and_no_answer_for_its_client() {
        for wrong in [Wrong::Unbelieved(Unbelieved::Missing), Wrong::NotAllowed("no".to_owned())] {
            let refusal = wrong.refusal();
            let status = tonic::Status::from(Error::from(refusal.clone()));
            assert_eq!(status.code(), refusal.code.grpc);
            assert!(!crate::error::is_unreachable(&status), "it is not asked again");
            let error = Error::from(status);
            assert!(matches!(&error, Error::Fault(fault) if !fault.transient), "{error:?}");
        }
    }
}
