//! Minimum, maximum, mean, deviation and quantiles of a stream of numbers, in bounded memory.
//!
//! Quantiles are exact up to [`EXACT`] numbers; past that they are read off a histogram of logarithmic buckets (DDSketch,
//! Masson et al. 2019, arXiv 1908.10693), whose answer is within [`RELATIVE_ERROR`] of the true quantile's value.

use std::collections::VecDeque;

/// Numbers that are kept before a histogram takes their place: 1 MB for each dimension, as much as most histograms may have.
const EXACT: usize = 1 << 16;

/// Largest relative error of a quantile that is read off the histogram.
const RELATIVE_ERROR: f64 = 1e-3;

/// Magnitudes below this count as 0.
const SMALLEST: f64 = 1e-9;

/// A summary of numbers with how often each occurs.
#[derive(Debug)]
pub(crate) struct DimensionSummary {
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) mean: f64,
    /// Sum of squared distances from the mean.
    squares: f64,
    total: u64,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Exact { pairs: Vec<(f32, u64)>, limit: usize, is_sorted: bool },
    Histogram(Histogram),
}

/// Counts by bucket; buckets are ordered as their numbers are. All single-precision numbers have 110,000 buckets.
#[derive(Debug, Default)]
struct Histogram {
    /// The bucket of the first count.
    first: i32,
    counts: VecDeque<u64>,
}

impl Histogram {
    fn add(&mut self, bucket: i32, count: u64) {
        if self.counts.is_empty() {
            self.first = bucket;
        }
        while bucket < self.first {
            self.counts.push_front(0);
            self.first -= 1;
        }
        let place = (bucket - self.first) as usize;
        if place >= self.counts.len() {
            self.counts.resize(place + 1, 0);
        }
        self.counts[place] += count;
    }

    fn iter(&self) -> impl Iterator<Item = (i32, u64)> {
        (self.first..).zip(self.counts.iter().copied()).filter(|(_, count)| *count > 0)
    }
}

impl Default for DimensionSummary {
    fn default() -> Self {
        Self::with_limit(EXACT)
    }
}

impl DimensionSummary {
    fn with_limit(limit: usize) -> Self {
        let values = Values::Exact { pairs: Vec::new(), limit, is_sorted: true };
        Self { min: f64::INFINITY, max: f64::NEG_INFINITY, mean: 0.0, squares: 0.0, total: 0, values }
    }

    /// Adds a number `count` times.
    pub(crate) fn add(&mut self, value: f32, count: u64) {
        let wide = f64::from(value);
        self.min = self.min.min(wide);
        self.max = self.max.max(wide);
        self.total += count;
        let before = wide - self.mean;
        self.mean += before * count as f64 / self.total as f64;
        self.squares += count as f64 * before * (wide - self.mean);
        match &mut self.values {
            Values::Exact { pairs, limit, is_sorted } => {
                pairs.push((value, count));
                *is_sorted = false;
                if pairs.len() > *limit {
                    let mut histogram = Histogram::default();
                    pairs.iter().for_each(|&(value, count)| histogram.add(bucket(value.into()), count));
                    self.values = Values::Histogram(histogram);
                }
            }
            Values::Histogram(histogram) => histogram.add(bucket(wide), count),
        }
    }

    /// The standard deviation, of all numbers and not of a sample.
    pub(crate) fn std(&self) -> f64 {
        (self.squares.max(0.0) / self.total.max(1) as f64).sqrt()
    }

    /// A quantile, interpolated linearly between neighbours as NumPy does.
    pub(crate) fn quantile(&mut self, quantile: f64) -> f64 {
        let place = self.total.saturating_sub(1) as f64 * quantile;
        if let Values::Exact { pairs, is_sorted, .. } = &mut self.values
            && !*is_sorted
        {
            pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
            *is_sorted = true;
        }
        let (low, high) = (self.at(place.floor() as u64), self.at(place.ceil() as u64));
        low + (high - low) * place.fract()
    }

    /// The number at a place of the sorted order.
    fn at(&self, place: u64) -> f64 {
        fn found<T: Copy>(counted: impl Iterator<Item = (T, u64)>, place: u64) -> Option<T> {
            let (mut passed, mut last) = (0, None);
            for (value, count) in counted {
                passed += count;
                last = Some(value);
                if passed > place {
                    break;
                }
            }
            last
        }
        match &self.values {
            Values::Exact { pairs, .. } => found(pairs.iter().copied(), place).map_or(0.0, f64::from),
            Values::Histogram(histogram) => {
                let bucket = found(histogram.iter(), place);
                bucket.map_or(0.0, middle).clamp(self.min, self.max)
            }
        }
    }
}

