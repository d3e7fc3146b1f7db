//! Which sample comes when: a shuffle that can be continued anywhere.
//!
//! An epoch of n draws puts n equally spaced points on the line of all frames, each frame as long as its weight is, and
//! visits them in a seeded permutation. So without weights every frame is drawn exactly once; with weights a frame that
//! should be drawn 3.4 times is drawn 3 or 4 times. Draw k of epoch e depends on the seed, e and k alone: the position is
//! three numbers, whatever the size of the data.

use evo1_core::rng::{self, Rng, RngExt};
use serde::{Deserialize, Serialize};

/// Where in the order of all draws one stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The seed of the order.
    pub seed: u64,
    /// Epochs that are complete.
    pub epoch: u64,
    /// The next draw of the epoch.
    pub index: u64,
}

impl Position {
    /// The beginning of an order.
    pub fn start(seed: u64) -> Self {
        Self { seed, epoch: 0, index: 0 }
    }

    /// The position `draws` further on, in epochs of `epoch_len` draws.
    ///
    /// # Panics
    /// When `epoch_len` is 0.
    pub fn advanced(self, draws: u64, epoch_len: u64) -> Self {
        let index = self.index + draws;
        Self { epoch: self.epoch + index / epoch_len, index: index % epoch_len, ..self }
    }
}

/// Consecutive samples of one weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Run {
    /// Index of the dataset.
    pub(crate) source: usize,
    pub(crate) episode: usize,
    /// The first frame.
    pub(crate) first: usize,
    /// Frames.
    pub(crate) count: usize,
    /// From frame to frame.
    pub(crate) stride: usize,
    /// Of each frame.
    pub(crate) weight: f64,
}

/// Frames and their weights.
#[derive(Debug, Clone, Default)]
pub(crate) struct DataSampler {
    runs: Vec<Run>,
    /// Sum of weights before each run, and in all.
    before: Vec<f64>,
    /// Samples before each run.
    first: Vec<u64>,
    samples: u64,
}

impl DataSampler {
    /// A sampler over runs; those without weight or frames are left out.
    pub(crate) fn new(runs: impl IntoIterator<Item = Run>) -> Self {
        let mut sampler = Self { before: vec![0.0], ..Self::default() };
        for run in runs.into_iter().filter(|run| run.weight > 0.0 && run.count > 0) {
            let total = sampler.before[sampler.runs.len()] + run.weight * run.count as f64;
            sampler.before.push(total);
            sampler.first.push(sampler.samples);
            sampler.samples += run.count as u64;
            sampler.runs.push(run);
        }
        sampler
    }

    /// Samples there are, and draws of an epoch.
    pub(crate) fn len(&self) -> u64 {
        self.samples
    }

    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The frame at a place of the order in which datasets are listed: dataset, episode, frame.
    #[cfg(feature = "epochs")]
    pub(crate) fn in_order(&self, place: u64) -> Option<(usize, usize, usize)> {
        let run = self.first.partition_point(|&first| first <= place).checked_sub(1)?;
        let Run { source, episode, first, count, stride, .. } = self.runs[run];
        let step = (place - self.first[run]) as usize;
        (step < count).then_some((source, episode, first + step * stride))
    }

    /// The frame that is drawn at a position: dataset, episode, frame.
    pub(crate) fn draw(&self, position: Position) -> (usize, usize, usize) {
        let Position { seed, epoch, index } = position;
        let mut rng = rng::stream(seed, &format!("order {epoch}"));
        // Strictly inside of each interval, so that rounding cannot move a point to its neighbour.
        let offset: f64 = rng.random_range(0.001..0.999);
        let place = Permutation::new(self.samples, rng.next_u64()).at(index);
        let total = self.before[self.runs.len()];
        self.at((place as f64 + offset) / self.samples as f64 * total)
    }

    /// A frame drawn by its weight, in place of one that could not be read.
    pub(crate) fn replacement(&self, position: Position, attempt: usize) -> (usize, usize, usize) {
        let Position { seed, epoch, index } = position;
        let mut rng = rng::stream(seed, &format!("replacement {epoch} {index} {attempt}"));
        self.at(rng.random::<f64>() * self.before[self.runs.len()])
    }

    /// The frame at a point of the line of all frames.
    fn at(&self, point: f64) -> (usize, usize, usize) {
        let run = (self.before.partition_point(|&before| before <= point).max(1) - 1).min(self.runs.len() - 1);
        let Run { source, episode, first, count, stride, weight } = self.runs[run];
        let step = (((point - self.before[run]) / weight) as usize).min(count - 1);
        (source, episode, first + step * stride)
    }
}

