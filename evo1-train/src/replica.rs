//! One copy of a policy in training: loss, gradients and update on one device.

use std::{
    cell::OnceCell,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use burn::{
    module::{Module, ModuleMapper, Param},
    optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer, OptimizerRecord},
    tensor::{DType, Device, Tensor},
};
use evo1::{
    Components, Context, Evo1, Inputs, Policy, Preparer, Trace, VelocityModel, VisionLanguageModel,
    action::{Flow, FlowSample, flow_matching_loss},
    device::{caught, scalar},
    ops::repeat_samples,
    rng,
};

use crate::{
    Draw, Error, Group, LearnerConfig, Result, StepTimes,
    batch::PlacedBatch,
    ema::Ema,
    frozen::{FrozenOutputs, check_is_frozen},
    gradients::{GradientSum, presence, reduced},
    learner::Job,
    lora,
    optimizer::global_norm,
    parameters::{Parameter, parameters, with_stable_ids},
};

/// The network of some components.
type Network<C> = Evo1<<C as Components>::Vlm, <C as Components>::Action>;

/// A policy in training with its optimiser, on one device.
pub(crate) struct Replica<C: Components> {
    policy: Policy<C>,
    preparer: Preparer,
    optimizer: ModuleOptimizer,
    config: LearnerConfig,
    flow: Flow,
    frozen: Option<Arc<FrozenOutputs>>,
    /// The average of the weights, on the first device.
    ema: Option<Ema<Network<C>>>,
    /// The vision-language model in the number type of the computation, where it is not trained.
    cast_vlm: OnceCell<C::Vlm>,
    step: Step,
}

/// What a step has come to so far.
#[derive(Default)]
struct Step {
    gradients: GradientSum,
    losses: Vec<f64>,
    observations: usize,
    /// The samples of its batches, and those of batches without gradients.
    samples: Vec<String>,
    unusable: Vec<String>,
    times: StepTimes,
}

/// What a batch came to.
struct Computed {
    loss: f64,
    /// Nothing where the loss is not finite.
    gradients: Option<GradientsParams>,
    forward: Duration,
    backward: Duration,
}

/// What a step came to.
pub(crate) struct Outcome {
    pub(crate) loss: f64,
    pub(crate) gradient_norm: f64,
    /// Of all ranks.
    pub(crate) observations: usize,
    pub(crate) is_skipped: bool,
    /// The observations of this rank whose loss was not finite.
    pub(crate) unusable: Vec<String>,
    pub(crate) times: StepTimes,
}

impl<C: Components> Replica<C> {
    /// A replica of `policy` on its device, before the first step.
    pub(crate) fn new(policy: Policy<C>, config: LearnerConfig) -> Result<Self> {
        let plain = policy.device().clone();
        let device = plain.clone().autodiff();
        if !device.supports_dtype(config.compute) {
            return Err(Error::config("compute", "a number type of the device", config.compute.name()));
        }
        if config.draws == 0 {
            return Err(Error::config("draws", "at least 1", 0));
        }
        let layers = policy.network.action.language_layers(policy.config.vlm.language.num_layers);
        if config.gradient_checkpointing && !layers.map_err(evo1::Error::from)?.is_empty() {
            let expected = "false where the integration is layer-wise: only the last layer's output is kept";
            return Err(Error::config("gradient_checkpointing", expected, true));
        }
        let open = |folder| {
            check_is_frozen(&config.trained)?;
            FrozenOutputs::open(folder, &policy, config.compute, config.frozen_room).map(Arc::new)
        };
        let frozen = config.frozen_outputs.as_deref().map(open).transpose()?;
        let flow = policy.flow()?;
        let network = with_stable_ids(policy.network);
        let network = match &config.lora {
            None => config.trained.apply(network.train())?,
            Some(lora) => {
                let chosen = parameters(&config.trained.apply(network.clone().train())?);
                let chosen: Vec<Parameter> = chosen.into_iter().filter(|parameter| parameter.is_trained).collect();
                with_stable_ids(lora.apply(network, &chosen, config.seed, &plain)?).train()
            }
        };
        let optimizer = config.optimizer.build(&network)?;
        let policy = Policy::new_as(policy.config, network, policy.tokenizer, policy.statistics, &device);
        Ok(Self {
            preparer: preparer_for(&policy, &device),
            ema: config.ema.map(|decay| Ema::new(&policy.network, decay)),
            policy,
            optimizer,
            config,
            flow,
            frozen,
            cast_vlm: OnceCell::new(),
            step: Step::default(),
        })
    }

