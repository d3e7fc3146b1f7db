//! The policy: observations in, action chunks out.
//!
//! One prediction passes through five stages, and no stage reaches back: [`Policy::prepare`] (frames, prompt and state
//! to tensors), [`Policy::see`] (vision tower and projector), [`Policy::fuse`] (language model), [`Policy::act`] (action
//! expert) and [`Policy::finish`] (back to the robot's units). [`Policy::predict`] runs them all.

use burn::tensor::{DType, Device, Tensor, TensorData};
use evo1_action::{Sampler, flow::uniform_noise};
use evo1_core::{
    ActionChunk, Context, Observation, Trace, View,
    config::{ContextScope, PolicyConfig},
    normalize::{Normalizer, RobotStatistics, Statistics},
    rng,
};
use evo1_vlm::{PromptTokenizer, TokenBatch, frame};

use crate::{Error, Evo1, Result};

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

/// What the network computes on, made from a batch of observations.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// Normalised tiles of all frames, `[tiles, 3, size, size]`; nothing when no frame is looked at.
    pub pixels: Option<Tensor<4>>,
    /// The prompts.
    pub tokens: TokenBatch,
    /// Normalised and padded states, `[batch, max_state_dim]`.
    pub state: Tensor<2>,
    /// Embodiment ids.
    pub embodiment: Vec<usize>,
    /// 1 for real action dimensions, `[batch, horizon, max_action_dim]`.
    pub action_mask: Tensor<3>,
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

    /// Stage 1: frames are scaled and normalised, prompts tokenised, states normalised and padded.
    pub fn prepare(&self, observations: &[Observation], skips_unseen: bool) -> Result<Inputs> {
        if observations.is_empty() {
            return Err(Error::EmptyBatch);
        }
        let skips = skips_unseen && self.config.semantics.context_scope == ContextScope::ValidTokens;
        let mut samples = Samples::default();
        for observation in observations {
            self.check(observation)?;
            self.prepare_one(observation, skips, &mut samples)?;
        }
        let Samples { pixels, prompts, present, state, embodiment, action_mask } = samples;
        let tokens = self.tokenizer.batch(&prompts, &present, self.config.semantics.prompt_length);
        let tokens = if skips { tokens.without_masked(self.tokenizer.padding()) } else { tokens };
        let (batch, size, action) = (observations.len(), self.config.vlm.image_size, &self.config.action);
        let tiles = pixels.len() / (3 * size * size);
        let mask = Tensor::<2>::from_data(TensorData::new(action_mask, [batch, action.max_action_dim]), &self.device);
        Ok(Inputs {
            pixels: (tiles > 0)
                .then(|| Tensor::from_data(TensorData::new(pixels, [tiles, 3, size, size]), &self.device)),
            tokens,
            state: Tensor::from_data(TensorData::new(state, [batch, action.max_state_dim]), &self.device),
            embodiment,
            action_mask: mask.unsqueeze_dim::<3>(1).expand([batch, action.horizon, action.max_action_dim]),
        })
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
        let normalizer = self.normalizer();
        values
            .chunks_exact(horizon * padded)
            .zip(observations)
            .map(|(chunk, observation)| {
                let statistics = self.statistics_of(observation)?;
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

    fn check(&self, observation: &Observation) -> Result<()> {
        let (max, got) = (self.config.max_views, observation.views.len());
        if got > max {
            return Err(Error::TooManyViews { max, got });
        }
        if !observation.views.iter().any(View::is_present) {
            return Err(Error::NoView);
        }
        let (max, got) = (self.config.action.max_state_dim, observation.state.len());
        if got > max {
            return Err(Error::TooWide { what: "state", max, got });
        }
        if let Some((index, &value)) = observation.state.iter().enumerate().find(|(_, value)| !value.is_finite()) {
            return Err(Error::NonFiniteState { index, value });
        }
        let (max, got) = (self.config.action.max_action_dim, observation.action_mask.as_ref().map_or(0, Vec::len));
        if got > max {
            return Err(Error::TooWide { what: "action mask", max, got });
        }
        let (count, got) = (self.config.action.num_categories.max(1), self.embodiment_of(observation));
        if got >= count {
            return Err(Error::UnknownEmbodiment { got, count });
        }
        Ok(())
    }

    fn prepare_one(&self, observation: &Observation, skips: bool, samples: &mut Samples) -> Result<()> {
        let config = &self.config;
        let (size, semantics) = (config.vlm.image_size, &config.semantics);
        let views = (0..config.max_views).map(|view| observation.views.get(view).unwrap_or(&View::Absent));
        let (mut image_tokens, mut present) = (Vec::new(), Vec::new());
        for view in views {
            let tiles = match view.frame() {
                // Nothing sees a masked view when unseen tokens are skipped, so that one tile stands for any number.
                Some(_) if skips && !view.is_present() => 1,
                Some(frame) => {
                    let tiles = frame::tiles(frame, size, semantics.frames, &config.tiling, self.arithmetic());
                    samples.pixels.extend(tiles.pixels);
                    tiles.count
                }
                None => {
                    if !skips {
                        samples.pixels.extend(frame::normalized_black(size, self.arithmetic()));
                    }
                    1
                }
            };
            image_tokens.push(tiles * config.vlm.tokens_per_tile());
            present.push(view.is_present());
        }
        let prompt = self.tokenizer.encode(&image_tokens, &observation.instruction)?;
        if prompt.truncated > 0 {
            ::tracing::warn!(
                "the instruction is too long: its last {} tokens were cut to keep the prompt at {}",
                prompt.truncated,
                config.max_text_length
            );
        }
        samples.prompts.push(prompt);
        samples.present.push(present);
        let padded = config.action.max_state_dim;
        let state = match self.statistics_of(observation)? {
            Some(robot) => self.normalizer().normalize_state(&observation.state, robot, padded)?,
            None => {
                let mut state = observation.state.clone();
                state.resize(padded, self.normalizer().padded_state_value());
                state
            }
        };
        samples.state.extend(state);
        samples.embodiment.push(self.embodiment_of(observation));
        let is_real = |column: usize| match &observation.action_mask {
            Some(mask) => mask.get(column).copied().unwrap_or(false),
            None => column < config.action_dim,
        };
        samples
            .action_mask
            .extend((0..config.action.max_action_dim).map(|column| f32::from(u8::from(is_real(column)))));
        Ok(())
    }

    fn normalizer(&self) -> Normalizer {
        Normalizer::new(self.config.normalization, &self.config.semantics)
    }

    fn statistics_of(&self, observation: &Observation) -> Result<Option<&RobotStatistics>> {
        match &self.statistics {
            Some(statistics) => Ok(Some(statistics.select(&observation.statistics)?)),
            None => Ok(None),
        }
    }

    fn embodiment_of(&self, observation: &Observation) -> usize {
        observation.embodiment.unwrap_or(self.config.default_embodiment)
    }

    fn arithmetic(&self) -> frame::Arithmetic {
        match self.network.vlm.dtype() {
            DType::BF16 => frame::Arithmetic::Bf16,
            _ => frame::Arithmetic::F32,
        }
    }
}

/// Values of a batch while it is put together.
#[derive(Default)]
struct Samples {
    pixels: Vec<f32>,
    prompts: Vec<evo1_vlm::Prompt>,
    present: Vec<Vec<bool>>,
    state: Vec<f32>,
    embodiment: Vec<usize>,
    action_mask: Vec<f32>,
}
