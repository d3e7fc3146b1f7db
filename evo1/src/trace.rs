//! `evo1 trace`: every intermediate tensor of a policy on given inputs, under the names of the PyTorch fixtures.
//!
//! It is how anyone proves equality with PyTorch on a model of their own: the oracle's script writes the inputs
//! (`in.*`) and its own intermediates, [`inference`] and [`training`] compute ours from the inputs alone, and
//! [`compare`] says how far apart they are.

mod compare;

use std::collections::BTreeMap;

use burn::{
    module::Module,
    tensor::{DType, Device, Int, Tensor, TensorData},
};
use evo1_action::{FlowSample, FlowTime, Sampler, VelocityModel, embodiments, flow::masked_loss, flow_matching_loss};
use evo1_core::{
    Trace,
    config::{ContextScope, LossKind, Profile, Semantics},
    device::{read, scalar},
    weights::{GradientsOf, Naming, WeightFile, checkpoint_tensors, floats},
};
use evo1_vlm::{TokenBatch, VisionLanguageModel};

use crate::{Components, Error, Policy, Result};

pub use compare::{Difference, TraceComparison, compare};

/// Tensors by name.
pub type Tensors = BTreeMap<String, TensorData>;

/// Which parts of a policy are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The action expert; the vision-language model is frozen.
    Stage1,
    /// Everything.
    Stage2,
}

/// The tensors of one prediction from the `in.*` tensors of a file.
///
/// Names: `vision.*`, `projector.*`, `llm.*`, `head.*` and `out.action`, by the policy's profile. A policy of the
/// `official` profile also writes what its siblings make of the same inputs (`flash.*`, `paper.*`, `masked_context.*`),
/// as the fixtures do; one of a sibling's profile writes its own under both names.
pub fn inference<C: Components>(policy: &Policy<C>, file: &WeightFile, steps: Option<usize>) -> Result<Tensors> {
    let inputs = TraceInputs::read(policy, file)?;
    let steps = steps.unwrap_or(policy.config.num_inference_steps);
    if steps == 0 {
        return Err(Error::NoSteps);
    }
    let noise = inputs.actions_like("in.noise")?;
    let mask = inputs.actions_like("in.action_mask")?;
    let flow = policy.flow()?;

    let mut trace = Trace::of(move |name| is_wanted(name, steps));
    let visual = policy.network.vlm.visual_tokens(inputs.pixels.clone(), &mut trace);
    let mut tensors = trace.into_tensors();
    let rest = |semantics: &Semantics| {
        let mut trace = Trace::of(move |name| is_wanted(name, steps));
        let image_token = policy.tokenizer.image_context();
        let context =
            policy.network.vlm.forward(Some(visual.clone()), &inputs.tokens, image_token, semantics, &mut trace)?;
        let expert = &policy.network.action;
        let action = trace.scope("head", |trace| {
            let conditioning = expert.condition(context, inputs.state.clone(), &inputs.embodiment, trace);
            let sampler = Sampler::new(steps, semantics).with_flow(&flow);
            sampler.sample(expert, &conditioning, noise.clone(), mask.clone(), trace)
        })?;
        trace.record("out.action", &action);
        Ok::<_, Error>(trace.into_tensors())
    };
    tensors.extend(rest(&policy.config.semantics)?);
    let official = Profile::Official.semantics();
    match policy.config.profile {
        Profile::Official => {
            let masked_context = Semantics { context_scope: ContextScope::ValidTokens, ..official };
            for (prefix, semantics) in [
                ("flash", Profile::OfficialFlash.semantics()),
                ("paper", Profile::Paper.semantics()),
                ("masked_context", masked_context),
            ] {
                let sibling = renamed(&rest(&semantics)?, prefix);
                tensors.extend(sibling);
            }
        }
        Profile::OfficialFlash => tensors.extend(renamed(&tensors, "flash")),
        Profile::Paper => tensors.extend(renamed(&tensors, "paper")),
        Profile::LeRobot => {}
    }
    if policy.network.vlm.dtype() == DType::BF16 {
        tensors.extend(renamed(&tensors, "vlm_bf16"));
    }
    Ok(tensors.into_iter().map(|(name, data)| (name.clone(), portable(&name, data))).collect())
}

