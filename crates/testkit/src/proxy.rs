//! A TCP proxy in front of a server that tests share: it can cut the line or fall silent, and the server never notices.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Open,
    /// Connections are closed, and new ones too.
    Cut,
    /// Like [`Line::Cut`], and the server is told at once that nobody reads its answers.
    Reset,
    /// Connections stay open, and nothing passes.
    Silent,
}

/// Forwards connections to one server. Ends when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    target: String,
    line: Arc<watch::Sender<Line>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of `url`'s host and port; [`Proxy::url`] is the way through it.
    pub async fn to(url: &str) -> Proxy {
        let target = authority(url).to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let line = Arc::new(watch::Sender::new(Line::Open));
        let (server, lines) = (target.clone(), line.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, server.clone(), lines.subscribe()));
            }
        });
        Proxy { address, target, line, accepting }
    }

    /// `url` with the proxy in place of its server.
    pub fn url(&self, url: &str) -> String {
        url.replace(&self.target, &self.address.to_string())
    }

    /// Closes every connection; new ones are closed at once.
    pub fn cut(&self) {
        self.line.send_replace(Line::Cut);
    }

    /// Resets every connection to the server, which then cuts off the requests under way; new ones are closed at once.
    /// Returns when it is done.
    pub async fn reset(&self) {
        self.line.send_replace(Line::Reset);
        self.line.closed().await;
    }

    /// Nothing passes any more, in either direction; connections stay open. Bytes under way may be lost: cut before restoring.
    pub fn fall_silent(&self) {
        self.line.send_replace(Line::Silent);
    }

    pub fn restore(&self) {
        self.line.send_replace(Line::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn forward(mut client: TcpStream, server: String, mut line: watch::Receiver<Line>) {
    loop {
        let now = *line.borrow_and_update();
        match now {
            Line::Cut | Line::Reset => return,
            Line::Silent => drop(line.changed().await),
            Line::Open => break,
        }
    }
    let Ok(mut server) = TcpStream::connect(&server).await else { return };
    loop {
        let now = *line.borrow_and_update();
        match now {
            Line::Cut => return,
            Line::Reset => return server.set_zero_linger().expect("it is a socket"),
            Line::Silent => drop(line.changed().await),
            Line::Open => tokio::select! {
                _ = io::copy_bidirectional(&mut client, &mut server) => return,
                _ = line.changed() => {}
            },
        }
    }
}

/// `host:port` of a URL.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    rest.split(['/', '?']).next().unwrap_or(rest)
}
