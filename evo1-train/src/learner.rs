//! Steps of training, on one device or several.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use burn::{
    optim::{ModuleOptimizer, OptimizerRecord},
    tensor::{DType, Device, Tensor, TensorData},
};
use evo1::{Components, Policy, Published, action::Flow, config::PolicyConfig, device::is_asynchronous, rng};
use evo1_data::Share;
use serde::{Deserialize, Serialize};

use crate::{
    Alone, Error, Group, LoraConfig, MemoryEstimate, OptimizerConfig, Result, Schedule, TrainBatch, TrainConfig,
    TrainedParts,
    group::Threads,
    parameters::{Parameter, parameters},
    replica::{Outcome, Replica},
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
    /// Bytes that may be added to that folder; without end where it is `None`.
    pub frozen_room: Option<u64>,
    /// The number type that the network computes in. Weights, gradients, the optimiser's state and the loss are f32.
    pub compute: DType,
    /// Adapters that are trained instead of the matrices of the trained parts.
    pub lora: Option<LoraConfig>,
    /// What the policy that the adapters belong to is called in their files.
    pub base: Option<String>,
    /// Decay of the exponential moving average of the weights, which is kept beside them; without it there is none.
    pub ema: Option<f64>,
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
            frozen_room: None,
            compute: DType::F32,
            lora: None,
            base: None,
            ema: None,
            seed: 0,
        }
    }
}

/// A policy in training, with its optimiser: one replica for each device.
///
/// Every replica has all weights and an optimiser. In a step each computes the gradients of its own batches, all take the
/// mean, and each updates its weights by it: they stay the same on all, to the bit where the devices are of one kind.
pub struct Learner<C: Components = Published> {
    replica: Replica<C>,
    /// The replicas of the other devices.
    workers: Vec<Worker>,
    group: Box<dyn Group>,
    processes: Arc<dyn Group>,
    progress: Progress,
}

/// How far a run is: with the weights and the optimiser's state all that it needs to go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done, skipped ones included.
    pub step: u64,
    /// Observations used, by all ranks: the data's and the generator's position.
    pub observations: u64,
    /// Steps skipped because loss or gradient were not finite.
    pub skipped: u64,
    /// How many of them were the last ones, in a row.
    pub skipped_in_a_row: u32,
}

/// What one step did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// The step, counted from 0.
    pub step: u64,
    /// The loss, averaged over the step's batches.
    pub loss: f64,
    /// The norm of all gradients, before clipping.
    pub gradient_norm: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// Observations used, by all ranks.
    pub observations: usize,
    /// Whether the step was skipped because loss or gradient were not finite.
    pub is_skipped: bool,
    /// What the observations are called whose loss was not finite, of those that were computed here; of a skipped step whose
    /// losses are finite and whose gradient is not, all of them.
    pub unusable: Vec<String>,
    /// Where the time went.
    pub times: StepTimes,
}

/// How long the parts of a step took, as the first device's thread saw it. A device that works while its thread goes on is
/// waited for where something is read from it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepTimes {
    /// Waiting for batches.
    pub data: Duration,
    /// From the batches to their losses.
    pub forward: Duration,
    /// The gradients.
    pub backward: Duration,
    /// Their mean over all ranks.
    pub reduce: Duration,
    /// The update of the weights.
    pub update: Duration,
}

