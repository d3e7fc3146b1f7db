//! The learning rate over the steps.

use serde::{Deserialize, Serialize};

/// What the learning rate does after the warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// Half a cosine down to 0 at the last step.
    #[default]
    Cosine,
    /// It stays.
    Constant,
}

/// Linear warm-up from 0, then a decay.
///
/// The factor of step `s`, counted from 0, is `s / warmup` while `s < warmup`, then
/// `½ (1 + cos(π (s − warmup) / (total − warmup)))`: the very first step has a rate of 0, as in both references. Computed
/// in double precision, as PyTorch's `LambdaLR` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
        match self.decay {
            Decay::Constant => 1.0,
            Decay::Cosine => {
                let length = self.total.saturating_sub(self.warmup).max(1) as f64;
                let progress = (step - self.warmup) as f64 / length;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
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
    fn a_run_no_longer_than_its_warm_up_never_divides_by_zero() {
        let schedule = Schedule { warmup: 10, total: 10, decay: Decay::Cosine };
        assert_eq!(schedule.factor(5), 0.5);
        assert!(schedule.factor(10).is_finite());
    }
}