    /// The replica moved to a device.
    pub(crate) fn on(self, device: &Device) -> Self {
        let plain = device.clone().without_autodiff();
        if plain == self.preparer.device {
            return self;
        }
        Self { ema: self.ema.as_ref().map(|ema| ema.on(&plain)), ..self.copy(device) }
    }

    /// The same weights and optimiser on another device.
    pub(crate) fn copy(&self, device: &Device) -> Self {
        let device = device.clone().autodiff();
        let Policy { config, network, tokenizer, statistics, .. } = self.policy.clone();
        let policy = Policy::new_as(config, network.fork(&device), tokenizer, statistics, &device);
        Self {
            preparer: preparer_for(&policy, &device),
            policy,
            optimizer: self.optimizer.clone(),
            config: self.config.clone(),
            flow: self.flow.clone(),
            frozen: self.frozen.clone(),
            ema: None,
            cast_vlm: OnceCell::new(),
            step: Step::default(),
        }
    }

    pub(crate) fn config(&self) -> &LearnerConfig {
        &self.config
    }

    pub(crate) fn network(&self) -> &Network<C> {
        &self.policy.network
    }

    pub(crate) fn optimizer(&self) -> &ModuleOptimizer {
        &self.optimizer
    }

    /// The policy as it is trained.
    pub(crate) fn policy_in_training(&self) -> &Policy<C> {
        &self.policy
    }

    /// The policy as it is now, ready to predict.
    pub(crate) fn policy(&self) -> Policy<C> {
        let Policy { config, network, tokenizer, statistics, .. } = self.policy.clone();
        let network = self.merged(network.valid());
        Policy::new_as(config, network, tokenizer, statistics, &self.preparer.device)
    }

    /// A network without adapters that computes the same.
    fn merged(&self, network: Network<C>) -> Network<C> {
        if self.config.lora.is_some() { network.materialize() } else { network }
    }

    /// Writes the adapters, if there are any, and the weights that they belong to; and those of the average.
    pub(crate) fn save_lora(&self, [own, average]: [&Path; 2]) -> Result<()> {
        if self.config.lora.is_none() {
            return Ok(());
        }
        lora::save(&self.policy.network, own)?;
        self.ema.as_ref().map_or(Ok(()), |ema| lora::save(&ema.network, average))
    }

    /// Writes the adapters, if there are any, as one of PEFT's, and those of the average as another one.
    pub(crate) fn save_for_peft(&self, [own, average]: [&Path; 2]) -> Result<()> {
        let Some(lora) = &self.config.lora else { return Ok(()) };
        let base = self.config.base.as_deref();
        lora::save_for_peft(&self.policy.network, lora, base, own)?;
        self.ema.as_ref().map_or(Ok(()), |ema| lora::save_for_peft(&ema.network, lora, base, average))
    }

    /// Goes on with adapters that were saved, and the weights that they belong to; and with their average, if it was.
    pub(crate) fn restore_lora(&mut self, [own, average]: [&Path; 2]) -> Result<()> {
        let network = lora::load(self.policy.network.valid(), own)?;
        self.policy.network = network.train();
        if let Some(decay) = self.config.ema {
            let network = self.policy.network.valid();
            let network = if average.is_file() { lora::load(network, average)? } else { network };
            self.ema = Some(Ema::new(&network.train(), decay));
        }
        Ok(())
    }

    /// The policy with the average of its weights, ready to predict, where there is one.
    pub(crate) fn ema_policy(&self) -> Option<Policy<C>> {
        let ema = self.ema.as_ref()?;
        let Policy { config, tokenizer, statistics, .. } = self.policy.clone();
        let network = self.merged(ema.network.clone());
        Some(Policy::new_as(config, network, tokenizer, statistics, &self.preparer.device))
    }

    /// Goes on with an average that was saved.
    pub(crate) fn restore_ema(&mut self, network: Network<C>) {
        self.ema = self.config.ema.map(|decay| Ema::new(&with_stable_ids(network).train(), decay));
    }

    /// Takes the state of an earlier optimiser of the same parameters.
    pub(crate) fn restore(&mut self, record: OptimizerRecord) {
        self.optimizer = self.optimizer.clone().load_record(record);
    }

