//! `evo1` with a suite of its own, which data configurations may name.

mod suite;

use evo1_data::Suites;
use suite::FirstJoints;

fn main() -> std::process::ExitCode {
    let suites = Suites::default().with("first_joints", |settings| Ok(Box::new(FirstJoints::new(settings)?)));
    evo1_cli::main_with_suites::<evo1::Published>(suites)
}
