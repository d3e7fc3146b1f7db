//! Write a policy, or load one and say how long that took.

use std::{error::Error, path::Path, time::Instant};

use evo1::{LoadOptions, Policy, config::PolicyConfig, convert::Format, device::DeviceName};

fn main() -> Result<(), Box<dyn Error>> {
    let device = DeviceName::Auto.open()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["save", directory] => Policy::tiny(0, &device)?.save(Path::new(directory), Format::LeRobot)?,
        ["save", directory, "--full-size"] => {
            Policy::random(PolicyConfig::evo1(), 0, &device)?.save(Path::new(directory), Format::LeRobot)?;
        }
        ["load", directory] => {
            let start = Instant::now();
            let (policy, report) = Policy::load(Path::new(directory), &LoadOptions::new(&device))?;
            let seconds = start.elapsed().as_secs_f64();
            println!("{} tensors in {seconds:.3} s, {:?} profile", report.weights.read.len(), policy.config.profile);
        }
        _ => return Err("usage: save_and_load save DIR [--full-size] | save_and_load load DIR".into()),
    }
    Ok(())
}
