//! `evo1 man`: man pages.

use std::{fs, path::PathBuf};

use clap::{Args, Command};
use evo1::CoreError;
use eyre::Result;

use crate::output;

/// Write a man page for the program and one for each command, `evo1.1`, `evo1-infer.1`, …; without a folder, print the
/// program's own.
#[derive(Args)]
#[command(after_help = "Examples:\n  evo1 man man/man1\n  evo1 man > evo1.1")]
pub(crate) struct Man {
    /// Folder to write to, for example ~/.local/share/man/man1
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(self, command: Command) -> Result<()> {
        let Some(folder) = self.folder else {
            let mut text = Vec::new();
            clap_mangen::Man::new(command).render(&mut text)?;
            return output::print(format_args!("{}", String::from_utf8_lossy(&text)));
        };
        fs::create_dir_all(&folder).map_err(|reason| CoreError::io("create", &folder, reason))?;
        clap_mangen::generate_to(command, &folder).map_err(|reason| CoreError::io("write to", &folder, reason))?;
        Ok(())
    }
}
