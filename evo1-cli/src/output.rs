//! What subcommands print. `println!` panics when its reader has gone, as `head` does once it has its lines.

use std::{
    fmt::{self, Arguments},
    io::{ErrorKind, Write},
};

use eyre::{Context, Report, Result};

/// What a command ends with that was interrupted and has saved what it had.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interrupted;

impl Interrupted {
    /// The exit code: that of a program which Ctrl-C ended.
    pub(crate) const CODE: u8 = 130;
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted; what was done is saved")
    }
}

impl std::error::Error for Interrupted {}

/// What went wrong and because of what, in a line.
pub(crate) fn causes(report: &Report) -> String {
    report.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Prints to standard output. A reader that has gone is no error: it wants no more, and files are still written.
pub(crate) fn print(text: Arguments<'_>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).wrap_err("cannot write to standard output"),
        _ => Ok(()),
    }
}

/// Prints a line as `println!` does, with [`print`].
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::output::print(format_args!("{}\n", format_args!($($argument)*)))
    };
}

pub(crate) use say;
