//! Processes that a command starts, and the signals that end it: what it started ends with it.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use evo1::CoreError;
use eyre::{Result, WrapErr};

use crate::output::Interrupted;

/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How long output is waited for that a process may still hold open which has escaped from its group.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Lines of a process' messages that are kept of it.
const LAST_LINES: usize = 8;

/// How often Ctrl-C, SIGTERM or SIGHUP came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signals(Arc<AtomicUsize>);

impl Signals {
    /// Counts signals from now on, instead of ending by the first.
    pub(crate) fn listen() -> Result<Self> {
        let signals = Self::default();
        let count = Arc::clone(&signals.0);
        let listen = ctrlc::set_handler(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        listen.wrap_err("cannot listen for Ctrl-C")?;
        Ok(signals)
    }

    /// Whether one came.
    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// Fails when one came.
    pub(crate) fn check(&self) -> Result<()> {
        if self.came() { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// Waits, and fails when one came.
    pub(crate) fn wait(&self, time: Duration) -> Result<()> {
        let began = Instant::now();
        while began.elapsed() < time {
            self.check()?;
            std::thread::sleep(LOOK);
        }
        self.check()
    }
}

/// A process with all that it starts, which does not outlive this value.
pub(crate) struct Process<'a> {
    child: Child,
    signals: &'a Signals,
    has_ended: bool,
}

impl<'a> Process<'a> {
    /// Starts a program whose output lines are read by [`Self::run`]. It is a process group of its own: Ctrl-C on a terminal
    /// reaches it through this program alone, once.
    pub(crate) fn start(command: &mut Command, signals: &'a Signals) -> std::io::Result<Self> {
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(command, 0);
        let child = command.stdout(Stdio::piped()).spawn()?;
        Ok(Self { child, signals, has_ended: false })
    }

    /// Hears every line that the program prints, until it has ended. A signal is passed on to it, and a second one kills it.
    ///
    /// # Errors
    /// When a signal came: [`Interrupted`].
    pub(crate) fn run(mut self, mut hear: impl FnMut(&str)) -> Result<ExitStatus> {
        let (sender, lines) = mpsc::channel();
        if let Some(output) = self.child.stdout.take() {
            std::thread::spawn(move || {
                let mut output = BufReader::new(output);
                loop {
                    let mut line = Vec::new();
                    match output.read_until(b'\n', &mut line) {
                        Ok(0) | Err(_) => break,
                        Ok(_) if sender.send(line).is_err() => break,
                        Ok(_) => {}
                    }
                }
            });
        } else {
            drop(sender);
        }
        let mut hear = |line: Vec<u8>| hear(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']));
        let (mut passed_on, mut is_open) = (0, true);
        let status = loop {
            let came = self.signals.0.load(Ordering::Relaxed);
            if came > passed_on {
                self.end(came > 1);
                passed_on = came;
            }
            if is_open {
                match lines.recv_timeout(LOOK) {
                    Ok(line) => {
                        hear(line);
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => is_open = false,
                    Err(RecvTimeoutError::Timeout) => {}
                }
            } else {
                std::thread::sleep(LOOK);
            }
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
        };
        self.has_ended = true;
        // What it left behind ends too, which closes the output.
        self.end(true);
        while let Ok(line) = lines.recv_timeout(LAST_WORDS) {
            hear(line);
        }
        self.signals.check()?;
        Ok(status)
    }

    /// Asks the process and all that it started to end, or ends them.
    #[cfg(unix)]
    fn end(&mut self, at_once: bool) {
        use nix::{
            sys::signal::{Signal, killpg},
            unistd::Pid,
        };
        let signal = if at_once { Signal::SIGKILL } else { Signal::SIGTERM };
        if let Ok(group) = i32::try_from(self.child.id()) {
            // It may have ended by itself.
            let _ = killpg(Pid::from_raw(group), signal);
        }
    }

    #[cfg(not(unix))]
    fn end(&mut self, _: bool) {
        let _ = self.child.kill();
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.end(true);
            let _ = self.child.wait();
        }
    }
}

/// A file to which the messages of a process are added.
pub(crate) struct Log {
    path: PathBuf,
    /// Bytes that were in it before.
    start: u64,
}

impl Log {
    /// The file for a process that is about to start.
    pub(crate) fn open(path: &Path) -> Result<(Self, File)> {
        let failed = |reason| CoreError::io("write", path, reason);
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        let start = file.metadata().map_err(failed)?.len();
        Ok((Self { path: path.to_owned(), start }, file))
    }

    /// The last messages since then.
    pub(crate) fn last_lines(&self) -> String {
        let bytes = fs::read(&self.path).unwrap_or_default();
        let text = String::from_utf8_lossy(bytes.get(self.start as usize..).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    #[test]
    fn every_line_is_heard_with_what_stays_open_behind_it() {
        let signals = Signals::default();
        let mut heard = Vec::new();
        let process = Process::start(&mut shell("echo one; echo two; sleep 30 & printf three"), &signals);
        let began = Instant::now();
        let status = process.expect("started").run(|line| heard.push(line.to_owned())).expect("ended");
        assert!(status.success() && began.elapsed() < Duration::from_secs(20));
        assert_eq!(heard, ["one", "two", "three"]);
    }

    #[test]
    fn a_signal_ends_the_process_and_what_it_started() {
        for (script, signals_sent) in [("sleep 60; true", 1), ("trap '' TERM; sleep 60; sleep 60", 2)] {
            let signals = Signals::default();
            let process = Process::start(&mut shell(&format!("echo go; {script}")), &signals).expect("started");
            let began = Instant::now();
            let ended = process.run(|_| signals.0.store(signals_sent, Ordering::Relaxed));
            assert!(ended.expect_err("interrupted").is::<Interrupted>());
            assert!(began.elapsed() < Duration::from_secs(20), "{script}");
        }
    }
}
