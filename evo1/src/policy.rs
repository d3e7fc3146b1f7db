//! The policy: observations in, action chunks out.
//!
//! One prediction passes through six stages, and no stage reaches back: [`Policy::prepare`] (frames, prompt and state
//! to tensors), [`Policy::patches`] (vision tower), [`Policy::project`] (projector), [`Policy::fuse`] (language model),
//! [`Policy::act`] (action expert) and [`Policy::finish`] (back to the robot's units). [`Policy::predict`] runs them all.

use std::sync::{Arc, OnceLock};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use evo1_action::{Flow, Sampler, VelocityModel, flow::Guidance};
use evo1_core::{
    ActionChunk, Context, Observation, Trace, config::PolicyConfig, constants::Constants, device::read,
    normalize::Statistics, rng,
};
use evo1_vlm::{
    PromptTokenizer, TokenBatch, VisionLanguageModel,
    frame::{Arithmetic, LevelTable, normalized_black},
};

use crate::{
    Components, Error, Evo1, Inputs, Preparer, Published, Result,
    chunk::{ChunkGuidance, smoothed},
    timing::{StageTimes, timed},
};

/// A network with everything that turns observations into its inputs and its outputs into actions.
///
/// `C` are the components that it may be made of.
#[derive(Debug, Clone)]
pub struct Policy<C: Components = Published> {
    /// What the policy computes.
    pub config: PolicyConfig,
    /// The weights. Others make another policy ([`Self::new`]): this one keeps what it sees where there is no view.
    pub network: Evo1<C::Vlm, C::Action>,
    /// Makes token ids of prompts.
    pub tokenizer: PromptTokenizer,
    /// Statistics of states and actions; without them both are taken and given in normalised units.
    pub statistics: Option<Statistics>,
    pub(crate) device: Device,
    /// Visual tokens of a black tile, `[1, tokens_per_tile, embed]`, once they were needed.
    pub(crate) black: Arc<OnceLock<Tensor<3>>>,
    /// What normalises grey levels on the device.
    pub(crate) levels: Constants<DType, LevelTable>,
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
    /// The chunk that the prediction is guided to; for a single observation.
    pub guidance: Option<ChunkGuidance>,
    /// What is made of the predicted actions.
    pub finish: FinishOptions,
}

/// What is made of the predicted actions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FinishOptions {
    /// How wide they are.
    pub width: ActionWidth,
    /// Steps of the Gaussian that smooths them along time; not at all when `None`.
    pub smoothing: Option<f32>,
}

/// A predicted chunk, in the robot's units and as the flow ended in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// In the robot's units.
    pub chunk: ActionChunk,
    /// Normalised, as wide as the model's actions.
    pub normalized: ActionChunk,
}

/// Where the flow starts.
#[derive(Debug, Clone, PartialEq)]
pub enum Noise {
    /// Drawn from a seed: sample `i` of a batch from the seed plus `i`, so that a batch starts as its samples one by one.
    Seed(u64),
    /// Drawn from one seed for each sample.
    Seeds(Vec<u64>),
    /// Given, `[batch, horizon, max_action_dim]`, row-major.
    Given(Vec<f32>),
}

impl Default for PredictOptions {
    fn default() -> Self {
        let (noise, finish) = (Noise::Seed(0), FinishOptions::default());
        Self { steps: None, noise, skips_unseen: true, guidance: None, finish }
    }
}

/// How wide the actions of a chunk are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ActionWidth {
    /// The robot's.
    #[default]
    Robot,
    /// The model's: columns past the statistics' are denormalised with a range of zero at zero, as the authors' server
    /// does.
    Padded,
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
        Self::new_as::<Published>(config, network, tokenizer, statistics, device)
    }

    /// [`Policy::new`] of other components.
    pub fn new_as<C: Components>(
        config: PolicyConfig,
        network: Evo1<C::Vlm, C::Action>,
        tokenizer: PromptTokenizer,
        statistics: Option<Statistics>,
        device: &Device,
    ) -> Policy<C> {
        let (black, levels) = (Arc::default(), Constants::default());
        Policy { config, network, tokenizer, statistics, device: device.clone(), black, levels }
    }
}

