//! Where the logs of tests go: to files, so that they do not bury the tests' own output.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, Once};

/// The log file of one namespace, or of everything in this process. Logs stay when the tests have ended.
pub fn file(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("stampede-test-logs-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the temporary folder can be written");
    folder.join(format!("{name}.log"))
}

/// Sends what this process logs to one file. Only the first call of a process does anything.
pub fn to_a_file() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let file = File::create(file("all")).expect("the log can be written");
        let logs = tracing_subscriber::fmt().with_writer(Mutex::new(file)).with_ansi(false);
        // Nobody else installs one before: the first of a process stays.
        logs.with_max_level(tracing::Level::INFO).init();
    });
}
