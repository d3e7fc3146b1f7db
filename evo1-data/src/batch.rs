//! Samples put together and on the device.

use burn::tensor::Tensor;
use evo1::{HostInputs, Inputs, Preparer, vlm::frame::Pixels};
use evo1_core::{
    View,
    config::{FrameCrop, TargetMask},
    normalize::Normalization,
    rng,
};
use rand_distr::{Distribution, StandardNormal};

use crate::{
    Augmentation, Changes, DataConfig, Error, Result,
    sample::{Sample, SampleId},
    sampler::Position,
};

/// What one training step is computed from.
///
/// # Shapes
/// - actions, mask: `[batch, horizon, max_action_dim]`
#[derive(Debug, Clone)]
pub struct Batch {
    /// What the network is given, prepared by the code that prepares it for predictions.
    pub inputs: Inputs,
    /// Normalised true actions, padded with zeros.
    pub actions: Tensor<3>,
    /// 1 for entries that count in the loss: real dimensions, and by the profile only of steps before the episode's end.
    pub mask: Tensor<3>,
    /// For each sample which steps lie past the episode's end.
    pub action_is_pad: Vec<Vec<bool>>,
    /// Where the samples are from.
    pub samples: Vec<SampleId>,
    /// The position of the draw after the last of this batch: where a run that has used the batch continues.
    pub position: Position,
}

/// A [`Batch`] before anything is put on a device. Shapes are those of its tensors, row-major.
#[derive(Debug, Clone)]
pub struct HostBatch {
    /// What the network is given.
    pub inputs: HostInputs,
    /// Normalised true actions, padded with zeros.
    pub actions: Vec<f32>,
    /// 1 for entries that count in the loss.
    pub mask: Vec<f32>,
    /// For each sample which steps lie past the episode's end.
    pub action_is_pad: Vec<Vec<bool>>,
    /// Where the samples are from.
    pub samples: Vec<SampleId>,
    /// The position of the draw after the last of this batch.
    pub position: Position,
}

impl HostBatch {
    /// The batch on the device of the preparer that it was made with.
    pub fn place(self, preparer: &Preparer) -> Batch {
        let Self { inputs, actions, mask, action_is_pad, samples, position } = self;
        Batch {
            inputs: preparer.place(inputs),
            actions: preparer.place_actions(actions),
            mask: preparer.place_actions(mask),
            action_is_pad,
            samples,
            position,
        }
    }

    /// Bytes of the values that it holds.
    pub(crate) fn bytes(&self) -> usize {
        let HostInputs { pixels, state, action_mask, .. } = &self.inputs;
        let pixels = match pixels {
            Pixels::Levels(levels) => levels.len(),
            Pixels::Normalized(values) => size_of_val(values.as_slice()),
        };
        let values = state.len() + action_mask.len() + self.actions.len() + self.mask.len();
        pixels + values * size_of::<f32>()
    }
}

/// Makes batches of samples.
#[derive(Debug, Clone)]
pub(crate) struct Collator {
    /// Without the policy's crop, which is done before a frame is changed.
    pub(crate) preparer: Preparer,
    crop: Option<FrameCrop>,
    pub(crate) config: DataConfig,
    pub(crate) skips_unseen: bool,
}

impl Collator {
    /// Fails when the configuration names other sizes than the model's, or another normalisation.
    pub(crate) fn new(mut preparer: Preparer, config: DataConfig, skips_unseen: bool) -> Result<Self> {
        let model = &preparer.config;
        let sizes = [
            ("max_action_dim", config.max_action_dim, model.action.max_action_dim),
            ("max_state_dim", config.max_state_dim, model.action.max_state_dim),
            ("max_views", config.max_views, model.max_views),
        ];
        for (field, given, expected) in sizes {
            if let Some(given) = given.filter(|&given| given != expected) {
                let expected = format!("the model's, {expected}");
                return Err(evo1_core::Error::invalid("data configuration", field, expected, given).into());
            }
        }
        if let Some(given) =
            config.normalization_type.filter(|&given| Normalization::both(given) != model.normalization)
        {
            let expected = format!("the model's, {:?}", model.normalization);
            let field = "normalization_type";
            return Err(evo1_core::Error::invalid("data configuration", field, expected, format!("{given:?}")).into());
        }
        let crop = preparer.config.crop.take();
        Ok(Self { preparer, crop, config, skips_unseen })
    }

