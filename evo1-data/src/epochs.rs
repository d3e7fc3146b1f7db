//! burn's traits: a [`Mixture`] is a `Dataset` of samples, and [`Epochs`] a `DataLoader` of batches.
//!
//! [`Loader::batches`] is endless, continues from any position and fails with this crate's error; what is written for
//! burn's traits gets whole epochs instead.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use burn::{
    data::{
        dataloader::{DataLoader, DataLoaderIterator, Progress},
        dataset::{Dataset, DatasetError},
    },
    tensor::Device,
};

use crate::{
    Batch, Batches, Loader, LoaderOptions, Mixture, Position, Sample,
    loader::{Draws, Work},
};

impl Dataset<Sample> for Mixture {
    /// The sample at a place of the order in which the datasets are listed; weights do not count.
    fn get(&self, index: usize) -> Result<Sample, DatasetError> {
        let sample = self.in_order(index as u64).unwrap_or_else(|| panic!("sample {index} of {}", Mixture::len(self)));
        sample.map_err(DatasetError::new)
    }

    fn len(&self) -> usize {
        Mixture::len(self) as usize
    }
}

/// Epochs of a [`Loader`] as burn's `DataLoader`: each call of `iter` gives the batches of the next one. The last batch of
/// an epoch may be smaller than the others.
pub struct Epochs {
    work: Arc<Work>,
    options: LoaderOptions,
    seed: u64,
    next: AtomicU64,
    /// The draws of each epoch that are used.
    part: Range<u64>,
}

impl Loader {
    /// All epochs of the order of `seed`, from the first on.
    pub fn epochs(&self, seed: u64) -> Epochs {
        let part = 0..self.mixture().len();
        Epochs { work: self.work.clone(), options: self.options.clone(), seed, next: AtomicU64::new(0), part }
    }
}

impl DataLoader<Batch> for Epochs {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        let epoch = self.next.fetch_add(1, Ordering::Relaxed);
        let Range { start, end } = self.part;
        let draws = Draws { from: Position { seed: self.seed, epoch, index: start }, count: Some(end - start) };
        Box::new(Epoch { batches: Batches::start(self.work.clone(), draws, &self.options), samples: self.num_items() })
    }

    fn num_items(&self) -> usize {
        (self.part.end - self.part.start) as usize
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<Batch>> {
        let mut work = Work::clone(&self.work);
        work.collator.preparer.device = device.clone();
        Arc::new(Self { work: Arc::new(work), ..self.part(self.part.clone()) })
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Batch>> {
        let place = |draw: usize| self.part.start.saturating_add(draw as u64).min(self.part.end);
        Arc::new(self.part(place(start)..place(end).max(place(start))))
    }
}

impl Epochs {
    /// The same with a part of the draws.
    fn part(&self, part: Range<u64>) -> Self {
        let next = AtomicU64::new(self.next.load(Ordering::Relaxed));
        Self { work: self.work.clone(), options: self.options.clone(), seed: self.seed, next, part }
    }
}

/// Batches of one epoch.
struct Epoch {
    batches: Batches,
    samples: usize,
}

impl Iterator for Epoch {
    type Item = Result<Batch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.batches.next()?.map_err(DatasetError::new))
    }
}

impl DataLoaderIterator<Batch> for Epoch {
    fn progress(&self) -> Progress {
        Progress::new(self.batches.samples_taken() as usize, self.samples, Some("samples".into()))
    }
}
