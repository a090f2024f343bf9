//! Which errors mean that Redis is away.

use redis::{ErrorKind, RedisError};

/// What a server answers that is there and cannot work for anybody now.
const AWAY: [&str; 10] = [
    "LOADING",     // it has just started and reads its data
    "READONLY",    // a replica, in the middle of a failover
    "MASTERDOWN",  // a replica that has lost its master
    "CLUSTERDOWN", // nobody serves this slot
    "NOREPLICAS",  // it takes no writes with so few replicas
    "MISCONF",     // it takes no writes because it cannot save
    "OOM",         // it takes no writes because its memory is full
    "BUSY",        // a script does not end
    "NOAUTH",
    "WRONGPASS",
];

/// Whether nobody gets an answer for now. Else the server is there, and the call is wrong: a script that fails, a key of another
/// type, or an answer that is not what the caller expects.
pub(super) fn is_away(error: &RedisError) -> bool {
    match (error.code(), error.kind()) {
        (Some(code), _) => AWAY.contains(&code),
        (None, ErrorKind::Parse | ErrorKind::UnexpectedReturnType | ErrorKind::Client) => false,
        (None, _) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use redis::{ServerErrorKind, make_extension_error};

    use super::*;

    #[test]
    fn a_server_that_answers_is_there_unless_it_says_that_it_cannot_work() {
        let lost: RedisError = io::Error::from(io::ErrorKind::ConnectionReset).into();
        let late: RedisError = io::Error::from(io::ErrorKind::TimedOut).into();
        let unauthenticated = RedisError::from((ErrorKind::AuthenticationFailed, "no"));
        for error in [lost, late, unauthenticated] {
            assert!(is_away(&error), "{error}");
        }
        use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, NoPerm, ReadOnly, ResponseError};
        for (kind, expected) in [
            (BusyLoading, true),
            (ClusterDown, true),
            (MasterDown, true),
            (ReadOnly, true),
            (ResponseError, false),
            (NoPerm, false),
        ] {
            let error = RedisError::from((ErrorKind::Server(kind), "answered"));
            assert_eq!(is_away(&error), expected, "{error}");
        }
        for (code, expected) in
            [("OOM", true), ("BUSY", true), ("MISCONF", true), ("WRONGTYPE", false), ("OF_A_SCRIPT", false)]
        {
            let error = make_extension_error(code.to_owned(), Some("said so".to_owned()));
            assert_eq!(is_away(&error), expected, "{error}");
        }
        for kind in [ErrorKind::Parse, ErrorKind::UnexpectedReturnType] {
            assert!(!is_away(&RedisError::from((kind, "not a number"))), "{kind:?}");
        }
    }
}
