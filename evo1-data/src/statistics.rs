//! Statistics of states and actions over exactly the windows that training sees.
//!
//! A window's state counts once, each of its actions once; so an action counts as often as windows hold it, and the last
//! one of an episode as often as windows repeat it past the end. How often is counted, not repeated: one pass over the
//! tables is enough.

use std::collections::BTreeMap;

use evo1_core::normalize::{RobotStatistics, Statistics, VectorStatistics};

use crate::{Error, Result, Source, mixture::frames, sampler::Run};

/// Statistics of every dataset, by arm and dataset key.
pub(crate) fn of_mixture(
    sources: &[Source],
    runs: &[Run],
    horizon: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Statistics> {
    // First frames of windows by dataset and episode.
    let mut starts: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for run in runs {
        starts.entry((run.source, run.episode)).or_default().extend(frames(run));
    }
    let mut vectors: Vec<[Accumulator; 2]> = sources.iter().map(|_| Default::default()).collect();
    let total = starts.len();
    for (done, ((index, episode), starts)) in starts.into_iter().enumerate() {
        let source = &sources[index];
        let table = source.dataset.table(episode)?;
        let [states, actions] = &mut vectors[index];
        for &frame in &starts {
            states
                .add(&source.state(&table, episode, frame)?, 1)
                .map_err(|got| width(source, episode, "state", got))?;
        }
        for (frame, count) in action_counts(&starts, table.rows(), horizon).into_iter().enumerate() {
            if count > 0 {
                let action = source.action(&table, episode, frame)?;
                actions.add(&action, count).map_err(|got| width(source, episode, "action", got))?;
            }
        }
        progress(done + 1, total);
    }
    let mut statistics = Statistics::default();
    for (source, [states, actions]) in sources.iter().zip(vectors) {
        let (state, action) = (states.finish(), actions.finish());
        if let (Some(state), Some(action)) = (state, action) {
            statistics.insert(&source.statistics_key(), RobotStatistics { state, action });
        }
    }
    Ok(statistics)
}

fn width(source: &Source, episode: usize, what: &str, (expected, got): (usize, usize)) -> Error {
    let what = format!("the {what}'s width in episode {episode}");
    Error::inconsistent(source.dataset.root(), what, expected, got)
}

/// How often each of `rows` actions stands in the windows of `horizon` actions that begin at `starts`.
fn action_counts(starts: &[usize], rows: usize, horizon: usize) -> Vec<u64> {
    let mut change = vec![0_i64; rows + 1];
    let mut repeats = 0;
    for &start in starts {
        let end = (start + horizon).min(rows);
        change[start] += 1;
        change[end] -= 1;
        repeats += start + horizon - end;
    }
    let mut inside = 0;
    let mut counts: Vec<u64> = change[..rows]
        .iter()
        .map(|change| {
            inside += change;
            inside as u64
        })
        .collect();
    if let Some(last) = counts.last_mut() {
        *last += repeats as u64;
    }
    counts
}

/// Values of a vector's dimensions with how often each occurs.
#[derive(Debug, Default)]
struct Accumulator {
    dimensions: Vec<Vec<(f32, u64)>>,
}

impl Accumulator {
    /// Fails with the widths when they differ.
    fn add(&mut self, vector: &[f32], count: u64) -> Result<(), (usize, usize)> {
        if self.dimensions.is_empty() {
            self.dimensions.resize(vector.len(), Vec::new());
        }
        if self.dimensions.len() != vector.len() {
            return Err((self.dimensions.len(), vector.len()));
        }
        self.dimensions.iter_mut().zip(vector).for_each(|(dimension, &value)| dimension.push((value, count)));
        Ok(())
    }

    fn finish(self) -> Option<VectorStatistics> {
        let summaries: Vec<Summary> = self.dimensions.into_iter().map(Summary::of).collect::<Option<_>>()?;
        let list = |of: fn(&Summary) -> f64| Some(summaries.iter().map(|summary| of(summary) as f32).collect());
        (!summaries.is_empty()).then(|| VectorStatistics {
            min: list(|summary| summary.min),
            max: list(|summary| summary.max),
            mean: list(|summary| summary.mean),
            std: list(|summary| summary.std),
            q01: list(|summary| summary.q01),
            q99: list(|summary| summary.q99),
        })
    }
}

/// Statistics of one dimension.
struct Summary {
    min: f64,
    max: f64,
    mean: f64,
    std: f64,
    q01: f64,
    q99: f64,
}

impl Summary {
    fn of(mut values: Vec<(f32, u64)>) -> Option<Self> {
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (&(min, _), &(max, _)) = (values.first()?, values.last()?);
        let total: u64 = values.iter().map(|&(_, count)| count).sum();
        let mean_of = |of: &dyn Fn(f64) -> f64| {
            values.iter().map(|&(value, count)| of(f64::from(value)) * count as f64).sum::<f64>() / total as f64
        };
        let mean = mean_of(&|value| value);
        let std = mean_of(&|value| (value - mean).powi(2)).sqrt();
        Some(Self {
            min: min.into(),
            max: max.into(),
            mean,
            std,
            q01: quantile(&values, total, 0.01),
            q99: quantile(&values, total, 0.99),
        })
    }
}

/// The quantile of sorted values with their counts, interpolated linearly between neighbours as NumPy does.
fn quantile(sorted: &[(f32, u64)], total: u64, quantile: f64) -> f64 {
    let place = (total - 1) as f64 * quantile;
    let at = |place: u64| {
        let mut passed = 0;
        let found = sorted.iter().find(|&&(_, count)| {
            passed += count;
            passed > place
        });
        found.or(sorted.last()).map_or(0.0, |&(value, _)| f64::from(value))
    };
    let (low, high) = (at(place.floor() as u64), at(place.ceil() as u64));
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_count_as_often_as_windows_hold_them() {
        // Windows of 3 over 4 rows: 012, 123, 233, 333.
        assert_eq!(action_counts(&[0, 1, 2, 3], 4, 3), [1, 2, 3, 6]);
        assert_eq!(action_counts(&[1], 4, 2), [0, 1, 1, 0]);
        assert_eq!(action_counts(&[0], 1, 5), [5]);
    }

    #[test]
    fn counted_values_have_the_statistics_of_repeated_ones() {
        // numpy over [1, 1, 1, 2, 5, 5]: mean 2.5, std 1.80277564, quantiles 0.01: 1.0, 0.99: 5.0
        let summary = Summary::of(vec![(5.0, 2), (1.0, 3), (2.0, 1)]).expect("values");
        assert_eq!((summary.min, summary.max, summary.mean), (1.0, 5.0, 2.5));
        assert!((summary.std - 1.802_775_637_7).abs() < 1e-9);
        // numpy.quantile([0, 10, 20], [0.01, 0.99]) = [0.2, 19.8]
        let values = [(0.0, 1), (10.0, 1), (20.0, 1)];
        assert!((quantile(&values, 3, 0.01) - 0.2).abs() < 1e-9);
        assert!((quantile(&values, 3, 0.99) - 19.8).abs() < 1e-9);
    }
}