impl std::ops::AddAssign for StepTimes {
    fn add_assign(&mut self, others: Self) {
        let Self { data, forward, backward, reduce, update } = others;
        self.data += data;
        self.forward += forward;
        self.backward += backward;
        self.reduce += reduce;
        self.update += update;
    }
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
    /// `draws` times τ and ε for each of `count` observations of a run from the number `first` on: of each by itself, so
    /// that they are the same however a step's observations are divided into batches.
    pub fn of(
        flow: &Flow,
        config: &PolicyConfig,
        seed: u64,
        first: u64,
        [count, draws]: [usize; 2],
        device: &Device,
    ) -> Self {
        let action = &config.action;
        let shape = [count * draws, action.horizon, action.max_action_dim];
        let each = draws * action.horizon * action.max_action_dim;
        let (mut time, mut noise) = (Vec::new(), Vec::new());
        for observation in first..first + count as u64 {
            time.extend(flow.time_draw.times(draws, &mut rng::stream(seed, &format!("time.{observation}"))));
            noise.extend(flow.noise.draw(each, &mut rng::stream(seed, &format!("noise.{observation}"))));
        }
        Self { time, noise: Tensor::from_data(TensorData::new(noise, shape), (device, DType::F32)) }
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
        let replica = Replica::new(policy, config)?;
        Ok(Self {
            replica,
            workers: Vec::new(),
            group: Box::new(Alone),
            processes: Arc::new(Alone),
            progress: Progress::default(),
        })
    }

    /// The same learner with a replica, an optimiser and a thread on each of `devices`, the first of which is this
    /// thread's, among the processes of `processes`.
    ///
    /// # Errors
    /// When there is no device, or one is named twice.
    pub fn on_devices(mut self, devices: &[Device], processes: Arc<dyn Group>) -> Result<Self> {
        let Some((first, others)) = devices.split_first() else {
            return Err(Error::config("devices", "at least one", "none"));
        };
        if let Some(twice) = (1..devices.len()).find(|&at| devices[..at].contains(&devices[at])) {
            return Err(Error::config("devices", "different devices", format!("{:?} twice", devices[twice])));
        }
        self.replica = self.replica.on(first);
        let mut members = Threads::on(devices, Arc::clone(&processes)).into_iter();
        self.processes = processes;
        if let Some(member) = members.next() {
            self.group = Box::new(member);
        }
        let replicas = others.iter().map(|device| self.replica.copy(device));
        self.workers = replicas.zip(members).map(|(replica, member)| Worker::start(replica, member)).collect();
        Ok(self)
    }

    /// How far the run is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// The processes of the run.
    pub fn processes(&self) -> &dyn Group {
        &*self.processes
    }

    /// The learners of the run: one for each device of each process.
    pub fn group(&self) -> &dyn Group {
        &*self.group
    }

    /// Learners of this process.
    fn ranks_here(&self) -> usize {
        self.workers.len() + 1
    }

    /// The policy as it is now, ready to predict.
    pub fn policy(&self) -> Policy<C> {
        self.replica.policy()
    }

    /// The policy with the average of its weights, where there is one.
    pub fn ema_policy(&self) -> Option<Policy<C>> {
        self.replica.ema_policy()
    }

    /// The learner with an average that was saved.
    pub(crate) fn with_ema(mut self, policy: Policy<C>) -> Self {
        self.replica.restore_ema(policy.network);
        self
    }

    /// The learner with the adapters of a checkpoint: the weights' own, and those of their average.
    pub(crate) fn with_lora(mut self, paths: [&Path; 2]) -> Result<Self> {
        self.replica.restore_lora(paths)?;
        Ok(self)
    }

    /// Writes the adapters, if there are any, as [`Self::with_lora`] reads them.
    pub(crate) fn save_lora(&self, paths: [&Path; 2]) -> Result<()> {
        self.replica.save_lora(paths)
    }

    /// Writes the adapters, if there are any, and those of the average, as PEFT's.
    pub(crate) fn save_for_peft(&self, folders: [&Path; 2]) -> Result<()> {
        self.replica.save_for_peft(folders)
    }

    /// What this process takes of memory, with `samples` observations to draw from, and whether its devices take the host's.
    pub(crate) fn memory(&self, config: &TrainConfig, samples: usize) -> (MemoryEstimate, bool) {
        let policy = self.replica.policy_in_training();
        let is_on_host = !is_asynchronous(&policy.device().clone().without_autodiff());
        (MemoryEstimate::of(policy, self.replica.config(), config, self.ranks_here(), samples), is_on_host)
    }

    /// Number of parameters that are trained, and of all.
    pub fn parameter_counts(&self) -> (usize, usize) {
        let all = parameters(self.replica.network()).iter().map(Parameter::count).sum();
        (self.trained_parameters().map(|parameter| parameter.count()).sum(), all)
    }

