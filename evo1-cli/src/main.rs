//! The binary `evo1`: predict with Evo-1 policies, prove their equality with PyTorch, see what the machine offers.
//!
//! Results go to standard output, logs to standard error. The exit code is 0 when all is done, 2 for wrong use and 1 for
//! anything else, with one message of cause and remedy.
#![warn(clippy::print_stdout, reason = "`output::say` does not panic when its reader has gone")]

#[cfg(feature = "ablate")]
mod ablate;
mod commands;
mod common;
mod given;
mod memory;
mod output;
mod plot;
mod sample;

use std::{io::IsTerminal, process::ExitCode};

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use common::Common;
use evo1::device::{DeviceKind, DeviceName, caught};

/// Evo-1: camera frames, an instruction and a robot's state in, a chunk of robot actions out.
#[derive(Parser)]
#[command(name = "evo1", version, propagate_version = true)]
#[command(after_help = "Example:\n  evo1 infer --plot chunk.png")]
struct Arguments {
    #[command(flatten)]
    common: Common,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Infer(commands::infer::Infer),
    Attention(commands::attention::Attention),
    Probe(commands::probe::Probe),
    Trace(commands::trace::Trace),
    Inspect(commands::inspect::Inspect),
    Convert(commands::convert::Convert),
    Data(commands::data::Data),
    Stats(commands::stats::Stats),
    Serve(Box<commands::serve::Serve>),
    Train(commands::train::Train),
    Evaluate(commands::evaluate::Evaluate),
    Ablate(commands::ablate::Ablate),
    Bench(commands::bench::Bench),
    Devices(commands::devices::Devices),
}

fn main() -> ExitCode {
    memory::keep_freed();
    let Arguments { common, command } = Arguments::parse();
    #[cfg(unix)]
    find_toolkit(&common);
    let filter = EnvFilter::try_new(&common.log).unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .init();
    let run = || match command {
        Command::Infer(infer) => infer.run(&common),
        Command::Attention(attention) => attention.run(&common),
        Command::Probe(probe) => probe.run(&common),
        Command::Trace(trace) => trace.run(&common),
        Command::Inspect(inspect) => inspect.run(&common),
        Command::Convert(convert) => convert.run(&common),
        Command::Data(data) => data.run(),
        Command::Stats(stats) => stats.run(),
        Command::Serve(serve) => serve.run(&common),
        Command::Train(train) => train.run(&common),
        Command::Evaluate(evaluate) => evaluate.run(&common),
        Command::Ablate(ablate) => ablate.run(&common),
        Command::Bench(bench) => bench.run(&common),
        Command::Devices(devices) => devices.run(),
    };
    // Most of what a device cannot do is an error where its results are read; what is not is one here.
    let done = caught(run).map_err(eyre::Report::from).and_then(|done| done);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => {
            let causes: Vec<String> = report.chain().map(ToString::to_string).collect();
            eprintln!("error: {}", causes.join(": "));
            ExitCode::FAILURE
        }
    }
}

/// Starts the program again with [`CUDA_PATH`](evo1::device::CUDA_PATH) set, where it is not and NVIDIA's toolkit is found
/// only among Python's packages: its compiler looks nowhere else.
#[cfg(unix)]
fn find_toolkit(common: &Common) {
    use std::{os::unix::process::CommandExt, process::Command};

    use evo1::device::{CUDA_PATH, Toolkit};

    let is_meant = matches!(common.device, DeviceName::Auto | DeviceName::Of(DeviceKind::Cuda, _));
    if !is_meant || !DeviceKind::Cuda.is_built() {
        return;
    }
    let (Toolkit::InPython(folder), Ok(program)) = (Toolkit::find(), std::env::current_exe()) else { return };
    // It returns only if it fails; opening the device then says what to do.
    let _ = Command::new(program).args(std::env::args_os().skip(1)).env(CUDA_PATH, folder).exec();
}
