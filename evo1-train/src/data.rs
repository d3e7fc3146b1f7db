//! Batches of a run from the datasets that its configuration names.

use std::{num::NonZeroUsize, sync::Arc};

use evo1::Preparer;
use evo1_data::{DatasetIdentity, Loader, LoaderOptions, Mixture, Position, Share};

use crate::{BatchSource, Error, Result, TrainBatch, TrainConfig};

/// Batches that threads make ahead of their use, for each of them.
pub(crate) const PREFETCH: usize = 2;

/// Batches of a mixture of datasets.
pub struct DatasetBatches {
    loader: Loader,
    start: Position,
    batch_size: usize,
    share: Share,
    running: Option<Running>,
}

/// Batches that are being made.
struct Running {
    batches: evo1_data::Batches,
    /// The first observation of the step that they began with.
    origin: u64,
    /// Batches that were taken.
    taken: u64,
}

impl DatasetBatches {
    /// Those batches of a mixture that are used here, for the policy of `preparer`.
    pub fn new(mixture: Arc<Mixture>, preparer: Preparer, config: &TrainConfig, share: Share) -> Result<Self> {
        let batch_size =
            NonZeroUsize::new(config.batch_size).ok_or_else(|| Error::config("batch_size", "at least 1", 0))?;
        let workers = match config.workers {
            0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            workers => workers,
        };
        let prefetch_bytes = config.prefetch_mb << 20;
        let options = LoaderOptions { prefetch_bytes, share, ..LoaderOptions::new(batch_size) };
        let options = LoaderOptions { workers, prefetch: PREFETCH * workers, ..options };
        let loader = Loader::new(mixture, preparer, options)?;
        let start = Position::start(config.seed);
        Ok(Self { loader, start, batch_size: config.batch_size, share, running: None })
    }

    /// The loader.
    pub fn loader(&self) -> &Loader {
        &self.loader
    }

    /// The first observation of the `number`-th batch that is used here, counted from that of the step it began with.
    fn first(&self, number: u64) -> u64 {
        self.share.place(number) * self.batch_size as u64
    }
}

impl BatchSource for DatasetBatches {
    fn batch(&mut self, first: u64) -> Result<TrainBatch> {
        let mut running = match self.running.take() {
            Some(running) if running.origin + self.first(running.taken) == first => running,
            _ => {
                let origin = first.checked_sub(self.first(0)).ok_or_else(|| {
                    Error::config("first", format!("at least {}: other ranks have those before", self.first(0)), first)
                })?;
                let from = self.start.advanced(origin, self.loader.mixture().len());
                Running { batches: self.loader.batches(from), origin, taken: 0 }
            }
        };
        let batch = running.batches.next_on_host().ok_or_else(|| Error::config("data", "without end", "its end"))??;
        running.taken += 1;
        self.running = Some(running);
        Ok(batch.into())
    }

    fn batch_size(&self) -> usize {
        self.batch_size
    }

    fn samples(&self) -> usize {
        self.loader.mixture().len() as usize
    }

    fn identity(&self) -> Vec<DatasetIdentity> {
        self.loader.mixture().identity()
    }

    fn skipped(&self) -> Vec<String> {
        self.loader.skipped().iter().map(ToString::to_string).collect()
    }
}
