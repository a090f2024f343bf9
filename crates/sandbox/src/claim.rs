//! One live owner for each data folder: the lock, the leftovers of a dead owner, and the watchdog that leaves none.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{Identity, wait_gone};

/// Waits until the pipe from its parent closes, which it does however the parent ends, and kills whatever the pid
/// files still name, also those of folders in this one: their own watchdogs come too late where the folder is removed. PostgreSQL's backends are children of the postmaster and go with it. The files stay: whoever starts
/// next has to wait for what they name.
///
/// Arguments: the folder of the pid files, then what to remove afterwards.
const WATCHDOG: &str = r#"
read -r _
for file in "$1"/*.pid "${1%/run}"/*/run/*.pid; do
    [ -e "$file" ] || continue
    read -r pid ticks <"$file" || continue
    read -r stat <"/proc/$pid/stat" || continue
    fields=${stat##*) }
    # shellcheck disable=SC2086
    [ "$(set -- $fields; echo "${20}")" = "$ticks" ] || continue
    kill -s STOP "$pid"
    # shellcheck disable=SC2046
    kill -s KILL "$pid" $(cat "/proc/$pid/task/"*/children)
done
data_dir=${1%/run}
shift
[ $# -gt 0 ] || exit 0
# The dying may still write for a moment.
for _ in 1 2 3; do
    rm -rf -- "$@" && break
    sleep 1
done
rm -f "$data_dir/lock"
rmdir "$data_dir"
"#;

/// The exclusive use of a data folder by this process. Ends when dropped, or with the process.
pub(crate) struct Claim {
    lock: File,
    watchdog: Child,
    run_dir: PathBuf,
}

impl Claim {
    /// Takes `data_dir` (created if missing), after killing what a dead owner left running in it.
    ///
    /// Should this process die, its servers are killed and `remove_after_death` is removed.
    /// Refuses while another live process holds the folder.
    pub(crate) fn take(data_dir: &Path, remove_after_death: &[PathBuf]) -> Result<Claim> {
        let run_dir = data_dir.join("run");
        fs::create_dir_all(&run_dir).with_context(|| format!("cannot create {}", run_dir.display()))?;
        let started = Instant::now();
        let lock = lock(data_dir, || {
            sleep(DYING_MAX / 100);
            started.elapsed() < DYING_MAX
        })?;
        kill_leftovers(&run_dir)?;
        let watchdog = Command::new("/bin/sh")
            .args(["-c", WATCHDOG, "stampede-watchdog"])
            .arg(&run_dir)
            .args(remove_after_death)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start the watchdog")?;
        Ok(Claim { lock, watchdog, run_dir })
    }

    pub(crate) fn pid_file(&self, name: &str) -> PathBuf {
        self.run_dir.join(format!("{name}.pid"))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Killed before its pipe closes: whoever drops the claim has stopped the servers and decides what to remove.
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        let _ = self.lock.unlock();
    }
}

/// An owner that was killed a moment ago holds its lock until the kernel has taken it apart.
const DYING_MAX: Duration = Duration::from_secs(3);

/// Refuses a folder that another owner has locked, when `may_be_dying` no longer says that the owner may be about to go.
fn lock(data_dir: &Path, mut may_be_dying: impl FnMut() -> bool) -> Result<File> {
    let path = data_dir.join("lock");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if may_be_dying() => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                file.read_to_string(&mut owner)?;
                bail!("{} is in use by another sandbox (process {})", data_dir.display(), owner.trim());
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

fn kill_leftovers(run_dir: &Path) -> Result<()> {
    for entry in fs::read_dir(run_dir)? {
        let pid_file = entry?.path();
        if let Some(leftover) = Identity::read(&pid_file).filter(|process| process.is_alive()) {
            tracing::warn!(process.pid = leftover.pid, "A server that an earlier sandbox left behind is killed");
            wait_gone(&leftover.kill_tree())?;
        }
        fs::remove_file(&pid_file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_waited_for_while_its_owner_is_dying_and_refused_while_it_lives() {
        let data_dir = std::env::temp_dir().join(format!("stampede-claim-{}", std::process::id()));
        fs::create_dir_all(&data_dir).unwrap();
        let mut dying = Some(lock(&data_dir, || false).unwrap());
        // It dies while somebody waits for it.
        let alive = lock(&data_dir, || dying.take().is_some()).unwrap();
        let mut asked = 0;
        let refused = lock(&data_dir, || {
            asked += 1;
            asked < 3
        });
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        assert_eq!(asked, 3);
        drop(alive);
        fs::remove_dir_all(&data_dir).unwrap();
    }
}
