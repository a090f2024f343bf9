//! A clock of PostgreSQL that a test sets.

use std::net::SocketAddr;

use chrono::{DateTime, SecondsFormat, Utc};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::site::Site;

/// PostgreSQL with a clock that stands still, for a replica that reaches it through [`StoppedClock::url`].
///
/// The service asks for `clock_timestamp()` without a schema. So the test makes a function of that name in the service's own
/// schema, and the sessions of this replica find it before PostgreSQL's own.
pub struct StoppedClock {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl StoppedClock {
    /// The clock of `site`'s database, stopped at `at`.
    pub async fn of(site: &Site, at: DateTime<Utc>) -> StoppedClock {
        let server = authority(&site.servers.postgres_url()).to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, server.clone()));
            }
        });
        let clock = StoppedClock { address, accepting };
        clock.set(site, at).await;
        clock
    }

    pub async fn set(&self, site: &Site, at: DateTime<Utc>) {
        let at = at.to_rfc3339_opts(SecondsFormat::Micros, true);
        let stopped = format!(
            "create or replace function {{coupon}}.clock_timestamp() returns timestamptz language sql
                 as $$ select '{at}'::timestamptz $$"
        );
        site.execute(&stopped).await;
    }

    pub fn url(&self, site: &Site) -> String {
        let url = site.servers.postgres_url();
        url.replace(authority(&url), &self.address.to_string())
    }
}

impl Drop for StoppedClock {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// `host:port` of a URL.
fn authority(url: &str) -> &str {
    url.split(['@', '/']).find(|part| part.starts_with("127.0.0.1:")).unwrap()
}

/// Code of the request for TLS, which comes before the first message; the servers of tests refuse it.
const TLS_REQUEST: i32 = 80_877_103;

/// Forwards one connection. Its first message sets the session's `search_path`, where PostgreSQL's own functions come last now.
async fn forward(mut client: TcpStream, server: String) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    loop {
        let length = client.read_i32().await?;
        let mut message = vec![0; usize::try_from(length - 4).unwrap()];
        client.read_exact(&mut message).await?;
        let is_first = !message.starts_with(&TLS_REQUEST.to_be_bytes());
        if is_first {
            let text = String::from_utf8(message).unwrap();
            message = text.replacen(" -cjit=", ",pg_catalog -cjit=", 1).into_bytes();
        }
        server.write_i32(i32::try_from(message.len()).unwrap() + 4).await?;
        server.write_all(&message).await?;
        if is_first {
            copy_bidirectional(&mut client, &mut server).await?;
            return Ok(());
        }
        client.write_u8(server.read_u8().await?).await?;
    }
}
