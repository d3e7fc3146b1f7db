//! Batches ahead of the trainer, in order, from several threads.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use evo1::Preparer;

use crate::{
    Batch, Error, Mixture, Position, Result, batch::Collator, config::OnError, mixture::SkippedEpisode, sample::Sample,
};

/// Samples that may fail one after the other before a run stops.
const MAX_BAD_SAMPLES: usize = 100;

/// How batches are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Samples of a batch.
    pub batch_size: NonZeroUsize,
    /// Threads that make batches; with 0 each is made when it is asked for.
    pub workers: usize,
    /// Batches that may be made ahead.
    pub prefetch: usize,
    /// Leave out of the inputs what the profile lets nothing see; the loss is the same.
    pub skips_unseen: bool,
}

impl LoaderOptions {
    /// Two batches ahead on as many threads.
    pub fn new(batch_size: NonZeroUsize) -> Self {
        Self { batch_size, workers: 2, prefetch: 2, skips_unseen: true }
    }
}

/// Makes batches of a mixture's samples.
#[derive(Clone)]
pub struct Loader {
    pub(crate) work: Arc<Work>,
    pub(crate) options: LoaderOptions,
}

/// What a thread needs to make a batch.
#[derive(Clone)]
pub(crate) struct Work {
    pub(crate) mixture: Arc<Mixture>,
    pub(crate) collator: Collator,
    batch_size: u64,
}

/// Draws that become batches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draws {
    pub(crate) from: Position,
    /// How many; without it they do not end.
    pub(crate) count: Option<u64>,
}

impl Loader {
    /// A loader that prepares batches for the policy of `preparer`.
    ///
    /// # Errors
    /// When the mixture's configuration and the policy's differ in sizes or normalisation.
    pub fn new(mixture: Arc<Mixture>, preparer: Preparer, options: LoaderOptions) -> Result<Self> {
        let horizon = preparer.config.action.horizon;
        if mixture.horizon() != horizon {
            let got = mixture.horizon();
            return Err(evo1_core::Error::invalid("mixture", "horizon", format!("the model's, {horizon}"), got).into());
        }
        let max = preparer.config.max_views;
        if let Some(source) = mixture.sources().iter().find(|source| source.views.len() > max) {
            let cameras = source.cameras().collect::<Vec<_>>().join(", ");
            return Err(Error::TooManyCameras {
                dataset: source.name.to_string(),
                cameras,
                max,
                got: source.views.len(),
            });
        }
        let collator = Collator::new(preparer, mixture.config.clone(), options.skips_unseen)?;
        let batch_size = options.batch_size.get() as u64;
        let work = Work { mixture, collator, batch_size };
        Ok(Self { work: Arc::new(work), options })
    }

    /// The mixture.
    pub fn mixture(&self) -> &Mixture {
        &self.work.mixture
    }

    /// Endless batches from a position on.
    pub fn batches(&self, from: Position) -> Batches {
        Batches::start(self.work.clone(), Draws { from, count: None }, &self.options)
    }

    /// Episodes of which something could not be read and is skipped, so far.
    pub fn skipped(&self) -> Vec<SkippedEpisode> {
        self.work.mixture.skipped()
    }
}

impl Work {
    /// The `number`-th batch of some draws; the last one may be smaller than the others.
    fn batch(&self, draws: Draws, number: u64) -> Result<Batch> {
        let (epoch_len, done) = (self.mixture.len(), number * self.batch_size);
        let size = draws.count.map_or(self.batch_size, |count| self.batch_size.min(count - done));
        let first = draws.from.advanced(done, epoch_len);
        let positions: Vec<Position> = (0..size).map(|draw| first.advanced(draw, epoch_len)).collect();
        let samples = positions.iter().map(|&position| self.sample(position)).collect::<Result<Vec<_>>>()?;
        self.collator.batch(samples, &positions, first.advanced(size, epoch_len))
    }

