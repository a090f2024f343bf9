//! Who Redis is and who we are: passwords, TLS, and what is told at start when they do not fit.

use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ErrorKind, IntoConnectionInfo, TlsCertificates,
};
use secrecy::ExposeSecret;

use super::{Redis, RedisSettings};
use crate::tls;

/// How long the start waits for the answer to the first PING. TLS is slow where the processors are busy.
const CHECK_MAX: Duration = Duration::from_secs(2);

/// A client for these settings. It connects later.
pub(super) fn client(settings: &RedisSettings) -> anyhow::Result<Client> {
    let read = |file: &str| (!file.is_empty()).then(|| std::fs::read(file)).transpose();
    let url = settings.url.expose_secret();
    let (root_cert, client_cert) = (read(&settings.ca_file)?, read(&settings.cert_file)?);
    let client_tls = match (client_cert, read(&settings.key_file)?) {
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
        _ => None,
    };
    if root_cert.is_none() && client_tls.is_none() {
        return Ok(Client::open(url)?);
    }
    Ok(Client::build_with_tls(url, TlsCertificates { client_tls, root_cert })?)
}

/// What is wrong with the address of Redis and with the files for TLS.
pub(crate) fn problems(settings: &RedisSettings) -> Vec<String> {
    let RedisSettings { url, ca_file, cert_file, key_file, .. } = settings;
    let url = url.expose_secret();
    let mut problems = Vec::new();
    if url.ends_with("#insecure") {
        problems.push(
            "redis.url ends with #insecure, but the server's certificate is always checked; remove it".to_owned(),
        );
    } else if url.into_connection_info().is_err() {
        let form = "redis://user:password@host:port/0, and special characters in the user and the password as %40";
        problems.push(format!("redis.url is no address of Redis: write {form}"));
    }
    if !url.starts_with("rediss://") && [ca_file, cert_file, key_file].iter().any(|file| !file.is_empty()) {
        problems.push("redis.ca_file, redis.cert_file and redis.key_file need a redis.url with rediss://".to_owned());
    }
    problems.extend(tls::file_problems("redis", [ca_file, cert_file, key_file]));
    problems
}

impl Redis {
    /// Fails when Redis is not who it should be, or does not let us in: no waiting mends that. A Redis that is away is no
    /// error, since nothing depends on it.
    pub async fn check_access(&self) -> anyhow::Result<()> {
        let Some(reason) = self.refusal().await else { return Ok(()) };
        let address = self.client.get_connection_info().addr();
        let settings = match address {
            ConnectionAddr::TcpTls { .. } => "redis.url, redis.ca_file, redis.cert_file and redis.key_file",
            _ => "redis.url",
        };
        anyhow::bail!("Redis at {address} cannot be used: {reason}; see {settings}")
    }

    async fn refusal(&self) -> Option<String> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CHECK_MAX)).set_response_timeout(Some(CHECK_MAX));
        let ping = async {
            let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
            connection.req_packed_command(redis::Cmd::new().arg("PING")).await
        };
        let error = ping.await.err()?;
        if let Some(failure) = tls::failure(&error) {
            return Some(format!("TLS fails: {failure}"));
        }
        match error.code() {
            Some("NOAUTH") => return Some("it asks for a password, and there is none in the address".to_owned()),
            Some("WRONGPASS") => return Some("it does not accept the user and the password".to_owned()),
            _ => {}
        }
        match error.kind() {
            ErrorKind::AuthenticationFailed => Some("it does not accept the user and the password".to_owned()),
            _ => None,
        }
    }
}