    /// τ and ε that the run draws for `count` of its observations from the number `first` on.
    pub(crate) fn drawn(&self, first: u64, count: usize) -> Draw {
        let LearnerConfig { seed, draws, .. } = self.config;
        Draw::of(&self.flow, &self.policy.config, seed, first, [count, draws], &self.preparer.device)
    }

    /// Adds the gradients of a batch that has the part `share` of a step.
    pub(crate) fn add(&mut self, job: Job, share: f64) -> Result<()> {
        let samples = job.batch.samples.clone();
        self.step.observations += job.batch.size();
        // burn says in a panic what a device cannot do.
        let computed = caught(|| self.backward(job, share))??;
        self.step.losses.push(computed.loss);
        self.step.times.forward += computed.forward;
        self.step.times.backward += computed.backward;
        match computed.gradients {
            Some(gradients) => self.step.gradients.push(gradients, &self.policy.network),
            None => self.step.unusable.extend(samples.iter().cloned()),
        }
        self.step.samples.extend(samples);
        Ok(())
    }

    /// Updates the weights by the mean gradient of all ranks, if it is finite, and begins anew: step `at`, with learning
    /// rates times `factor`. Every rank takes part with `rounds` batches, whether they were `computed` or not.
    ///
    /// # Errors
    /// When they were not, on this rank or another one.
    pub(crate) fn finish(
        &mut self,
        computed: Result<()>,
        rounds: usize,
        group: &dyn Group,
        (at, factor): (u64, f64),
    ) -> Result<Outcome> {
        let Step { mut gradients, mut losses, observations, samples, mut unusable, mut times } =
            std::mem::take(&mut self.step);
        let network = &self.policy.network;
        let began = Instant::now();
        let mut gradients = gradients.take(network);
        losses.resize(rounds, f64::NAN);
        let mut report = vec![f64::from(u8::from(computed.is_err())), observations as f64];
        report.append(&mut losses);
        report.extend(presence(&gradients, network).into_iter().map(|present| f64::from(u8::from(present))));
        let reports = group.gather(report)?;
        computed?;
        if let Some(failed) = reports.iter().position(|report| report[0] > 0.0) {
            return Err(Error::Group(format!("rank {failed} failed, and says why")));
        }
        let observations = reports.iter().map(|report| report[1] as usize).sum();
        let batches = (rounds * reports.len()) as f64;
        let loss = reports.iter().flat_map(|report| &report[2..2 + rounds]).map(|loss| loss / batches).sum::<f64>();
        if group.size() > 1 && loss.is_finite() {
            let is_present = |at: usize| reports.iter().any(|report| report[at] > 0.0);
            let present: Vec<bool> = (2 + rounds..reports[0].len()).map(is_present).collect();
            gradients = reduced(gradients, network, &present, group, &self.preparer.device)?;
        }
        times.reduce = began.elapsed();
        let began = Instant::now();
        let gradient_norm = if loss.is_finite() { global_norm(&gradients, network)? } else { f64::NAN };
        let is_skipped = !(loss.is_finite() && gradient_norm.is_finite());
        if is_skipped && unusable.is_empty() {
            // Each loss by itself is finite, and their gradient is not.
            unusable = samples;
        } else if !is_skipped {
            let gradients = self.config.optimizer.clip(gradients, gradient_norm, network);
            // Without a second owner the old weights go one by one as the new ones come. What stands in for them holds none.
            let empty = Evo1::init(&self.policy.config, &self.preparer.device).map_err(evo1::Error::from)?;
            let network = std::mem::replace(&mut self.policy.network, empty);
            self.policy.network = self.config.optimizer.update(&mut self.optimizer, factor, network, gradients);
            if let Some(ema) = &mut self.ema {
                ema.update(&self.policy.network, at);
            }
        }
        times.update = began.elapsed();
        Ok(Outcome { loss, gradient_norm, observations, is_skipped, unusable, times })
    }

