//! A policy and the robot whose data it is trained on.

use std::collections::BTreeSet;

use evo1::{
    Components, Policy,
    config::{Cameras, PolicyConfig},
    normalize::{Normalizer, Statistics},
};
use evo1_data::{DatasetSource, Mixture};

use crate::{Error, Result};

/// Most episodes of a dataset that are looked at to see whether statistics fit it.
const LOOKED_AT: usize = 64;

/// The part of all values that may be unusual before it is said.
const MOST_UNUSUAL: f64 = 0.01;

/// Gives a policy the widths and cameras of the robot in the data, also where it comes from another one; unknown where
/// robots of several kinds share it. What was known and became another is told.
pub(crate) fn fit(config: &mut PolicyConfig, statistics: &Statistics, mixture: &Mixture) -> Vec<String> {
    let widths: BTreeSet<_> =
        statistics.robots().map(|(_, robot)| (robot.state.width(), robot.action.width())).collect();
    let (state, action) = match widths.into_iter().collect::<Vec<_>>()[..] {
        [(state, action)] => (Some(state), Some(action)),
        _ => (None, None),
    };
    let cameras = cameras_of(mixture, &config.cameras);
    let width = |width: Option<usize>| width.map(|width| width.to_string());
    let names = |cameras: &Cameras| (!cameras.is_unknown()).then(|| cameras.names.join(", "));
    let mut changes = Vec::new();
    for (what, old, new) in [
        ("width of states", width(config.state_dim), width(state)),
        ("width of actions", width(config.action_dim), width(action)),
        ("cameras", names(&config.cameras), names(&cameras)),
    ] {
        let new = new.unwrap_or_else(|| "not one".into());
        if let Some(old) = old.filter(|old| *old != new) {
            changes.push(format!("{what} ({new}, was {old})"));
        }
    }
    (config.state_dim, config.action_dim, config.cameras) = (state, action, cameras);
    changes
}

/// The cameras that views show: the policy's where every dataset has them in their places, else those of the datasets where
/// all have the same.
fn cameras_of(mixture: &Mixture, known: &Cameras) -> Cameras {
    let is_known = |source: &DatasetSource| {
        source.views.len() == known.names.len()
            && source.views.iter().enumerate().all(|(view, camera)| match camera {
                Some(camera) => known.view(camera) == Some(view),
                None => true,
            })
    };
    let sources = mixture.sources();
    if sources.iter().all(is_known) {
        return known.clone();
    }
    let views = sources.first().map(|source| source.views.as_slice()).unwrap_or_default();
    match sources.iter().all(|source| source.views == views) {
        true => Cameras::named(views.iter().flatten().cloned()),
        false => Cameras::default(),
    }
}

/// The same statistics by the keys of a mixture's datasets, all of which use the one set that there is.
pub(crate) fn shared(statistics: Statistics, mixture: &Mixture) -> Statistics {
    let Some(robot) = statistics.only() else { return statistics };
    let mut shared = Statistics::default();
    for source in mixture.sources() {
        shared.insert(&source.statistics_key(), robot.clone());
    }
    shared
}

/// States and actions that the policy's statistics do not fit: more than one in a hundred of their normalised values is far
/// outside of what statistics of their own would give. Up to 64 episodes of each dataset are looked at.
///
/// # Errors
/// When they have other widths, or a table cannot be read.
pub(crate) fn misfits<C: Components>(policy: &Policy<C>, mixture: &Mixture) -> Result<Vec<String>> {
    let mut misfits = Vec::new();
    let Some(statistics) = policy.statistics.clone() else { return Ok(misfits) };
    let (statistics, config) = (shared(statistics, mixture), &policy.config);
    let normalizer = Normalizer::new(config.normalization, &config.semantics);
    for source in mixture.sources() {
        let robot = statistics.select(&source.statistics_key()).map_err(evo1::Error::from)?;
        let misfit = |error| {
            let expected = format!("statistics that fit {}, as `statistics: data` makes them ({error})", source.name);
            Error::config("statistics", expected, "others")
        };
        let (mut states, mut actions) = (Range::default(), Range::default());
        let episodes = source.episodes();
        for episode in episodes.clone().step_by(episodes.len().div_ceil(LOOKED_AT).max(1)) {
            // What cannot be read is refused or skipped where it is used.
            let Ok(table) = source.dataset.table(episode) else { continue };
            for frame in 0..table.rows() {
                let read = (source.state(&table, episode, frame), source.action(&table, episode, frame));
                let (Ok(state), Ok(action)) = read else { continue };
                states.add(
                    &normalizer.unclamped_state(&state, robot).map_err(misfit)?,
                    config.normalization.state.usual_limit(),
                );
                actions.add(
                    &normalizer.unclamped_action(&action, robot).map_err(misfit)?,
                    config.normalization.action.usual_limit(),
                );
            }
        }
        for (what, range) in [("states", states), ("actions", actions)] {
            if let Some(unusual) = range.unusual() {
                misfits.push(format!("{}: the policy's statistics do not fit its {what}: {unusual}", source.name));
            }
        }
    }
    Ok(misfits)
}

/// How many normalised values there are, how many of them far out, and the one that is farthest.
#[derive(Default)]
struct Range {
    limit: f32,
    values: usize,
    outside: usize,
    farthest: (usize, f32),
}

impl Range {
    fn add(&mut self, normalized: &[f32], limit: Option<f32>) {
        self.limit = limit.unwrap_or(f32::INFINITY);
        self.values += normalized.len();
        for (dimension, &value) in normalized.iter().enumerate().filter(|(_, value)| value.abs() > self.limit) {
            self.outside += 1;
            if value.abs() > self.farthest.1.abs() {
                self.farthest = (dimension, value);
            }
        }
    }

    /// What is to be said where too many are outside.
    fn unusual(&self) -> Option<String> {
        let Self { limit, values, outside, farthest: (dimension, value) } = self;
        let share = *outside as f64 / (*values).max(1) as f64;
        (share > MOST_UNUSUAL).then(|| {
            format!(
                "{:.1} % of the normalised values are beyond ±{limit}, up to {value:.1} in dimension {dimension}",
                100.0 * share
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_many_values_outside_are_unusual() {
        let mut range = Range::default();
        range.add(&[0.0; 99], Some(1.5));
        range.add(&[-7.0], Some(1.5));
        assert_eq!(range.unusual(), None, "one in a hundred");
        range.add(&[0.0, 9.5], Some(1.5));
        let said = range.unusual().expect("two in 102");
        assert_eq!(said, "2.0 % of the normalised values are beyond ±1.5, up to 9.5 in dimension 1");
        let mut identity = Range::default();
        identity.add(&[1e9], None);
        assert_eq!(identity.unusual(), None, "nothing is normalised");
    }
}
