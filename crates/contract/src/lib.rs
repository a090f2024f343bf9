//! What the services say to each other: ids, money, gRPC messages and events. Names, not behaviour.

pub mod codes;
pub mod events;
pub mod examples;
pub mod ids;
pub mod money;

/// Encoded descriptors of all of `proto/`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// A module for each package of `proto/`; those of services are also at this crate's root.
mod packages {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}

pub use packages::*;
