//! What the time τ is drawn from while training.
//!
//! | `flow.time_draw` | |
//! | --- | --- |
//! | `beta(a, b)` | Beta(a, b); the published model's is `beta(2, 2)` |
//! | `uniform` | uniform in [0, 1) |
//! | `logit-normal(mean, std)` | the logistic function of a normal variable |

use std::{fmt::Debug, sync::Arc};

use evo1_core::{
    Choice, Error, Result,
    rng::{Rng, RngExt},
};
use rand_distr::{Beta, Distribution, Normal};

/// A distribution of times.
pub trait TimeDraw: Debug + Send + Sync {
    /// One τ in [0, 1] for each of some samples, in their order.
    fn draw(&self, samples: usize, rng: &mut dyn Rng) -> Vec<f32>;
}

/// τ is kept inside this range.
const TIME_RANGE: (f32, f32) = (0.02, 0.98);

impl dyn TimeDraw {
    /// τ for each sample, clamped to [0.02, 0.98] as the references do.
    pub fn times(&self, samples: usize, rng: &mut dyn Rng) -> Vec<f32> {
        self.draw(samples, rng).into_iter().map(|time| time.clamp(TIME_RANGE.0, TIME_RANGE.1)).collect()
    }
}

/// The built-in distribution of a name.
///
/// # Errors
/// When there is none of the name, or its numbers are none that it can have.
pub fn time_draw(choice: &Choice) -> Result<Arc<dyn TimeDraw>> {
    const FIELD: &str = "flow.time_draw";
    let invalid = |expected: &str| Error::invalid("configuration", FIELD, expected, choice);
    Ok(match choice.name() {
        "beta" => {
            let expected = "beta(a, b) with both above 0";
            let [a, b] = choice.numbers(FIELD, expected)?.map(|number| number as f32);
            Arc::new(Beta::new(a, b).map_err(|_| invalid(expected))?)
        }
        "uniform" => {
            choice.require_plain(FIELD)?;
            Arc::new(Uniform)
        }
        "logit-normal" => {
            let expected = "logit-normal(mean, std) with a deviation above 0";
            let [mean, std] = choice.numbers(FIELD, expected)?.map(|number| number as f32);
            let normal = Normal::new(mean, std).ok().filter(|_| std > 0.0);
            Arc::new(LogitNormal(normal.ok_or_else(|| invalid(expected))?))
        }
        _ => return Err(invalid("one of beta(a, b), uniform, logit-normal(mean, std)")),
    })
}

impl TimeDraw for Beta<f32> {
    fn draw(&self, samples: usize, rng: &mut dyn Rng) -> Vec<f32> {
        self.sample_iter(rng).take(samples).collect()
    }
}

#[derive(Debug)]
struct Uniform;

impl TimeDraw for Uniform {
    fn draw(&self, samples: usize, rng: &mut dyn Rng) -> Vec<f32> {
        (0..samples).map(|_| rng.random()).collect()
    }
}

#[derive(Debug)]
struct LogitNormal(Normal<f32>);

impl TimeDraw for LogitNormal {
    fn draw(&self, samples: usize, rng: &mut dyn Rng) -> Vec<f32> {
        self.0.sample_iter(rng).take(samples).map(|x| 1.0 / (1.0 + (-x).exp())).collect()
    }
}

#[cfg(test)]
mod tests {
    use evo1_core::rng;

    use super::*;

    fn named(name: &str) -> Result<Arc<dyn TimeDraw>> {
        time_draw(&serde_json::from_value(name.into()).expect("a choice"))
    }

    #[test]
    fn times_stay_in_their_range_and_repeat() {
        for (name, mean) in [("beta(2, 2)", 0.5), ("uniform", 0.5), ("logit-normal(0, 1)", 0.5), ("beta(1.5, 1)", 0.6)]
        {
            let draw = || named(name).expect(name).times(2000, &mut rng::stream(5, "time"));
            let times = draw();
            assert!(times.iter().all(|time| (TIME_RANGE.0..=TIME_RANGE.1).contains(time)));
            assert!((times.iter().sum::<f32>() / 2000.0 - mean).abs() < 0.02, "{name}");
            assert_eq!(times, draw());
        }
    }

    #[test]
    fn a_distribution_that_is_none_is_refused() {
        let message = |name| named(name).expect_err("refused").to_string();
        let expected = "configuration: `flow.time_draw` must be beta(a, b) with both above 0, got beta(0, 1)";
        assert_eq!(message("beta(0, 1)"), expected);
        assert!(message("gamma(1, 2)").contains("logit-normal(mean, std), got gamma(1, 2)"));
        assert!(message("logit-normal(0, -1)").contains("a deviation above 0"));
        assert!(message("uniform(1)").contains("`uniform` without settings"));
    }
}
