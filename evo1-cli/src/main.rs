//! The binary `evo1`: every command, for policies of the built-in components.

fn main() -> std::process::ExitCode {
    evo1_cli::main::<evo1::Published>()
}
