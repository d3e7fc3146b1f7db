//! `evo1 probe`: one component by itself, on given tensors.

use std::{collections::BTreeMap, path::PathBuf, time::Instant};

use burn::tensor::{DType, Device, Tensor, TensorData};
use clap::{Args, ValueEnum};
use evo1::{
    Context, Policy, Published, Trace, VelocityModel, VisionLanguageModel,
    action::{FlowTime, embodiments},
    config::{MaskedRows, Profile},
    device::read,
    rng::{RngExt, stream},
    vlm::{TokenBatch, language::AttentionMask, unshuffle::pixel_unshuffle},
    weights::{WeightFile, floats, write_safetensors},
};
use eyre::{Result, bail, ensure};

use super::bench::Preset;
use crate::{
    common::{Common, local},
    output::say,
};

/// Run one component by itself on given tensors, or on random ones, with the weights of a policy, or random ones.
///
/// Inputs and outputs are tensors of safetensors files. Inputs by component:
///   vision-tower    pixels   [tiles, 3, size, size]
///   projector       patches  [tiles, patches, channels], before the pixel-unshuffle
///   language-layer  hidden   [batch, tokens, hidden]
///   action-block    actions  [batch, horizon, embed], context [batch, tokens, embed]
///   velocity        actions  [batch, horizon, width], context [batch, tokens, embed], state [batch, width]
/// The output is the tensor `out`.
#[derive(Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  evo1 probe vision-tower --policy evo1/assets/metaworld --out patches.safetensors\n  evo1 probe action-block --layer 1 --time 0.25"
)]
pub(crate) struct Probe {
    /// What is run
    component: Component,

    /// Policy directory; a preset with random weights when left out
    #[arg(long, value_name = "DIR")]
    policy: Option<PathBuf>,

    /// Sizes when no policy is given
    #[arg(long, default_value = "tiny", conflicts_with = "policy")]
    preset: Preset,

    /// The language layer or block, counted from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    layer: usize,

    /// The time of the flow, from 0 to 1, for action-block and velocity
    #[arg(long, value_name = "T", default_value_t = 0.5)]
    time: f32,

    /// File with the input tensors; random ones of the component's shapes when left out
    #[arg(long, value_name = "FILE.safetensors")]
    input: Option<PathBuf>,

    /// File to write the output to
    #[arg(long, value_name = "FILE.safetensors")]
    out: Option<PathBuf>,

    /// Seed of random weights and inputs
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
}

/// Components that run by themselves.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Component {
    /// Pixels to patch tokens.
    VisionTower,
    /// Patch tokens to visual tokens: pixel-unshuffle and projector.
    Projector,
    /// One layer of the language model, all tokens valid.
    LanguageLayer,
    /// One block of the action expert, attending to a context.
    ActionBlock,
    /// The whole action expert at one time.
    Velocity,
}

impl Probe {
    pub(crate) fn run(self, common: &Common) -> Result<()> {
        ensure!((0.0..=1.0).contains(&self.time), "the time must be from 0 to 1, got {}", self.time);
        let device = common.open_device()?;
        let policy = match &self.policy {
            Some(directory) => common.load::<Published>(&local(directory)?, &device)?,
            None => {
                let config = self.preset.config().with_profile(common.profile.unwrap_or(Profile::LeRobot));
                Policy::random_in(config, self.seed, &device, common.precision())?
            }
        };
        let inputs = Inputs {
            file: self.input.as_deref().map(WeightFile::open).transpose()?,
            device: device.clone(),
            seed: self.seed,
        };
        let began = Instant::now();
        let out = self.forward(&policy, &inputs)?;
        device.sync()?;
        let milliseconds = began.elapsed().as_secs_f64() * 1e3;
        let values = floats(&out);
        let count = values.len() as f64;
        let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
        let variance = values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / count;
        let (low, high) = values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
        say!("out        {:?}", out.shape().as_slice())?;
        say!("mean       {mean:.6}\ndeviation  {:.6}\nrange      {low:.6} to {high:.6}", variance.sqrt())?;
        say!("time       {milliseconds:.1} ms, inputs included")?;
        if let Some(path) = &self.out {
            write_safetensors(path, &BTreeMap::from([("out".to_owned(), out)]))?;
        }
        Ok(())
    }

