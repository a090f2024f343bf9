//! Compiles `proto/` without a system `protoc`, and gives every message protobuf's JSON mapping.

use std::path::{Path, PathBuf};

use anyhow::Context;
use prost::Message;

const ROOT: &str = "../../proto";

fn main() -> anyhow::Result<()> {
    let packages = packages()?;
    let files = packages.iter().map(|package| format!("{ROOT}/stampede/{package}/v1/{package}.proto"));
    println!("cargo:rerun-if-changed={ROOT}");
    let descriptors = protox::compile(files, [ROOT])?;
    let encoded = descriptors.encode_to_vec();

    let out = PathBuf::from(std::env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), &encoded)?;
    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::pbjson_types")
        .compile_fds(descriptors)?;
    // A field that a newer producer added must not stop an older consumer.
    pbjson_build::Builder::new().ignore_unknown_fields().register_descriptors(&encoded)?.build(&[".stampede"])?;
    std::fs::write(out.join("packages.rs"), packages.iter().map(|package| module(package)).collect::<String>())?;
    Ok(())
}

/// One for each service that others ask over gRPC, and `events`.
fn packages() -> anyhow::Result<Vec<String>> {
    let mut packages = Vec::new();
    for entry in std::fs::read_dir(Path::new(ROOT).join("stampede"))? {
        packages.push(entry?.file_name().into_string().map_err(|name| anyhow::anyhow!("{name:?} is no package"))?);
    }
    packages.sort();
    Ok(packages)
}

fn module(package: &str) -> String {
    format!(
        "/// `stampede.{package}.v1`
         #[expect(clippy::allow_attributes, reason = \"generated\")]
         pub mod {package} {{
             #![allow(clippy::too_many_lines)]
             include!(concat!(env!(\"OUT_DIR\"), \"/stampede.{package}.v1.rs\"));
             include!(concat!(env!(\"OUT_DIR\"), \"/stampede.{package}.v1.serde.rs\"));
         }}\n"
    )
}
