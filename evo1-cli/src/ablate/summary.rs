//! Means and deviations over seeds.

use super::{
    results::Results,
    study::{Cell, Study},
};
use crate::commands::evaluate::Measured;

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
    /// Why the others came to nothing.
    pub(crate) errors: Vec<String>,
    /// Differences of the action error to the reference's with the same seed, and their mean.
    pub(crate) rmse_differences: Vec<f64>,
    pub(crate) rmse_difference: Option<Mean>,
    /// Training loss over the steps, the mean over seeds.
    pub(crate) curve: Vec<(f64, f64)>,
}

impl Row {
    /// The mean of a quantity over seeds.
    pub(crate) fn mean(&self, quantity: impl Fn(&Measured) -> f64) -> Option<Mean> {
        let values: Vec<f64> = self.measured.iter().map(|(_, measured)| quantity(measured)).collect();
        Mean::of(&values)
    }
}

/// The cells of a study in its order.
pub(crate) fn summary(study: &Study, results: &Results) -> Vec<Row> {
    let newest = |cell: &Cell, seed: u64| results.of(&cell.name, seed, &study.result_key(cell, seed));
    let reference = &study.cells[study.reference];
    let row = |index: usize| {
        let cell = &study.cells[index];
        let outcomes: Vec<_> = study.seeds.iter().filter_map(|&seed| newest(cell, seed)).collect();
        let measured: Vec<(u64, Measured)> =
            outcomes.iter().filter_map(|outcome| Some((outcome.seed, outcome.measured?))).collect();
        let difference = |(seed, of_cell): &(u64, Measured)| {
            (index != study.reference).then_some(of_cell.rmse - newest(reference, *seed)?.measured?.rmse)
        };
        let rmse_differences: Vec<f64> = measured.iter().filter_map(difference).collect();
        let curves: Vec<&Vec<(f64, f64)>> =
            outcomes.iter().filter(|outcome| outcome.measured.is_some()).map(|outcome| &outcome.curve).collect();
        let points = curves.iter().map(|curve| curve.len()).min().unwrap_or(0);
        let share = 1.0 / curves.len().max(1) as f64;
        let mean = |at: usize| (curves[0][at].0, curves.iter().map(|curve| share * curve[at].1).sum());
        Row {
            cell: cell.name.clone(),
            is_reference: index == study.reference,
            errors: outcomes.iter().filter_map(|outcome| outcome.error.clone()).collect(),
            rmse_difference: Mean::of(&rmse_differences),
            rmse_differences,
            curve: (0..points).map(mean).collect(),
            measured,
        }
    };
    (0..study.cells.len()).map(row).collect()
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
