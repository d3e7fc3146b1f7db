//! The binary `evo1`: every command, for policies of the built-in components.

/// musl's own allocator gives every tensor back to the system, which takes longer than to compute it.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    evo1_cli::main::<evo1::Published>()
}
