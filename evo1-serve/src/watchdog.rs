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
    state: Mutex<State>,
    stalls: IntCounter,
}

#[derive(Debug, Default)]
struct State {
    /// Times of the last predictions, each divided by its work.
    recent: VecDeque<Duration>,
    /// Since when there is a prediction, and how many times the usual work it is.
    running: Option<(Instant, f64)>,
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
pub(crate) struct Watched<'a>(&'a Watchdog);

impl Watchdog {
    /// A watchdog that counts in `stalls`.
    pub(crate) fn new(stalls: IntCounter) -> Self {
        Self { state: Mutex::default(), stalls }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a prediction whose `work` is so many times the usual one.
    pub(crate) fn watch(&self, work: f64) -> Watched<'_> {
        self.lock().running = Some((Instant::now(), work.max(1.0)));
        Watched(self)
    }

    /// How long the present prediction has been running.
    pub(crate) fn running(&self) -> Option<Duration> {
        self.lock().running.map(|(since, _)| since.elapsed())
    }

    /// The present prediction, if it stalls. The first one has nothing to be held against.
    pub(crate) fn stall(&self) -> Option<Stall> {
        self.lock().stall()
    }
}

impl State {
    fn stall(&self) -> Option<Stall> {
        let (since, work) = self.running?;
        let mut recent: Vec<Duration> = self.recent.iter().copied().collect();
        recent.sort_unstable();
        let usual = recent.get(recent.len() / 2)?.mul_f64(work);
        let running = since.elapsed();
        (running > usual.mul_f64(FACTOR).max(LEAST)).then_some(Stall { running, usual })
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if let Some(Stall { running, usual }) = state.stall() {
            self.0.stalls.inc();
            tracing::warn!("a prediction took {running:.1?}, where {usual:.1?} are usual");
        }
        if let Some((since, work)) = state.running.take() {
            state.recent.push_back(since.elapsed().div_f64(work));
            let surplus = state.recent.len().saturating_sub(RECENT);
            state.recent.drain(..surplus);
        }
    }
}
