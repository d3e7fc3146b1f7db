//! One process at a time in the folder of a run, or at anything else that has a file to lock.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::Path,
    process::Stdio,
};

use evo1::CoreError;

use crate::{Error, Result};

/// The file that is locked.
const LOCK_FILE: &str = "run.lock";

/// A file that one process has at a time, until this is dropped or the process ends, however that happens.
#[derive(Debug)]
pub struct FileLock(File);

impl FileLock {
    /// Takes a file, which is made if it is not there. The inner error is what is known of the process that has it.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn try_take(path: &Path) -> Result<Result<Self, String>> {
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
        let mut file = opened.map_err(|reason| CoreError::io("write", path, reason))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who it is can be read while it writes, and is then not known.
                let _ = file.read_to_string(&mut holder);
                let holder = Some(holder.trim()).filter(|holder| !holder.is_empty()).unwrap_or("another process");
                return Ok(Err(holder.to_owned()));
            }
            // A file system without locks: everything else works there.
            Err(TryLockError::Error(reason)) => tracing::warn!("{}: cannot be locked: {reason}", path.display()),
        }
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", this_process()));
        // A full disk shall not keep anything from going on.
        if let Err(reason) = written {
            tracing::debug!("{}: {reason}", path.display());
        }
        Ok(Ok(Self(file)))
    }

    /// The lock as the standard input of a child that does not read it: the file is then taken until both have ended, also
    /// where this process is killed and the child works on.
    ///
    /// # Errors
    /// When the system gives no more file descriptors.
    pub fn shared(&self) -> std::io::Result<Stdio> {
        Ok(self.0.try_clone()?.into())
    }
}

/// The folder of a run, for this process alone until it is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct RunLock(#[expect(dead_code, reason = "the lock goes with the file")] FileLock);

impl RunLock {
    /// Takes the folder of a run, which is made if it is not there.
    ///
    /// # Errors
    /// When another process has it, with what is known of that process.
    pub(crate) fn take(run: &Path) -> Result<Self> {
        std::fs::create_dir_all(run).map_err(|reason| CoreError::io("create", run, reason))?;
        FileLock::try_take(&run.join(LOCK_FILE))?.map(Self).map_err(|holder| {
            let got = format!("{}, which {holder} has", run.display());
            Error::config("output", "a folder that no other process trains in", got)
        })
    }
}

/// The process and its machine, in words.
fn this_process() -> String {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let machine = machine.or_else(|| std::env::var("COMPUTERNAME").or_else(|_| std::env::var("HOSTNAME")).ok());
    let machine = machine.map(|name| format!(" on {}", name.trim())).unwrap_or_default();
    format!("process {}{machine}", std::process::id())
}
