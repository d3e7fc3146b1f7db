//! Observations to the network's inputs, without the network.
//!
//! Inference and training prepare their inputs with the same [`Preparer`], so that what a policy is trained on and what
//! it is given later cannot differ.

use std::borrow::Cow;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use evo1_action::embodiments;
use evo1_core::{
    Observation, View,
    config::{ContextScope, PolicyConfig},
    constants::Constants,
    device::has_graphs,
    normalize::{Normalizer, RobotStatistics, Statistics},
};
use evo1_vlm::{
    PromptTokenizer, TokenBatch,
    frame::{self, Arithmetic, LevelTable, Pixels},
};

use crate::{Error, Result};

/// What a policy is without its network: cheap to copy, and to send to a thread that prepares batches.
#[derive(Debug, Clone)]
pub struct Preparer {
    /// What the policy computes.
    pub config: PolicyConfig,
    /// Makes token ids of prompts.
    pub tokenizer: PromptTokenizer,
    /// Statistics of states and actions; without them both are taken and given in normalised units.
    pub statistics: Option<Statistics>,
    /// The number type in which pixels are normalised: the vision tower's.
    pub arithmetic: Arithmetic,
    /// Where the inputs are put.
    pub device: Device,
    /// What normalises grey levels on the device, by the number type of the pixels.
    pub(crate) levels: Constants<DType, LevelTable>,
}

/// What the network computes on, made from a batch of observations.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// Normalised tiles of all frames, `[tiles, 3, size, size]`; nothing when no frame is looked at.
    pub pixels: Option<Tensor<4>>,
    /// The tiles of views that are not present and are black, in ascending order: what is seen in them is always the same.
    pub black_tiles: Vec<usize>,
    /// The prompts.
    pub tokens: TokenBatch,
    /// Normalised and padded states, `[batch, max_state_dim]`.
    pub state: Tensor<2>,
    /// Embodiment ids, `[batch]`.
    pub embodiment: Tensor<1, Int>,
    /// 1 for real action dimensions, `[batch, horizon, max_action_dim]`.
    pub action_mask: Tensor<3>,
}

/// [`Inputs`] before anything is put on a device. Shapes are those of the tensors, row-major.
#[derive(Debug, Clone)]
pub struct HostInputs {
    /// Tiles of all frames: grey levels where nothing has normalised them yet.
    pub pixels: Pixels,
    /// The tiles of views that are not present and are black, in ascending order.
    pub black_tiles: Vec<usize>,
    /// The prompts.
    pub tokens: TokenBatch,
    /// Normalised and padded states.
    pub state: Vec<f32>,
    /// Embodiment ids.
    pub embodiment: Vec<usize>,
    /// 1 for real action dimensions.
    pub action_mask: Vec<f32>,
}

impl HostInputs {
    /// Leaves out the frames, of whose tiles the context is known already.
    pub fn leave_out_pixels(&mut self) {
        self.pixels = Pixels::Levels(Vec::new());
    }
}

impl Preparer {
    /// Frames are scaled and normalised, prompts tokenised, states normalised and padded.
    ///
    /// With `skips_unseen`, what the profile lets nothing see is left out (see
    /// [`PredictOptions::skips_unseen`](crate::PredictOptions)).
    pub fn prepare(&self, observations: &[Observation], skips_unseen: bool) -> Result<Inputs> {
        Ok(self.place(self.prepared(observations, skips_unseen, has_graphs(&self.device))?))
    }

    /// [`Self::prepare`] without putting anything on the device: pixels are grey levels where scaling leaves them, a
    /// quarter of the bytes.
    pub fn prepare_on_host(&self, observations: &[Observation], skips_unseen: bool) -> Result<HostInputs> {
        self.prepared(observations, skips_unseen, true)
    }

    fn prepared(&self, observations: &[Observation], skips_unseen: bool, keeps_levels: bool) -> Result<HostInputs> {
        if observations.is_empty() {
            return Err(Error::EmptyBatch);
        }
        let skips = self.skips(skips_unseen);
        let mut samples = Samples::new(keeps_levels);
        for observation in observations {
            self.check(observation)?;
            self.prepare_one(observation, skips, &mut samples)?;
        }
        let Samples { pixels, black_tiles, prompts, present, state, embodiment, action_mask } = samples;
        let tokens = self.tokenizer.batch(&prompts, &present, self.config.semantics.prompt_length);
        let tokens = if skips { tokens.without_hidden(self.tokenizer.padding()) } else { tokens };
        Ok(HostInputs { pixels, black_tiles, tokens, state, embodiment, action_mask })
    }