    /// The mean loss of a batch and the gradient of its share in the step.
    fn backward(&self, job: Job, share: f64) -> Result<Computed> {
        let began = Instant::now();
        let network = &self.policy.network;
        let Job { mut batch, draw, first } = job;
        let draw = draw.unwrap_or_else(|| self.drawn(first, batch.size()));
        // Dropout draws from the device's generator, whose state cannot be kept: it starts anew for every batch.
        let seed = rng::stream_seed(self.config.seed, &format!("dropout.{first}"));
        self.preparer.device.seed(seed);
        let context = match &self.frozen {
            Some(outputs) => {
                let vlm = || self.cast_vlm(network);
                let context = outputs.context(&vlm, &self.policy, &batch.inputs, &self.preparer)?;
                batch.inputs.leave_out_pixels();
                Some(context)
            }
            None => None,
        };
        let batch = batch.place(&self.preparer);
        let trained = &self.config.trained;
        let trains_vlm = trained.vision || trained.language;
        let computing = match self.config.compute {
            DType::F32 => network.clone(),
            dtype if !trains_vlm => Evo1 { action: network.action.clone().map(&mut Cast(dtype)), ..network.clone() },
            dtype => network.clone().map(&mut Cast(dtype)),
        };
        match &batch.inputs.pixels {
            Some(pixels) if self.config.gradient_checkpointing && trains_vlm => {
                self.backward_in_segments(&computing, pixels, &batch, draw, (share, began))
            }
            _ => {
                let context = match context {
                    Some(context) => context,
                    None => self.context(&computing, &batch.inputs)?,
                };
                let loss = self.loss(&computing, context, &batch, draw);
                let value = scalar(loss.clone())?;
                let forward = began.elapsed();
                let gradients = || GradientsParams::from_grads((loss * share).backward(), network);
                // Gradients of a loss that is not finite are not either.
                let gradients = value.is_finite().then(gradients);
                Ok(Computed { loss: value, gradients, forward, backward: began.elapsed() - forward })
            }
        }
    }

    /// Back-propagation that keeps of the vision-language model only what passes between its layers: one layer's
    /// activations are in memory at a time.
    fn backward_in_segments(
        &self,
        computing: &Network<C>,
        pixels: &Tensor<4>,
        batch: &PlacedBatch,
        draw: Draw,
        (share, began): (f64, Instant),
    ) -> Result<Computed> {
        let network = &self.policy.network;
        let (tokens, semantics) = (&batch.inputs.tokens, &self.policy.config.semantics);
        let image_token = self.policy.tokenizer.image_context();
        let failed = evo1::Error::from;
        let frozen = computing.vlm.valid();
        let mut between: Vec<Tensor<3>> = vec![Tensor::zeros([1, 1, 1], &pixels.device())];
        let divided =
            || Error::config("gradient_checkpointing", "false: this vision-language model is not divided", true);
        let segments = frozen.segments(pixels.clone(), tokens, image_token, semantics).map_err(failed)?;
        for segment in segments.ok_or_else(divided)? {
            let given = between[between.len() - 1].clone();
            between.push(segment.forward(given).map_err(failed)?);
        }
        let leaf = |x: Tensor<3>| x.autodiff().require_grad();
        let fused = leaf(between.pop().unwrap_or_else(|| unreachable!("it begins with one tensor")));
        let context = computing.vlm.context(fused.clone(), vec![], tokens, semantics, &pixels.device());
        let loss = self.loss(computing, context, batch, draw);
        let (value, forward) = (scalar(loss.clone())?, began.elapsed());
        if !value.is_finite() {
            return Ok(Computed { loss: value, gradients: None, forward, backward: Duration::ZERO });
        }
        let mut accumulator = GradientsAccumulator::new();
        let mut gradients = (loss * share).backward();
        let mut above = fused.grad(&gradients);
        accumulator.accumulate(network, GradientsParams::from_module(&mut gradients, network));
        let segments = computing.vlm.segments(pixels.clone(), tokens, image_token, semantics).map_err(failed)?;
        let segments = segments.ok_or_else(divided)?;
        for (segment, given) in segments.iter().zip(between).rev() {
            // Below the lowest trained part nobody asks for gradients.
            let Some(gradient) = above.take().filter(|_| self.config.trained.vision || !segment.is_vision()) else {
                break;
            };
            let given = leaf(given);
            let got = segment.forward(given.clone()).map_err(failed)?;
            let mut gradients = (got * gradient).sum().backward();
            above = given.grad(&gradients);
            accumulator.accumulate(network, GradientsParams::from_module(&mut gradients, network));
        }
        Ok(Computed { loss: value, gradients: Some(accumulator.grads()), forward, backward: began.elapsed() - forward })
    }

    /// The loss of a batch in a context, `[1]`.
    fn loss(&self, network: &Network<C>, context: Context, batch: &PlacedBatch, draw: Draw) -> Tensor<1> {
        let (semantics, trace) = (&self.policy.config.semantics, &mut Trace::off());
        let Inputs { state, embodiment, .. } = &batch.inputs;
        let conditioning = network.action.condition(context, state.clone(), embodiment, trace);
        let draws = self.config.draws;
        let sample = FlowSample {
            actions: repeat_samples(batch.actions.clone(), draws),
            mask: repeat_samples(batch.mask.clone(), draws),
            noise: draw.noise,
            time: draw.time,
        };
        flow_matching_loss(&network.action, &C::Action::repeat(conditioning, draws), sample, semantics, trace).loss
    }

