//! A forward pass in segments that can each be run again, for training that keeps only what passes between them.

use burn::tensor::Tensor;

use crate::Result;

/// A layer, or what stands between two: `[batch, tokens, channels]` → `[batch, tokens, channels]`.
pub struct Segment<'a> {
    forward: Box<dyn Fn(Tensor<3>) -> Result<Tensor<3>> + 'a>,
    is_vision: bool,
}

impl<'a> Segment<'a> {
    /// A segment of the language model.
    pub fn language(forward: impl Fn(Tensor<3>) -> Result<Tensor<3>> + 'a) -> Self {
        Self { forward: Box::new(forward), is_vision: false }
    }

    /// A segment of the vision tower or the projector.
    pub fn vision(forward: impl Fn(Tensor<3>) -> Tensor<3> + 'a) -> Self {
        Self { forward: Box::new(move |x| Ok(forward(x))), is_vision: true }
    }

    /// Whether it belongs to the vision tower or the projector, and not to the language model.
    pub fn is_vision(&self) -> bool {
        self.is_vision
    }

    /// What the segment makes of what the one before it gave.
    pub fn forward(&self, x: Tensor<3>) -> Result<Tensor<3>> {
        (self.forward)(x)
    }
}
