//! The load generator's process, as the benchmark sees it: started, told to go, and read.

use std::process::Stdio;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::load::{Job, Outcome, READY};

/// A process that has all its connections open and waits for the start.
pub struct Generator {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Generator {
    pub async fn start(job: &Job) -> anyhow::Result<Generator> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bench", "load"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting the load generator")?;
        let input = child.stdin.take().context("the load generator has no standard input")?;
        let output = child.stdout.take().context("the load generator has no standard output")?;
        let mut generator = Generator { child, input, output: BufReader::new(output).lines() };
        generator.tell(&serde_json::to_string(job)?).await?;
        match generator.output.next_line().await? {
            Some(line) if line == READY => Ok(generator),
            other => bail!("the load generator is not ready: {other:?}"),
        }
    }

    /// Returns when the load is over and the process has ended.
    pub async fn go(mut self) -> anyhow::Result<Outcome> {
        self.tell("go").await?;
        let line = self.output.next_line().await?.context("the load generator ended without an outcome")?;
        self.child.wait().await?;
        serde_json::from_str(&line).with_context(|| format!("the load generator's outcome {line:?}"))
    }

    async fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        self.input.write_all(line.as_bytes()).await?;
        self.input.write_all(b"\n").await?;
        Ok(self.input.flush().await?)
    }
}