    fn forward(&self, policy: &Policy, inputs: &Inputs) -> Result<TensorData> {
        let (config, network, trace) = (&policy.config, &policy.network, &mut Trace::off());
        let (vlm, action, device) = (&config.vlm, &config.action, &inputs.device);
        let drawn = FlowTime::drawn(self.time, config.semantics.time_scale);
        let time = || network.action.time(&[drawn], device);
        let layers = |count: usize| match self.layer < count {
            true => Ok(self.layer),
            false => bail!("layer {} does not exist: there are {count}, counted from 0", self.layer),
        };
        let (embed, tokens) = (action.embed_dim, vlm.tokens_per_tile());
        Ok(match self.component {
            Component::VisionTower => {
                let size = vlm.image_size;
                let pixels = inputs.tensor("pixels", [1, 3, size, size], [false, true, true, true])?;
                read(network.vlm.vision_tower().forward(pixels.cast(network.vlm.dtype()), trace))?
            }
            Component::Projector => {
                let shape = [1, vlm.patches_per_side().pow(2), vlm.vision.hidden_size];
                let patches = inputs.tensor("patches", shape, [false, true, true])?;
                let unshuffled = pixel_unshuffle(patches.cast(network.vlm.dtype()), vlm.unshuffle_factor());
                read(network.vlm.projector().forward(unshuffled, trace))?
            }
            Component::LanguageLayer => {
                let decoder = network.vlm.language_model();
                let layer = &decoder.layers()[layers(decoder.layers().len())?];
                let shape = [1, tokens, vlm.language.hidden_size];
                let hidden = inputs.tensor("hidden", shape, [false, false, true])?;
                let [batch, length, _] = hidden.dims();
                let batch = TokenBatch::new(vec![vec![0; length]; batch], vec![vec![true; length]; batch]);
                let rope = decoder.rope(&batch, device);
                let mask = AttentionMask::new(&batch, MaskedRows::Attend, device);
                read(layer.forward(hidden.cast(network.vlm.dtype()), &rope, &mask, trace))?
            }
            Component::ActionBlock => {
                let expert = &network.action;
                let block = &expert.blocks()[layers(expert.blocks().len())?];
                let actions = inputs.tensor("actions", [1, action.horizon, embed], [false, false, true])?;
                let context = inputs.tensor("context", [1, tokens, embed], [false, false, true])?;
                let keys_values = block.attention().keys_values(context.cast(expert.dtype()), None);
                let time = time().of_block(self.layer);
                read(block.forward(actions.cast(expert.dtype()), time, |_| keys_values, trace))?
            }
            Component::Velocity => {
                let expert = &network.action;
                let shape = [1, action.horizon, action.max_action_dim];
                let actions = inputs.tensor("actions", shape, [false, true, true])?;
                let context = inputs.tensor("context", [1, tokens, embed], [false, false, true])?;
                let state = inputs.tensor("state", [1, action.max_state_dim], [false, true])?;
                let [batch, ..] = actions.dims();
                ensure!(
                    context.dims()[0] == batch && state.dims()[0] == batch,
                    "actions, context and state must have one batch size"
                );
                let layers = expert.language_layers(vlm.language.num_layers)?.len();
                let layers = vec![context.clone(); layers];
                let context = Context { tokens: context, layers, hidden: None };
                let embodiment = embodiments(&vec![config.default_embodiment; batch], &state.device());
                let conditioning = expert.condition(context, state, &embodiment, trace);
                read(expert.velocity(actions, &time(), &conditioning, trace))?
            }
        })
    }
}

/// Input tensors, given or random.
struct Inputs {
    file: Option<WeightFile>,
    device: Device,
    seed: u64,
}

impl Inputs {
    /// A tensor of `shape`; a given one may have another size where `is_fixed` is false.
    fn tensor<const D: usize>(&self, name: &str, shape: [usize; D], is_fixed: [bool; D]) -> Result<Tensor<D>> {
        let Some(file) = &self.file else {
            let mut rng = stream(self.seed, name);
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random::<f32>() * 2.0 - 1.0).collect();
            return Ok(Tensor::from_data(TensorData::new(values, shape), (&self.device, DType::F32)));
        };
        let got = file.shape(name)?.to_vec();
        let fits =
            got.len() == D && got.iter().zip(shape).zip(is_fixed).all(|((got, want), fixed)| !fixed || *got == want);
        if !fits {
            let wanted: Vec<String> = shape
                .iter()
                .zip(is_fixed)
                .map(|(size, fixed)| if fixed { size.to_string() } else { "any".into() })
                .collect();
            bail!("{}: tensor `{name}` must have shape [{}], got {got:?}", file.path().display(), wanted.join(", "));
        }
        let data = file.read(name)?;
        Ok(Tensor::from_data(data.convert_dtype(DType::F32), (&self.device, DType::F32)))
    }
}
