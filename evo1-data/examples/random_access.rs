//! How fast samples are read in random order, and whether memory stays flat.
//!
//! ```sh
//! cargo run --release -p evo1-data --example random_access -- DATASET 10000 2
//! ```
//!
//! reads 10,000 samples (frames of every camera, state, 16 actions) with 2 threads.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use evo1_data::{DataConfig, DatasetConfig, Mixture, Position};

const HORIZON: usize = 16;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("give the folder of a dataset")?);
    let count: u64 = arguments.next().map_or(Ok(2000), |count| count.parse())?;
    let threads: u64 = arguments.next().map_or(Ok(2), |threads| threads.parse())?;
    let config = DatasetConfig { process_suite: "metaworld".into(), ..DatasetConfig::new(folder) };
    let mixture = Mixture::open(&DataConfig::single(config), HORIZON)?;
    let (next, start) = (AtomicU64::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let draw = next.fetch_add(1, Ordering::Relaxed);
                    if draw >= count {
                        return;
                    }
                    let position = Position::start(0).advanced(draw, mixture.len());
                    if let Err(error) = mixture.draw(position) {
                        eprintln!("{error}");
                    }
                    if (draw + 1).is_multiple_of((count / 5).max(1)) {
                        let rate = (draw + 1) as f64 / start.elapsed().as_secs_f64();
                        println!("{} samples, {rate:.0} a second, {} MB in memory", draw + 1, resident_megabytes());
                    }
                }
            });
        }
    });
    Ok(())
}

/// Resident memory, where the operating system tells.
fn resident_megabytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}
