//! Processor time and memory of a site's processes, read from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;

use crate::site::Site;

/// Clock ticks in a second. The kernel's own rate varies, but programs see 100 on every architecture that we build for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Who uses processor time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Part {
    Services,
    /// nginx, where the services are split.
    Gateway,
    Postgres,
    Redis,
    Kafka,
    /// pgbench, or our own buyers.
    Generator,
}

impl Part {
    pub const ALL: [Part; 6] =
        [Part::Services, Part::Gateway, Part::Postgres, Part::Redis, Part::Kafka, Part::Generator];

    pub fn label(self) -> &'static str {
        match self {
            Part::Services => "services",
            Part::Gateway => "gateway",
            Part::Postgres => "PostgreSQL",
            Part::Redis => "Redis",
            Part::Kafka => "Kafka",
            Part::Generator => "generator",
        }
    }
}

/// Processor seconds since the processes started.
pub type CpuSeconds = BTreeMap<Part, f64>;

/// What had been used at one moment.
pub struct Snapshot {
    cpu: CpuSeconds,
    /// Processor seconds of everything on this machine.
    busy_seconds: f64,
    at: Instant,
}

/// What was used between two moments.
#[derive(Debug, Clone)]
pub struct Usage {
    pub cpu: CpuSeconds,
    /// The part of the machine's processor time that other processes used, from 0 to 1.
    pub others_share: f64,
}

/// Memory of the services.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    pub resident_mib: f64,
    /// The most since they started.
    pub peak_mib: f64,
}

/// The processes of a site, sorted by what they are for.
pub struct Meter {
    pids: Vec<(Part, u32)>,
}

impl Meter {
    pub fn new(site: &Site) -> Meter {
        Meter { pids: site.pids().into_iter().map(|(name, pid)| (part(&name), pid)).collect() }
    }

    pub fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let machine = fs::read_to_string("/proc/stat")?;
        let busy_ticks = busy_ticks(&machine).context("/proc/stat is not as expected")?;
        Ok(Snapshot { cpu: self.cpu()?, busy_seconds: busy_ticks as f64 / TICKS_PER_SECOND, at: Instant::now() })
    }

    /// What has been used since `before`.
    pub fn since(&self, before: &Snapshot) -> anyhow::Result<Usage> {
        let after = self.snapshot()?;
        let cpu = difference(&before.cpu, &after.cpu);
        let available = (after.at - before.at).as_secs_f64() * std::thread::available_parallelism()?.get() as f64;
        let others = after.busy_seconds - before.busy_seconds - cpu.values().sum::<f64>();
        Ok(Usage { cpu, others_share: (others / available).clamp(0.0, 1.0) })
    }

    fn cpu(&self) -> anyhow::Result<CpuSeconds> {
        let processes = processes()?;
        let own = std::process::id();
        let mut ticks: BTreeMap<Part, u64> = BTreeMap::new();
        for (part, pid) in &self.pids {
            let used = match part {
                // Its children are servers and the load generator, which are counted as parts of their own.
                Part::Services => processes.get(pid).map_or(0, |process| process.own_ticks),
                _ => tree_ticks(&processes, *pid),
            };
            *ticks.entry(*part).or_default() += used;
        }
        let gateways = processes.iter().filter(|(_, process)| process.parent == own && process.name == "nginx");
        for (pid, _) in gateways {
            *ticks.entry(Part::Gateway).or_default() += tree_ticks(&processes, *pid);
        }
        // The load generator is the only child of this process that ends while it is measured.
        ticks.insert(Part::Generator, processes.get(&own).map_or(0, |process| process.ended_ticks));
        Ok(ticks.into_iter().map(|(part, ticks)| (part, ticks as f64 / TICKS_PER_SECOND)).collect())
    }

    pub fn memory(&self) -> Memory {
        let mut memory = Memory::default();
        for (_, pid) in self.pids.iter().filter(|(part, _)| *part == Part::Services) {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            memory.resident_mib += kib(&status, "VmRSS") as f64 / 1024.0;
            memory.peak_mib += kib(&status, "VmHWM") as f64 / 1024.0;
        }
        memory
    }
}

/// `after` less `before`.
fn difference(before: &CpuSeconds, after: &CpuSeconds) -> CpuSeconds {
    after.iter().map(|(part, seconds)| (*part, seconds - before.get(part).copied().unwrap_or(0.0))).collect()
}

fn part(name: &str) -> Part {
    let servers = [("PostgreSQL", Part::Postgres), ("Redis", Part::Redis), ("Kafka", Part::Kafka)];
    servers.into_iter().find(|(server, _)| name.starts_with(server)).map_or(Part::Services, |(_, part)| part)
}

#[derive(Debug, PartialEq, Eq)]
struct Process {
    parent: u32,
    name: String,
    /// User and system time of the process.
    own_ticks: u64,
    /// The same of its children that have ended and been waited for, and of theirs.
    ended_ticks: u64,
}

