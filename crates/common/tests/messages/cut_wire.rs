//! `CutWire`: a TCP proxy in front of a broker that can stop passing bytes on while all connections stay open.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes connections on to a broker.
pub struct CutWire {
    listener: Option<TcpListener>,
    port: u16,
    /// How often it was cut. A connection that is older than a cut passes nothing on.
    cuts: watch::Sender<u32>,
}

impl CutWire {
    pub async fn listen() -> CutWire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        CutWire { listener: Some(listener), port, cuts: watch::Sender::new(0) }
    }

    /// What clients connect to.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn connect_to(&mut self, broker: String) {
        let (listener, cuts) = (self.listener.take().unwrap(), self.cuts.subscribe());
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let Ok(server) = TcpStream::connect(&broker).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                tokio::spawn(pass(from_client, to_server, cuts.clone()));
                tokio::spawn(pass(from_server, to_client, cuts.clone()));
            }
        });
    }

    /// From now on nothing passes on the connections that there are, and they stay open. New ones work.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut cuts: watch::Receiver<u32>) {
    cuts.mark_unchanged();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = tokio::select! {
            biased;
            // As long as the test runs, and so does the connection.
            _ = cuts.changed() => return std::future::pending().await,
            read = from.read(&mut buffer) => read,
        };
        let Ok(1..) = read else { return };
        if to.write_all(&buffer[..read.unwrap()]).await.is_err() {
            return;
        }
    }
}
