use burn::tensor::Tensor;

use super::Solver;

/// The velocity in the middle of a step: second order.
#[derive(Debug, Clone, Copy)]
pub struct Midpoint;

impl Solver for Midpoint {
    fn stages(&self) -> &[f64] {
        &[0.0, 0.5]
    }

    fn slope(&self, x: Tensor<3>, size: f64, velocity: &mut dyn FnMut(usize, Tensor<3>) -> Tensor<3>) -> Tensor<3> {
        let start = velocity(0, x.clone());
        velocity(1, x + start * (size / 2.0))
    }
}