impl<C: Components> Policy<C> {
    /// Where the network lives.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The same policy with the weights of its linear layers in eight bits, for inference only: see
    /// [`weights::quantize`](evo1_core::weights::quantize).
    ///
    /// # Errors
    /// When the device has no such weights.
    pub fn quantized(self) -> Result<Self> {
        evo1_core::weights::require_quantization(&self.device)?;
        Ok(Self { network: evo1_core::weights::quantize(self.network), black: Arc::default(), ..self })
    }

    /// The same policy with the weights of its linear layers in the order in which products read them, for inference only,
    /// where its components can use those: see [`weights::pack`](evo1_core::weights::pack).
    pub fn packed(self) -> Self {
        let Evo1 { vlm, action } = self.network;
        Self { network: Evo1 { vlm: vlm.packed(), action: action.packed() }, ..self }
    }

    /// The action chunk for one observation.
    pub fn predict(&self, observation: &Observation, options: &PredictOptions) -> Result<ActionChunk> {
        let mut chunks = self.predict_batch(std::slice::from_ref(observation), options)?;
        Ok(chunks.remove(0))
    }

    /// The action chunks for a batch of observations, to rounding the same as one by one.
    pub fn predict_batch(&self, observations: &[Observation], options: &PredictOptions) -> Result<Vec<ActionChunk>> {
        let inputs = self.prepare(observations, options.skips_unseen)?;
        let noise = self.noise(observations.len(), &options.noise)?;
        let context = self.fuse(self.visual_tokens(&inputs), &inputs)?;
        let actions = self.act_guided(context, &inputs, noise, options)?;
        self.chunks(&self.normalized(actions)?, observations, options.finish)
    }

    /// [`Self::predict_batch`] with the time of each stage, and the normalised actions as well.
    pub fn predict_batch_timed(
        &self,
        observations: &[Observation],
        options: &PredictOptions,
    ) -> Result<(Vec<Prediction>, StageTimes)> {
        let (device, mut times) = (&self.device, StageTimes::default());
        let inputs = timed(device, &mut times.prepare, || self.prepare(observations, options.skips_unseen))?;
        let patches = timed(device, &mut times.vision, || self.patches(&inputs));
        let visual = timed(device, &mut times.projector, || self.project(patches, &inputs));
        let context = timed(device, &mut times.language, || self.fuse(visual, &inputs))?;
        let actions = timed(device, &mut times.action, || {
            let noise = self.noise(observations.len(), &options.noise)?;
            self.act_guided(context, &inputs, noise, options)
        })?;
        let predictions = timed(device, &mut times.finish, || {
            let normalized = self.normalized(actions)?;
            self.finished(normalized, observations, options.finish)
        })?;
        Ok((predictions, times))
    }

    /// What the policy is without its network: cheap to copy, and to send to a thread that prepares batches.
    pub fn preparer(&self) -> Preparer {
        Preparer {
            config: self.config.clone(),
            tokenizer: self.tokenizer.clone(),
            statistics: self.statistics.clone(),
            arithmetic: self.arithmetic(),
            device: self.device.clone(),
            levels: self.levels.clone(),
        }
    }

    /// The number type in which pixels are normalised.
    fn arithmetic(&self) -> Arithmetic {
        match self.network.vlm.dtype() {
            DType::BF16 => Arithmetic::Bf16,
            _ => Arithmetic::F32,
        }
    }

    /// Stage 1: frames are scaled and normalised, prompts tokenised, states normalised and padded.
    pub fn prepare(&self, observations: &[Observation], skips_unseen: bool) -> Result<Inputs> {
        self.preparer().prepare(observations, skips_unseen)
    }

