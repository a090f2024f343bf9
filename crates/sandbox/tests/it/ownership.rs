//! One live owner for each folder, and nothing left of a dead one.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sandbox::{Options, Sandbox};
use tokio::time::sleep;

use crate::support::*;

#[tokio::test]
#[ignore = "soak: the folder of a living owner is refused after 3 s, since the owner may be dying"]
async fn a_folder_has_one_owner_at_a_time() {
    let options = redis_only("owner");
    let sandbox = Sandbox::start(options.clone()).await.unwrap();
    let refusal = Sandbox::start(options.clone()).await.err().unwrap().to_string();
    assert!(refusal.contains(&format!("in use by another sandbox (process {})", std::process::id())), "{refusal}");
    assert_eq!(redis(&sandbox.redis_url(), "PING"), "+PONG");
    drop(sandbox);
    Sandbox::start(options).await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn dropping_kills_the_servers_and_fresh_forgets() {
    let options = Options { ephemeral: false, ..redis_only("drop") };
    let sandbox = Sandbox::start(options.clone()).await.unwrap();
    let pid = sandbox.describe()[1].pid.unwrap();
    drop(sandbox);
    assert!(!is_alive(pid));
    let mark = options.data_dir.join("redis/mark");
    std::fs::write(&mark, "").unwrap();
    let stranger = options.data_dir.join("not-ours");
    std::fs::write(&stranger, "").unwrap();
    Sandbox::start(Options { fresh: true, ephemeral: true, ..options }).await.unwrap().stop().await.unwrap();
    assert!(!mark.exists());
    assert!(stranger.exists(), "only what the sandbox made may be removed");
    std::fs::remove_dir_all(stranger.parent().unwrap()).unwrap();
}

#[tokio::test]
async fn a_sandbox_outlives_the_runtime_that_started_it() {
    let options = redis_only("runtime");
    let sandbox = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Sandbox::start(options)).unwrap()
    })
    .join()
    .unwrap();
    sandbox.restart(sandbox::Server::Redis).await.unwrap();
    assert_eq!(redis(&sandbox.redis_url(), "PING"), "+PONG");
}

#[tokio::test]
async fn the_servers_of_a_killed_owner_die_with_it() {
    let folder = folder("orphan");
    let (mut owner, pid) = spawn_owner(&folder).await;
    owner.kill().unwrap();
    owner.wait().unwrap();
    eventually("the server dies with its owner", || (!is_alive(pid)).then_some(())).await;
    let options = Options { data_dir: folder, ..redis_only("orphan-unused") };
    Sandbox::start(options).await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn a_start_in_the_instant_of_a_kill_waits_for_what_the_watchdog_is_killing() {
    let folder = folder("instant");
    start_in_the_instant_of_a_kill(&folder).await;
}

/// Which of the two is quicker is a matter of chance.
#[tokio::test]
#[ignore = "soak: twenty kills"]
async fn twenty_starts_in_the_instant_of_a_kill_wait_for_what_the_watchdog_is_killing() {
    let folder = folder("instants");
    for _ in 0..20 {
        start_in_the_instant_of_a_kill(&folder).await;
    }
}

async fn start_in_the_instant_of_a_kill(folder: &Path) {
    let (mut owner, pid) = spawn_owner(folder).await;
    owner.kill().unwrap();
    owner.wait().unwrap();
    let options = Options { data_dir: folder.to_owned(), ..redis_only("instant-unused") };
    let sandbox = Sandbox::start(options).await.unwrap();
    assert!(!is_alive(pid));
    sandbox.stop().await.unwrap();
}

/// The parent that inherits a killed server may take its time to reap it, and until then its pid is in the process table.
#[tokio::test]
#[ignore = "soak: starts PostgreSQL twice"]
async fn a_dead_postgres_that_nobody_has_reaped_does_not_keep_the_next_from_starting() {
    let options = Options { ephemeral: false, ..postgres_only("zombie") };
    let note = options.data_dir.join("postgres/data/postmaster.pid");
    let sandbox = Sandbox::start(options.clone()).await.unwrap();
    let left = std::fs::read_to_string(&note).unwrap();
    sandbox.stop().await.unwrap();
    // PostgreSQL minds only processes of its own user.
    let account = std::fs::metadata(note.parent().unwrap()).unwrap().uid();
    let mut zombie = Command::new("sleep").arg("60").uid(account).spawn().unwrap();
    zombie.kill().unwrap();
    let (_, rest) = left.split_once('\n').unwrap();
    std::fs::write(&note, format!("{}\n{rest}", zombie.id())).unwrap();

    let options = Options { ephemeral: true, ..options };
    let sandbox = Sandbox::start(options).await.unwrap();
    assert_eq!(sql(&sandbox.postgres_url(), "select 1"), "1");
    sandbox.stop().await.unwrap();
    zombie.wait().unwrap();
}

#[tokio::test]
async fn the_next_start_kills_what_a_killed_owner_and_its_watchdog_left() {
    let folder = folder("leftover");
    let (mut owner, pid) = spawn_owner(&folder).await;
    let watchdog = children_of(owner.id()).into_iter().find(|child| *child != pid).unwrap();
    for process in [watchdog, owner.id()] {
        kill_9(process);
    }
    owner.wait().unwrap();
    assert!(is_alive(pid), "without a watchdog the server is left behind");
    let options = Options { data_dir: folder, ..redis_only("leftover-unused") };
    let sandbox = Sandbox::start(options).await.unwrap();
    assert!(!is_alive(pid));
    sandbox.stop().await.unwrap();
}

#[tokio::test]
async fn a_folder_that_the_servers_cannot_enter_is_refused_by_name() {
    let closed = folder("closed");
    std::fs::create_dir_all(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    let options = Options { data_dir: closed.join("below"), ..options("closed-unused") };
    let reachable = sandbox::reachable_data_dir(&options.data_dir);
    if nix::unistd::geteuid().is_root() {
        let refusal = Sandbox::start(options).await.err().unwrap().to_string();
        assert!(refusal.contains(&format!("may not enter {} (mode 0700)", closed.display())), "{refusal}");
        assert!(reachable.starts_with("/var/lib/stampede"));
    } else {
        assert_eq!(reachable, options.data_dir);
    }
    std::fs::remove_dir_all(closed).unwrap();
}

/// Not a test of its own: the process that [`spawn_owner`] starts and others kill.
#[tokio::test]
async fn owner() {
    let Some(data_dir) = std::env::var_os("SANDBOX_TEST_DATA_DIR") else { return };
    let options = Options { data_dir: data_dir.into(), ephemeral: false, ..redis_only("owner-unused") };
    let _sandbox = Sandbox::start(options).await.unwrap();
    sleep(Duration::from_secs(60)).await;
}

async fn spawn_owner(folder: &Path) -> (Child, u32) {
    let owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ownership::owner"])
        .env("SANDBOX_TEST_DATA_DIR", folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = eventually("the owner's Redis runs", || {
        let note = std::fs::read_to_string(folder.join("run/redis.pid")).ok()?;
        note.split_whitespace().next().map(|pid| pid.parse().unwrap())
    });
    (owner, pid.await)
}

fn children_of(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split_whitespace().collect();
            fields[1] == parent.to_string()
        })
    })
    .collect()
}
