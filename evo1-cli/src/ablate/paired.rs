//! Whether two cells differ in their successes on the same goals.

use std::collections::BTreeMap;

use crate::rollout::{Episode, Z};

/// Differences with a larger p value are not shown to exist.
const LEVEL: f64 = 0.05;

/// The 80th percentile of the normal distribution: of the power with which a difference would have been seen.
const Z_OF_POWER: f64 = 0.841_621_233_572_914;

/// Seeds whose signs are all tried.
const MOST_SEEDS: usize = 20;

/// Successes of a cell beside those of another on the same goals with the same training seeds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Paired {
    /// Goals that both have a result of.
    pub(crate) pairs: usize,
    /// Goals that the cell alone reached, and that the other alone did.
    pub(crate) won: usize,
    pub(crate) lost: usize,
    /// Of the exact McNemar test: two-sided, over all seeds and goals.
    pub(crate) p: f64,
    /// The same after Holm's correction for the number of cells that are compared.
    pub(crate) adjusted: f64,
    /// Differences of the success rate by training seed.
    pub(crate) by_seed: Vec<f64>,
    /// Of the exact sign-flip test over these.
    pub(crate) p_of_seeds: Option<f64>,
}

impl Paired {
    /// Compares results by training seed; nothing where no goal is in both.
    pub(crate) fn of(cell: &[(u64, &[Episode])], other: &[(u64, &[Episode])]) -> Option<Self> {
        let (mut pairs, mut won, mut lost, mut by_seed) = (0, 0, 0, Vec::new());
        for (seed, episodes) in cell {
            let Some((_, others)) = other.iter().find(|(of, _)| of == seed) else { continue };
            let goal = |episode: &Episode| (episode.task.clone(), episode.seed);
            let others: BTreeMap<_, bool> = others.iter().map(|episode| (goal(episode), episode.success)).collect();
            let (mut of_seed, mut difference) = (0, 0.0);
            for episode in *episodes {
                let Some(&is_other) = others.get(&goal(episode)) else { continue };
                of_seed += 1;
                match (episode.success, is_other) {
                    (true, false) => (won, difference) = (won + 1, difference + 1.0),
                    (false, true) => (lost, difference) = (lost + 1, difference - 1.0),
                    _ => {}
                }
            }
            if of_seed > 0 {
                pairs += of_seed;
                by_seed.push(difference / f64::from(of_seed));
            }
        }
        let (pairs, p) = (pairs as usize, mcnemar(won, lost));
        (pairs > 0).then(|| Self { pairs, won, lost, p, adjusted: p, p_of_seeds: sign_flip(&by_seed), by_seed })
    }

    /// The difference of the success rates.
    pub(crate) fn difference(&self) -> f64 {
        (self.won as f64 - self.lost as f64) / self.pairs as f64
    }

    /// Whether there is shown to be one.
    pub(crate) fn is_shown(&self) -> bool {
        self.adjusted < LEVEL
    }

    /// The difference that as many goals would have shown with a power of 80 %, as far as the two differ goal by goal.
    pub(crate) fn visible(&self) -> f64 {
        let pairs = self.pairs as f64;
        (Z + Z_OF_POWER) * ((self.won + self.lost).max(1) as f64 / pairs / pairs).sqrt()
    }

    /// What it comes to, in words.
    pub(crate) fn verdict(&self) -> &'static str {
        match (self.is_shown(), self.won > self.lost) {
            (false, _) => "no difference shown",
            (true, true) => "better",
            (true, false) => "worse",
        }
    }
}

/// Puts Holm's correction into comparisons that are made beside each other.
pub(crate) fn adjust(all: &mut [&mut Paired]) {
    all.sort_by(|a, b| a.p.total_cmp(&b.p));
    let (count, mut largest) = (all.len(), 0.0_f64);
    for (at, paired) in all.iter_mut().enumerate() {
        largest = largest.max(((count - at) as f64 * paired.p).min(1.0));
        paired.adjusted = largest;
    }
}