    /// The sample drawn at a position, or another one where unreadable samples are skipped and it is one. Which one is a
    /// function of the position and of the files, whatever other threads have read.
    fn sample(&self, position: Position) -> Result<Sample> {
        let mut place = self.mixture.locate(position);
        let mut attempt = 0;
        loop {
            let (source, episode, frame) = place;
            match self.mixture.read(source, episode, frame) {
                Ok(sample) => return Ok(sample),
                Err(error) if self.mixture.config.on_error == OnError::Stop => return Err(error),
                Err(error) if attempt == MAX_BAD_SAMPLES => {
                    return Err(Error::TooManyBadSamples { tries: attempt + 1, last: Box::new(error) });
                }
                Err(error) => self.mixture.skip(place, &error),
            }
            place = self.mixture.locate_replacement(position, attempt);
            attempt += 1;
        }
    }
}

/// Batches, in order. Dropping it stops its threads.
pub struct Batches {
    work: Arc<Work>,
    draws: Draws,
    /// Batches that were taken.
    number: u64,
    /// Batches there are.
    total: u64,
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

/// Where threads and the consumer meet.
struct Queue {
    state: Mutex<QueueState>,
    /// A batch was made, or a thread has died.
    is_made: Condvar,
    /// A batch was taken, or all must stop.
    is_taken: Condvar,
    prefetch: u64,
    total: u64,
}

#[derive(Default)]
struct QueueState {
    next: u64,
    taken: u64,
    ready: BTreeMap<u64, Result<Batch>>,
    must_stop: bool,
    has_died: bool,
}

impl Batches {
    pub(crate) fn start(work: Arc<Work>, draws: Draws, options: &LoaderOptions) -> Self {
        let total = draws.count.map_or(u64::MAX, |count| count.div_ceil(work.batch_size));
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            is_made: Condvar::new(),
            is_taken: Condvar::new(),
            prefetch: options.prefetch.max(1) as u64,
            total,
        });
        let threads = (0..options.workers)
            .map(|_| {
                let (work, queue) = (work.clone(), queue.clone());
                std::thread::spawn(move || queue.work(|number| work.batch(draws, number)))
            })
            .collect();
        Self { work, draws, number: 0, total, queue, threads }
    }

    /// Samples of the batches that were taken.
    #[cfg(feature = "epochs")]
    pub(crate) fn samples_taken(&self) -> u64 {
        let taken = self.number * self.work.batch_size;
        self.draws.count.map_or(taken, |count| taken.min(count))
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let number = self.number;
        if number == self.total {
            return None;
        }
        self.number += 1;
        Some(if self.threads.is_empty() { self.work.batch(self.draws, number) } else { self.queue.take(number) })
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        locked(&self.queue.state).must_stop = true;
        self.queue.is_taken.notify_all();
        for thread in self.threads.drain(..) {
            // A panic was reported when it happened, and by `next`.
            let _ = thread.join();
        }
    }
}

impl Queue {
    /// A thread's life: make the next batch that is wanted, until told to stop.
    fn work(&self, make: impl Fn(u64) -> Result<Batch>) {
        let _guard = DeathNotice(self);
        loop {
            let number = {
                let mut state = locked(&self.state);
                while !state.must_stop && state.next >= state.taken + self.prefetch {
                    state = self.is_taken.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if state.must_stop || state.next == self.total {
                    return;
                }
                state.next += 1;
                state.next - 1
            };
            let batch = make(number);
            locked(&self.state).ready.insert(number, batch);
            self.is_made.notify_all();
        }
    }

    fn take(&self, number: u64) -> Result<Batch> {
        let mut state = locked(&self.state);
        loop {
            if let Some(batch) = state.ready.remove(&number) {
                state.taken = number + 1;
                self.is_taken.notify_all();
                return batch;
            }
            if state.has_died {
                return Err(Error::WorkerDied);
            }
            state = self.is_made.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Tells the consumer when a thread panics.
struct DeathNotice<'a>(&'a Queue);

impl Drop for DeathNotice<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            locked(&self.0.state).has_died = true;
            self.0.is_made.notify_all();
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