    /// Whether what nothing sees is left out when it is asked for.
    pub(crate) fn skips(&self, skips_unseen: bool) -> bool {
        skips_unseen && self.config.semantics.context_scope == ContextScope::ValidTokens
    }

    /// Puts inputs on the device.
    pub fn place(&self, inputs: HostInputs) -> Inputs {
        let HostInputs { pixels, black_tiles, tokens, state, embodiment, action_mask } = inputs;
        let (batch, action, on_device) = (embodiment.len(), &self.config.action, (&self.device, DType::F32));
        Inputs {
            pixels: self.place_pixels(pixels),
            black_tiles,
            tokens,
            state: Tensor::from_data(TensorData::new(state, [batch, action.max_state_dim]), on_device),
            embodiment: embodiments(&embodiment, &self.device),
            action_mask: self.place_actions(action_mask),
        }
    }

    /// Puts something of every action on the device, `[batch, horizon, max_action_dim]`.
    ///
    /// # Panics
    /// When the values are not those of whole samples.
    pub fn place_actions(&self, values: Vec<f32>) -> Tensor<3> {
        let action = &self.config.action;
        let [horizon, width] = [action.horizon, action.max_action_dim];
        let shape = [values.len() / (horizon * width), horizon, width];
        Tensor::from_data(TensorData::new(values, shape), (&self.device, DType::F32))
    }

    /// Puts tiles on the device, normalised, `[tiles, 3, size, size]`; nothing where there is none.
    pub fn place_pixels(&self, pixels: Pixels) -> Option<Tensor<4>> {
        let size = self.config.vlm.image_size;
        let tiles = pixels.tiles(size);
        (tiles > 0).then(|| match pixels {
            Pixels::Levels(levels) if has_graphs(&self.device) => {
                let count = levels.len();
                let levels = Tensor::from_data(TensorData::new(levels, [count]), (&self.device, DType::U8));
                self.level_table(DType::F32).normalized(levels, size)
            }
            pixels => {
                let values = pixels.into_normalized(size, self.arithmetic);
                Tensor::from_data(TensorData::new(values, [tiles, 3, size, size]), (&self.device, DType::F32))
            }
        })
    }

    /// What normalises grey levels on the device to pixels of a number type.
    pub(crate) fn level_table(&self, dtype: DType) -> LevelTable {
        self.levels.get(dtype, &self.device, || LevelTable::new(self.arithmetic, dtype, &self.device))
    }

    /// An action in the robot's units as training wants it: normalised with the statistics that `observation` names, and
    /// padded with zeros to `max_action_dim`.
    pub fn normalize_action(&self, action: &[f32], observation: &Observation) -> Result<Vec<f32>> {
        let (max, got) = (self.config.action.max_action_dim, action.len());
        if got > max {
            return Err(Error::TooWide { what: "action", max, got });
        }
        match self.statistics_of(observation)? {
            Some(robot) => Ok(self.normalizer().normalize_action(action, robot, max)?),
            None => {
                let mut action = action.to_vec();
                action.resize(max, 0.0);
                Ok(action)
            }
        }
    }

    /// Fails when the observation is not one that the policy can look at, without computing anything. Too long a
    /// prompt shows only in [`Self::prepare`].
    pub fn check(&self, observation: &Observation) -> Result<()> {
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
        if got > max && got != max * self.config.action.horizon {
            return Err(Error::TooWide { what: "action mask", max, got });
        }
        let (count, got) = (self.config.action.num_categories.max(1), self.embodiment_of(observation));
        if got >= count {
            return Err(Error::UnknownEmbodiment { got, count });
        }
        self.state_of(observation)?;
        if observation.action_mask.is_none() {
            self.action_dim(observation)?;
        }
        Ok(())
    }

    /// Width of the robot's action, which the network is given where the observation has no mask of its own: the policy's,
    /// else that of the statistics that the observation names.
    fn action_dim(&self, observation: &Observation) -> Result<usize> {
        self.config.action_width(self.statistics_of(observation)?).ok_or(Error::UnknownActionWidth)
    }

