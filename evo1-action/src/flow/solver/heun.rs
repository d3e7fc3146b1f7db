use burn::tensor::Tensor;

use super::Solver;

/// The mean of the velocities at a step's start and at Euler's end: second order.
#[derive(Debug, Clone, Copy)]
pub struct Heun;

impl Solver for Heun {
    fn stages(&self) -> &[f64] {
        &[0.0, 1.0]
    }

    fn slope(&self, x: Tensor<3>, size: f64, velocity: &mut dyn FnMut(usize, Tensor<3>) -> Tensor<3>) -> Tensor<3> {
        let start = velocity(0, x.clone());
        let end = velocity(1, x + start.clone() * size);
        (end + start) / 2.0
    }
}