    /// Stages 2 and 3: visual tokens of all tiles, `[tiles, tokens_per_tile, embed]`.
    ///
    /// Views that are not there all look the same, and the policy remembers how.
    pub fn visual_tokens(&self, inputs: &Inputs) -> Option<Tensor<3>> {
        self.project(self.patches(inputs), inputs)
    }

    /// Stage 2: patches of the tiles that are not black, `[tiles, side · side, hidden]`; `None` where there is none.
    pub fn patches(&self, inputs: &Inputs) -> Option<Tensor<3>> {
        if !inputs.black_tiles.is_empty() {
            // Nearly all of it is the tower's work.
            self.black_tokens();
        }
        let others = self.others(inputs.pixels.clone(), &inputs.black_tiles);
        others.map(|pixels| self.network.vlm.patches(pixels, &mut Trace::off()))
    }

    /// The tiles that are not black, `[tiles, 3, size, size]`; `None` where there is none.
    pub(crate) fn others(&self, pixels: Option<Tensor<4>>, blacks: &[usize]) -> Option<Tensor<4>> {
        let pixels = pixels?;
        if blacks.is_empty() {
            return Some(pixels);
        }
        let others = (0..pixels.dims()[0]).filter(|tile| blacks.binary_search(tile).is_err());
        let others: Vec<i32> = others.map(|tile| tile as i32).collect();
        if others.is_empty() {
            return None;
        }
        let others = Tensor::<1, Int>::from_data(TensorData::from(&others[..]), &pixels.device());
        Some(pixels.select(0, others))
    }

    /// Stage 3: visual tokens of all tiles, of what [`Self::patches`] gave for the same inputs and of black tiles.
    pub fn project(&self, patches: Option<Tensor<3>>, inputs: &Inputs) -> Option<Tensor<3>> {
        let tiles = inputs.pixels.as_ref()?.dims()[0];
        self.project_among(patches, tiles, &inputs.black_tiles)
    }

    /// Visual tokens of so many tiles, of the patches of those that are not black.
    pub(crate) fn project_among(
        &self,
        patches: Option<Tensor<3>>,
        tiles: usize,
        blacks: &[usize],
    ) -> Option<Tensor<3>> {
        let others = patches.map(|patches| self.network.vlm.project(patches, &mut Trace::off()));
        if blacks.is_empty() {
            return others;
        }
        let black = self.black_tokens();
        let Some(others) = others else { return Some(black.clone().repeat_dim(0, tiles)) };
        let mut others = others.split(1, 0).into_iter();
        let is_black = |tile: &usize| blacks.binary_search(tile).is_ok();
        let tokens = (0..tiles).filter_map(|tile| if is_black(&tile) { Some(black.clone()) } else { others.next() });
        Some(Tensor::cat(tokens.collect(), 0))
    }

    /// Visual tokens of a black tile.
    pub(crate) fn black_tokens(&self) -> &Tensor<3> {
        if self.black.get().is_none() {
            // Not within `get_or_init`: a thread that waits there for its kernels' tasks may take up another prediction,
            // which would wait for itself. Two that compute it at once compute the same.
            let size = self.config.vlm.image_size;
            let tile = TensorData::new(normalized_black(size, self.arithmetic()), [1, 3, size, size]);
            let tile = Tensor::from_data(tile, (&self.device, DType::F32));
            let _ = self.black.set(self.network.vlm.visual_tokens(tile, &mut Trace::off()));
        }
        self.black.get().unwrap_or_else(|| unreachable!("it was set"))
    }

    /// Stage 4: the fused tokens.
    pub fn fuse(&self, visual: Option<Tensor<3>>, inputs: &Inputs) -> Result<Context> {
        self.fuse_tokens(visual, &inputs.tokens)
    }

