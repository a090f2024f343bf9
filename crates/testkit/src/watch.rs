//! A test that never ends is named, and its process is ended: nothing else would say which test it is and what it waits for.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Longer than any test of the soak. Short enough to be told before continuous integration loses patience, after 90 minutes.
const LONGEST: Duration = Duration::from_mins(45);

struct Test {
    name: String,
    began: Instant,
    /// What it did last, as far as it matters here.
    step: &'static str,
}

/// The tests that run.
static RUNNING: Mutex<BTreeMap<u64, Test>> = Mutex::new(BTreeMap::new());

/// A test for as long as its thread lives. The thread ends after the runtime of the test, which may wait for ever as well.
struct Watched(u64);

impl Watched {
    fn begin() -> Watched {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        RUNNING.lock().insert(number, Test { name, began: Instant::now(), step: "started" });
        Watched(number)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        RUNNING.lock().remove(&self.0);
    }
}

thread_local! {
    static WATCHED: Watched = Watched::begin();
}

/// Watches the test of this thread from now on. `step` is what it does.
pub(crate) fn this_test(step: &'static str) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(std::thread::spawn(watch)));
    // Fails in a thread that is ending.
    let _ = WATCHED.try_with(|watched| {
        if let Some(test) = RUNNING.lock().get_mut(&watched.0) {
            test.step = step;
        }
    });
}

fn watch() {
    loop {
        std::thread::sleep(Duration::from_secs(5));
        let (mut is_over, mut running) = (false, Vec::new());
        for Test { name, began, step } in RUNNING.lock().values() {
            is_over |= began.elapsed() > LONGEST;
            running.push(format!("  {name}, for {} s; its last step: {step}", began.elapsed().as_secs()));
        }
        if is_over {
            // Not by a macro: what those print belongs to the test, and is shown when it has ended.
            let _ = writeln!(
                std::io::stderr(),
                "A test has not ended after {} minutes, so this process ends. What runs:\n{}\nThe threads, with the processor \
                 time that they have used, and where they wait in the kernel:\n{}",
                LONGEST.as_secs() / 60,
                running.join("\n"),
                threads(Path::new("/proc/self/task")).join("\n")
            );
            std::process::abort();
        }
    }
}

/// A line for each thread; none where the system does not tell.
fn threads(folder: &Path) -> Vec<String> {
    let threads = std::fs::read_dir(folder).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| {
            let read = |file: &str| std::fs::read_to_string(thread.path().join(file)).ok();
            thread_line(&read("stat")?, &read("wchan").unwrap_or_default())
        })
        .collect()
}

/// From `123 (name of the thread) S ...`, see proc(5).
fn thread_line(stat: &str, place: &str) -> Option<String> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(format!("  {name}: {} ms, {} {place}", ticks * 10, fields.first()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_told_with_its_time_and_its_place() {
        let stat = "17 (rdk:broker (1)) S 1 17 17 0 -1 4194624 10 0 0 0 25 7 0 0 20 0 3 0 100 200 300";
        assert_eq!(thread_line(stat, "do_epoll_wait").as_deref(), Some("  rdk:broker (1): 320 ms, S do_epoll_wait"));
    }

    #[test]
    fn a_test_is_watched_until_its_thread_has_ended() {
        let watched = || RUNNING.lock().values().any(|test| test.name == "watched");
        let test = std::thread::Builder::new().name("watched".to_owned());
        let during = test.spawn(move || {
            this_test("runs");
            watched()
        });
        assert!(during.unwrap().join().unwrap(), "it is watched while it runs");
        assert!(!watched(), "it is not watched any more");
    }
}
