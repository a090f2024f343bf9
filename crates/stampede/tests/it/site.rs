//! The whole system under test.

use common::service::ServiceSpec;

/// The executable under test.
pub const EXECUTABLE: &str = env!("CARGO_BIN_EXE_stampede");

pub fn services() -> [ServiceSpec; 5] {
    [account::spec(), inventory::spec(), order::spec(), payment::spec(), notification_hub::spec()]
}

/// A site of all services.
pub fn system() -> testkit::Builder {
    testkit::Site::builder(&services())
}