fn processes() -> anyhow::Result<BTreeMap<u32, Process>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(Path::new("/proc"))? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may end while the list is read.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        found.extend(process(&stat).map(|process| (pid, process)));
    }
    Ok(found)
}

/// Reads `/proc/<pid>/stat`, whose second field is a name in parentheses that may itself contain anything.
fn process(stat: &str) -> Option<Process> {
    let (_, rest) = stat.split_once('(')?;
    let (name, rest) = rest.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        name: name.to_owned(),
        own_ticks: ticks(11)? + ticks(12)?,
        ended_ticks: ticks(13)? + ticks(14)?,
    })
}

/// Reads the first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal. None: another line.
/// Stolen time counts as busy, because another machine had it.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal] = *ticks.first_chunk()?;
    Some(user + nice + system + irq + softirq + steal)
}

/// What `root` and its descendants have used, including those that ended.
fn tree_ticks(processes: &BTreeMap<u32, Process>, root: u32) -> u64 {
    let Some(process) = processes.get(&root) else { return 0 };
    let children = processes.iter().filter(|(_, child)| child.parent == root);
    process.own_ticks + process.ended_ticks + children.map(|(pid, _)| tree_ticks(processes, *pid)).sum::<u64>()
}

/// A line like `VmRSS:     12345 kB` of `/proc/<pid>/status`; 0 when it is not there.
fn kib(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(name: &str, parent: u32, times: [u64; 4]) -> Process {
        let [user, system, ended_user, ended_system] = times;
        let line = format!(
            "77 ({name}) S {parent} 1 1 0 -1 4194560 1 2 3 4 {user} {system} {ended_user} {ended_system} 20 0 1 0 5 6 7"
        );
        process(&line).unwrap()
    }

    #[test]
    fn a_name_may_contain_parentheses_and_spaces() {
        let read = stat("postgres: (x) 1 2) S", 42, [10, 5, 3, 2]);
        assert_eq!(
            read,
            Process { parent: 42, name: "postgres: (x) 1 2) S".to_owned(), own_ticks: 15, ended_ticks: 5 }
        );
        assert_eq!(process("77 (cut off"), None);
        assert_eq!(process("77 (short) S 1 2 3"), None);
    }

    #[test]
    fn a_tree_counts_descendants_and_those_that_ended() {
        let processes = BTreeMap::from([
            (1, stat("init", 0, [1000, 0, 1000, 0])),
            (10, stat("postgres", 1, [1, 2, 30, 40])),
            (11, stat("backend", 10, [100, 200, 0, 0])),
            (12, stat("worker", 11, [1000, 0, 2000, 0])),
            (13, stat("other", 1, [7, 7, 7, 7])),
        ]);
        assert_eq!(tree_ticks(&processes, 10), 1 + 2 + 30 + 40 + 100 + 200 + 1000 + 2000);
        assert_eq!(tree_ticks(&processes, 99), 0);
    }

    #[test]
    fn this_process_is_found_with_its_memory() {
        let own = std::process::id();
        assert!(processes().unwrap().contains_key(&own));
        let memory = Meter { pids: vec![(Part::Services, own)] }.memory();
        assert!(memory.resident_mib > 0.5 && memory.peak_mib >= memory.resident_mib, "{memory:?}");
    }

    #[test]
    fn memory_is_read_by_its_whole_name() {
        let status = "Name:\tx\nVmRSSx:\t 9 kB\nVmRSS:\t   2048 kB\nVmHWM:\t4096 kB\n";
        assert_eq!((kib(status, "VmRSS"), kib(status, "VmHWM"), kib(status, "VmSwap")), (2048, 4096, 0));
    }

    #[test]
    fn the_name_of_a_process_says_which_part_it_is() {
        assert_eq!(part("Kafka (Apache)"), Part::Kafka);
        assert_eq!(part("PostgreSQL"), Part::Postgres);
        assert_eq!(part("notification-hub"), Part::Services);
    }

    #[test]
    fn time_that_is_neither_idle_nor_waiting_is_busy() {
        assert_eq!(busy_ticks("cpu  1 20 300 4000 50000 600000 7000000 80000000 9 9\ncpu0 1 1\n"), Some(87_600_321));
        assert_eq!(busy_ticks("cpu  1 2 3"), None);
        assert_eq!(busy_ticks("intr 1 2 3 4 5 6 7 8"), None);
    }

    #[test]
    fn a_part_that_was_not_there_before_counts_from_zero() {
        let before = CpuSeconds::from([(Part::Postgres, 1.0)]);
        let after = CpuSeconds::from([(Part::Postgres, 1.5), (Part::Generator, 0.25)]);
        assert_eq!(difference(&before, &after), CpuSeconds::from([(Part::Postgres, 0.5), (Part::Generator, 0.25)]));
    }
}