    /// The parameters that are trained, in the order of the network's fields.
    pub fn trained_parameters(&self) -> impl Iterator<Item = Parameter> {
        parameters(self.replica.network()).into_iter().filter(|parameter| parameter.is_trained)
    }

    /// The optimiser's state, in burn's format.
    pub(crate) fn optimizer(&self) -> &ModuleOptimizer {
        self.replica.optimizer()
    }

    /// The learner with the state of an earlier one: its optimiser's, and how far it was. The weights are those of the
    /// policy that it was made with.
    pub(crate) fn restored(mut self, record: OptimizerRecord, progress: Progress) -> Self {
        self.replica.restore(record);
        self.progress = progress;
        self
    }

    /// The learning rate of the next step, of parameters without one of their own.
    pub fn learning_rate(&self) -> f64 {
        let LearnerConfig { optimizer, schedule, .. } = self.replica.config();
        optimizer.learning_rate * schedule.factor(self.progress.step)
    }

    /// One step on the mean gradient of some batches, as many for each device; the first ones are for the first device.
    ///
    /// When loss or gradient are not finite, nothing is updated and the report says so.
    ///
    /// # Errors
    /// When that has happened more than five times in a row, the batches cannot be shared out, or a rank failed.
    pub fn step(&mut self, batches: &[TrainBatch]) -> Result<StepReport> {
        let ranks = self.ranks_here();
        if batches.is_empty() || !batches.len().is_multiple_of(ranks) {
            let expected = format!("some batches for each of the {ranks} devices");
            return Err(Error::config("batches", expected, batches.len()));
        }
        let rounds = batches.len() / ranks;
        let before = |at: usize| batches[..at].iter().map(|batch| batch.size() as u64).sum::<u64>();
        let first = self.progress.observations;
        self.step_on(rounds, |round, rank| {
            let at = rank * rounds + round;
            Ok(Job { batch: batches[at].clone(), draw: None, first: first + before(at) })
        })
    }

    /// [`Self::step`] on one batch with given τ and ε.
    pub fn step_with(&mut self, batch: &TrainBatch, draw: Draw) -> Result<StepReport> {
        let first = self.progress.observations;
        self.step_on(1, |_, _| Ok(Job { batch: batch.clone(), draw: Some(draw.clone()), first }))
    }

    /// [`Self::step`] on `rounds` batches for each rank, each taken from `source` when it is wanted, by the number of its
    /// first observation.
    pub fn step_from(
        &mut self,
        rounds: usize,
        batch_size: usize,
        mut source: impl FnMut(u64) -> Result<TrainBatch>,
    ) -> Result<StepReport> {
        let (before, own) = (self.progress.observations, self.ranks_here());
        let (ranks, first) = (self.group.size() as u64, self.group.rank() as u64);
        let share = Share { ranks, first, own: own as u64, of_rank: rounds as u64 };
        self.step_on(rounds, |round, rank| {
            let first = before + share.place((round * own + rank) as u64) * batch_size as u64;
            Ok(Job { batch: source(first)?, draw: None, first })
        })
    }

