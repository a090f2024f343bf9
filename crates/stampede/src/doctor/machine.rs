//! What this machine has: processors, memory, and how many files a process may have open.

use std::fs;

use serde::Serialize;

use super::Report;

/// Connections, sockets and log files of one process under a rush.
const FILES_MIN: u64 = 4096;
/// Below this the servers and the services together do not fit: Kafka alone needs 320 MiB.
const AVAILABLE_MIB_MIN: u64 = 512;

/// What `bench orders` has measured with 64 clients: services and servers together, on the machine of the README.
const CPU_SECONDS_FOR_1000_ORDERS: f64 = 1.2;

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// That this process may use.
    pub processors: usize,
    pub memory_mib: u64,
    pub memory_available_mib: u64,
    pub open_files_max: u64,
    /// That its processors can place, if everything runs on them and they are as fast as those of the README.
    pub orders_per_second_by_processors: f64,
}

pub fn examine(report: &mut Report) -> Machine {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |name: &str| number_after(&meminfo, name).unwrap_or_default();
    // In a container, the container's own limit.
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse::<u64>().ok());
    let memory_mib = (kib("MemTotal:") / 1024).min(limit.unwrap_or(u64::MAX) >> 20);
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let machine = Machine {
        processors,
        orders_per_second_by_processors: orders_per_second(processors),
        memory_mib,
        memory_available_mib: (kib("MemAvailable:") / 1024).min(memory_mib),
        // "unlimited" is no number.
        open_files_max: number_after(&limits, "Max open files").unwrap_or(u64::MAX),
    };
    let Machine { memory_available_mib, open_files_max, orders_per_second_by_processors, .. } = machine;
    report.ok(
        "machine",
        format!(
            "{processors} processors, {memory_mib} MiB of memory, {memory_available_mib} available; the processors place \
             about {orders_per_second_by_processors:.0} orders/s at most, if PostgreSQL, Redis, Kafka and all services run on \
             them ({CPU_SECONDS_FOR_1000_ORDERS} CPU seconds for 1,000 orders; `stampede bench orders` measures this machine)"
        ),
    );
    if memory_available_mib < AVAILABLE_MIB_MIN {
        report.warn(
            "machine",
            format!("only {memory_available_mib} MiB of memory are available"),
            "free some memory, or run the servers elsewhere: Kafka alone needs 320 MiB",
        );
    }
    if open_files_max < FILES_MIN {
        report.warn(
            "machine",
            format!("a process may open {open_files_max} files, and each connection is one"),
            format!("raise the limit: `ulimit -n {}` before the start, or LimitNOFILE in the unit", FILES_MIN * 16),
        );
    }
    machine
}

/// The processors are full first: see docs/scaling.md.
fn orders_per_second(processors: usize) -> f64 {
    processors as f64 / CPU_SECONDS_FOR_1000_ORDERS * 1000.0
}

/// The first number behind `name` in `text`.
fn number_after(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_processor_and_memory() {
        let mut report = Report::default();
        let machine = examine(&mut report);
        assert!(machine.processors > 0 && machine.memory_mib > 0 && machine.open_files_max > 0, "{machine:?}");
        assert!(report.findings[0].found.contains("processors"), "{report:?}");
    }

    #[test]
    fn processors_place_so_many_orders_as_the_readme_has_measured() {
        assert_eq!(orders_per_second(2).round(), 1667.0);
        assert_eq!(orders_per_second(6), 3.0 * orders_per_second(2));
        let readme = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
        let measured = format!("{CPU_SECONDS_FOR_1000_ORDERS} CPU seconds per 1,000 orders at 64 clients");
        assert!(fs::read_to_string(readme).unwrap().contains(&measured), "README.md has no {measured:?}");
    }

    #[test]
    fn a_number_is_read_behind_its_name() {
        let limits = "Max processes             100                 100                 processes\n\
                      Max open files            1024                524288              files";
        assert_eq!(number_after(limits, "Max open files"), Some(1024));
        assert_eq!(number_after("Max open files unlimited unlimited files", "Max open files"), None);
    }
}
