//! Means and deviations over seeds, and what is shown by them.

use eyre::Result;

use super::{
    paired::{Paired, adjust},
    results::{Outcome, Results},
    study::Study,
    tasks::Task,
};
use crate::{
    commands::evaluate::Measured,
    rollout::{Episode, Rate},
};

/// A mean over seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mean {
    pub(crate) mean: f64,
    /// Standard deviation of a sample; `None` of fewer than two.
    pub(crate) deviation: Option<f64>,
}

impl Mean {
    /// The mean of some values; `None` of none.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        if values.is_empty() {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Self { mean, deviation: (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()) })
    }
}

/// A cell over all of its seeds.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) cell: String,
    pub(crate) is_reference: bool,
    /// Measured seeds and what each came to.
    pub(crate) measured: Vec<(u64, Measured)>,
    /// Seeds without a result, and why.
    pub(crate) missing: Vec<(u64, String)>,
    /// Differences of the action error to the reference's with the same seed, and their mean.
    pub(crate) rmse_differences: Vec<f64>,
    pub(crate) rmse_difference: Option<Mean>,
    /// Training loss over the steps, the mean over seeds.
    pub(crate) curve: Vec<(f64, f64)>,
    /// What it did in closed loop; nothing where nobody asked.
    pub(crate) success: Option<Success>,
}

/// A cell in closed loop, over all of its seeds.
#[derive(Debug, Clone)]
pub(crate) struct Success {
    /// By training seed.
    pub(crate) episodes: Vec<(u64, Vec<Episode>)>,
    /// Of all of them.
    pub(crate) rate: Rate,
    /// By training seed, in the same order.
    pub(crate) by_seed: Vec<f64>,
    /// Beside the reference's; nothing of the reference itself.
    pub(crate) paired: Option<Paired>,
}

impl Success {
    pub(super) fn of(cell: &str, episodes: Vec<(u64, Vec<Episode>)>) -> Option<Self> {
        let rate = Rate::of(cell, episodes.iter().flat_map(|(_, episodes)| episodes), 0);
        let of_seed = |(_, episodes): &(u64, Vec<Episode>)| Rate::of("", episodes, 0).rate;
        let by_seed = episodes.iter().filter_map(of_seed).collect();
        rate.rate.is_some().then_some(Self { episodes, rate, by_seed, paired: None })
    }

    fn slices(&self) -> Vec<(u64, &[Episode])> {
        self.episodes.iter().map(|(seed, episodes)| (*seed, episodes.as_slice())).collect()
    }
}

impl Row {
    /// The mean of a quantity over seeds.
    pub(crate) fn mean(&self, quantity: impl Fn(&Measured) -> f64) -> Option<Mean> {
        let values: Vec<f64> = self.measured.iter().map(|(_, measured)| quantity(measured)).collect();
        Mean::of(&values)
    }
}

/// The cells of a study in its order, as far as tasks have results.
pub(crate) fn summary(study: &Study, tasks: &[Task<'_>], results: &Results) -> Result<Vec<Row>> {
    // By cell, in the order of the seeds: a task has several cells, a seed several tasks.
    let mut outcomes: Vec<Vec<(&Task<'_>, Option<Outcome>)>> = study.cells.iter().map(|_| Vec::new()).collect();
    for task in tasks {
        let of_task = results.read(task)?;
        for (cell, key) in &task.cells {
            let at = study.cells.iter().position(|other| other.name == cell.name);
            let outcome = of_task.iter().find(|outcome| outcome.key == *key).cloned();
            outcomes[at.expect("tasks are made of the study's cells")].push((task, outcome));
        }
    }
    let reference: Vec<(u64, Measured)> = of_seeds(&outcomes[study.reference]);
    let mut rows: Vec<Row> = outcomes
        .iter()
        .enumerate()
        .map(|(index, outcomes)| row(&study.cells[index].name, outcomes, index == study.reference, &reference))
        .collect();
    compare(&mut rows, study.reference);
    Ok(rows)
}

fn of_seeds(outcomes: &[(&Task<'_>, Option<Outcome>)]) -> Vec<(u64, Measured)> {
    outcomes.iter().filter_map(|(task, outcome)| Some((task.seed, outcome.as_ref()?.measured?))).collect()
}

fn row(
    cell: &str,
    outcomes: &[(&Task<'_>, Option<Outcome>)],
    is_reference: bool,
    reference: &[(u64, Measured)],
) -> Row {
    let measured = of_seeds(outcomes);
    let missing = |(task, outcome): &(&Task<'_>, Option<Outcome>)| {
        let why = match outcome {
            Some(outcome) if outcome.measured.is_some() => return None,
            Some(outcome) => outcome.error.clone().unwrap_or_default(),
            None => format!("task {} has not run", task.key),
        };
        Some((task.seed, why))
    };
    let difference = |(seed, of_cell): &(u64, Measured)| {
        let (_, base) = reference.iter().find(|(of, _)| !is_reference && of == seed)?;
        Some(of_cell.rmse - base.rmse)
    };
    let rmse_differences: Vec<f64> = measured.iter().filter_map(difference).collect();
    let done = outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref()).filter(|done| done.measured.is_some());
    let curves: Vec<&Vec<(f64, f64)>> = done.clone().map(|outcome| &outcome.curve).collect();
    let points = curves.iter().map(|curve| curve.len()).min().unwrap_or(0);
    let share = 1.0 / curves.len().max(1) as f64;
    let mean = |at: usize| (curves[0][at].0, curves.iter().map(|curve| share * curve[at].1).sum());
    let episodes = done.filter_map(|outcome| Some((outcome.seed, outcome.episodes.clone()?)));
    Row {
        cell: cell.to_owned(),
        is_reference,
        missing: outcomes.iter().filter_map(missing).collect(),
        rmse_difference: Mean::of(&rmse_differences),
        rmse_differences,
        curve: (0..points).map(mean).collect(),
        success: Success::of(cell, episodes.collect()),
        measured,
    }
}

/// Compares the successes of all cells with those of the reference.
pub(super) fn compare(rows: &mut [Row], reference: usize) {
    let Some(base) = rows[reference].success.clone() else { return };
    for (index, row) in rows.iter_mut().enumerate() {
        if let (Some(success), true) = (&mut row.success, index != reference) {
            success.paired = Paired::of(&success.slices(), &base.slices());
        }
    }
    let paired = rows.iter_mut().filter_map(|row| row.success.as_mut()?.paired.as_mut());
    adjust(&mut paired.collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deviation_is_that_of_a_sample() {
        let mean = Mean::of(&[1.0, 2.0, 3.0]).expect("three");
        assert_eq!(mean, Mean { mean: 2.0, deviation: Some(1.0) });
        assert_eq!(Mean::of(&[4.0]), Some(Mean { mean: 4.0, deviation: None }));
        assert_eq!(Mean::of(&[]), None);
    }
}
