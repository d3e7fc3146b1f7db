//! Notices a prediction that takes far longer than predictions do: a device that hangs, or that others have taken.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prometheus::IntCounter;

/// A prediction stalls when it takes so many times its usual time,
const FACTOR: f64 = 10.0;

/// and at least this long: what takes milliseconds may take ten times as long when the machine has other work.
const LEAST: Duration = Duration::from_secs(1);

/// Predictions whose median is the usual time.
const RECENT: usize = 31;

/// Watches the thread that predicts.
#[derive(Debug)]
pub(crate) struct Watchdog {
    running: Mutex<Option<Running>>,
    stalls: IntCounter,
}

/// Times of a model's last predictions, each divided by its work.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<VecDeque<Duration>>);

/// The present prediction.
#[derive(Debug, Clone, Copy)]
struct Running {
    since: Instant,
    /// How many times the usual work it is.
    work: f64,
    /// How long it takes as a rule; the first one has nothing to be held against.
    usual: Option<Duration>,
}

/// A prediction that stalls.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stall {
    /// How long it has taken so far.
    pub(crate) running: Duration,
    /// How long it would take as a rule.
    pub(crate) usual: Duration,
}

/// A prediction that is watched for as long as this lives.
pub(crate) struct Watched<'a> {
    watchdog: &'a Watchdog,
    pace: &'a Pace,
}

impl Pace {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Duration>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The median, once there is one.
    fn usual(&self) -> Option<Duration> {
        let mut recent: Vec<Duration> = self.lock().iter().copied().collect();
        recent.sort_unstable();
        recent.get(recent.len() / 2).copied()
    }

    fn note(&self, time: Duration) {
        let mut recent = self.lock();
        recent.push_back(time);
        let surplus = recent.len().saturating_sub(RECENT);
        recent.drain(..surplus);
    }
}

impl Watchdog {
    /// A watchdog that counts in `stalls`.
    pub(crate) fn new(stalls: IntCounter) -> Self {
        Self { running: Mutex::default(), stalls }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a prediction of a model of this pace, whose `work` is so many times the usual one.
    pub(crate) fn watch<'a>(&'a self, pace: &'a Pace, work: f64) -> Watched<'a> {
        let work = work.max(1.0);
        let usual = pace.usual().map(|usual| usual.mul_f64(work));
        *self.lock() = Some(Running { since: Instant::now(), work, usual });
        Watched { watchdog: self, pace }
    }

    /// How long the present prediction has been running.
    pub(crate) fn running(&self) -> Option<Duration> {
        self.lock().map(|running| running.since.elapsed())
    }

    /// The present prediction, if it stalls.
    pub(crate) fn stall(&self) -> Option<Stall> {
        self.lock().and_then(|running| running.stall())
    }
}

impl Running {
    fn stall(&self) -> Option<Stall> {
        let (running, usual) = (self.since.elapsed(), self.usual?);
        (running > usual.mul_f64(FACTOR).max(LEAST)).then_some(Stall { running, usual })
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let Some(ended) = self.watchdog.lock().take() else { return };
        if let Some(Stall { running, usual }) = ended.stall() {
            self.watchdog.stalls.inc();
            tracing::warn!("a prediction took {running:.1?}, where {usual:.1?} are usual");
        }
        self.pace.note(ended.since.elapsed().div_f64(ended.work));
    }
}
