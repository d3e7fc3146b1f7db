//! Batches of a run from the datasets that its configuration names.

use std::{num::NonZeroUsize, sync::Arc};

use evo1::Preparer;
use evo1_data::{Loader, LoaderOptions, Mixture, Position};

use crate::{BatchSource, Error, Result, TrainBatch, TrainConfig};

/// Batches that threads make ahead of their use, for each of them.
const PREFETCH: usize = 2;

/// Batches of a mixture of datasets.
pub struct DatasetBatches {
    loader: Loader,
    start: Position,
    batch_size: usize,
    running: Option<(u64, evo1_data::Batches)>,
}

impl DatasetBatches {
    /// Batches of a mixture for the policy of `preparer`.
    pub fn new(mixture: Arc<Mixture>, preparer: Preparer, config: &TrainConfig) -> Result<Self> {
        let batch_size =
            NonZeroUsize::new(config.batch_size).ok_or_else(|| Error::config("batch_size", "at least 1", 0))?;
        let workers = match config.workers {
            0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            workers => workers,
        };
        let options = LoaderOptions { workers, prefetch: PREFETCH * workers, ..LoaderOptions::new(batch_size) };
        let loader = Loader::new(mixture, preparer, options)?;
        Ok(Self { loader, start: Position::start(config.seed), batch_size: config.batch_size, running: None })
    }

    /// The loader.
    pub fn loader(&self) -> &Loader {
        &self.loader
    }
}

impl BatchSource for DatasetBatches {
    fn batch(&mut self, index: u64) -> Result<TrainBatch> {
        let mut batches = match self.running.take() {
            Some((next, batches)) if next == index => batches,
            _ => {
                let draws = index * self.batch_size as u64;
                self.loader.batches(self.start.advanced(draws, self.loader.mixture().len()))
            }
        };
        let batch = batches.next().ok_or_else(|| Error::config("data", "without end", "its end"))??;
        self.running = Some((index + 1, batches));
        Ok(batch.into())
    }

    fn batch_size(&self) -> usize {
        self.batch_size
    }

    fn samples(&self) -> usize {
        self.loader.mixture().len() as usize
    }
}
