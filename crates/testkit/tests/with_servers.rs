//! `with-servers`: the command gets the addresses, its exit code comes back, and no server outlives it.
//!
//! Only Redis is started here, which takes milliseconds; the environment names the other two servers.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use testkit::{eventually, servers};

/// Prints the pid of Redis, then runs `then`.
fn with_servers(then: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_with-servers"));
    let [postgres, redis, kafka] = servers::ENVIRONMENT;
    let tell_pid = format!(
        "port=${{{redis}##*:}}; exec 3<>/dev/tcp/127.0.0.1/${{port%/0}}; printf 'INFO server\\r\\nQUIT\\r\\n' >&3; \
         sed -n 's/^process_id:\\([0-9]*\\).*/\\1/p' <&3; exec 3>&-; {then}"
    );
    command.args(["bash", "-c", &tell_pid]).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.env(postgres, "127.0.0.1:1").env(kafka, "127.0.0.1:1").env_remove(redis);
    command
}

/// Its Redis answers, and its command runs.
struct Running {
    child: Child,
    redis: i32,
    output: BufReader<std::process::ChildStdout>,
}

fn start(mut command: Command) -> Running {
    let mut child = command.spawn().expect("it starts");
    let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut line = String::new();
    output.read_line(&mut line).expect("it is text");
    let redis = line.trim().parse().expect("Redis tells its pid");
    assert!(is_alive(redis));
    Running { child, redis, output }
}

fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").expect("the kernel writes it").1.starts_with('Z'))
}

fn signal(process: &Child, signal: Signal) {
    kill(pid(process), signal).expect("it is ours");
}

fn pid(process: &Child) -> Pid {
    Pid::from_raw(process.id().cast_signed())
}

#[test]
fn the_exit_code_is_the_command_s() {
    for (then, code) in [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 128 + 9)] {
        let mut running = start(with_servers(then));
        assert_eq!(running.child.wait().expect("it ends").code(), Some(code), "{then}");
        assert!(!is_alive(running.redis), "Redis outlives the command `{then}`");
    }
}

#[test]
fn a_command_that_cannot_start_is_named() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_with-servers"));
    command.arg("no-such-program").envs(servers::ENVIRONMENT.map(|name| (name, "127.0.0.1:1")));
    let output = command.output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("cannot start no-such-program"), "{error}");
}

#[test]
fn a_request_to_end_is_passed_on_and_the_command_decides() {
    let mut running = start(with_servers("trap 'echo told; exit 3' TERM; echo ready; while :; do sleep 0.05; done"));
    let mut line = String::new();
    running.output.read_line(&mut line).expect("it is text");
    assert_eq!(line, "ready\n");
    signal(&running.child, Signal::SIGTERM);
    assert_eq!(running.child.wait().expect("it ends").code(), Some(3));
    let mut rest = String::new();
    running.output.read_to_string(&mut rest).expect("it is text");
    assert_eq!(rest, "told\n");
    assert!(!is_alive(running.redis), "Redis outlives the command");
}

/// A terminal signals the whole group of processes.
#[test]
fn ctrl_c_ends_the_command_and_then_the_servers() {
    let mut command = with_servers("trap 'exit 5' INT; echo ready; while :; do sleep 0.05; done");
    command.process_group(0);
    let mut running = start(command);
    let mut line = String::new();
    running.output.read_line(&mut line).expect("it is text");
    killpg(pid(&running.child), Signal::SIGINT).expect("it is ours");
    assert_eq!(running.child.wait().expect("it ends").code(), Some(5));
    assert!(!is_alive(running.redis), "Redis outlives the command");
}

#[tokio::test]
async fn the_servers_end_when_it_is_killed() {
    // The command outlives it until its standard input ends, with this test.
    let mut running = start(with_servers("read -r _"));
    let _input = running.child.stdin.take();
    signal(&running.child, Signal::SIGKILL);
    running.child.wait().expect("it ends");
    eventually("Redis ends", async || (!is_alive(running.redis)).then_some(())).await;
}