    fn step_on(&mut self, rounds: usize, mut next: impl FnMut(usize, usize) -> Result<Job>) -> Result<StepReport> {
        let share = 1.0 / (rounds * self.group.size()) as f64;
        let mut data = Duration::ZERO;
        let mut taken = |round, rank| {
            let began = Instant::now();
            let job = next(round, rank);
            data += began.elapsed();
            job
        };
        let mut computed = Ok(());
        for round in 0..rounds {
            let own = taken(round, 0);
            for (at, worker) in self.workers.iter().enumerate() {
                worker.tell(taken(round, at + 1).map(|job| Command::Add(Box::new(job), share)))?;
            }
            computed = computed.and_then(|()| self.replica.add(own?, share));
        }
        let (learning_rate, step) = (self.learning_rate(), self.progress.step);
        let now = (step, self.replica.config().schedule.factor(step));
        self.workers.iter().try_for_each(|worker| worker.tell(Ok(Command::Finish(rounds, now))))?;
        let own = self.replica.finish(computed, rounds, &*self.group, now);
        let others: Vec<Result<Outcome>> = self.workers.iter().map(Worker::outcome).collect();
        // Of the ranks that fail because of another one the first that failed by itself says why.
        let mut outcomes: Vec<Result<Outcome>> = std::iter::once(own).chain(others).collect();
        let is_cause = |outcome: &Result<Outcome>| matches!(outcome, Err(error) if !matches!(error, Error::Group(_)));
        if let Some(cause) = outcomes.iter().position(is_cause) {
            outcomes.swap(0, cause);
        }
        let mut unusable = Vec::new();
        let mut first = None;
        for outcome in outcomes {
            let mut outcome = outcome?;
            unusable.append(&mut outcome.unusable);
            first.get_or_insert(outcome);
        }
        let Some(Outcome { loss, gradient_norm, observations, is_skipped, times, .. }) = first else {
            unreachable!("the first replica has an outcome")
        };
        let times = StepTimes { data, ..times };
        self.progress.step += 1;
        self.progress.observations += observations as u64;
        if is_skipped {
            self.progress.skipped += 1;
            self.progress.skipped_in_a_row += 1;
            if self.progress.skipped_in_a_row > MOST_SKIPPED {
                return Err(Error::NonFinite { streak: self.progress.skipped_in_a_row, step, samples: unusable });
            }
        } else {
            self.progress.skipped_in_a_row = 0;
        }
        Ok(StepReport { step, loss, gradient_norm, learning_rate, observations, is_skipped, unusable, times })
    }

    /// τ and ε that the run draws for `count` of its observations from the number `first` on.
    pub fn drawn(&self, first: u64, count: usize) -> Draw {
        self.replica.drawn(first, count)
    }
}

/// A batch of a step.
pub(crate) struct Job {
    pub(crate) batch: TrainBatch,
    pub(crate) draw: Option<Draw>,
    /// The number of the batch's first observation in the run.
    pub(crate) first: u64,
}

/// A replica in a thread of its own.
struct Worker {
    commands: Option<SyncSender<Result<Command>>>,
    outcomes: Receiver<Result<Outcome>>,
    thread: Option<JoinHandle<()>>,
}

/// What a worker is to do.
enum Command {
    /// Add the gradients of a batch, which has this share of the step.
    Add(Box<Job>, f64),
    /// Update the weights: the batches of the step, its number and the factor of the learning rates.
    Finish(usize, (u64, f64)),
}

/// Batches that may wait for a worker.
const WAITING: usize = 1;

impl Worker {
    fn start<C: Components>(mut replica: Replica<C>, member: Threads) -> Self {
        let (commands, inbox) = sync_channel::<Result<Command>>(WAITING);
        let (outbox, outcomes) = sync_channel(1);
        let work = move || {
            let mut computed = Ok(());
            for command in inbox {
                match command {
                    Ok(Command::Add(job, share)) => computed = computed.and_then(|()| replica.add(*job, share)),
                    Err(error) => computed = computed.and(Err(error)),
                    Ok(Command::Finish(rounds, now)) => {
                        let done = std::mem::replace(&mut computed, Ok(()));
                        if outbox.send(replica.finish(done, rounds, &member, now)).is_err() {
                            break;
                        }
                    }
                }
            }
        };
        Self { commands: Some(commands), outcomes, thread: Some(std::thread::spawn(work)) }
    }

    fn tell(&self, command: Result<Command>) -> Result<()> {
        let sent = self.commands.as_ref().map(|commands| commands.send(command));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(Error::Group("a thread of the run has ended".into())),
        }
    }

    fn outcome(&self) -> Result<Outcome> {
        self.outcomes.recv().unwrap_or_else(|_| Err(Error::Group("a thread of the run has ended".into())))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.commands.take();
        if let Some(thread) = self.thread.take() {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}
