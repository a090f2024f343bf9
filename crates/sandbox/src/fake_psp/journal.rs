//! The book of money on disk: a line of JSON for each entry, on disk before anybody hears of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::book::Entry;

const FILE: &str = "book.jsonl";

/// Entries that wait for the disk. More callers wait for a place.
const WAITING_MAX: usize = 1_024;

/// Entries that share one fsync at most.
const BATCH_MAX: usize = 256;

/// A disk that takes longer than this to finish is not waited for at the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

enum Request {
    Append(String, oneshot::Sender<Result<(), Arc<io::Error>>>),
    Close(oneshot::Sender<()>),
}

/// The writing end; clones write to the same file.
#[derive(Clone)]
pub(super) struct Journal {
    requests: mpsc::Sender<Request>,
}

impl Journal {
    /// Opens the journal of a folder, and reads what is in it.
    ///
    /// A last line without an end was never answered for and is cut off; any other that cannot be read is an error.
    pub(super) fn open(folder: &Path) -> Result<(Journal, Vec<Entry>)> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let path = folder.join(FILE);
        let cannot_open = || format!("cannot open {}", path.display());
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(&path).with_context(cannot_open)?;
        File::open(folder)?.sync_all()?;
        let text = io::read_to_string(&mut file).with_context(cannot_open)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            file.set_len(whole as u64)?;
            file.sync_all()?;
        }
        let mut entries = Vec::new();
        for (number, line) in text[..whole].lines().enumerate() {
            match serde_json::from_str(line) {
                Ok(entry) => entries.push(entry),
                Err(error) => bail!("{}:{}: {error}", path.display(), number + 1),
            }
        }
        let (requests, taken) = mpsc::channel(WAITING_MAX);
        std::thread::Builder::new().name("fake-psp-book".to_owned()).spawn(move || write(file, taken))?;
        Ok((Journal { requests }, entries))
    }

    /// Returns when the entry is on disk. After an error nothing can be appended any more.
    pub(super) async fn append(&self, entry: &Entry) -> Result<()> {
        let mut line = serde_json::to_string(entry)?;
        line.push('\n');
        let (reply, written) = oneshot::channel();
        self.requests.send(Request::Append(line, reply)).await.context("the book is closed")?;
        written.await.context("the book was closed meanwhile")?.context("cannot write the book")
    }

    /// Finishes what is being written; later entries are refused.
    pub(super) async fn close(self) {
        let (reply, closed) = oneshot::channel();
        let close = async {
            if self.requests.send(Request::Close(reply)).await.is_ok() {
                // Its end is the message.
                let _ = closed.await;
            }
        };
        if timeout(CLOSE_LIMIT, close).await.is_err() {
            tracing::warn!(
                "The book of the fake payment provider is not on disk after {CLOSE_LIMIT:?}; its last entries may be lost"
            );
        }
    }
}

/// All that wait share one fsync, so that a sale is not limited to one payment for each fsync.
fn write(mut file: File, mut requests: mpsc::Receiver<Request>) {
    while let Some(request) = requests.blocking_recv() {
        let mut lines = String::new();
        let mut replies = Vec::new();
        let mut closing = None;
        let mut next = Some(request);
        while let Some(request) = next {
            match request {
                Request::Append(line, reply) => {
                    lines.push_str(&line);
                    replies.push(reply);
                }
                Request::Close(reply) => {
                    closing = Some(reply);
                    break;
                }
            }
            next = if replies.len() < BATCH_MAX { requests.try_recv().ok() } else { None };
        }
        let written = file.write_all(lines.as_bytes()).and_then(|()| file.sync_data()).map_err(Arc::new);
        for reply in replies {
            // The caller may have gone; the entry stays.
            let _ = reply.send(written.clone());
        }
        if let Some(closing) = closing {
            return drop(closing);
        }
        if let Err(error) = written {
            // A line may be half written: one more after it would make both unreadable.
            return tracing::error!(%error, "The book of the fake payment provider cannot be written and is closed; payments answer 500 from now on");
        }
    }
}
