//! Reading a stream of server-sent events, frame by frame.

use reqwest::{RequestBuilder, Response};
use serde_json::Value;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Empty where it has none.
    pub id: String,
    pub kind: String,
    pub data: Value,
}

/// An open stream. Dropping it ends the connection.
pub struct Stream {
    response: Response,
    text: String,
    /// The last hint when to come back.
    pub retry_ms: Option<u32>,
}

impl Stream {
    /// Fails unless the answer is a stream.
    pub async fn open(request: RequestBuilder) -> Stream {
        let response = request.send().await.expect("the server answers");
        assert_eq!(response.status(), 200);
        Stream::of(response)
    }

    pub fn of(response: Response) -> Stream {
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Stream { response, text: String::new(), retry_ms: None }
    }

    /// The next event; comments are passed over. None: the stream has ended.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            let Some((block, rest)) = self.text.split_once("\n\n") else {
                let chunk = self.response.chunk().await.expect("the stream goes on, or ends as it should")?;
                self.text.push_str(std::str::from_utf8(&chunk).expect("frames are text"));
                continue;
            };
            let member =
                |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
            let (id, kind, data, retry) = (member("id: "), member("event: "), member("data: "), member("retry: "));
            self.retry_ms = retry.parse().ok().or(self.retry_ms);
            self.text = rest.to_owned();
            if !kind.is_empty() {
                return Some(Frame { id, kind, data: serde_json::from_str(&data).expect("data is JSON") });
            }
        }
    }
}
