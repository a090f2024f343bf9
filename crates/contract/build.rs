//! Compiles `proto/` without a system `protoc`, and gives every message protobuf's JSON mapping.

use anyhow::Context;
use prost::Message;

fn main() -> anyhow::Result<()> {
    let root = "../../proto";
    let services = ["account", "events", "inventory", "order"];
    let files: Vec<String> =
        services.iter().map(|service| format!("{root}/stampede/{service}/v1/{service}.proto")).collect();
    println!("cargo:rerun-if-changed={root}");
    let descriptors = protox::compile(&files, [root])?;
    let encoded = descriptors.encode_to_vec();

    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), &encoded)?;
    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::pbjson_types")
        .compile_fds(descriptors)?;
    // A field that a newer producer added must not stop an older consumer.
    pbjson_build::Builder::new().ignore_unknown_fields().register_descriptors(&encoded)?.build(&[".stampede"])?;
    Ok(())
}