    /// The observation's state, normalised and padded.
    fn state_of(&self, observation: &Observation) -> Result<Vec<f32>> {
        let (normalizer, padded) = (self.normalizer(), self.config.action.max_state_dim);
        Ok(match self.statistics_of(observation)? {
            Some(robot) if observation.state_is_padded => {
                normalizer.normalize_padded_state(&observation.state, robot, padded)?
            }
            Some(robot) => normalizer.normalize_state(&observation.state, robot, padded)?,
            None => {
                let mut state = observation.state.clone();
                state.resize(padded, normalizer.padded_state_value());
                state
            }
        })
    }

    fn prepare_one(&self, observation: &Observation, skips: bool, samples: &mut Samples) -> Result<()> {
        let config = &self.config;
        let (size, semantics, arithmetic) = (config.vlm.image_size, &config.semantics, self.arithmetic);
        let order = semantics.prompt_order(&observation.views);
        let views =
            (0..config.max_views).map(|place| order.get(place).map_or(&View::Absent, |&view| &observation.views[view]));
        let (mut image_tokens, mut present) = (Vec::new(), Vec::new());
        for view in views {
            let frame = view.frame();
            let frame = frame.map(|frame| config.crop.map_or(Cow::Borrowed(frame), |crop| Cow::Owned(crop.of(frame))));
            let tiles = match frame {
                // Nothing sees a masked view when unseen tokens are skipped, but its tokens keep their places in the prompt.
                Some(frame) if skips && !view.is_present() => frame::tile_count(&frame, size, &config.tiling),
                Some(frame) => {
                    let tiles = match samples.pixels {
                        Pixels::Levels(_) => {
                            frame::level_pixels(&frame, size, semantics.frames, &config.tiling, arithmetic)
                        }
                        Pixels::Normalized(_) => {
                            let tiles = frame::tiles(&frame, size, semantics.frames, &config.tiling, arithmetic);
                            Pixels::Normalized(tiles.pixels)
                        }
                    };
                    let (first, count) = (samples.pixels.tiles(size), tiles.tiles(size));
                    if !view.is_present() && tiles.is_black(size, arithmetic) {
                        samples.black_tiles.extend(first..first + count);
                    }
                    samples.pixels.append(tiles, size, arithmetic);
                    count
                }
                None => {
                    if !skips {
                        samples.black_tiles.push(samples.pixels.tiles(size));
                        samples.pixels.append(samples.pixels.black(size, arithmetic), size, arithmetic);
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
        samples.state.extend(self.state_of(observation)?);
        samples.embodiment.push(self.embodiment_of(observation));
        let (horizon, width) = (config.action.horizon, config.action.max_action_dim);
        let live = if observation.action_mask.is_none() { self.action_dim(observation)? } else { 0 };
        let is_real = |step: usize, column: usize| match &observation.action_mask {
            Some(mask) if mask.len() > width => mask[step * width + column],
            Some(mask) => mask.get(column).copied().unwrap_or(false),
            None => column < live,
        };
        let entries = (0..horizon).flat_map(|step| (0..width).map(move |column| (step, column)));
        samples.action_mask.extend(entries.map(|(step, column)| f32::from(u8::from(is_real(step, column)))));
        Ok(())
    }

    pub(crate) fn normalizer(&self) -> Normalizer {
        Normalizer::new(self.config.normalization, &self.config.semantics)
    }

    pub(crate) fn statistics_of(&self, observation: &Observation) -> Result<Option<&RobotStatistics>> {
        match &self.statistics {
            Some(statistics) => Ok(Some(statistics.select(&observation.statistics)?)),
            None => Ok(None),
        }
    }

    fn embodiment_of(&self, observation: &Observation) -> usize {
        observation.embodiment.unwrap_or(self.config.default_embodiment)
    }
}

/// Values of a batch while it is put together.
struct Samples {
    pixels: Pixels,
    black_tiles: Vec<usize>,
    prompts: Vec<evo1_vlm::Prompt>,
    present: Vec<Vec<bool>>,
    state: Vec<f32>,
    embodiment: Vec<usize>,
    action_mask: Vec<f32>,
}

impl Samples {
    /// None yet.
    fn new(keeps_levels: bool) -> Self {
        Self {
            pixels: if keeps_levels { Pixels::Levels(Vec::new()) } else { Pixels::Normalized(Vec::new()) },
            black_tiles: Vec::new(),
            prompts: Vec::new(),
            present: Vec::new(),
            state: Vec::new(),
            embodiment: Vec::new(),
            action_mask: Vec::new(),
        }
    }
}
