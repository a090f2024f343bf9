//! The whole system under test.

use stampede::services::SERVICES;

/// The executable under test.
pub const EXECUTABLE: &str = env!("CARGO_BIN_EXE_stampede");

/// A site of all services.
pub fn system() -> testkit::Builder {
    testkit::Site::builder(SERVICES)
}
