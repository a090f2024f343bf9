//! How long this disk takes to make 8 kB durable: the limit of everything that is stored.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use crate::latency::Latencies;

/// A page of PostgreSQL, and the least that its log writes.
const BLOCK_BYTES: usize = 8192;
/// Written over and over, like a recycled segment of the log: no block has to be found for it.
const BLOCKS: u64 = 512;
const MEASURED: Duration = Duration::from_millis(500);

/// Times of one write of 8 kB and its fdatasync.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub per_second: f64,
}

/// Measures in `folder` for half a second. Blocks the thread.
pub fn measure(folder: &Path) -> anyhow::Result<Disk> {
    let path = folder.join("bench-fdatasync");
    let disk = measure_in(&path).with_context(|| format!("measuring the disk with {}", path.display()));
    fs::remove_file(&path)?;
    disk
}

fn measure_in(path: &Path) -> anyhow::Result<Disk> {
    let file = File::options().create(true).truncate(true).write(true).open(path)?;
    let block = [0x5a; BLOCK_BYTES];
    for index in 0..BLOCKS {
        file.write_all_at(&block, index * BLOCK_BYTES as u64)?;
    }
    file.sync_all()?;
    let mut latencies = Latencies::default();
    let started = Instant::now();
    for index in (0..BLOCKS).cycle() {
        let at = Instant::now();
        file.write_all_at(&block, index * BLOCK_BYTES as u64)?;
        file.sync_data()?;
        latencies.record(at.elapsed());
        if started.elapsed() >= MEASURED {
            break;
        }
    }
    let per_second = latencies.count() as f64 / started.elapsed().as_secs_f64();
    Ok(Disk { p50_ms: latencies.ms(0.50), p99_ms: latencies.ms(0.99), per_second })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_measured_and_left_as_it_was() {
        let folder = std::env::temp_dir().join(format!("stampede-disk-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let disk = measure(&folder).unwrap();
        assert!(disk.p50_ms > 0.0 && disk.p99_ms >= disk.p50_ms && disk.per_second > 0.0, "{disk:?}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir(&folder).unwrap();
    }
}
