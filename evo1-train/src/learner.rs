//! One step of training: loss, gradients, clipping, update.

use std::{cell::LazyCell, path::PathBuf};

use burn::{
    module::{Module, ModuleMapper, Param},
    optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer, OptimizerRecord},
    tensor::{DType, Device, Tensor},
};
use evo1::{
    Components, Context, Evo1, Inputs, Policy, Published, Trace, VelocityModel, VisionLanguageModel,
    action::{Flow, FlowSample, flow_matching_loss},
    config::PolicyConfig,
    device::scalar,
    ops::repeat_samples,
    rng,
};
use serde::{Deserialize, Serialize};

use crate::{
    Error, OptimizerConfig, Result, Schedule, TrainBatch, TrainedParts,
    frozen::{FrozenOutputs, check_is_frozen},
    optimizer::global_norm,
    parameters::{Parameter, parameters, with_stable_ids},
};

/// How a policy is trained, the data and what is kept of the run aside.
#[derive(Debug, Clone, PartialEq)]
pub struct LearnerConfig {
    /// Which parts are trained.
    pub trained: TrainedParts,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
    /// The learning rate's schedule.
    pub schedule: Schedule,
    /// Points (τ, ε) drawn for each observation; the context is computed once for all of them.
    pub draws: usize,
    /// Keep of the vision-language model only what passes between its layers, and run each again for its gradients.
    pub gradient_checkpointing: bool,
    /// The folder in which the outputs of the frozen vision-language model are kept; computed anew each time without.
    pub frozen_outputs: Option<PathBuf>,
    /// The number type that the network computes in. Weights, gradients, the optimiser's state and the loss are f32.
    pub compute: DType,
    /// Everything random comes from it.
    pub seed: u64,
}

impl LearnerConfig {
    /// One draw for each observation, in f32.
    pub fn new(trained: TrainedParts, optimizer: OptimizerConfig, schedule: Schedule) -> Self {
        Self {
            trained,
            optimizer,
            schedule,
            draws: 1,
            gradient_checkpointing: false,
            frozen_outputs: None,
            compute: DType::F32,
            seed: 0,
        }
    }
}

/// The network of some components.
type Network<C> = Evo1<<C as Components>::Vlm, <C as Components>::Action>;

/// A policy in training, with its optimiser.
pub struct Learner<C: Components = Published> {
    policy: Policy<C>,
    optimizer: ModuleOptimizer,
    config: LearnerConfig,
    flow: Flow,
    devices: Vec<Device>,
    frozen: Option<FrozenOutputs>,
    progress: Progress,
}

/// How far a run is: with the weights and the optimiser's state all that it needs to go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done, skipped ones included.
    pub step: u64,
    /// Batches used: the data's and the generator's position.
    pub batches: u64,
    /// Steps skipped because loss or gradient were not finite.
    pub skipped: u64,
    /// How many of them were the last ones, in a row.
    pub skipped_in_a_row: u32,
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// The step, counted from 0.
    pub step: u64,
    /// The loss, averaged over the step's batches.
    pub loss: f64,
    /// The norm of all gradients, before clipping.
    pub gradient_norm: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// Observations used.
    pub observations: usize,
    /// Whether the step was skipped because loss or gradient were not finite.
    pub is_skipped: bool,
}

/// τ and ε of a batch, given instead of drawn.
#[derive(Debug, Clone)]
pub struct Draw {
    /// τ of each sample.
    pub time: Vec<f32>,
    /// ε, `[batch, horizon, max_action_dim]`.
    pub noise: Tensor<3>,
}

impl Draw {
    /// τ and ε for `samples` samples of a policy, by a seed and the index of their batch.
    pub fn of(flow: &Flow, config: &PolicyConfig, seed: u64, samples: usize, index: u64, device: &Device) -> Self {
        let action = &config.action;
        let mut times = rng::stream(seed, &format!("time.{index}"));
        let mut noise = rng::stream(seed, &format!("noise.{index}"));
        let shape = [samples, action.horizon, action.max_action_dim];
        Self { time: flow.time_draw.times(samples, &mut times), noise: flow.noise.tensor(shape, &mut noise, device) }
    }
}

