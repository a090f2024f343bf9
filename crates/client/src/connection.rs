//! One HTTP/1.1 connection that stays open: for load generators, whose processor time counts.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use uuid::Uuid;

/// Far beyond every deadline of the services: a server that has not answered by then never will.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// More than an answer to an order has.
const ANSWER_BYTES: usize = 4096;

pub struct Connection {
    /// `host:port`.
    address: String,
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
    /// Where in `answer` its body begins.
    body_at: usize,
}

impl Connection {
    pub async fn open(address: &str) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let (request, answer) = (Vec::new(), Vec::with_capacity(ANSWER_BYTES));
        Ok(Connection { address: address.to_owned(), stream, request, answer, body_at: 0 })
    }

    /// Returns the status, when the whole answer is there.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<u16> {
        self.request.clear();
        write!(self.request, "GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.address)?;
        self.ask().await
    }

    /// Looks at a ticket of a waiting room, as its owner. Returns the status.
    pub async fn get_ticket(&mut self, path: &str, token: &str, ticket: &str) -> anyhow::Result<u16> {
        self.request.clear();
        write!(
            self.request,
            "GET {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\nx-queue-ticket: {ticket}\r\n\r\n",
            self.address
        )?;
        self.ask().await
    }

    /// Posts JSON, where there is a token with it and a key that was never used. Returns the status.
    pub async fn post(&mut self, path: &str, token: Option<&str>, body: &str) -> anyhow::Result<u16> {
        write_post(&mut self.request, &self.address, path, token, body)?;
        self.ask().await
    }

    /// The body of the last answer.
    pub fn body(&self) -> &[u8] {
        &self.answer[self.body_at..]
    }

    /// The same; null if it is no JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(self.body()).unwrap_or_default()
    }

    async fn ask(&mut self) -> anyhow::Result<u16> {
        let asking = async {
            self.stream.write_all(&self.request).await?;
            self.answer.clear();
            loop {
                let received = self.stream.read_buf(&mut self.answer).await?;
                ensure!(received > 0, "the server closed the connection");
                if let Some(head) = head(&self.answer)?
                    && self.answer.len() >= head.body_at + head.body_bytes
                {
                    self.body_at = head.body_at;
                    return Ok(head.status);
                }
            }
        };
        let asked = timeout(ANSWER_TIMEOUT, asking).await.map_err(Into::into).flatten();
        asked.with_context(|| format!("no answer from {}", self.address))
    }
}

fn write_post(request: &mut Vec<u8>, host: &str, path: &str, token: Option<&str>, body: &str) -> std::io::Result<()> {
    request.clear();
    write!(request, "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n")?;
    if let Some(token) = token {
        write!(request, "authorization: Bearer {token}\r\nidempotency-key: {}\r\n", Uuid::new_v4())?;
    }
    write!(request, "content-length: {}\r\n\r\n{body}", body.len())
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    body_at: usize,
    body_bytes: usize,
}

/// The head of an HTTP/1.1 answer. None: it is not complete.
fn head(answer: &[u8]) -> anyhow::Result<Option<Head>> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&answer[..end])?;
    let mut lines = text.split("\r\n");
    let status =
        lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).context("an answer without a status")?;
    let length =
        lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let (_, length) = length.context("an answer without a length")?;
    Ok(Some(Head { status, body_at: end + 4, body_bytes: length.trim().parse()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_complete() {
        let answer = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nlocation: /x:y\r\n\r\n{}";
        let complete = Head { status: 201, body_at: answer.len() - 2, body_bytes: 2 };
        assert_eq!(head(answer).unwrap(), Some(complete));
        for cut in 0..answer.len() - 2 {
            assert_eq!(head(&answer[..cut]).unwrap(), None, "{cut}");
        }
    }

    #[test]
    fn an_answer_without_status_or_length_is_an_error() {
        assert!(head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(head(b"nonsense\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(head(b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n").is_err());
    }

    #[test]
    fn a_request_says_how_long_it_is() {
        let mut request = b"the last one".to_vec();
        write_post(&mut request, "h:1", "/p", Some("t"), "{\"a\":1}").unwrap();
        let text = String::from_utf8(request).unwrap();
        assert!(text.starts_with("POST /p HTTP/1.1\r\nhost: h:1\r\n"), "{text}");
        assert!(text.contains("authorization: Bearer t\r\nidempotency-key: "), "{text}");
        assert!(text.ends_with("content-length: 7\r\n\r\n{\"a\":1}"), "{text}");
    }
}
