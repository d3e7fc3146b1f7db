//! Batches ahead of the trainer, in order, from several threads.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use evo1::Preparer;

use crate::{
    Batch, Error, HostBatch, Mixture, Position, Result, batch::Collator, config::OnError, mixture::SkippedEpisode,
    sample::Sample,
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
    /// Bytes that batches made ahead may take; one is made whatever it takes.
    pub prefetch_bytes: usize,
    /// Which of all batches are made.
    pub share: Share,
    /// Leave out of the inputs what the profile lets nothing see; the loss is the same.
    pub skips_unseen: bool,
}

impl LoaderOptions {
    /// Two batches ahead on as many threads, in at most 2 GiB.
    pub fn new(batch_size: NonZeroUsize) -> Self {
        Self { batch_size, workers: 2, prefetch: 2, prefetch_bytes: 2 << 30, share: Share::ALL, skips_unseen: true }
    }
}

/// Which of the order's batches are made where several ranks share those of each step.
///
/// A step takes `ranks · of_rank` batches that follow each other. Rank r has the `of_rank` ones from `r · of_rank` on. The
/// ranks from `first` to `first + own` are served here, one after the other: the first batch of each, then their second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Ranks that share the batches of a step.
    pub ranks: u64,
    /// The first of those that are served here.
    pub first: u64,
    /// How many of them are served here.
    pub own: u64,
    /// Batches of a rank in a step.
    pub of_rank: u64,
}

impl Share {
    /// Every batch, in order.
    pub const ALL: Self = Self { ranks: 1, first: 0, own: 1, of_rank: 1 };

    /// The place in the order of the `number`-th batch that is made here.
    pub fn place(self, number: u64) -> u64 {
        let Self { ranks, first, own, of_rank } = self;
        let (step, within) = (number / (own * of_rank), number % (own * of_rank));
        let (round, rank) = (within / own, first + within % own);
        (step * ranks + rank) * of_rank + round
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
    share: Share,
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
        let work = Work { mixture, collator, batch_size, share: options.share };
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

    /// The batches of the `samples` draws from a position on: no thread makes more.
    pub fn batches_until(&self, from: Position, samples: u64) -> Batches {
        Batches::start(self.work.clone(), Draws { from, count: Some(samples) }, &self.options)
    }

    /// Episodes of which something could not be read and is skipped, so far.
    pub fn skipped(&self) -> Vec<SkippedEpisode> {
        self.work.mixture.skipped()
    }
}

impl Work {
    /// The `number`-th batch of some draws; the last one may be smaller than the others.
    fn batch(&self, draws: Draws, number: u64) -> Result<HostBatch> {
        let (epoch_len, done) = (self.mixture.len(), self.share.place(number) * self.batch_size);
        let size = draws.count.map_or(self.batch_size, |count| self.batch_size.min(count - done));
        let first = draws.from.advanced(done, epoch_len);
        let positions: Vec<Position> = (0..size).map(|draw| first.advanced(draw, epoch_len)).collect();
        let samples = positions.iter().map(|&position| self.sample(position)).collect::<Result<Vec<_>>>()?;
        self.collator.batch(samples, &positions, first.advanced(size, epoch_len))
    }

    /// Bytes of a batch whose frames are one tile each.
    fn expected_bytes(&self) -> usize {
        let config = &self.collator.preparer.config;
        self.batch_size as usize * config.max_views * 3 * config.vlm.image_size.pow(2)
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
    prefetch_bytes: usize,
    total: u64,
}

#[derive(Default)]
struct QueueState {
    next: u64,
    taken: u64,
    /// Bytes of the largest batch so far, or of what one is expected to have.
    largest: usize,
    ready: BTreeMap<u64, Result<HostBatch>>,
    must_stop: bool,
    has_died: bool,
}

impl Batches {
    pub(crate) fn start(work: Arc<Work>, draws: Draws, options: &LoaderOptions) -> Self {
        let total = draws.count.map_or(u64::MAX, |count| count.div_ceil(work.batch_size));
        let state = QueueState { largest: work.expected_bytes(), ..QueueState::default() };
        let queue = Arc::new(Queue {
            state: Mutex::new(state),
            is_made: Condvar::new(),
            is_taken: Condvar::new(),
            prefetch: options.prefetch.max(1) as u64,
            prefetch_bytes: options.prefetch_bytes,
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

impl Batches {
    /// The next batch, with nothing on a device yet.
    pub fn next_on_host(&mut self) -> Option<Result<HostBatch>> {
        let number = self.number;
        if number == self.total {
            return None;
        }
        self.number += 1;
        Some(if self.threads.is_empty() { self.work.batch(self.draws, number) } else { self.queue.take(number) })
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_on_host()?.map(|batch| batch.place(&self.work.collator.preparer)))
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
    fn work(&self, make: impl Fn(u64) -> Result<HostBatch>) {
        let _guard = DeathNotice(self);
        loop {
            let number = {
                let mut state = locked(&self.state);
                while !state.must_stop && state.next >= state.taken + self.ahead(&state) {
                    state = self.is_taken.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if state.must_stop || state.next == self.total {
                    return;
                }
                state.next += 1;
                state.next - 1
            };
            let batch = make(number);
            let mut state = locked(&self.state);
            state.largest = state.largest.max(batch.as_ref().map_or(0, HostBatch::bytes));
            state.ready.insert(number, batch);
            drop(state);
            self.is_made.notify_all();
        }
    }

    /// How many batches may be made ahead, by their number and by the bytes of the largest so far.
    fn ahead(&self, state: &QueueState) -> u64 {
        let fitting = self.prefetch_bytes.checked_div(state.largest).unwrap_or(usize::MAX);
        self.prefetch.min(fitting as u64).max(1)
    }

    fn take(&self, number: u64) -> Result<HostBatch> {
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