    /// A batch of samples that were drawn at `positions`; `next` is the position after them.
    pub(crate) fn batch(&self, samples: Vec<Sample>, positions: &[Position], next: Position) -> Result<HostBatch> {
        let model = &self.preparer.config;
        let (padded, padded_state) = (model.action.max_action_dim, model.action.max_state_dim);
        let masks_past_end = self.config.mask_past_end.unwrap_or(model.semantics.target_mask == TargetMask::Masked);
        let (mut ids, mut observations, mut pads) = (Vec::new(), Vec::new(), Vec::new());
        let (mut actions, mut mask) = (Vec::new(), Vec::new());
        let mut noise = Vec::with_capacity(samples.len() * padded_state);
        for (sample, position) in samples.into_iter().zip(positions) {
            let Sample { id, mut observation, actions: own, action_width, action_is_pad } = sample;
            let too_wide =
                |what, key, max, got| Error::TooWide { dataset: id.dataset.to_string(), what, key, max, got };
            if action_width > padded {
                return Err(too_wide("action", "action_dims", padded, action_width));
            }
            if observation.state.len() > padded_state {
                return Err(too_wide("state", "state_dims", padded_state, observation.state.len()));
            }
            let failed = |error: evo1::Error| Error::from(error).in_sample(&id);
            for (action, &is_pad) in own.chunks_exact(action_width).zip(&action_is_pad) {
                actions.extend(self.preparer.normalize_action(action, &observation).map_err(failed)?);
                let is_seen = !(is_pad && masks_past_end);
                mask.extend((0..padded).map(|column| f32::from(u8::from(column < action_width && is_seen))));
            }
            self.crop_and_augment(&mut observation.views, *position);
            self.add_noise(&mut noise, observation.state.len(), padded_state, *position);
            ids.push(id);
            observations.push(observation);
            pads.push(action_is_pad);
        }
        let mut inputs = self.preparer.prepare_on_host(&observations, self.skips_unseen)?;
        for (value, noise) in inputs.state.iter_mut().zip(noise) {
            *value += noise;
            if let Some(clamp) = self.config.state_clamp {
                *value = value.clamp(-clamp, clamp);
            }
        }
        Ok(HostBatch { inputs, actions, mask, action_is_pad: pads, samples: ids, position: next })
    }

    /// Noise for one sample's state, the same whenever its position is drawn.
    fn add_noise(&self, noise: &mut Vec<f32>, width: usize, padded: usize, position: Position) {
        let Position { seed, epoch, index } = position;
        let mut rng = rng::stream(seed, &format!("state noise {epoch} {index}"));
        noise.extend((0..padded).map(|dimension| {
            let value: f32 = StandardNormal.sample(&mut rng);
            if dimension < width { value * self.config.state_noise.of(dimension) } else { 0.0 }
        }));
    }

    /// Cuts out of each view what the policy sees of it, and changes that at random, the same whenever its position is drawn.
    fn crop_and_augment(&self, views: &mut [View], position: Position) {
        let Position { seed, epoch, index } = position;
        let mut rng = rng::stream(seed, &format!("augmentation {epoch} {index}"));
        let model = &self.preparer.config;
        for view in views {
            let View::Present(frame) = view else { continue };
            if let Some(crop) = self.crop {
                *frame = crop.of(frame);
            }
            if self.config.augmentation != Augmentation::Recipe {
                continue;
            }
            let (width, height) = (frame.width(), frame.height());
            if let Some(changes) = Changes::draw(width, height, &mut rng) {
                // A frame of several tiles keeps its shape, by which it is divided.
                let square = [model.vlm.image_size; 2];
                let scaled = if model.tiling.max_tiles > 1 { [width, height] } else { square };
                *frame = changes.apply(frame, scaled);
            }
        }
    }
}