    /// What the vision-language model makes of a batch. Frozen parts run without autodiff.
    fn context(&self, network: &Network<C>, inputs: &Inputs) -> Result<Context> {
        let trained = &self.config.trained;
        let (image_token, semantics) = (self.policy.tokenizer.image_context(), &self.policy.config.semantics);
        let forward = |vision: &C::Vlm, language: &C::Vlm| {
            let trace = &mut Trace::off();
            let visual = inputs.pixels.clone().map(|pixels| vision.visual_tokens(pixels, trace));
            language.forward(visual, &inputs.tokens, image_token, semantics, trace)
        };
        let context = match (trained.vision, trained.language) {
            (false, false) => {
                let vlm = self.cast_vlm(network);
                forward(vlm, vlm)
            }
            (true, _) => forward(&network.vlm, &network.vlm),
            (false, true) => forward(&network.vlm.valid(), &network.vlm),
        };
        Ok(context.map_err(evo1::Error::from)?)
    }

    /// The vision-language model that is not trained, in the number type of the computation: cast once.
    fn cast_vlm(&self, network: &Network<C>) -> &C::Vlm {
        self.cast_vlm.get_or_init(|| {
            let vlm = network.vlm.valid();
            if self.config.compute == DType::F32 { vlm } else { vlm.map(&mut Cast(self.config.compute)) }
        })
    }
}

/// What puts batches on a device, without gradients.
fn preparer_for<C: Components>(policy: &Policy<C>, device: &Device) -> Preparer {
    let mut preparer = policy.preparer();
    preparer.device = device.clone().without_autodiff();
    preparer
}

/// A copy of a network in another number type, through which gradients flow back to the original.
struct Cast(DType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, _) = param.consume();
        // What is quantised takes the number type of the adapter that is added to it.
        let value = if value.dtype().is_float() { value.cast(self.0) } else { value };
        Param::initialized(id, value)
    }
}

#[cfg(test)]
mod tests {
    use evo1::{Frame, Observation, View, device::test_devices};

    use super::*;
    use crate::{Decay, OptimizerConfig, Schedule, TrainBatch, TrainedParts};

    #[test]
    fn frozen_parts_run_without_gradients() {
        let folder = tempfile::tempdir().expect("a folder");
        let (cache, stage1) = (Some(folder.path().to_owned()), TrainedParts::stage1());
        for device in test_devices() {
            for (trained, frozen_outputs, has_gradients) in [
                (stage1.clone(), None, false),
                (stage1.clone(), cache.clone(), false),
                (stage1.clone(), cache.clone(), false),
                (TrainedParts { language: true, ..stage1.clone() }, None, true),
                (TrainedParts { vision: true, ..stage1.clone() }, None, true),
            ] {
                let policy = Policy::tiny(0, &device).expect("a policy");
                let observation = Observation {
                    views: vec![View::Present(Frame::black(64, 64))],
                    state: vec![0.0; 8],
                    instruction: "Open the drawer".into(),
                    ..Observation::default()
                };
                let inputs = policy.preparer().prepare_on_host(&[observation], true).expect("inputs");
                let mask = inputs.action_mask.clone();
                let batch = TrainBatch { inputs, actions: vec![0.0; mask.len()], mask, samples: vec![] };
                let schedule = Schedule { warmup: 0, total: 1, decay: Decay::Constant };
                let config = LearnerConfig::new(trained, OptimizerConfig::default(), schedule);
                let replica = Replica::new(policy, LearnerConfig { frozen_outputs, ..config }).expect("a replica");
                let network = &replica.policy.network;
                let context = match &replica.frozen {
                    Some(outputs) => {
                        let vlm = || replica.cast_vlm(network);
                        outputs.context(&vlm, &replica.policy, &batch.inputs, &replica.preparer)
                    }
                    None => replica.context(network, &batch.place(&replica.preparer).inputs),
                };
                let is_autodiff = context.expect("a context").tokens.is_autodiff();
                assert_eq!(is_autodiff, has_gradients, "{:?}", replica.config.trained);
            }
        }
    }
}