/// A seeded permutation of 0..n that is computed where it is asked, not stored: a Feistel network over the next power of
/// four, walked until it lands below n.
#[derive(Debug, Clone, Copy)]
struct Permutation {
    len: u64,
    half_bits: u32,
    key: u64,
}

impl Permutation {
    /// Enough rounds for a shuffle that no statistic of a training run can tell from a random one.
    const ROUNDS: u64 = 6;

    fn new(len: u64, key: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        Self { len, half_bits: bits.div_ceil(2).max(1), key }
    }

    /// Where `index` goes.
    fn at(self, index: u64) -> u64 {
        debug_assert!(index < self.len, "{index} of {}", self.len);
        let mut value = index;
        loop {
            value = self.once(value);
            if value < self.len {
                return value;
            }
        }
    }

    fn once(self, value: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..Self::ROUNDS {
            (left, right) = (right, left ^ (mixed(self.key ^ mixed(right ^ (round << 56))) & mask));
        }
        left << self.half_bits | right
    }
}

/// SplitMix64's finaliser: a bijection whose every output bit depends on every input bit.
fn mixed(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn run(episode: usize, count: usize, weight: f64) -> Run {
        Run { source: 0, episode, first: 0, count, stride: 1, weight }
    }

    fn epoch(sampler: &DataSampler, seed: u64, epoch: u64) -> Vec<(usize, usize, usize)> {
        (0..sampler.len()).map(|index| sampler.draw(Position { seed, epoch, index })).collect()
    }

    #[test]
    fn a_permutation_hits_everything_once() {
        for len in [1, 2, 3, 4, 5, 7, 16, 17, 100, 1000] {
            let permutation = Permutation::new(len, 99);
            let seen: BTreeSet<u64> = (0..len).map(|index| permutation.at(index)).collect();
            assert_eq!(seen.len() as u64, len);
        }
    }

    #[test]
    fn a_permutation_has_no_order_left() {
        let permutation = Permutation::new(10_000, 3);
        let values: Vec<f64> = (0..10_000).map(|index| permutation.at(index) as f64).collect();
        let mean = values.iter().sum::<f64>() / 1e4;
        let lagged =
            |lag: usize| values.windows(lag + 1).map(|pair| (pair[0] - mean) * (pair[lag] - mean)).sum::<f64>();
        for lag in [1, 2, 3, 64] {
            assert!((lagged(lag) / lagged(0)).abs() < 0.04, "lag {lag}: {}", lagged(lag) / lagged(0));
        }
    }

    #[test]
    fn without_weights_every_frame_comes_once_an_epoch_and_epochs_differ() {
        let sampler = DataSampler::new((0..50).map(|episode| run(episode, 1 + episode * 7 % 31, 0.3)));
        let first = epoch(&sampler, 1, 0);
        assert_eq!(first.iter().collect::<BTreeSet<_>>().len() as u64, sampler.len());
        assert_eq!(first, epoch(&sampler, 1, 0));
        assert_ne!(first, epoch(&sampler, 1, 1));
        assert_ne!(first, epoch(&sampler, 2, 0));
    }

    #[test]
    fn weights_are_kept_to_within_one_draw_an_epoch() {
        let runs = [run(0, 10, 5.0), run(1, 90, 1.0), run(2, 40, 0.25), run(3, 5, 0.0)];
        let sampler = DataSampler::new(runs);
        let mut counts = BTreeMap::<_, u64>::new();
        for draw in epoch(&sampler, 4, 2) {
            *counts.entry(draw).or_default() += 1;
        }
        for run in &runs {
            for frame in 0..run.count {
                let expected = run.weight * 140.0 / 150.0;
                let got = counts.get(&(0, run.episode, frame)).copied().unwrap_or(0) as f64;
                assert!((got - expected).abs() < 1.0, "episode {}, frame {frame}: {got} for {expected}", run.episode);
            }
        }
    }

    #[test]
    fn strides_leave_frames_out() {
        let sampler = DataSampler::new([Run { first: 3, count: 4, stride: 5, ..run(7, 0, 1.0) }]);
        let frames: BTreeSet<usize> = epoch(&sampler, 0, 0).into_iter().map(|(_, _, frame)| frame).collect();
        assert_eq!(frames, BTreeSet::from([3, 8, 13, 18]));
    }

    #[test]
    fn positions_pass_over_epochs() {
        let position = Position { seed: 5, epoch: 1, index: 8 };
        assert_eq!(position.advanced(5, 10), Position { seed: 5, epoch: 2, index: 3 });
        assert_eq!(position.advanced(2, 10), Position { seed: 5, epoch: 2, index: 0 });
        assert_eq!(position.advanced(25, 10), Position { seed: 5, epoch: 4, index: 3 });
    }
}