    /// [`Self::fuse`] of prompts.
    pub(crate) fn fuse_tokens(&self, visual: Option<Tensor<3>>, tokens: &TokenBatch) -> Result<Context> {
        let (image_token, semantics) = (self.tokenizer.image_context(), &self.config.semantics);
        Ok(self.network.vlm.forward(visual, tokens, image_token, semantics, &mut Trace::off())?)
    }

    /// Stage 5: normalised actions, `[batch, horizon, max_action_dim]`.
    pub fn act(&self, context: Context, inputs: &Inputs, noise: Tensor<3>, steps: Option<usize>) -> Result<Tensor<3>> {
        self.act_guided(context, inputs, noise, &PredictOptions { steps, ..PredictOptions::default() })
    }

    /// [`Self::act`] with the steps and the guidance of the options.
    pub fn act_guided(
        &self,
        context: Context,
        inputs: &Inputs,
        noise: Tensor<3>,
        options: &PredictOptions,
    ) -> Result<Tensor<3>> {
        let steps = self.steps(options.steps)?;
        let (expert, mut trace) = (&self.network.action, Trace::off());
        let conditioning = expert.condition(context, inputs.state.clone(), &inputs.embodiment, &mut trace);
        let sampler = self.sampler(steps)?;
        let mask = inputs.action_mask.clone();
        let guidance = options.guidance.as_ref().map(|guidance| self.guidance(guidance, &mask)).transpose()?;
        Ok(sampler.sample_guided(expert, &conditioning, noise, mask, guidance.as_ref(), &mut trace)?)
    }

    /// The steps of a sampler: the policy's own number when `None`.
    pub(crate) fn steps(&self, steps: Option<usize>) -> Result<usize> {
        match steps.unwrap_or(self.config.num_inference_steps) {
            0 => Err(Error::NoSteps),
            steps => Ok(steps),
        }
    }

    /// The sampler of so many steps.
    pub(crate) fn sampler(&self, steps: usize) -> Result<Sampler> {
        Ok(Sampler::new(steps, &self.config.semantics).with_flow(&self.flow()?))
    }

    /// The flow that the configuration names.
    ///
    /// # Errors
    /// When it names something that there is not.
    pub fn flow(&self) -> Result<Flow> {
        Ok(C::flow(&self.config.flow)?)
    }

    fn guidance(&self, guidance: &ChunkGuidance, mask: &Tensor<3>) -> Result<Guidance> {
        let ChunkGuidance { config, left_over, delay } = guidance;
        let ([batch, _, width], got) = (mask.dims(), left_over.width());
        if batch != 1 || got != width {
            return Err(Error::Guidance { batch, width, got });
        }
        let shape = [1, left_over.horizon(), width];
        let previous = TensorData::new(left_over.values().to_vec(), shape);
        let previous = Tensor::from_data(previous, (&self.device, DType::F32));
        Ok(Guidance::new(*config, previous, *delay, mask))
    }

    /// Stage 6: actions in the robot's units, cropped to its width.
    pub fn finish(&self, actions: Tensor<3>, observations: &[Observation]) -> Result<Vec<ActionChunk>> {
        self.chunks(&self.normalized(actions)?, observations, FinishOptions::default())
    }

    /// Predictions of normalised actions.
    pub(crate) fn finished(
        &self,
        normalized: Vec<ActionChunk>,
        observations: &[Observation],
        options: FinishOptions,
    ) -> Result<Vec<Prediction>> {
        let chunks = self.chunks(&normalized, observations, options)?;
        let pairs = chunks.into_iter().zip(normalized);
        Ok(pairs.map(|(chunk, normalized)| Prediction { chunk, normalized }).collect())
    }

    /// Actions of a batch on the host, sample by sample; fails unless all are finite.
    pub(crate) fn normalized(&self, actions: Tensor<3>) -> Result<Vec<ActionChunk>> {
        let [_, horizon, padded] = actions.dims();
        let data = read(actions)?;
        let values: Vec<f32> = data.iter().collect();
        self.require_finite(&values)?;
        Ok(values.chunks_exact(horizon * padded).map(|chunk| ActionChunk::new(padded, chunk.to_vec())).collect())
    }

