//! What subcommands print. `println!` panics when its reader has gone, as `head` does once it has its lines.

use std::{
    fmt::Arguments,
    io::{ErrorKind, Write},
};

use eyre::{Context, Result};

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
