//! `stampede keys`, `stampede token`: the keys of services, and tokens for people who call a service by hand.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use clap::Args;
use common::manifest::{ServiceSpec, identifier};
use common::rpc::{RpcSettings, ServiceKey, new_key};

use crate::manifests::variable;
use crate::services::{SERVICES, find};
use crate::{dev, say, site};

#[derive(Args)]
pub struct KeysArgs {
    /// All that call others unless told.
    services: Vec<String>,
}

/// Prints a new pair of keys for each service, as settings in the environment.
pub fn keys(args: &KeysArgs) -> anyhow::Result<ExitCode> {
    let named: anyhow::Result<Vec<ServiceSpec>> = args.services.iter().map(|name| find(name)).collect();
    let calls_others = SERVICES.iter().filter(|service| !service.deploy.calls.is_empty()).copied();
    let services = if args.services.is_empty() { calls_others.collect() } else { named? };
    for service in services {
        let key = new_key()?;
        let public = ServiceKey::read(&key)?.public().to_owned();
        let name = service.name;
        say!("# {name}: the first is a secret of {name} alone, the second is for all services.");
        say!("{}={key}", variable("rpc.token_key"));
        say!("{}={public}", variable(&format!("rpc.public_keys.{}", identifier(name))));
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Args)]
pub struct TokenArgs {
    /// The service in whose name the call is made.
    caller: String,
    /// The service that is called.
    callee: String,
    /// Data folder of a running `stampede dev`, .stampede unless told. Where it has a site.json, the key is in that file; else
    /// it is rpc.token_key of the settings.
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

/// Prints a token that is good for five minutes.
pub fn token(args: &TokenArgs, config: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let (caller, callee) = (find(&args.caller)?, find(&args.callee)?);
    if !caller.deploy.calls.contains(&callee.name) {
        let calls = match caller.deploy.calls {
            [] => "nobody".to_owned(),
            calls => calls.join(", "),
        };
        bail!("{} would refuse it: {} calls {calls}", callee.name, caller.name);
    }
    let key = key_of(&caller, &dev::data_dir(args.data_dir.as_deref())?, config)?;
    let now = u64::try_from(chrono::Utc::now().timestamp())?;
    say!("{}", key.token(caller.name, callee.name, now)?);
    Ok(ExitCode::SUCCESS)
}

/// The key of the running development site, else that of the settings.
fn key_of(caller: &ServiceSpec, data_dir: &Path, config: &[PathBuf]) -> anyhow::Result<ServiceKey> {
    if let Some(key) = site::key_of(data_dir, caller.name) {
        return ServiceKey::read(&key);
    }
    let settings: RpcSettings = site::settings(config, data_dir)?.section("rpc")?;
    let key = settings.key()?.context(
        "there is no key: rpc.token_key is empty, and no running system is known here; start one with ./stampede dev, or run \
         this where the service runs",
    )?;
    let is_known = settings.is_key_of(&key, caller.name);
    ensure!(is_known, "rpc.token_key is not a key of {}: rpc.public_keys does not have its public half", caller.name);
    Ok(key)
}
