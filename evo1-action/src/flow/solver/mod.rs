//! How the velocity field is integrated from noise to actions.
//!
//! | `flow.solver` | evaluations a step |
//! | --- | --- |
//! | [`euler`](Euler) | one; the published model |
//! | [`heun`](Heun) | two |
//! | [`midpoint`](Midpoint) | two |

mod euler;
mod heun;
mod midpoint;

use std::{fmt::Debug, sync::Arc};

use burn::tensor::Tensor;
use evo1_core::{Choice, Error, Result};

pub use euler::Euler;
pub use heun::Heun;
pub use midpoint::Midpoint;

/// An explicit step along a velocity field.
pub trait Solver: Debug + Send + Sync {
    /// Where in a step, from its start at 0 to its end at 1, it evaluates the field; the first is 0 where it starts.
    fn stages(&self) -> &[f64];

    /// The mean velocity of a step of `size` that starts at `x`, `[batch, horizon, max_action_dim]`.
    ///
    /// `velocity` evaluates the field at a stage, an index into [`Self::stages`], and at a point.
    fn slope(&self, x: Tensor<3>, size: f64, velocity: &mut dyn FnMut(usize, Tensor<3>) -> Tensor<3>) -> Tensor<3>;
}

/// The built-in solver of a name.
///
/// # Errors
/// When there is none of the name, or settings that it has not.
pub fn solver(choice: &Choice) -> Result<Arc<dyn Solver>> {
    const FIELD: &str = "flow.solver";
    let solver: Arc<dyn Solver> = match choice.name() {
        "euler" => Arc::new(Euler),
        "heun" => Arc::new(Heun),
        "midpoint" => Arc::new(Midpoint),
        _ => return Err(Error::invalid("configuration", FIELD, "one of euler, heun, midpoint", choice)),
    };
    choice.require_plain(FIELD).map(|()| solver)
}
