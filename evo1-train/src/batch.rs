//! What one step of training is computed from.

use burn::tensor::Tensor;
use evo1::Inputs;

use crate::Result;

/// Observations with the actions that followed them.
///
/// # Shapes
/// - actions, mask: `[batch, horizon, max_action_dim]`
#[derive(Debug, Clone)]
pub struct TrainBatch {
    /// The observations, prepared.
    pub inputs: Inputs,
    /// Normalised true actions, padded with zeros.
    pub actions: Tensor<3>,
    /// 1 where an action counts: real dimensions, and only those of steps before the episode's end where the profile masks
    /// the others.
    pub mask: Tensor<3>,
}

impl TrainBatch {
    /// Number of observations.
    pub fn size(&self) -> usize {
        self.actions.dims()[0]
    }
}

impl From<evo1_data::Batch> for TrainBatch {
    fn from(batch: evo1_data::Batch) -> Self {
        Self { inputs: batch.inputs, actions: batch.actions, mask: batch.mask }
    }
}

/// Where batches come from.
///
/// A batch is a function of its index alone, so that a run resumes anywhere by knowing how many batches it has used.
pub trait BatchSource {
    /// The batch of an index, counted from 0.
    fn batch(&mut self, index: u64) -> Result<TrainBatch>;

    /// Observations of one batch.
    fn batch_size(&self) -> usize;

    /// Observations there are to draw from.
    fn samples(&self) -> usize;
}
