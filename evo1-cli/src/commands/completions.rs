//! `evo1 completions`: what a shell completes.

use clap::{Args, Command};
use clap_complete::{Shell, generate};
use eyre::Result;

use crate::output;

/// Print what a shell needs to complete commands and options.
///
/// bash: `evo1 completions bash > ~/.local/share/bash-completion/completions/evo1`. zsh: into a folder of `$fpath`, as `_evo1`. fish:
/// `evo1 completions fish > ~/.config/fish/completions/evo1.fish`. A folder that is not there is made first (`mkdir -p`).
#[derive(Args)]
#[command(after_help = "Example:\n  evo1 completions bash > evo1.bash")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self, mut command: Command) -> Result<()> {
        let (name, mut text) = (command.get_name().to_owned(), Vec::new());
        generate(self.shell, &mut command, name, &mut text);
        output::print(format_args!("{}", String::from_utf8_lossy(&text)))
    }
}
