use burn::tensor::Tensor;

use super::Solver;

/// The velocity at a step's start: first order.
#[derive(Debug, Clone, Copy)]
pub struct Euler;

impl Solver for Euler {
    fn stages(&self) -> &[f64] {
        &[0.0]
    }

    fn slope(&self, x: Tensor<3>, _: f64, velocity: &mut dyn FnMut(usize, Tensor<3>) -> Tensor<3>) -> Tensor<3> {
        velocity(0, x)
    }
}
