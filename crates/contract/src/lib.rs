//! What the services say to each other: ids, money, gRPC messages and events. Names, not behaviour.

pub mod codes;
pub mod events;
pub mod ids;
pub mod money;

/// Encoded descriptors of all of `proto/`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

#[expect(clippy::allow_attributes, clippy::too_many_lines, reason = "generated")]
pub mod account {
    //! `stampede.account.v1`
    tonic::include_proto!("stampede.account.v1");
    include!(concat!(env!("OUT_DIR"), "/stampede.account.v1.serde.rs"));
}

#[expect(clippy::allow_attributes, clippy::too_many_lines, reason = "generated")]
pub mod inventory {
    //! `stampede.inventory.v1`
    tonic::include_proto!("stampede.inventory.v1");
    include!(concat!(env!("OUT_DIR"), "/stampede.inventory.v1.serde.rs"));
}

#[expect(clippy::allow_attributes, clippy::too_many_lines, reason = "generated")]
pub mod order {
    //! `stampede.order.v1`
    tonic::include_proto!("stampede.order.v1");
    include!(concat!(env!("OUT_DIR"), "/stampede.order.v1.serde.rs"));
}
