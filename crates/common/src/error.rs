//! Errors: a refusal is an answer the caller can act on, a fault is an alarm. One mapping to HTTP and gRPC, here.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tonic_types::{ErrorDetails, StatusExt};

use crate::words;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Names the service family in gRPC `ErrorInfo.domain`.
const DOMAIN: &str = "stampede";

/// What a client may branch on: the stable name, its HTTP status and its gRPC code, and the Korean text.
///
/// The English text is the refusal's own `Display`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    pub reason: Cow<'static, str>,
    pub http: u16,
    pub grpc: tonic::Code,
    pub korean: Cow<'static, str>,
}

impl Code {
    pub const fn new(reason: &'static str, http: u16, grpc: tonic::Code, korean: &'static str) -> Self {
        Self { reason: Cow::Borrowed(reason), http, grpc, korean: Cow::Borrowed(korean) }
    }
}

pub const VALIDATION_ERROR: Code =
    Code::new("VALIDATION_ERROR", 400, tonic::Code::InvalidArgument, "요청이 올바르지 않습니다.");
pub const IDEMPOTENCY_KEY_REQUIRED: Code =
    Code::new("IDEMPOTENCY_KEY_REQUIRED", 400, tonic::Code::InvalidArgument, "Idempotency-Key 헤더가 필요합니다.");
pub const IDEMPOTENCY_KEY_REUSED: Code = Code::new(
    "IDEMPOTENCY_KEY_REUSED",
    422,
    tonic::Code::FailedPrecondition,
    "같은 Idempotency-Key가 다른 요청에 이미 사용되었습니다.",
);
pub const UNAUTHORIZED: Code = Code::new("UNAUTHORIZED", 401, tonic::Code::Unauthenticated, "인증이 필요합니다.");
pub const FORBIDDEN: Code = Code::new("FORBIDDEN", 403, tonic::Code::PermissionDenied, "권한이 없습니다.");
pub const NOT_FOUND: Code = Code::new("NOT_FOUND", 404, tonic::Code::NotFound, "찾을 수 없습니다.");
pub const METHOD_NOT_ALLOWED: Code =
    Code::new("METHOD_NOT_ALLOWED", 405, tonic::Code::Unimplemented, "허용되지 않는 메서드입니다.");
pub const UNSUPPORTED_MEDIA_TYPE: Code =
    Code::new("UNSUPPORTED_MEDIA_TYPE", 415, tonic::Code::InvalidArgument, "지원하지 않는 형식의 본문입니다.");
pub const VERSION_CONFLICT: Code =
    Code::new("VERSION_CONFLICT", 412, tonic::Code::Aborted, "다른 변경이 먼저 반영되었습니다.");
pub const RATE_LIMITED: Code =
    Code::new("RATE_LIMITED", 429, tonic::Code::ResourceExhausted, "요청이 너무 많습니다. 잠시 후 다시 시도하세요.");
pub const INTERNAL_ERROR: Code = Code::new("INTERNAL_ERROR", 500, tonic::Code::Internal, "서버 오류가 발생했습니다.");
pub const SERVICE_UNAVAILABLE: Code = Code::new(
    "SERVICE_UNAVAILABLE",
    503,
    tonic::Code::Unavailable,
    "일시적으로 처리할 수 없습니다. 잠시 후 다시 시도하세요.",
);

/// Why a rule says no. One enum per service, next to its rules.
pub trait Refusal: std::error::Error {
    fn code(&self) -> Code;

    /// Machine-readable particulars for the error body's `details`, e.g. `{"productId", "requested", "available"}`.
    fn details(&self) -> Vec<Value> {
        Vec::new()
    }

    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

/// A refusal on its way to the client; it survives a gRPC hop unchanged.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    pub code: Code,
    pub message: String,
    pub details: Vec<Value>,
    pub retry_after: Option<Duration>,
}

impl Refused {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new(), retry_after: None }
    }

    /// A request that breaks a rule of form. `field` is the JSON path, e.g. `items[0].quantity`, or the name of a parameter or
    /// a header. The refusal's own message names it too: not everybody reads the details.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let details = vec![serde_json::json!({ "field": field, "message": message })];
        Self { details, ..Self::new(VALIDATION_ERROR, words::with_field(field, &message)) }
    }

    pub fn retry_after(self, delay: Duration) -> Self {
        Self { retry_after: Some(delay), ..self }
    }
}

/// Everything a flow can end with other than its answer.
#[derive(Debug, Clone)]
pub enum Error {
    /// The caller asked for something that cannot be had. Logged at debug.
    Refused(Box<Refused>),
    /// Something of ours is broken. Logged once at error, at the boundary; the client learns only that it happened.
    Fault(Fault),
}

/// A broken dependency or a bug.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Worth trying again in a moment: a lost connection, a full queue, a conflict, a timeout.
    pub transient: bool,
    pub cause: Arc<anyhow::Error>,
}

impl Error {
    pub fn transient(cause: impl Into<anyhow::Error>) -> Self {
        Error::Fault(Fault { transient: true, cause: Arc::new(cause.into()) })
    }

    pub fn fault(cause: impl Into<anyhow::Error>) -> Self {
        Error::Fault(Fault { transient: false, cause: Arc::new(cause.into()) })
    }

    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Fault(fault) if fault.transient)
    }

    /// The refusal's reason, if this is a refusal.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Error::Refused(refused) => Some(&refused.code.reason),
            Error::Fault(_) => None,
        }
    }

    /// What the outside is told: refusals as they are, faults without their cause.
    pub fn public(&self) -> Refused {
        match self {
            Error::Refused(refused) => (**refused).clone(),
            Error::Fault(Fault { transient: true, .. }) => {
                Refused::new(SERVICE_UNAVAILABLE, "Temporarily unavailable; try again with the same key.")
                    .retry_after(Duration::from_secs(1))
            }
            Error::Fault(_) => Refused::new(INTERNAL_ERROR, "Something went wrong on our side."),
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Refused(refused) => write!(f, "{}: {}", refused.code.reason, refused.message),
            Error::Fault(fault) => write!(f, "{:#}", fault.cause),
        }
    }
}

