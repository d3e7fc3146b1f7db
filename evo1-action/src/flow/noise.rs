//! What the noise ε of a flow is drawn from.
//!
//! | `flow.noise` | |
//! | --- | --- |
//! | `uniform` | uniform in [−1, 1); the published model, where most flow-matching policies draw it normal |
//! | `normal` | standard normal |

use std::{fmt::Debug, sync::Arc};

use burn::tensor::{DType, Device, Tensor, TensorData};
use evo1_core::{
    Choice, Error, Result,
    rng::{Rng, RngExt},
};
use rand_distr::{Distribution, StandardNormal};

/// A distribution of noise.
pub trait NoiseDraw: Debug + Send + Sync {
    /// So many independent values, in the order of the draws.
    fn draw(&self, count: usize, rng: &mut dyn Rng) -> Vec<f32>;
}

impl dyn NoiseDraw {
    /// The noise ε of a flow, `[batch, horizon, max_action_dim]`, drawn sample by sample.
    pub fn tensor(&self, shape: [usize; 3], rng: &mut dyn Rng, device: &Device) -> Tensor<3> {
        let values = self.draw(shape.iter().product(), rng);
        Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
    }
}

/// The built-in noise of a name.
///
/// # Errors
/// When there is none of the name, or settings that it has not.
pub fn noise_draw(choice: &Choice) -> Result<Arc<dyn NoiseDraw>> {
    const FIELD: &str = "flow.noise";
    let noise: Arc<dyn NoiseDraw> = match choice.name() {
        "uniform" => Arc::new(Uniform),
        "normal" => Arc::new(Normal),
        _ => return Err(Error::invalid("configuration", FIELD, "one of uniform, normal", choice)),
    };
    choice.require_plain(FIELD).map(|()| noise)
}

#[derive(Debug)]
struct Uniform;

impl NoiseDraw for Uniform {
    fn draw(&self, count: usize, rng: &mut dyn Rng) -> Vec<f32> {
        (0..count).map(|_| rng.random::<f32>() * 2.0 - 1.0).collect()
    }
}

#[derive(Debug)]
struct Normal;

impl NoiseDraw for Normal {
    fn draw(&self, count: usize, rng: &mut dyn Rng) -> Vec<f32> {
        StandardNormal.sample_iter(rng).take(count).collect()
    }
}
