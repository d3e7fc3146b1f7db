//! Statistics of states and actions over exactly the windows that training sees.
//!
//! A window's state counts once, each of its actions once; so an action counts as often as windows hold it, and the last
//! one of an episode as often as windows repeat it past the end. How often is counted, not repeated: one pass over the
//! tables is enough.

use std::collections::BTreeMap;

use evo1_core::{
    StatisticsKey,
    normalize::{RobotStatistics, Statistics, VectorStatistics},
};

use crate::{
    DatasetSource, Error, Result,
    mixture::{Skipped, frames},
    sample::SampleId,
    sampler::Run,
    summary::DimensionSummary,
};

/// What has statistics of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StatisticsPer {
    /// Every dataset, by arm and dataset key.
    #[default]
    Dataset,
    /// Every arm: all windows of its datasets together, each counted once.
    Arm,
}

/// Statistics of every dataset or arm. With `skips`, windows that cannot be read are noted there and left out.
pub(crate) fn of_mixture(
    sources: &[DatasetSource],
    runs: &[Run],
    horizon: usize,
    per: StatisticsPer,
    skips: Option<&Skipped>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Statistics> {
    // First frames of windows by dataset and episode.
    let mut starts: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for run in runs {
        starts.entry((run.source, run.episode)).or_default().extend(frames(run));
    }
    let mut robots: BTreeMap<(&str, &str), [Accumulator; 2]> = BTreeMap::new();
    let total = starts.len();
    for (done, ((index, episode), starts)) in starts.into_iter().enumerate() {
        let source = &sources[index];
        let dataset = if per == StatisticsPer::Dataset { source.dataset_key() } else { "" };
        let [states, actions] = robots.entry((&source.group, dataset)).or_default();
        let mut skip = |frame: usize, error: Error| match skips {
            Some(skipped) => {
                skipped.note(index, SampleId { dataset: source.name.clone(), episode, frame }, &error);
                Ok(())
            }
            None => Err(error),
        };
        let windows = match Windows::read(source, episode, starts, horizon, &mut skip) {
            Ok(windows) => windows,
            Err(error) => {
                skip(0, error)?;
                continue;
            }
        };
        for state in &windows.states {
            states.add(state, 1).map_err(|got| width(source, episode, "state", got))?;
        }
        for (action, count) in &windows.actions {
            actions.add(action, *count).map_err(|got| width(source, episode, "action", got))?;
        }
        progress(done + 1, total);
    }
    let mut statistics = Statistics::default();
    for ((arm, dataset), [states, actions]) in robots {
        if let (Some(state), Some(action)) = (states.finish(), actions.finish()) {
            let robot = RobotStatistics { state, action };
            match per {
                StatisticsPer::Arm => statistics.insert_arm(arm, robot),
                StatisticsPer::Dataset => {
                    let key = StatisticsKey { arm: Some(arm.to_owned()), dataset: Some(dataset.to_owned()) };
                    statistics.insert(&key, robot);
                }
            }
        }
    }
    Ok(statistics)
}

/// What the windows of an episode hold.
struct Windows {
    states: Vec<Vec<f32>>,
    /// Actions, and how often each counts.
    actions: Vec<(Vec<f32>, u64)>,
}

impl Windows {
    /// Reads the windows of `horizon` actions that begin at `starts`. Those that cannot be read are given to `skip`.
    fn read(
        source: &DatasetSource,
        episode: usize,
        mut starts: Vec<usize>,
        horizon: usize,
        skip: &mut impl FnMut(usize, Error) -> Result<()>,
    ) -> Result<Self> {
        let table = source.dataset.table(episode)?;
        let rows = table.rows();
        // Actions that cannot be read, of those that windows hold.
        let mut is_bad = vec![false; rows];
        let mut actions = Vec::with_capacity(rows);
        for (frame, count) in action_counts(&starts, rows, horizon).into_iter().enumerate() {
            let mut action = Vec::new();
            if count > 0 {
                match source.action(&table, episode, frame) {
                    Ok(found) => action = found,
                    Err(error) => {
                        is_bad[frame] = true;
                        skip(frame, error)?;
                    }
                }
            }
            actions.push(action);
        }
        let (mut states, mut read) = (Vec::with_capacity(starts.len()), Vec::with_capacity(starts.len()));
        starts.retain(|&start| !is_bad[start..(start + horizon).min(rows)].contains(&true));
        for start in starts {
            match source.state(&table, episode, start) {
                Ok(state) => {
                    states.push(state);
                    read.push(start);
                }
                Err(error) => skip(start, error)?,
            }
        }
        let counts = action_counts(&read, rows, horizon);
        let actions = actions.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect();
        Ok(Self { states, actions })
    }
}

fn width(source: &DatasetSource, episode: usize, what: &str, (expected, got): (usize, usize)) -> Error {
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

/// Summaries of a vector's dimensions.
#[derive(Debug, Default)]
struct Accumulator {
    dimensions: Vec<DimensionSummary>,
}

impl Accumulator {
    /// Fails with the widths when they differ.
    fn add(&mut self, vector: &[f32], count: u64) -> Result<(), (usize, usize)> {
        if self.dimensions.is_empty() {
            self.dimensions.resize_with(vector.len(), DimensionSummary::default);
        }
        if self.dimensions.len() != vector.len() {
            return Err((self.dimensions.len(), vector.len()));
        }
        self.dimensions.iter_mut().zip(vector).for_each(|(dimension, &value)| dimension.add(value, count));
        Ok(())
    }

    fn finish(mut self) -> Option<VectorStatistics> {
        let mut list = |of: &dyn Fn(&mut DimensionSummary) -> f64| {
            Some(self.dimensions.iter_mut().map(|summary| of(summary) as f32).collect::<Vec<_>>())
        };
        let statistics = VectorStatistics {
            min: list(&|summary| summary.min),
            max: list(&|summary| summary.max),
            mean: list(&|summary| summary.mean),
            std: list(&|summary| summary.std()),
            q01: list(&|summary| summary.quantile(0.01)),
            q99: list(&|summary| summary.quantile(0.99)),
            q10: list(&|summary| summary.quantile(0.1)),
            q90: list(&|summary| summary.quantile(0.9)),
        };
        (statistics.width() > 0).then_some(statistics)
    }
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
}