/// The tensors of one evaluation of the training objective, and the gradient of every trained parameter (`grad.*`),
/// from the `in.*`, `step0.t` and `step0.noise_raw` tensors of a file. The policy must be on an autodiff device.
pub fn training<C: Components>(policy: &Policy<C>, file: &WeightFile, stage: Stage) -> Result<Tensors> {
    let inputs = TraceInputs::read(policy, file)?;
    let mut network = policy.network.clone();
    if stage == Stage::Stage1 {
        network.vlm = network.vlm.no_grad();
    }
    let semantics = &policy.config.semantics;
    let sample = FlowSample {
        actions: inputs.actions_like("in.actions")?,
        mask: inputs.actions_like("in.action_mask")?,
        noise: inputs.actions_like("step0.noise_raw")?,
        time: inputs.vector("step0.t", inputs.tokens.dims()[0])?,
    };
    let trace = &mut Trace::off();
    let visual = network.vlm.visual_tokens(inputs.pixels.clone(), trace);
    let image_token = policy.tokenizer.image_context();
    let context = network.vlm.forward(Some(visual), &inputs.tokens, image_token, semantics, trace)?;
    let fused = context.tokens.clone();
    let conditioning = network.action.condition(context, inputs.state.clone(), &inputs.embodiment, trace);
    let out = flow_matching_loss(&network.action, &conditioning, sample.clone(), semantics, trace);

    let [batch, horizon, width] = out.velocity.dims();
    let flat = |x: &Tensor<3>| read(x.clone().reshape([batch, horizon * width]));
    let scalar = |x: Tensor<1>| Ok::<_, Error>(TensorData::new(vec![scalar(x)? as f32], Vec::<usize>::new()));
    let loss = |kind| masked_loss(out.velocity.clone(), out.target.clone(), sample.mask.clone(), kind);
    let entries = sample.mask.clone().sum() + 1e-8;
    let numel = sample.mask.shape().num_elements() as f64;
    let time_index: Vec<i64> =
        sample.time.iter().map(|&tau| FlowTime::drawn(tau, semantics.time_scale).row as i64).collect();
    let mut tensors = Tensors::from([
        ("step0.fused_tokens".into(), read(fused)?),
        ("step0.time_index".into(), TensorData::new(time_index, [batch])),
        ("step0.noise".into(), read(sample.noise.clone() * sample.mask.clone())?),
        ("step0.x_t".into(), read(out.x_t.clone())?),
        ("step0.pred_velocity".into(), flat(&out.velocity)?),
        ("step0.target_velocity".into(), flat(&out.target)?),
        ("step0.loss_official".into(), scalar(loss(LossKind::MeanOfMaskedPair))?),
        ("step0.loss_lerobot".into(), scalar(loss(LossKind::SumOverMask))?),
        ("step0.mse_unscaled".into(), scalar(loss(LossKind::MeanOfMaskedPair) * entries / numel)?),
    ]);
    let gradients = checkpoint_tensors(&network, Naming::LEROBOT, GradientsOf(&out.loss.backward()));
    let squares: f64 = gradients.values().flat_map(floats).map(|value| f64::from(value).powi(2)).sum();
    tensors.insert("step0.grad_norm".into(), TensorData::new(vec![squares.sqrt() as f32], Vec::<usize>::new()));
    tensors.extend(gradients.into_iter().map(|(name, gradient)| (format!("grad.{name}"), gradient)));
    Ok(tensors)
}

/// The tensors that fixtures hold for other semantics, under their names there.
fn renamed(tensors: &Tensors, prefix: &str) -> Tensors {
    let is_layer = |name: &str| name.strip_prefix("llm.layer.").is_some_and(|rest| !rest.contains('.'));
    let is_held = |name: &str| match prefix {
        "flash" => name == "out.action" || name == "llm.final_norm" || is_layer(name),
        "vlm_bf16" => ["out.action", "llm.final_norm", "projector.out", "vision.embeddings"].contains(&name),
        _ => name == "out.action",
    };
    tensors
        .iter()
        .filter(|(name, _)| is_held(name))
        .map(|(name, data)| (format!("{prefix}.{name}"), data.clone()))
        .collect()
}

/// Parts of layers are recorded for the first layer only, and parts of Euler steps for the first two and the last.
/// Attention weights are too large to be recorded unasked.
fn is_wanted(name: &str, steps: usize) -> bool {
    let segments: Vec<&str> = name.split('.').collect();
    match segments.as_slice() {
        [.., "attention_weights"] => false,
        [_, "layer", index, _, ..] => *index == "0",
        ["head", "step", _, "action_in" | "action_tokens" | "velocity"] => true,
        ["head", "step", step, ..] => step.parse::<usize>().is_ok_and(|step| step < 2 || step + 1 == steps),
        _ => true,
    }
}

