//! One process at a time in the folder of a run.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::Path,
};

use evo1::CoreError;

use crate::{Error, Result};

/// The file that is locked.
const LOCK_FILE: &str = "run.lock";

/// The folder of a run, for this process alone until it is dropped or the process ends, however that happens.
#[derive(Debug)]
pub(crate) struct RunLock(#[expect(dead_code, reason = "the lock goes with the file")] File);

impl RunLock {
    /// Takes the folder of a run, which is made if it is not there.
    ///
    /// # Errors
    /// When another process has it, with what is known of that process.
    pub(crate) fn take(run: &Path) -> Result<Self> {
        std::fs::create_dir_all(run).map_err(|reason| CoreError::io("create", run, reason))?;
        let path = run.join(LOCK_FILE);
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = opened.map_err(|reason| CoreError::io("write", &path, reason))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who it is can be read while it writes, and is then not known.
                let _ = file.read_to_string(&mut holder);
                let holder = Some(holder.trim()).filter(|holder| !holder.is_empty()).unwrap_or("another process");
                return Err(Error::config(
                    "output",
                    "a folder that no other process trains in",
                    format!("{}, which {holder} has", run.display()),
                ));
            }
            // A file system without locks: everything else works there.
            Err(TryLockError::Error(reason)) => tracing::warn!("{}: cannot be locked: {reason}", path.display()),
        }
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", this_process()));
        // A full disk shall not keep a run from going on.
        if let Err(reason) = written {
            tracing::debug!("{}: {reason}", path.display());
        }
        Ok(Self(file))
    }
}

/// The process and its machine, in words.
fn this_process() -> String {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let machine = machine.or_else(|| std::env::var("COMPUTERNAME").or_else(|_| std::env::var("HOSTNAME")).ok());
    let machine = machine.map(|name| format!(" on {}", name.trim())).unwrap_or_default();
    format!("process {}{machine}", std::process::id())
}