    /// Normalised actions in the robot's units.
    fn chunks(
        &self,
        normalized: &[ActionChunk],
        observations: &[Observation],
        options: FinishOptions,
    ) -> Result<Vec<ActionChunk>> {
        let preparer = self.preparer();
        let pairs = normalized.iter().zip(observations);
        pairs.map(|(chunk, observation)| self.chunk(chunk, observation, options, &preparer)).collect()
    }

    /// One chunk: denormalised, smoothed, its gripper made two-valued; fails unless all is finite.
    fn chunk(
        &self,
        normalized: &ActionChunk,
        observation: &Observation,
        options: FinishOptions,
        preparer: &Preparer,
    ) -> Result<ActionChunk> {
        let (statistics, padded) = (preparer.statistics_of(observation)?, normalized.width());
        let width = match options.width {
            ActionWidth::Robot => self.config.output_width(statistics),
            ActionWidth::Padded => padded,
        };
        let normalizer = preparer.normalizer();
        let mut values = Vec::with_capacity(normalized.horizon() * width);
        for action in normalized.steps() {
            match statistics {
                Some(robot) => values.extend(normalizer.denormalize_action(&action[..width], robot)?),
                None => values.extend_from_slice(&action[..width]),
            }
        }
        if let Some(sigma) = options.smoothing {
            if !(sigma > 0.0 && sigma.is_finite()) {
                return Err(Error::Smoothing { got: sigma });
            }
            values = smoothed(&ActionChunk::new(width, values), sigma).values().to_vec();
        }
        if let Some(gripper) = self.config.gripper {
            for action in values.chunks_exact_mut(width) {
                let value = action.get_mut(gripper.index).ok_or(Error::NoGripper { index: gripper.index, width })?;
                *value = if *value > gripper.threshold { gripper.above } else { gripper.below };
            }
        }
        self.require_finite(&values)?;
        Ok(ActionChunk::new(width, values))
    }

    fn require_finite(&self, values: &[f32]) -> Result<()> {
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(()),
            false => Err(Error::NonFinitePrediction { dtype: self.network.action.dtype().name().to_owned() }),
        }
    }

    /// The noise that a prediction starts from, `[batch, horizon, max_action_dim]`.
    pub fn noise(&self, batch: usize, noise: &Noise) -> Result<Tensor<3>> {
        let (horizon, width) = (self.config.action.horizon, self.config.action.max_action_dim);
        let values = TensorData::new(self.noise_values(batch, noise)?, [batch, horizon, width]);
        Ok(Tensor::from_data(values, (&self.device, DType::F32)))
    }

    /// [`Self::noise`] on the host, row-major.
    pub(crate) fn noise_values(&self, batch: usize, noise: &Noise) -> Result<Vec<f32>> {
        let (horizon, width) = (self.config.action.horizon, self.config.action.max_action_dim);
        match noise {
            Noise::Seed(seed) => {
                let seeds = (0..batch as u64).map(|sample| seed.wrapping_add(sample)).collect();
                self.noise_values(batch, &Noise::Seeds(seeds))
            }
            Noise::Seeds(seeds) if seeds.len() == batch => {
                let draw = self.flow()?.noise;
                let sample = |&seed: &u64| draw.draw(horizon * width, &mut rng::stream(seed, "noise"));
                Ok(seeds.iter().flat_map(sample).collect())
            }
            Noise::Seeds(seeds) => Err(Error::NoiseSize { batch, horizon, width, got: seeds.len() * horizon * width }),
            Noise::Given(values) if values.len() == batch * horizon * width => Ok(values.clone()),
            Noise::Given(values) => Err(Error::NoiseSize { batch, horizon, width, got: values.len() }),
        }
    }
}
