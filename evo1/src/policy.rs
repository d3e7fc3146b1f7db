//! The policy: observations in, action chunks out.
//!
//! One prediction passes through five stages, and no stage reaches back: [`Policy::prepare`] (frames, prompt and state
//! to tensors), [`Policy::see`] (vision tower and projector), [`Policy::fuse`] (language model), [`Policy::act`] (action
//! expert) and [`Policy::finish`] (back to the robot's units). [`Policy::predict`] runs them all.

use burn::tensor::{DType, Device, Tensor, TensorData};
use evo1_action::{Sampler, flow::uniform_noise};
use evo1_core::{ActionChunk, Context, Observation, Trace, config::PolicyConfig, normalize::Statistics, rng};
use evo1_vlm::{PromptTokenizer, frame::Arithmetic};

use crate::{Error, Evo1, Inputs, Preparer, Result};

/// A network with everything that turns observations into its inputs and its outputs into actions.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What the policy computes.
    pub config: PolicyConfig,
    /// The weights.
    pub network: Evo1,
    /// Makes token ids of prompts.
    pub tokenizer: PromptTokenizer,
    /// Statistics of states and actions; without them both are taken and given in normalised units.
    pub statistics: Option<Statistics>,
    pub(crate) device: Device,
}

/// How a prediction is made.
#[derive(Debug, Clone, PartialEq)]
pub struct PredictOptions {
    /// Euler steps; the policy's own number when `None`.
    pub steps: Option<usize>,
    /// Where the flow starts.
    pub noise: Noise,
    /// Leave out what the profile lets nothing see: frames and tokens of views that are not present, and padding. The
    /// result is the same, to rounding.
    pub skips_unseen: bool,
}

/// Where the flow starts.
#[derive(Debug, Clone, PartialEq)]
pub enum Noise {
    /// Drawn from a seed: sample `i` of a batch from the seed plus `i`, so that a batch equals its samples one by one.
    Seed(u64),
    /// Given, `[batch, horizon, max_action_dim]`, row-major.
    Given(Vec<f32>),
}

impl Default for PredictOptions {
    fn default() -> Self {
        Self { steps: None, noise: Noise::Seed(0), skips_unseen: true }
    }
}

impl Policy {
    /// A policy of its parts.
    pub fn new(
        config: PolicyConfig,
        network: Evo1,
        tokenizer: PromptTokenizer,
        statistics: Option<Statistics>,
        device: &Device,
    ) -> Self {
        Self { config, network, tokenizer, statistics, device: device.clone() }
    }

    /// Where the network lives.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The action chunk for one observation.
    pub fn predict(&self, observation: &Observation, options: &PredictOptions) -> Result<ActionChunk> {
        let mut chunks = self.predict_batch(std::slice::from_ref(observation), options)?;
        Ok(chunks.remove(0))
    }

    /// The action chunks for a batch of observations, the same as one by one.
    pub fn predict_batch(&self, observations: &[Observation], options: &PredictOptions) -> Result<Vec<ActionChunk>> {
        let inputs = self.prepare(observations, options.skips_unseen)?;
        let noise = self.noise(observations.len(), &options.noise)?;
        let context = self.fuse(self.see(&inputs), &inputs)?;
        let actions = self.act(context, &inputs, noise, options.steps)?;
        self.finish(actions, observations)
    }

    /// What the policy is without its network: cheap to copy, and to send to a thread that prepares batches.
    pub fn preparer(&self) -> Preparer {
        let arithmetic = match self.network.vlm.dtype() {
            DType::BF16 => Arithmetic::Bf16,
            _ => Arithmetic::F32,
        };
        Preparer {
            config: self.config.clone(),
            tokenizer: self.tokenizer.clone(),
            statistics: self.statistics.clone(),
            arithmetic,
            device: self.device.clone(),
        }
    }

    /// Stage 1: frames are scaled and normalised, prompts tokenised, states normalised and padded.
    pub fn prepare(&self, observations: &[Observation], skips_unseen: bool) -> Result<Inputs> {
        self.preparer().prepare(observations, skips_unseen)
    }