/// Ratio of a bucket's ends.
fn growth() -> f64 {
    (1.0 + RELATIVE_ERROR) / (1.0 - RELATIVE_ERROR)
}

/// The bucket of a number: 0 for 0, positive for positive numbers, in the order of the numbers.
fn bucket(value: f64) -> i32 {
    if value.abs() < SMALLEST {
        return 0;
    }
    let steps = ((value.abs() / SMALLEST).ln() / growth().ln()).ceil() as i32 + 1;
    if value > 0.0 { steps } else { -steps }
}

/// The number in the middle of a bucket, within the relative error of all that are in it.
fn middle(bucket: i32) -> f64 {
    if bucket == 0 {
        return 0.0;
    }
    let upper = SMALLEST * growth().powi(bucket.abs() - 1);
    f64::from(bucket.signum()) * 2.0 * upper / (growth() + 1.0)
}

#[cfg(test)]
mod tests {
    use evo1_core::rng::{RngExt, stream};

    use super::*;

    #[test]
    fn counted_values_have_the_statistics_of_repeated_ones() {
        // numpy over [1, 1, 1, 2, 5, 5]: mean 2.5, std 1.80277564, quantiles 0.01: 1.0, 0.99: 5.0
        let mut summary = DimensionSummary::default();
        [(5.0, 2), (1.0, 3), (2.0, 1)].into_iter().for_each(|(value, count)| summary.add(value, count));
        assert_eq!((summary.min, summary.max, summary.mean), (1.0, 5.0, 2.5));
        assert!((summary.std() - 1.802_775_637_7).abs() < 1e-9);
        assert_eq!((summary.quantile(0.01), summary.quantile(0.99)), (1.0, 5.0));
    }

    #[test]
    fn quantiles_are_interpolated_as_numpy_does() {
        // numpy.quantile([0, 10, 20], [0.01, 0.99]) = [0.2, 19.8]
        let mut summary = DimensionSummary::default();
        [20.0, 0.0, 10.0].into_iter().for_each(|value| summary.add(value, 1));
        assert!((summary.quantile(0.01) - 0.2).abs() < 1e-9);
        assert!((summary.quantile(0.99) - 19.8).abs() < 1e-9);
    }

    #[test]
    fn the_histogram_keeps_its_error_bound() {
        let mut rng = stream(1, "summary");
        let (mut exact, mut sketch) = (DimensionSummary::with_limit(usize::MAX), DimensionSummary::with_limit(100));
        for _ in 0..50_000 {
            let value = (rng.random::<f32>() - 0.4).powi(3) * 200.0;
            let count = rng.random_range(1..5);
            exact.add(value, count);
            sketch.add(value, count);
        }
        assert!(matches!(sketch.values, Values::Histogram(_)));
        for quantile in [0.0, 0.01, 0.2, 0.5, 0.9, 0.99, 1.0] {
            let (want, got) = (exact.quantile(quantile), sketch.quantile(quantile));
            // Between two neighbours the exact one interpolates.
            assert!((got - want).abs() <= 1.01 * RELATIVE_ERROR * want.abs() + 1e-6, "{quantile}: {got} for {want}");
        }
        assert_eq!((exact.mean, exact.std()), (sketch.mean, sketch.std()));
    }

    #[test]
    fn a_summary_takes_at_most_two_megabytes() {
        let bytes = |summary: &DimensionSummary| match &summary.values {
            Values::Exact { pairs, .. } => pairs.capacity() * size_of::<(f32, u64)>(),
            Values::Histogram(histogram) => histogram.counts.capacity() * size_of::<u64>(),
        };
        let mut summary = DimensionSummary::default();
        let mut most = 0;
        let extremes = [f32::MAX, f32::MIN_POSITIVE, -1e-9, f32::MIN, 1e-9, 0.0];
        for number in 0..2 * EXACT {
            let value = if number < EXACT { number as f32 } else { extremes[number % 6] };
            summary.add(value, 1);
            most = most.max(bytes(&summary));
        }
        assert!(matches!(summary.values, Values::Histogram(_)));
        assert!(most <= 2_000_000, "{most}");
        assert_eq!(summary.quantile(1.0), f64::from(f32::MAX));
    }
}
