//! What becomes of a command when something around it goes: its reader, its parent, its database, its port, its patience.

use std::net::TcpListener;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::eventually;
use tokio::process::Command;

use super::{Place, Running};
use crate::site::{EXECUTABLE, system};

impl Running {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().and_then(|pid| i32::try_from(pid).ok()).expect("it runs"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_reader_is_gone_ends_quietly() {
    let place = Place::new("pipes").await;
    for line in ["openapi", "config", "completions bash"] {
        let mut command = place.command(line);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        drop(child.stdout.take());
        let ended = child.wait_with_output().await.expect("it ends");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.success() && said.is_empty(), "{line}: {} {said}", ended.status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shells_can_complete_the_commands_and_the_version_names_a_commit() {
    let place = Place::new("completions").await;
    for shell in ["bash", "zsh", "fish"] {
        let line = format!("completions {shell}");
        place.stampede(&line).await.expect(0, &["rush", "audit", "data-dir"]);
    }
    let version = place.stampede("--version").await.expect(0, &["stampede 0.0.0 ("]).out;
    assert!(version.trim_end().ends_with(')') && !version.contains("()"), "{version}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_waits_for_its_database_by_name_and_can_be_stopped_meanwhile() {
    let place = Place::new("waiting").await.set("postgres.url", "postgres://stampede:hunter2@127.0.0.1:1/stampede");
    let mut waiting = Running::start(place.command("order"));
    let said = waiting.until("PostgreSQL at 127.0.0.1:1 does not answer yet").await;
    assert!(!said.contains("hunter2"), "{said}");
    assert!(waiting.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_drains_closes_connections_and_ends_at_a_second_signal() {
    let address = format!("127.0.0.1:{}", testkit::servers::port());
    let place = Place::new("impatience").await.set("host.drain_seconds", "3600").set("host.http_listen", &address);
    let mut draining = Running::start(place.command("all"));
    draining.until("Serving").await;
    let pid = draining.pid();
    kill(pid, Signal::SIGINT).expect("it is ours");
    draining.until("Draining").await;
    let ready = reqwest::get(format!("http://{address}/readyz")).await.expect("it still answers");
    assert_eq!((ready.status().as_u16(), ready.headers()["connection"].to_str().ok()), (503, Some("close")));
    let served = reqwest::get(format!("http://{address}/api/v1/products")).await.expect("it still serves");
    assert_eq!((served.status().as_u16(), served.headers()["connection"].to_str().ok()), (200, Some("close")));
    assert_eq!(draining.terminate().await.code(), Some(1), "it says that it was cut off");
}

/// The kernel tells it, so it makes no difference how the parent ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_ends_with_the_process_that_started_it() {
    let place = Place::new("orphans").await;
    let mut shell = Command::new("sh");
    shell.args(["-c", "\"$0\" --parent $$ all & echo pid=$!. ; wait", EXECUTABLE]);
    shell.envs(place.environment.iter().map(|(key, value)| (key, value))).kill_on_drop(true);
    let mut parent = Running::start(shell);
    let said = parent.until("Serving").await;
    let pid = said.split_once("pid=").and_then(|(_, rest)| rest.split_once('.')).expect("it says its process").0;
    kill(parent.pid(), Signal::SIGKILL).expect("it is ours");
    let gone = format!("process {pid} ends");
    eventually(&gone, async || {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    })
    .await;
    let refused = place.stampede("--parent 1 all").await;
    refused.expect(1, &["the process 1 that started this one is gone"]);
}

/// Whether one process or many: the servers' watchdog removes what `dev` itself would have removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ephemeral_dev_that_is_killed_leaves_no_folder_behind() {
    for (name, split) in [("killed", ""), ("killed_split", " --split")] {
        let place = Place::new(name).await;
        let folder = place.data.join("site");
        let line = format!("dev --ephemeral --port {} --data-dir {{data}}/site{split}", testkit::servers::port());
        let mut dev = Running::start(place.command(&line));
        dev.until("Ctrl-C stops everything").await;
        assert!(folder.join("site.json").exists());
        kill(dev.pid(), Signal::SIGKILL).expect("it is ours");
        eventually(&format!("{} is gone", folder.display()), async || (!folder.exists()).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dev_starts_nothing_on_a_port_of_somebody_else_or_in_a_folder_that_cannot_be() {
    let place = Place::new("refused").await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = taken.local_addr().expect("it is bound").port();
    for split in ["", " --split"] {
        let line = format!("dev --ephemeral --port {port} --data-dir {{data}}/new{split}");
        place.stampede(&line).await.expect(1, &[&format!("listening on 127.0.0.1:{port}"), "--port"]);
    }
    std::fs::write(place.data.join("file"), "").expect("it can be written");
    let port = testkit::servers::port();
    for (folder, why) in [("a,b", "because of ','"), ("자료", "because of '자'"), ("file", "is no folder")] {
        let line = format!("dev --port {port} --data-dir {{data}}/{folder}");
        place.stampede(&line).await.expect(1, &[why]);
    }
    let made: Vec<_> = std::fs::read_dir(&place.data).expect("it is there").collect();
    assert_eq!(made.len(), 1, "nothing was made: {made:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_of_the_environment_is_not_asked_for_what_is_near() {
    let site = system().start().await;
    let place = Place::new("proxies").await;
    let mut command = place.command(&format!("healthcheck {}/readyz", site.api));
    for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env(variable, "http://127.0.0.1:1");
    }
    let output = command.output().await.expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