/// Number types that do not depend on the device: f32, i64, and u8 for masks.
fn portable(name: &str, data: TensorData) -> TensorData {
    let dtype = if name == "head.context_valid" {
        DType::U8
    } else if data.dtype().is_float() {
        DType::F32
    } else {
        DType::I64
    };
    data.convert_dtype(dtype)
}

/// The `in.*` tensors of a fixture.
struct TraceInputs<'a> {
    file: &'a WeightFile,
    device: Device,
    /// Horizon and padded width of an action chunk.
    chunk: [usize; 2],
    pixels: Tensor<4>,
    tokens: TokenBatch,
    state: Tensor<2>,
    embodiment: Tensor<1, Int>,
}

impl<'a> TraceInputs<'a> {
    fn read<C: Components>(policy: &Policy<C>, file: &'a WeightFile) -> Result<Self> {
        let device = policy.device().clone();
        let config = &policy.config;
        let [batch, length] = match *file.shape("in.input_ids")? {
            [batch, length] if batch > 0 && length > 0 => [batch, length],
            ref other => return Err(wrong_shape(file, "in.input_ids", "[batch, tokens]", other)),
        };
        let rows = |name: &str| -> Result<Vec<Vec<i64>>> {
            let values: Vec<i64> = numbers(file, name, &[batch, length])?.iter().collect();
            Ok(values.chunks(length).map(<[i64]>::to_vec).collect())
        };
        let ids = rows("in.input_ids")?.into_iter().map(|row| row.into_iter().map(|id| id as u32).collect()).collect();
        let mask = rows("in.attention_mask")?;
        let mask = mask.into_iter().map(|row| row.into_iter().map(|valid| valid != 0).collect()).collect();
        let size = config.vlm.image_size;
        let tiles = match *file.shape("in.pixel_values")? {
            [tiles, 3, height, width] if height == size && width == size => tiles,
            ref other => {
                let expected = format!("[tiles, 3, {size}, {size}]");
                return Err(wrong_shape(file, "in.pixel_values", &expected, other));
            }
        };
        let pixels = numbers(file, "in.pixel_values", &[tiles, 3, size, size])?;
        let state = numbers(file, "in.padded_state", &[batch, config.action.max_state_dim])?;
        let embodiment: Vec<usize> =
            numbers(file, "in.embodiment_id", &[batch])?.iter::<i64>().map(|id| id as usize).collect();
        let count = config.action.num_categories.max(1);
        if let Some(&got) = embodiment.iter().find(|id| **id >= count) {
            return Err(Error::UnknownEmbodiment { got, count });
        }
        Ok(Self {
            file,
            chunk: [config.action.horizon, config.action.max_action_dim],
            pixels: Tensor::from_data(pixels.convert_dtype(DType::F32), (&device, DType::F32)),
            tokens: TokenBatch::new(ids, mask),
            state: Tensor::from_data(state.convert_dtype(DType::F32), (&device, DType::F32)),
            embodiment: embodiments(&embodiment, &device),
            device,
        })
    }

    /// A tensor of the shape of an action chunk.
    fn actions_like(&self, name: &str) -> Result<Tensor<3>> {
        let shape = [self.tokens.dims()[0], self.chunk[0], self.chunk[1]];
        let data = numbers(self.file, name, &shape)?;
        Ok(Tensor::from_data(data.convert_dtype(DType::F32), (&self.device, DType::F32)))
    }

    fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>> {
        Ok(floats(&numbers(self.file, name, &[length])?))
    }
}

/// A tensor that must have the given shape.
fn numbers(file: &WeightFile, name: &str, shape: &[usize]) -> Result<TensorData> {
    let got = file.shape(name)?;
    if got != shape {
        return Err(wrong_shape(file, name, &format!("{shape:?}"), got));
    }
    Ok(file.read(name)?)
}

fn wrong_shape(file: &WeightFile, name: &str, expected: &str, got: &[usize]) -> Error {
    Error::TraceInput {
        path: file.path().to_owned(),
        tensor: name.to_owned(),
        message: format!("must have shape {expected} for this policy, got {got:?}"),
    }
}