impl std::error::Error for Error {}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Error::Refused(Box::new(refused))
    }
}

impl<R: Refusal> From<R> for Error {
    fn from(refusal: R) -> Self {
        Refused {
            code: refusal.code(),
            message: refusal.to_string(),
            details: refusal.details(),
            retry_after: refusal.retry_after(),
        }
        .into()
    }
}

impl From<anyhow::Error> for Error {
    fn from(cause: anyhow::Error) -> Self {
        Error::fault(cause)
    }
}

impl From<diesel::result::Error> for Error {
    fn from(error: diesel::result::Error) -> Self {
        use diesel::result::DatabaseErrorKind as Kind;
        use diesel::result::Error as Diesel;
        let transient = match &error {
            Diesel::DatabaseError(
                Kind::SerializationFailure | Kind::ClosedConnection | Kind::UnableToSendCommand,
                _,
            ) => true,
            // These PostgreSQL conditions have no kind of their own in Diesel; their texts are stable.
            Diesel::DatabaseError(_, info) => {
                let text = info.message();
                [
                    "deadlock detected",
                    "lock timeout",
                    "statement timeout",
                    "terminating connection",
                    "connection closed",
                    "shutting down",
                    "starting up",
                    "in recovery mode",
                    "cannot execute",
                    "too many clients",
                ]
                .iter()
                .any(|known| text.contains(known))
            }
            Diesel::BrokenTransactionManager => true,
            _ => false,
        };
        Error::Fault(Fault { transient, cause: Arc::new(error.into()) })
    }
}

impl From<tokio::task::JoinError> for Error {
    fn from(error: tokio::task::JoinError) -> Self {
        Error::fault(error)
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        if let Error::Fault(fault) = &error {
            if fault.transient {
                tracing::warn!(error = format!("{:#}", fault.cause), "A gRPC call failed for now");
            } else {
                tracing::error!(error = format!("{:#}", fault.cause), "A gRPC call failed");
            }
        }
        let Refused { code, message, details, retry_after } = error.public();
        let mut info = ErrorDetails::new();
        let metadata = [
            ("http", code.http.to_string()),
            ("korean", code.korean.to_string()),
            ("details", Value::Array(details).to_string()),
        ];
        info.set_error_info(code.reason, DOMAIN, metadata.map(|(key, value)| (key.to_owned(), value)));
        if let Some(delay) = retry_after {
            info.set_retry_info(Some(delay));
        }
        tonic::Status::with_error_details(code.grpc, message, info)
    }
}

/// An upstream's refusal stays a refusal; everything else an upstream can answer is a fault of ours.
impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        let details = status.get_error_details();
        let transient = matches!(
            status.code(),
            tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::Aborted | tonic::Code::Cancelled
        );
        let Some(info) = details.error_info().filter(|info| info.domain == DOMAIN) else {
            return Error::Fault(Fault {
                transient: transient || is_transport(&status),
                cause: Arc::new(status.into()),
            });
        };
        let http = info.metadata.get("http").and_then(|http| http.parse().ok()).unwrap_or(500);
        if http >= 500 {
            return Error::Fault(Fault { transient, cause: Arc::new(anyhow::Error::from(status)) });
        }
        Refused {
            code: Code {
                reason: info.reason.clone().into(),
                http,
                grpc: status.code(),
                korean: info.metadata.get("korean").cloned().unwrap_or_default().into(),
            },
            message: status.message().to_owned(),
            details: info.metadata.get("details").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        }
        .into()
    }
}

/// Whether the call may never have reached the upstream, or its answer was lost on the way.
pub(crate) fn is_unreachable(status: &tonic::Status) -> bool {
    let answered = status.get_error_details().error_info().is_some_and(|info| info.domain == DOMAIN);
    !answered && (status.code() == tonic::Code::Unavailable || is_transport(status))
}

/// A connection that broke under a call arrives as `Unknown` or `Internal` with a transport error as its source.
fn is_transport(status: &tonic::Status) -> bool {
    use std::error::Error as _;
    status.source().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_the_hop_between_services() {
        let code = Code::new("OUT_OF_STOCK", 409, tonic::Code::ResourceExhausted, "재고가 없습니다.");
        let refused = Refused {
            details: vec![serde_json::json!({ "available": 1 })],
            ..Refused::new(code, "fewer than 2 left").retry_after(Duration::from_secs(3))
        };
        let status = tonic::Status::from(Error::from(refused.clone()));
        match Error::from(status) {
            Error::Refused(restored) => assert_eq!(*restored, refused),
            Error::Fault(fault) => panic!("{fault:?}"),
        }
    }

    #[test]
    fn a_fault_does_not_tell_its_cause() {
        let status = tonic::Status::from(Error::fault(anyhow::anyhow!("password is hunter2")));
        assert_eq!(status.code(), tonic::Code::Internal);
        assert!(!format!("{status:?}").contains("hunter2"));
        assert!(!Error::from(status).is_transient());
    }

    #[test]
    fn an_unreachable_upstream_is_a_transient_fault() {
        assert!(Error::from(tonic::Status::unavailable("connection refused")).is_transient());
        assert!(Error::from(tonic::Status::from(Error::transient(anyhow::anyhow!("pool")))).is_transient());
    }
}
