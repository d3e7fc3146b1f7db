//! What one step of training is computed from.

use burn::tensor::Tensor;
use evo1::{HostInputs, Inputs, Preparer};
use evo1_data::{DatasetIdentity, HostBatch};

use crate::Result;

/// Observations with the actions that followed them, in the memory of the host until a step needs them.
///
/// # Shapes
/// - actions, mask: `[batch, horizon, max_action_dim]`, row-major
#[derive(Debug, Clone)]
pub struct TrainBatch {
    /// The observations, prepared.
    pub inputs: HostInputs,
    /// Normalised true actions, padded with zeros.
    pub actions: Vec<f32>,
    /// 1 where an action counts: real dimensions, and only those of steps before the episode's end where the profile masks
    /// the others.
    pub mask: Vec<f32>,
    /// What the observations are called where something is wrong with them; nothing where they have no names.
    pub samples: Vec<String>,
}

impl TrainBatch {
    /// Number of observations.
    pub fn size(&self) -> usize {
        self.inputs.embodiment.len()
    }

    /// The batch on the device of the policy that `preparer` prepares for.
    pub(crate) fn place(self, preparer: &Preparer) -> PlacedBatch {
        PlacedBatch {
            inputs: preparer.place(self.inputs),
            actions: preparer.place_actions(self.actions),
            mask: preparer.place_actions(self.mask),
        }
    }
}

impl From<HostBatch> for TrainBatch {
    fn from(batch: HostBatch) -> Self {
        let HostBatch { inputs, actions, mask, samples, .. } = batch;
        Self { inputs, actions, mask, samples: samples.iter().map(ToString::to_string).collect() }
    }
}

/// A [`TrainBatch`] on a device.
pub(crate) struct PlacedBatch {
    pub(crate) inputs: Inputs,
    pub(crate) actions: Tensor<3>,
    pub(crate) mask: Tensor<3>,
}

impl PlacedBatch {
    /// Number of observations.
    pub(crate) fn size(&self) -> usize {
        self.actions.dims()[0]
    }
}

/// Where batches come from.
///
/// A run counts its observations from the first one on. A batch is a function of the number of its first observation alone,
/// so that a run goes on anywhere by knowing how many it has used, and several processes can share the work.
pub trait BatchSource {
    /// The observations from `first` to `first + batch_size`.
    fn batch(&mut self, first: u64) -> Result<TrainBatch>;

    /// Observations of one batch.
    fn batch_size(&self) -> usize;

    /// Observations there are to draw from.
    fn samples(&self) -> usize;

    /// What the data are, so that a run that goes on can tell whether they are the same; nothing where that is not known.
    fn identity(&self) -> Vec<DatasetIdentity> {
        Vec::new()
    }

    /// What could not be read and was left out, and why.
    fn skipped(&self) -> Vec<String> {
        Vec::new()
    }
}
