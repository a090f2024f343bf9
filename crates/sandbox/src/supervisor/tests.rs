//! Actions and restarts, with a server that starts in milliseconds: a shell.

use std::fs;
use std::path::Path;

use super::*;
use crate::process::Identity;

/// Ready when it has written its pid. Its data is the file `data`.
struct Shell {
    dir: PathBuf,
    /// How often it was started.
    starts: Arc<AtomicU32>,
    script: &'static str,
}

const WITH_CHILD: &str = "sleep 600 & echo $! >child; trap 'kill $(cat child); exit 0' TERM; echo $$ >ready; wait";

const ALONE: &str = "echo $$ >ready; exec sleep 600";

impl Recipe for Shell {
    const SERVER: Server = Server::Redis;
    const STOP_SIGNAL: Signal = Signal::SIGTERM;

    async fn prepare(&mut self, _files: &ProcessFiles) -> Result<()> {
        self.starts.fetch_add(1, Ordering::SeqCst);
        fs::create_dir_all(&self.dir)?;
        let _ = fs::remove_file(self.dir.join("ready"));
        Ok(())
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", self.script]).current_dir(&self.dir);
        Ok(command)
    }

    async fn is_ready(&mut self, pid: u32) -> bool {
        fs::read_to_string(self.dir.join("ready")).is_ok_and(|ready| ready.trim() == pid.to_string())
    }

    fn port(&self) -> u16 {
        7
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.clone()
    }
}

/// A supervisor at work in a folder of its own, which is removed at the end.
struct Site {
    folder: PathBuf,
    handle: Handle,
    starts: Arc<AtomicU32>,
    running: tokio::task::JoinHandle<()>,
}

impl Site {
    async fn start(name: &str, script: &'static str) -> Site {
        let (folder, starts) = (folder(name), Arc::new(AtomicU32::new(0)));
        let shell = Shell { dir: folder.join("data"), starts: Arc::clone(&starts), script };
        let (supervisor, handle) = Supervisor::start(shell, files(&folder)).await.unwrap();
        Site { folder, handle, starts, running: tokio::spawn(supervisor.run()) }
    }

    /// The server and its child.
    fn family(&self) -> [u32; 2] {
        let child = fs::read_to_string(self.folder.join("data/child")).unwrap();
        [self.handle.status.pid().unwrap(), child.trim().parse().unwrap()]
    }

    fn starts(&self) -> u32 {
        self.starts.load(Ordering::SeqCst)
    }

    /// `kill -9` by somebody else, seen by the supervisor.
    async fn dies(&self) {
        let pid = self.handle.status.pid().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
        self.until(|now| now != Some(pid)).await;
    }

    async fn until(&self, is_wanted: impl Fn(Option<u32>) -> bool) {
        while !is_wanted(self.handle.status.pid()) {
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn stop(self) {
        drop(self.handle);
        self.running.await.unwrap();
        fs::remove_dir_all(self.folder).unwrap();
    }
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("stampede-supervisor-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn files(folder: &Path) -> ProcessFiles {
    ProcessFiles { pid_file: folder.join("pid"), log_file: folder.join("log") }
}

fn is_alive(pid: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat"));
    state.is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
}

#[tokio::test]
async fn a_killed_server_stays_down_with_all_its_processes_until_it_is_restarted() {
    let site = Site::start("kill", WITH_CHILD).await;
    let family = site.family();
    assert!(family.into_iter().all(is_alive));
    site.handle.perform(Action::Kill).await.unwrap();
    assert!(!family.into_iter().any(is_alive));
    assert_eq!(site.handle.status.pid(), None);
    site.handle.perform(Action::Kill).await.unwrap();
    assert_eq!(site.starts(), 1);
    site.handle.perform(Action::Restart).await.unwrap();
    let [pid, child] = site.family();
    assert!(is_alive(pid) && is_alive(child));
    assert_eq!((site.handle.status.port(), site.starts()), (7, 2));
    site.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_the_data_and_wiping_removes_it() {
    let site = Site::start("wipe", WITH_CHILD).await;
    let data = site.folder.join("data/data");
    fs::write(&data, "kept").unwrap();
    site.handle.perform(Action::Restart).await.unwrap();
    assert!(data.exists());
    site.handle.perform(Action::Wipe).await.unwrap();
    assert!(!data.exists());
    assert!(site.handle.status.pid().is_some_and(is_alive));
    site.stop().await;
}

#[tokio::test]
async fn a_server_that_keeps_dying_is_left_down_until_it_is_restarted() {
    let site = Site::start("dying", ALONE).await;
    for restarts in 1..=RESTARTS_MAX {
        site.dies().await;
        site.until(|pid| pid.is_some()).await;
        assert_eq!(site.starts() as usize, 1 + restarts);
    }
    site.dies().await;
    // Answered when the supervisor has decided what to do about that death.
    site.handle.perform(Action::Kill).await.unwrap();
    assert_eq!(site.starts() as usize, 1 + RESTARTS_MAX);
    site.handle.perform(Action::Restart).await.unwrap();
    assert!(site.handle.status.pid().is_some_and(is_alive));
    site.dies().await;
    site.until(|pid| pid.is_some()).await;
    site.stop().await;
}

#[tokio::test]
async fn the_server_dies_when_the_last_handle_is_dropped() {
    let site = Site::start("dropped", WITH_CHILD).await;
    let (family, pid_file) = (site.family(), site.folder.join("pid"));
    assert!(Identity::read(&pid_file).is_some_and(Identity::is_alive));
    site.stop().await;
    assert!(!family.into_iter().any(is_alive));
}

#[tokio::test]
async fn actions_after_a_stop_are_refused() {
    let site = Site::start("stop", WITH_CHILD).await;
    let family = site.family();
    site.handle.perform(Action::Stop).await.unwrap();
    assert!(!is_alive(family[0]));
    let refused = site.handle.perform(Action::Restart).await.unwrap_err().to_string();
    assert!(refused.contains("the sandbox") && refused.contains("stopped"), "{refused}");
    site.stop().await;
}

#[tokio::test]
async fn a_start_that_fails_names_the_server_and_shows_its_last_lines() {
    let folder = folder("broken");
    let shell = Shell { dir: folder.join("data"), starts: Arc::default(), script: "echo out of order >&2; exit 3" };
    let error = Supervisor::start(shell, files(&folder)).await.err().unwrap();
    let error = format!("{error:#}");
    for part in ["cannot start redis", "exit status: 3", "out of order"] {
        assert!(error.contains(part), "{error}");
    }
    fs::remove_dir_all(folder).unwrap();
}
