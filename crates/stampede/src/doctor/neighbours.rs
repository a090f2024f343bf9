//! Neighbours: the services in other processes that the settings name, and where the keys of access tokens are read.

use std::collections::BTreeMap;

use common::manifest::{ServiceSpec, identifier};
use common::rpc::{self, RpcSettings};
use common::settings::Settings;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{ANSWER_MAX, Report};
use crate::reach::shown;
use crate::services::SERVICES;

const CHECK: &str = "neighbours";

/// Looks at those that `services` call; where these are all services, at every one that is named. Where they are fewer, the
/// others may be closed to this process. An error is an address that is none, or a section of the settings that cannot be read.
pub async fn examine(settings: &Settings, services: &[ServiceSpec], report: &mut Report) -> anyhow::Result<()> {
    let named: BTreeMap<String, String> = settings.section("upstreams")?;
    let named: Vec<(&String, &String)> = named.iter().filter(|(_, address)| !address.is_empty()).collect();
    let rpc: RpcSettings = settings.section("rpc")?;
    let patient = RpcSettings { deadline_ms: ANSWER_MAX.as_millis() as u64, ..rpc };
    if named.is_empty() {
        report.ok(CHECK, "no service is named in [upstreams]: all are in one process");
    }
    for (name, address) in named {
        if !SERVICES.iter().any(|service| identifier(service.name) == *name) {
            report.warn(
                CHECK,
                format!("upstreams.{name} names no service"),
                format!("remove it; the services are {}", crate::services::names()),
            );
            continue;
        }
        let is_called = |caller: &ServiceSpec| caller.deploy.calls.iter().any(|callee| identifier(callee) == *name);
        if services.len() < SERVICES.len() && !services.iter().any(is_called) {
            continue;
        }
        let upstream = rpc::upstream(address, &patient, None);
        let (address, setting) = (shown(settings, &format!("upstreams.{name}")), format!("upstreams.{name}"));
        let mut client = match upstream {
            Ok(upstream) => HealthClient::new(upstream),
            Err(wrong) => {
                report.fail(
                    CHECK,
                    format!("{name} cannot be called at {address}: {wrong:#}"),
                    format!("correct {setting}"),
                );
                continue;
            }
        };
        match client.check(HealthCheckRequest::default()).await.map(|answer| answer.into_inner().status()) {
            Ok(ServingStatus::Serving) => report.ok(CHECK, format!("{name} serves at {address}")),
            Ok(status) => report.fail(
                CHECK,
                format!("{name} at {address} answers {}", status.as_str_name()),
                format!("look at the log of {name}: it is starting, or told to stop"),
            ),
            Err(status) => report.fail(
                CHECK,
                format!("{name} does not answer at {address}: {}", status.message()),
                format!("start {name}, or correct {setting}"),
            ),
        }
    }
    examine_keys(settings, report).await
}

async fn examine_keys(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let url: String = settings.section("auth.jwks_url")?;
    if url.is_empty() {
        return Ok(());
    }
    match keys(&url).await {
        Ok(0) => {
            report.fail(CHECK, format!("{url} lists no key: no access token is accepted"), "look at the log of account")
        }
        Ok(keys) => report.ok(CHECK, format!("{url} lists {keys} keys of access tokens")),
        Err(error) => report.fail(
            CHECK,
            format!("the keys of access tokens cannot be read at {url}: {error:#}"),
            "start account, or correct auth.jwks_url",
        ),
    }
    Ok(())
}

/// How many keys are listed there.
async fn keys(url: &str) -> anyhow::Result<usize> {
    let answer = crate::near()?.get(url).timeout(ANSWER_MAX).send().await?.error_for_status()?;
    let listed: serde_json::Value = answer.json().await?;
    Ok(listed["keys"].as_array().map_or(0, Vec::len))
}
