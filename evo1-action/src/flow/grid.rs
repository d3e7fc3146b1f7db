//! The times between which a sampler steps.
//!
//! | `flow.grid` | time after the part u of the steps |
//! | --- | --- |
//! | `uniform` | u; the published model |
//! | `shifted(s)` | s·u / (1 + (s − 1)·u): above 1 more steps near the actions, below 1 more near the noise |
//! | `cosine` | 1 − cos(π·u / 2): more steps near the noise |
//! | `given(0, …, 1)` | as given, for exactly that number of steps |

use std::{f64::consts::FRAC_PI_2, fmt::Debug, sync::Arc};

use evo1_core::{Choice, Error, Result};

/// The times of a sampler.
pub trait TimeGrid: Debug + Send + Sync {
    /// `steps + 1` ascending times, from noise at 0 to actions at 1.
    ///
    /// # Errors
    /// When there are none for that number of steps.
    fn times(&self, steps: usize) -> Result<Vec<f64>>;
}

/// The field of the configuration that chooses a grid.
const FIELD: &str = "flow.grid";

/// The built-in grid of a name.
///
/// # Errors
/// When there is none of the name, or its numbers make no grid.
pub fn time_grid(choice: &Choice) -> Result<Arc<dyn TimeGrid>> {
    Ok(match choice.name() {
        "uniform" => {
            choice.require_plain(FIELD)?;
            Arc::new(Uniform)
        }
        "shifted" => {
            let expected = "shifted(s) with s above 0";
            let [shift] = choice.numbers(FIELD, expected)?;
            if shift <= 0.0 {
                return Err(Error::invalid("configuration", FIELD, expected, choice));
            }
            Arc::new(Shifted { shift })
        }
        "cosine" => {
            choice.require_plain(FIELD)?;
            Arc::new(Cosine)
        }
        "given" => {
            let expected = "given(0, …, 1) with ascending times";
            let times = choice.list(FIELD, expected)?.to_vec();
            check(&times, times.len().saturating_sub(1), "given")?;
            Arc::new(Given { times })
        }
        _ => {
            let expected = "one of uniform, shifted(s), cosine, given(0, …, 1)";
            return Err(Error::invalid("configuration", FIELD, expected, choice));
        }
    })
}

/// Fails unless `times` are those of so many steps: what a sampler asks of every grid.
pub(super) fn check(times: &[f64], steps: usize, grid: &str) -> Result<()> {
    let ends = (times.first(), times.last());
    let is_grid = steps > 0
        && times.len() == steps + 1
        && ends == (Some(&0.0), Some(&1.0))
        && times.windows(2).all(|pair| pair[0] < pair[1]);
    match is_grid {
        true => Ok(()),
        false => {
            let expected = format!("{} ascending times from 0 to 1 for {steps} steps", steps + 1);
            Err(Error::invalid("configuration", FIELD, expected, format!("{times:?} of {grid}")))
        }
    }
}

/// Times by a function of the part of the steps that are done.
fn mapped(steps: usize, time: impl Fn(f64) -> f64) -> Vec<f64> {
    let inner = (1..steps).map(|step| time(step as f64 / steps as f64));
    std::iter::once(0.0).chain(inner).chain([1.0]).collect()
}

#[derive(Debug)]
struct Uniform;

impl TimeGrid for Uniform {
    fn times(&self, steps: usize) -> Result<Vec<f64>> {
        Ok(mapped(steps, |part| part))
    }
}

#[derive(Debug)]
struct Shifted {
    shift: f64,
}

impl TimeGrid for Shifted {
    fn times(&self, steps: usize) -> Result<Vec<f64>> {
        Ok(mapped(steps, |part| self.shift * part / (1.0 + (self.shift - 1.0) * part)))
    }
}

#[derive(Debug)]
struct Cosine;

impl TimeGrid for Cosine {
    fn times(&self, steps: usize) -> Result<Vec<f64>> {
        Ok(mapped(steps, |part| 1.0 - (FRAC_PI_2 * part).cos()))
    }
}

#[derive(Debug)]
struct Given {
    times: Vec<f64>,
}

impl TimeGrid for Given {
    fn times(&self, steps: usize) -> Result<Vec<f64>> {
        match self.times.len() - 1 {
            given if given == steps => Ok(self.times.clone()),
            given => {
                let expected = format!("times for the {steps} steps that are asked for");
                Err(Error::invalid("configuration", FIELD, expected, format!("times for {given} steps")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(name: &str, steps: usize) -> Result<Vec<f64>, String> {
        let choice: Choice = serde_json::from_value(name.into()).expect("a choice");
        let times = time_grid(&choice).and_then(|grid| grid.times(steps)).map_err(|error| error.to_string())?;
        check(&times, steps, name).expect("a grid");
        Ok(times)
    }

    #[test]
    fn grids_are_those_of_their_formulas() {
        assert_eq!(times("uniform", 4), Ok(vec![0.0, 0.25, 0.5, 0.75, 1.0]));
        assert_eq!(times("shifted(1)", 4), times("uniform", 4));
        assert_eq!(times("shifted(3)", 2), Ok(vec![0.0, 0.75, 1.0]));
        let cosine = times("cosine", 3).expect("a grid");
        assert!((cosine[2] - 0.5).abs() < 1e-12 && cosine[1] < 1.0 / 3.0, "{cosine:?}");
        assert_eq!(times("given(0, 0.9, 1)", 2), Ok(vec![0.0, 0.9, 1.0]));
        assert_eq!(times("uniform", 1), Ok(vec![0.0, 1.0]));
    }

    #[test]
    fn what_is_no_grid_is_refused() {
        let message = |name, steps| times(name, steps).expect_err("refused");
        assert!(message("given(0, 0.9, 1)", 4).contains("the 4 steps that are asked for, got times for 2 steps"));
        for name in
            ["given(0, 1, 0.5)", "given(0.1, 1)", "given(0, 0.5)", "given(0)", "shifted(0)", "shifted", "karras"]
        {
            assert!(message(name, 2).contains("`flow.grid` must be"), "{}", message(name, 2));
        }
    }
}