    /// Stage 2: visual tokens of all tiles, `[tiles, tokens_per_tile, embed]`.
    pub fn see(&self, inputs: &Inputs) -> Option<Tensor<3>> {
        let pixels = inputs.pixels.clone()?;
        Some(self.network.vlm.visual_tokens(pixels, &mut Trace::off()))
    }

    /// Stage 3: the fused tokens.
    pub fn fuse(&self, visual: Option<Tensor<3>>, inputs: &Inputs) -> Result<Context> {
        let (image_token, semantics) = (self.tokenizer.image_context(), &self.config.semantics);
        Ok(self.network.vlm.forward(visual, &inputs.tokens, image_token, semantics, &mut Trace::off())?)
    }

    /// Stage 4: normalised actions, `[batch, horizon, max_action_dim]`.
    pub fn act(&self, context: Context, inputs: &Inputs, noise: Tensor<3>, steps: Option<usize>) -> Result<Tensor<3>> {
        let steps = steps.unwrap_or(self.config.num_inference_steps);
        if steps == 0 {
            return Err(Error::NoSteps);
        }
        let (expert, mut trace) = (&self.network.action, Trace::off());
        let conditioning = expert.condition(context, inputs.state.clone(), &inputs.embodiment, &mut trace);
        let sampler = Sampler::new(steps, &self.config.semantics);
        Ok(sampler.sample(expert, &conditioning, noise, inputs.action_mask.clone(), &mut trace))
    }

    /// Stage 5: actions in the robot's units, cropped to its width.
    pub fn finish(&self, actions: Tensor<3>, observations: &[Observation]) -> Result<Vec<ActionChunk>> {
        let [_, horizon, padded] = actions.dims();
        let data = actions.into_data();
        let values: Vec<f32> = data.iter().collect();
        if values.iter().any(|value| !value.is_finite()) {
            return Err(Error::NonFinitePrediction { dtype: self.network.action.dtype().name().to_owned() });
        }
        let preparer = self.preparer();
        let normalizer = preparer.normalizer();
        values
            .chunks_exact(horizon * padded)
            .zip(observations)
            .map(|(chunk, observation)| {
                let statistics = preparer.statistics_of(observation)?;
                let width = statistics.map_or(self.config.action_dim, |robot| robot.action.width().min(padded));
                let mut out = Vec::with_capacity(horizon * width);
                for action in chunk.chunks_exact(padded) {
                    let action = &action[..width];
                    match statistics {
                        Some(robot) => out.extend(normalizer.denormalize_action(action, robot)?),
                        None => out.extend_from_slice(action),
                    }
                }
                if let Some(gripper) = self.config.gripper {
                    for value in out.iter_mut().skip(gripper.index).step_by(width) {
                        *value = if *value > gripper.threshold { gripper.above } else { gripper.below };
                    }
                }
                Ok(ActionChunk::new(width, out))
            })
            .collect()
    }

    /// The noise that a prediction starts from, `[batch, horizon, max_action_dim]`.
    pub fn noise(&self, batch: usize, noise: &Noise) -> Result<Tensor<3>> {
        let (horizon, width) = (self.config.action.horizon, self.config.action.max_action_dim);
        match noise {
            Noise::Seed(seed) => {
                let samples = (0..batch as u64)
                    .map(|sample| {
                        let mut rng = rng::stream(seed.wrapping_add(sample), "noise");
                        uniform_noise([1, horizon, width], &mut rng, &self.device)
                    })
                    .collect();
                Ok(Tensor::cat(samples, 0))
            }
            Noise::Given(values) if values.len() == batch * horizon * width => {
                Ok(Tensor::from_data(TensorData::new(values.clone(), [batch, horizon, width]), &self.device))
            }
            Noise::Given(values) => Err(Error::NoiseSize { batch, horizon, width, got: values.len() }),
        }
    }
}
