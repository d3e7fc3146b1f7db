//! A noise schedule of one's own: training times near the noise, the sampler's steps near the actions, and triangular noise.

use evo1::{
    CoreError,
    action::flow::{NoiseDraw, TimeDraw, TimeGrid},
    rng::{Rng, RngExt},
};
use serde::Deserialize;

/// Times `(step / steps)^exponent`: `grid: {name: power, exponent: 0.5}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Power {
    exponent: f64,
}

impl TimeGrid for Power {
    fn times(&self, steps: usize) -> Result<Vec<f64>, CoreError> {
        Ok((0..=steps).map(|step| (step as f64 / steps as f64).powf(self.exponent)).collect())
    }
}

/// τ as the square of a uniform number: `time_draw: early`.
#[derive(Debug)]
pub(crate) struct Early;

impl TimeDraw for Early {
    fn draw(&self, samples: usize, rng: &mut dyn Rng) -> Vec<f32> {
        (0..samples).map(|_| rng.random::<f32>().powi(2)).collect()
    }
}

/// ε as the difference of two uniform numbers: `noise: triangular`.
#[derive(Debug)]
pub(crate) struct Triangular;

impl NoiseDraw for Triangular {
    fn draw(&self, count: usize, rng: &mut dyn Rng) -> Vec<f32> {
        (0..count).map(|_| rng.random::<f32>() - rng.random::<f32>()).collect()
    }
}