/// The two-sided p value of so many wins and losses, which are equally likely where there is no difference.
fn mcnemar(won: usize, lost: usize) -> f64 {
    let count = won + lost;
    // ln of the share that k wins have of all outcomes.
    let mut share = -(count as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=won.min(lost) {
        tail += share.exp();
        share += ((count - k) as f64).ln() - (k as f64 + 1.0).ln();
    }
    (2.0 * tail).min(1.0)
}

/// The share of all choices of signs whose sum is at least as far from 0; nothing of too many values, or none.
fn sign_flip(values: &[f64]) -> Option<f64> {
    if values.is_empty() || values.len() > MOST_SEEDS {
        return None;
    }
    let choices = 1_u32 << values.len();
    let sum = |signs: u32| -> f64 {
        let signed = values.iter().enumerate().map(|(at, value)| if signs >> at & 1 == 1 { -value } else { *value });
        signed.sum::<f64>().abs()
    };
    // Sums of the same numbers in another order are the same to rounding.
    let least = sum(0) * (1.0 - 1e-9) - 1e-12;
    let as_far = (0..choices).filter(|&signs| sum(signs) >= least).count();
    Some(as_far as f64 / f64::from(choices))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_values_are_those_of_exact_tests() {
        // Of SciPy's `binomtest(won, won + lost).pvalue`.
        for (won, lost, p) in [(3, 12, 0.035_156_25), (0, 8, 0.007_812_5), (5, 5, 1.0), (41, 30, 0.235_097_562_408)] {
            assert!((mcnemar(won, lost) - p).abs() < 1e-9, "{won} {lost}: {}", mcnemar(won, lost));
            assert_eq!(mcnemar(lost, won), mcnemar(won, lost));
        }
        assert_eq!((mcnemar(0, 0), mcnemar(1, 0)), (1.0, 1.0));
        // Far out in the tail, and with more than a product of factorials could hold.
        assert!(mcnemar(0, 60) < 1e-17 && mcnemar(3000, 3000) == 1.0 && mcnemar(2800, 3200) < 1e-6);
        // All of one sign: the least that five seeds can have.
        assert_eq!(sign_flip(&[0.1, 0.2, 0.1, 0.3, 0.1]), Some(2.0 / 32.0));
        assert_eq!(sign_flip(&[0.1, -0.1]), Some(1.0));
        assert_eq!((sign_flip(&[]), sign_flip(&[0.0; 21])), (None, None));
    }

    fn episodes(successes: &[bool]) -> Vec<Episode> {
        let episode = |(seed, &success)| Episode { task: "t".into(), seed, success, steps: 1, group: None };
        (0..).zip(successes).map(episode).collect()
    }

    #[test]
    fn goals_are_compared_with_the_same_goals_of_the_same_seed() {
        let (cell, base) = (episodes(&[true; 10]), episodes(&[&[false; 8][..], &[true; 2]].concat()));
        let short = &base[..9];
        let paired = Paired::of(&[(0, &cell), (1, &cell), (7, &cell)], &[(1, short), (0, &base)]).expect("pairs");
        assert_eq!((paired.pairs, paired.won, paired.lost), (19, 16, 0));
        assert_eq!(paired.by_seed, [0.8, 8.0 / 9.0]);
        assert!(paired.is_shown() && paired.verdict() == "better" && (paired.difference() - 16.0 / 19.0).abs() < 1e-12);
        let same = Paired::of(&[(0, &cell)], &[(0, &cell)]).expect("pairs");
        assert_eq!((same.p, same.verdict()), (1.0, "no difference shown"));
        assert_eq!(Paired::of(&[(0, &cell)], &[(1, &cell)]), None);
    }

    #[test]
    fn many_comparisons_are_corrected_for() {
        let paired = |p| Paired { pairs: 9, won: 1, lost: 2, p, adjusted: p, by_seed: vec![], p_of_seeds: None };
        let (mut a, mut b, mut c) = (paired(0.04), paired(0.01), paired(0.03));
        adjust(&mut [&mut a, &mut b, &mut c]);
        let near = |value: f64, expected: f64| (value - expected).abs() < 1e-12;
        assert!(near(b.adjusted, 0.03) && near(c.adjusted, 0.06) && near(a.adjusted, 0.06));
        assert!(b.is_shown() && !a.is_shown() && b.verdict() == "worse");
    }
}