/// More steps in a row that are not finite end the run.
const MOST_SKIPPED: u32 = 5;

impl<C: Components> Learner<C> {
    /// A learner of `policy` from its first step, on the policy's device.
    ///
    /// # Errors
    /// When the configuration trains nothing, keeps outputs of what it trains, or asks for what the device cannot do.
    pub fn new(policy: Policy<C>, config: LearnerConfig) -> Result<Self> {
        let device = policy.device().clone().autodiff();
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
            FrozenOutputs::open(folder, &policy, config.compute)
        };
        let frozen = config.frozen_outputs.as_deref().map(open).transpose()?;
        let flow = policy.flow()?;
        let network = with_stable_ids(policy.network).train();
        let network = config.trained.apply(network)?;
        let optimizer = config.optimizer.build(&network);
        let policy = Policy::new_as(policy.config, network, policy.tokenizer, policy.statistics, &device);
        Ok(Self { policy, optimizer, config, flow, devices: vec![device], frozen, progress: Progress::default() })
    }

    /// The same learner computing each batch of a step on the next of `devices`, in parallel. Weights and optimiser stay
    /// on the first one.
    ///
    /// # Panics
    /// When there is no device.
    pub fn on_devices(mut self, devices: &[Device]) -> Self {
        assert!(!devices.is_empty(), "training needs at least one device");
        self.devices = devices.iter().map(|device| device.clone().autodiff()).collect();
        self.policy.network = self.policy.network.fork(&self.devices[0]);
        self
    }

    /// How far the run is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// The policy as it is now, ready to predict.
    pub fn policy(&self) -> Policy<C> {
        let Policy { config, network, tokenizer, statistics, .. } = self.policy.clone();
        let device = self.devices[0].clone().without_autodiff();
        Policy::new_as(config, network.valid(), tokenizer, statistics, &device)
    }

    /// Number of parameters that are trained, and of all.
    pub fn parameter_counts(&self) -> (usize, usize) {
        let all = parameters(&self.policy.network).iter().map(Parameter::count).sum();
        (self.trained_parameters().map(|parameter| parameter.count()).sum(), all)
    }

    fn trained_parameters(&self) -> impl Iterator<Item = Parameter> {
        parameters(&self.policy.network).into_iter().filter(|parameter| parameter.is_trained)
    }

    /// The optimiser's state, in burn's format.
    pub(crate) fn optimizer(&self) -> &ModuleOptimizer {
        &self.optimizer
    }

    /// The learner with the state of an earlier one: its optimiser's, and how far it was. The weights are those of the
    /// policy that it was made with.
    ///
    /// # Errors
    /// With what is wrong when the record is of other parameters: burn would begin their state anew without a word.
    pub(crate) fn restored(mut self, record: OptimizerRecord, progress: Progress) -> Result<Self, String> {
        // Two moments of each parameter that had a gradient, once a step was done.
        let (given, most) = (record.len(), 2 * self.trained_parameters().count());
        let has_state = progress.step > progress.skipped;
        if given > most || (given > 0) != has_state {
            return Err(format!("it holds {given} tensors of an optimiser's state, but the run has {most}"));
        }
        self.optimizer = self.optimizer.load_record(record);
        self.progress = progress;
        Ok(self)
    }

    /// The learning rate of the next step.
    pub fn learning_rate(&self) -> f64 {
        self.config.optimizer.learning_rate * self.config.schedule.factor(self.progress.step)
    }

    /// One step on the mean gradient of some batches.
    ///
    /// When loss or gradient are not finite, nothing is updated and the report says so.
    ///
    /// # Errors
    /// When that has happened more than five times in a row.
    pub fn step(&mut self, batches: &[TrainBatch]) -> Result<StepReport> {
        let first = self.progress.batches;
        let jobs: Vec<Job<'_>> =
            batches.iter().enumerate().map(|(at, batch)| Job { batch, draw: None, index: first + at as u64 }).collect();
        self.step_on(&jobs)
    }

    /// [`Self::step`] on one batch with given τ and ε.
    pub fn step_with(&mut self, batch: &TrainBatch, draw: Draw) -> Result<StepReport> {
        self.step_on(&[Job { batch, draw: Some(draw), index: self.progress.batches }])
    }

    fn step_on(&mut self, jobs: &[Job<'_>]) -> Result<StepReport> {
        let (loss, gradients) = self.gradients(jobs)?;
        let network = &self.policy.network;
        let gradient_norm = global_norm(&gradients, network)?;
        let (step, learning_rate) = (self.progress.step, self.learning_rate());
        let is_skipped = !(loss.is_finite() && gradient_norm.is_finite());
        let report = StepReport {
            step,
            loss,
            gradient_norm,
            learning_rate,
            observations: jobs.iter().map(|job| job.batch.size()).sum(),
            is_skipped,
        };
        self.progress.step += 1;
        self.progress.batches += jobs.len() as u64;
        if is_skipped {
            self.progress.skipped += 1;
            self.progress.skipped_in_a_row += 1;
            if self.progress.skipped_in_a_row > MOST_SKIPPED {
                return Err(Error::NonFinite { streak: self.progress.skipped_in_a_row, step });
            }
            return Ok(report);
        }
        self.progress.skipped_in_a_row = 0;
        let gradients = self.config.optimizer.clip(gradients, gradient_norm, network);
        self.policy.network = self.optimizer.step(learning_rate, network.clone(), gradients);
        Ok(report)
    }

    /// The mean loss of some batches and its gradient, without a step.
    fn gradients(&self, jobs: &[Job<'_>]) -> Result<(f64, GradientsParams)> {
        let share = 1.0 / jobs.len() as f64;
        let mut accumulator = GradientsAccumulator::new();
        let mut total = 0.0;
        for round in jobs.chunks(self.devices.len()) {
            for done in self.round(round, share) {
                let (loss, gradients) = done?;
                total += share * loss;
                let gradients = gradients.to_device(&self.devices[0].clone().without_autodiff(), &self.policy.network);
                accumulator.accumulate(&self.policy.network, gradients);
            }
        }
        Ok((total, accumulator.grads()))
    }

    /// One batch on each device.
    fn round(&self, jobs: &[Job<'_>], share: f64) -> Vec<Result<(f64, GradientsParams)>> {
        let network = &self.policy.network;
        if let [job] = jobs {
            return vec![self.backward(network, job, share)];
        }
        std::thread::scope(|scope| {
            let running: Vec<_> = jobs
                .iter()
                .zip(&self.devices)
                .map(|(job, device)| {
                    let network = network.clone().fork(device);
                    scope.spawn(move || self.backward(&network, job, share))
                })
                .collect();
            let joined = running.into_iter().map(|thread| thread.join());
            joined.map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }

    fn backward(&self, network: &Network<C>, job: &Job<'_>, share: f64) -> Result<(f64, GradientsParams)> {
        // Dropout draws from the device's generator, whose state cannot be kept: it starts anew for every batch.
        let devices = network.action.devices();
        let device = devices.first().unwrap_or(&self.devices[0]);
        device.seed(rng::stream_seed(self.config.seed, &format!("dropout.{}", job.index)));
        let computing = match self.config.compute {
            DType::F32 => network.clone(),
            // The vision-language model is cast when something has to be computed.
            dtype if self.frozen.is_some() => {
                Evo1 { action: network.action.clone().map(&mut Cast(dtype)), ..network.clone() }
            }
            dtype => network.clone().map(&mut Cast(dtype)),
        };
        let trained = &self.config.trained;
        match &job.batch.inputs.pixels {
            Some(pixels) if self.config.gradient_checkpointing && (trained.vision || trained.language) => {
                self.backward_in_segments(network, &computing, pixels, job, share)
            }
            _ => {
                let context = self.context(&computing, job.batch)?;
                let loss = self.loss(&computing, context, job);
                let value = scalar(loss.clone())?;
                if !value.is_finite() {
                    // Its gradients are not finite either, and nothing is done with them.
                    return Ok((value, GradientsParams::new()));
                }
                Ok((value, GradientsParams::from_grads((loss * share).backward(), network)))
            }
        }
    }

    /// Back-propagation that keeps of the vision-language model only what passes between its layers: one layer's
    /// activations are in memory at a time.
    fn backward_in_segments(
        &self,
        network: &Network<C>,
        computing: &Network<C>,
        pixels: &Tensor<4>,
        job: &Job<'_>,
        share: f64,
    ) -> Result<(f64, GradientsParams)> {
        let (tokens, semantics) = (&job.batch.inputs.tokens, &self.policy.config.semantics);
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
        let loss = self.loss(computing, context, job);
        let value = scalar(loss.clone())?;
        if !value.is_finite() {
            return Ok((value, GradientsParams::new()));
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
        Ok((value, accumulator.grads()))
    }

    /// The loss of a batch in a context, `[1]`.
    fn loss(&self, network: &Network<C>, context: Context, job: &Job<'_>) -> Tensor<1> {
        let Job { batch, draw, index } = job;
        let (semantics, trace) = (&self.policy.config.semantics, &mut Trace::off());
        let Inputs { state, embodiment, .. } = &batch.inputs;
        let conditioning = network.action.condition(context, state.clone(), embodiment, trace);
        let (size, draws) = (batch.size(), self.config.draws);
        let draw = match draw {
            Some(draw) => draw.clone(),
            None => self.drawn(size * draws, *index),
        };
        let sample = FlowSample {
            actions: repeat_samples(batch.actions.clone(), draws),
            mask: repeat_samples(batch.mask.clone(), draws),
            noise: draw.noise,
            time: draw.time,
        };
        flow_matching_loss(&network.action, &C::Action::repeat(conditioning, draws), sample, semantics, trace).loss
    }

    /// What the vision-language model makes of a batch. Frozen parts run without autodiff.
    fn context(&self, network: &Network<C>, batch: &TrainBatch) -> Result<Context> {
        let (trained, trace) = (&self.config.trained, &mut Trace::off());
        let frozen = network.vlm.valid();
        if let Some(outputs) = &self.frozen {
            let vlm = LazyCell::new(|| frozen.map(&mut Cast(self.config.compute)));
            return outputs.context(&vlm, &self.policy, &batch.inputs);
        }
        let part = |is_trained: bool| if is_trained { &network.vlm } else { &frozen };
        let (vision, language) = (part(trained.vision), part(trained.vision || trained.language));
        let visual = batch.inputs.pixels.clone().map(|pixels| vision.visual_tokens(pixels, trace));
        let (image_token, semantics) = (self.policy.tokenizer.image_context(), &self.policy.config.semantics);
        let context = language.forward(visual, &batch.inputs.tokens, image_token, semantics, trace);
        Ok(context.map_err(evo1::Error::from)?)
    }

    /// τ and ε that the batch of an index of the run draws for `samples` samples.
    pub fn drawn(&self, samples: usize, index: u64) -> Draw {
        let device = self.devices[0].clone().without_autodiff();
        Draw::of(&self.flow, &self.policy.config, self.config.seed, samples, index, &device)
    }
}

/// A batch of a step.
struct Job<'a> {
    batch: &'a TrainBatch,
    draw: Option<Draw>,
    /// Index of the batch in the whole run.
    index: u64,
}

/// A copy of a network in another number type, through which gradients flow back to the original.
struct Cast(DType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, _) = param.consume();
        Param::initialized(id, value.cast(self.0))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use evo1::{Frame, Observation, View, device::test_devices};

    use super::*;
    use crate::Decay;

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
                let inputs = policy.prepare(&[observation], true).expect("inputs");
                let shape = [1, policy.config.action.horizon, policy.config.action.max_action_dim];
                let actions = Tensor::from_data(TensorData::zeros::<f32, _>(shape), (&device, DType::F32));
                let batch = TrainBatch { mask: inputs.action_mask.clone(), inputs, actions };
                let schedule = Schedule { warmup: 0, total: 1, decay: Decay::Constant };
                let config = LearnerConfig::new(trained, OptimizerConfig::default(), schedule);
                let learner = Learner::new(policy, LearnerConfig { frozen_outputs, ..config }).expect("a learner");
                let context = learner.context(&learner.policy.network, &batch).expect("a context");
                assert_eq!(context.tokens.is_autodiff(), has_gradients, "{:?}", learner.config.trained);
            }
        }
    }
}
