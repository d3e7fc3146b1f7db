//! The commands of the binary `evo1`: predict with Evo-1 policies, train, serve and measure them, prove their equality
//! with PyTorch.
//!
//! A program with components of its own has all of them in three lines: its configurations, recipes and studies may name
//! its own components and the built-in ones.
//!
//! ```no_run
//! use evo1::{OneOf, action::ActionExpert, vlm::InternVl};
//! # type MyExpert = ActionExpert;
//!
//! fn main() -> std::process::ExitCode {
//!     evo1_cli::main::<(InternVl, OneOf<MyExpert, ActionExpert>)>()
//! }
//! ```
//!
//! Results go to standard output, logs to standard error. The exit code is 0 when all is done, 2 for wrong use, 130 for a
//! run that was interrupted and saved, and 1 for anything else, with one message of cause and remedy.
#![warn(clippy::print_stdout, reason = "`output::say` does not panic when its reader has gone")]

#[cfg(feature = "ablate")]
mod ablate;
mod commands;
mod common;
mod given;
mod memory;
mod output;
mod plot;
#[cfg(all(feature = "train", feature = "serve"))]
mod process;
#[cfg(all(feature = "train", feature = "serve"))]
mod rollout;
mod sample;
mod version;

use std::{io::IsTerminal, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use common::{Common, LogFormat};
use evo1::{
    Components,
    device::{DeviceKind, DeviceName, caught},
};
use output::{Interrupted, causes};

/// Evo-1: camera frames, an instruction and a robot's state in, a chunk of robot actions out.
#[derive(Parser)]
#[command(name = "evo1", version, long_version = version::long(), propagate_version = true)]
#[command(after_help = "Example:\n  evo1 infer --plot chunk.png")]
struct Arguments {
    #[command(flatten)]
    common: Common,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one")]
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
    Tune(commands::tune::Tune),
    Schema(commands::schema::Schema),
    Completions(commands::completions::Completions),
    Man(commands::man::Man),
}

/// The whole program, for policies of some components: reads the command line, runs its command, and says what failed.
pub fn main<C: Components>() -> ExitCode {
    run::<C>(Arguments::parse())
}

/// [`main`] with suites of the program's own, which data configurations may name as well.
#[cfg(feature = "data")]
pub fn main_with_suites<C: Components>(suites: evo1_data::Suites) -> ExitCode {
    let Arguments { common, command } = Arguments::parse();
    run::<C>(Arguments { common: Common { suites, ..common }, command })
}

fn run<C: Components>(Arguments { common, command }: Arguments) -> ExitCode {
    memory::keep_freed();
    #[cfg(unix)]
    find_toolkit(&common);
    log(&common);
    let run = || match command {
        Command::Infer(infer) => infer.run::<C>(&common),
        Command::Attention(attention) => attention.run::<C>(&common),
        Command::Probe(probe) => probe.run(&common),
        Command::Trace(trace) => trace.run::<C>(&common),
        Command::Inspect(inspect) => inspect.run::<C>(&common),
        Command::Convert(convert) => convert.run(&common),
        Command::Data(data) => data.run(&common),
        Command::Stats(stats) => stats.run(&common),
        Command::Serve(serve) => serve.run::<C>(&common),
        Command::Train(train) => train.run::<C>(&common),
        Command::Evaluate(evaluate) => evaluate.run::<C>(&common),
        Command::Ablate(ablate) => ablate.run::<C>(&common),
        Command::Bench(bench) => bench.run::<C>(&common),
        Command::Devices(devices) => devices.run(),
        Command::Tune(tune) => tune.run::<C>(&common),
        Command::Schema(schema) => schema.run(Arguments::command()),
        Command::Completions(completions) => completions.run(Arguments::command()),
        Command::Man(man) => man.run(Arguments::command()),
    };
    // Most of what a device cannot do is an error where its results are read; what is not is one here.
    let done = caught(run).map_err(eyre::Report::from).and_then(|done| done);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) if report.is::<Interrupted>() => {
            eprintln!("{report}");
            ExitCode::from(Interrupted::CODE)
        }
        Err(report) => {
            eprintln!("error: {}", causes(&report));
            ExitCode::FAILURE
        }
    }
}

/// Sends messages to standard error, with the time where nobody looks on.
fn log(common: &Common) {
    let is_terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(common.filter()))
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal);
    match (common.log_format, is_terminal) {
        (LogFormat::Json, _) => builder.json().flatten_event(true).init(),
        (LogFormat::Text, true) => builder.without_time().init(),
        (LogFormat::Text, false) => builder.init(),
    }
}

/// Starts the program again with [`CUDA_PATH`](evo1::device::CUDA_PATH) set, where it is not and NVIDIA's toolkit is found
/// only among Python's packages: its compiler looks nowhere else, and the loader not for the compiler.
#[cfg(unix)]
fn find_toolkit(common: &Common) {
    use std::{os::unix::process::CommandExt, process::Command};

    use evo1::device::{CUDA_PATH, LIBRARY_PATH, Toolkit};

    let is_meant = matches!(common.device, DeviceName::Auto | DeviceName::Of(DeviceKind::Cuda, _));
    if !is_meant || !DeviceKind::Cuda.is_built() {
        return;
    }
    let toolkit = Toolkit::find();
    let (Toolkit::InPython(folder), Ok(program)) = (&toolkit, std::env::current_exe()) else { return };
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).env(CUDA_PATH, folder);
    if let Some(libraries) = toolkit.libraries() {
        let others = std::env::var_os(LIBRARY_PATH).unwrap_or_default();
        let folders = [libraries].into_iter().chain(std::env::split_paths(&others));
        command.env(LIBRARY_PATH, std::env::join_paths(folders).unwrap_or(others));
    }
    // It returns only if it fails; opening the device then says what to do.
    let _ = command.exec();
}

#[cfg(test)]
#[path = "../tests/support/markdown.rs"]
mod markdown;
#[cfg(test)]
#[path = "../tests/support/shell.rs"]
mod shell;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::{commands, words};

    #[test]
    fn the_program_describes_itself_without_contradiction() {
        Arguments::command().debug_assert();
    }

    /// Commands that this build lacks take anything.
    #[test]
    fn every_help_ends_with_examples_that_are_understood() {
        for command in Arguments::command().get_subcommands() {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            if about.starts_with("Not in this build") {
                continue;
            }
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples = commands(&help);
            assert!(!examples.is_empty(), "{}: {help}", command.get_name());
            for example in examples {
                let parsed = Arguments::try_parse_from(words(&example));
                assert!(
                    parsed.is_ok(),
                    "{example}: {}",
                    parsed.err().map(|error| error.to_string()).unwrap_or_default()
                );
                assert!(example.starts_with(&format!("evo1 {}", command.get_name())), "{example}");
            }
        }
    }

    #[test]
    #[cfg(all(feature = "ablate", feature = "serve"))]
    fn every_command_of_the_documents_is_understood() {
        use crate::markdown::{blocks, documents};

        let mut read = 0;
        for path in documents() {
            let document = std::fs::read_to_string(&path).expect("a document");
            for block in blocks(&document).iter().filter(|block| block.language == "sh") {
                for command in commands(&block.text) {
                    let parsed = Arguments::try_parse_from(words(&command));
                    let error = parsed.err().map(|error| error.to_string()).unwrap_or_default();
                    let is_help = command.ends_with("--version") || command.ends_with("--help");
                    assert!(error.is_empty() || is_help, "{}: {command}: {error}", path.display());
                    read += 1;
                }
            }
        }
        assert!(read > 30, "{read} commands");
    }
}
