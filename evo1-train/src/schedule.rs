//! The learning rate over the steps.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What the learning rate does after the warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// Half a cosine down to 0 at the last step.
    #[default]
    Cosine,
    /// It stays.
    Constant,
    /// Evenly down to 0 at the last step.
    Linear,
    /// Times this in every step.
    Exponential(f64),
    /// As the inverse square root of the steps since the warm-up: Noam.
    InverseSqrt,
    /// Times `by` after every `every` steps.
    Step {
        /// Steps between two changes.
        every: u64,
        /// What the rate is multiplied with.
        by: f64,
    },
}

/// Linear warm-up from 0, then a decay.
///
/// The factor of step `s`, counted from 0, is `s / warmup` while `s < warmup`. With `n = s − warmup` and
/// `p = n / (total − warmup)` it is then
///
/// | decay | factor |
/// | --- | --- |
/// | cosine | `½ (1 + cos(π p))` |
/// | constant | `1` |
/// | linear | `1 − p` |
/// | exponential γ | `γⁿ` |
/// | inverse-sqrt | `√(w / (n + w))` with `w = max(warmup, 1)` |
/// | step | `byᵏ` with `k = ⌊n / every⌋` |
///
/// The very first step has a rate of 0 where there is a warm-up, as in both references. Computed in double precision, as
/// PyTorch's `LambdaLR` does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Steps of the warm-up.
    pub warmup: u64,
    /// All steps.
    pub total: u64,
    /// What follows the warm-up.
    pub decay: Decay,
}

impl Schedule {
    /// What the learning rate is multiplied with in a step.
    pub fn factor(self, step: u64) -> f64 {
        if step < self.warmup {
            return step as f64 / self.warmup as f64;
        }
        let since = (step - self.warmup) as f64;
        let progress = since / self.total.saturating_sub(self.warmup).max(1) as f64;
        match self.decay {
            Decay::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0),
            Decay::Constant => 1.0,
            Decay::Linear => (1.0 - progress).max(0.0),
            Decay::Exponential(gamma) => gamma.powf(since),
            Decay::InverseSqrt => {
                let warmup = self.warmup.max(1) as f64;
                (warmup / (since + warmup)).sqrt()
            }
            Decay::Step { every, by } => by.powf((since / every.max(1) as f64).floor()),
        }
    }
}

impl Decay {
    /// Fails unless its numbers can be used.
    pub(crate) fn validate(self) -> Result<()> {
        let is_factor = |by: f64| by > 0.0 && by <= 1.0;
        match self {
            Self::Exponential(gamma) if !is_factor(gamma) => {
                Err(Error::config("schedule.decay.exponential", "above 0 and at most 1", gamma))
            }
            Self::Step { by, .. } if !is_factor(by) => {
                Err(Error::config("schedule.decay.step.by", "above 0 and at most 1", by))
            }
            Self::Step { every: 0, .. } => Err(Error::config("schedule.decay.step.every", "at least 1", 0)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_warm_up_the_rate_starts_full_and_ends_at_zero() {
        let schedule = Schedule { warmup: 0, total: 10, decay: Decay::Cosine };
        assert_eq!(schedule.factor(0), 1.0);
        assert!(schedule.factor(10).abs() < 1e-15);
        assert_eq!(Schedule { decay: Decay::Constant, ..schedule }.factor(10), 1.0);
    }

    #[test]
    fn decays_are_what_they_are_called() {
        let at = |decay, step| Schedule { warmup: 4, total: 14, decay }.factor(step);
        for (decay, factors) in [
            (Decay::Linear, [(4, 1.0), (9, 0.5), (14, 0.0)]),
            (Decay::Exponential(0.5), [(4, 1.0), (5, 0.5), (7, 0.125)]),
            (Decay::InverseSqrt, [(4, 1.0), (8, 0.5_f64.sqrt()), (16, 0.5)]),
            (Decay::Step { every: 3, by: 0.1 }, [(6, 1.0), (7, 0.1), (10, 0.01)]),
        ] {
            assert_eq!(at(decay, 2), 0.5);
            for (step, factor) in factors {
                assert!((at(decay, step) - factor).abs() < 1e-12, "{decay:?}, step {step}");
            }
            assert!(decay.validate().is_ok());
        }
        for decay in [Decay::Exponential(1.5), Decay::Step { every: 0, by: 0.1 }, Decay::Step { every: 1, by: 0.0 }] {
            assert!(decay.validate().is_err(), "{decay:?}");
        }
    }

    #[test]
    fn a_run_no_longer_than_its_warm_up_never_divides_by_zero() {
        let schedule = Schedule { warmup: 10, total: 10, decay: Decay::Cosine };
        assert_eq!(schedule.factor(5), 0.5);
        assert!(schedule.factor(10).is_finite());
    }
}
