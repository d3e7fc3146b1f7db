//! The loss and the action error of a policy on data, usually data that it was not trained on.

use std::{sync::Arc, time::Instant};

use evo1::{
    Components, Noise, Policy, Rollout, Trace, VelocityModel,
    action::{FlowSample, flow_matching_loss},
    config::PolicyConfig,
    device::{read, scalar},
    weights::floats,
};
use evo1_data::{Augmentation, DataConfig, Mixture, Position, Share, StateNoise, Suites};

use serde::{Deserialize, Serialize};

use crate::{DataSource, Draw, Error, Result, TrainBatch, TrainConfig, open::batches_for, robot};

/// How a policy is evaluated.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluationConfig {
    /// The data. Its augmentation and noise on states are left out.
    pub data: DataSource,
    /// Batches.
    pub batches: usize,
    /// Observations of a batch.
    pub batch_size: usize,
    /// Which observations are drawn, and their τ and ε.
    pub seed: u64,
}

impl EvaluationConfig {
    /// 8 batches of 32 observations of `data`.
    pub fn new(data: DataSource) -> Self {
        Self { data, batches: 8, batch_size: 32, seed: 0 }
    }
}

/// What a policy came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Its errors.
    pub errors: Errors,
    /// Observations that were drawn.
    pub samples: usize,
    /// Median time in milliseconds from prepared inputs of one observation to its actions.
    pub milliseconds: f64,
}

/// How far a policy is from data.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Errors {
    /// The training loss.
    pub loss: f64,
    /// Root of the mean squared difference of predicted and recorded actions, in the policy's normalised units.
    pub rmse: f64,
    /// Their mean absolute difference.
    pub mae: f64,
}

/// Predictions of one observation whose median time is reported, after [`WARM_UP`] others.
const TIMED: usize = 9;
const WARM_UP: usize = 2;

/// Evaluates `policy`. Repeats exactly: observations, τ and ε come from the seed. `progress` is told of the batches that
/// are done.
///
/// Losses can be compared where noise, distribution of τ and kind of loss are the same; differences of actions can where
/// the statistics are.
///
/// # Errors
/// When there is nothing to evaluate on, or the data does not fit the policy.
pub fn evaluate<C: Components>(
    policy: &Policy<C>,
    config: &EvaluationConfig,
    progress: impl FnMut(usize),
) -> Result<Evaluation> {
    evaluate_with(policy, config, &Suites::default(), progress)
}

/// [`evaluate`] with suites of a program's own.
///
/// # Errors
/// As there.
pub fn evaluate_with<C: Components>(
    policy: &Policy<C>,
    config: &EvaluationConfig,
    suites: &Suites,
    mut progress: impl FnMut(usize),
) -> Result<Evaluation> {
    let mixture = open_plain(&config.data.read()?, policy, suites)?;
    robot::misfits(policy, &mixture)?.iter().for_each(|misfit| tracing::warn!("{misfit}"));
    let EvaluationConfig { batches, batch_size, seed, .. } = *config;
    let errors = Probe { mixture: Arc::clone(&mixture), batches, batch_size, seed }.errors(policy, &mut progress)?;
    let (rollout, preparer, mut times) = (Rollout::new(policy.clone()), policy.preparer(), Vec::new());
    for (index, batch) in batches_of(policy, &mixture, [WARM_UP + TIMED, 1], seed)?.enumerate() {
        let batch = batch?.place(&preparer);
        let noise = policy.noise(1, &Noise::Seed(index as u64))?;
        let began = Instant::now();
        read(rollout.actions(&batch.inputs, noise, None)?)?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times.drain(..WARM_UP);
    times.sort_by(f64::total_cmp);
    Ok(Evaluation { errors, samples: batches * batch_size, milliseconds: times[TIMED / 2] })
}

/// Data as a policy is evaluated on them, without augmentation and noise.
pub(crate) fn open_plain<C: Components>(
    data: &DataConfig,
    policy: &Policy<C>,
    suites: &Suites,
) -> Result<Arc<Mixture>> {
    let plain = DataConfig { augmentation: Augmentation::None, state_noise: StateNoise::All(0.0), ..data.clone() };
    let PolicyConfig { action, cameras, .. } = &policy.config;
    Ok(Arc::new(Mixture::open_with(&plain, action.horizon, cameras, suites)?))
}

/// The first `count` batches of `batch_size` observations each.
fn batches_of<C: Components>(
    policy: &Policy<C>,
    mixture: &Arc<Mixture>,
    [count, batch_size]: [usize; 2],
    seed: u64,
) -> Result<impl Iterator<Item = Result<TrainBatch>> + use<C>> {
    let settings = TrainConfig { batch_size, seed, ..TrainConfig::default() };
    let batches = batches_for(policy, Arc::clone(mixture), &settings, Share::ALL)?;
    let mut made = batches.loader().batches_until(Position::start(seed), (count * batch_size) as u64);
    Ok(std::iter::from_fn(move || Some(made.next_on_host()?.map(TrainBatch::from).map_err(Error::from))))
}

/// Some batches of some data, always the same ones, with the same τ and ε.
pub(crate) struct Probe {
    pub(crate) mixture: Arc<Mixture>,
    pub(crate) batches: usize,
    pub(crate) batch_size: usize,
    pub(crate) seed: u64,
}

impl Probe {
    /// How far a policy is from them. `progress` is told of the batches that are done.
    ///
    /// # Errors
    /// When there is no batch, or nothing in them counts.
    pub(crate) fn errors<C: Components>(&self, policy: &Policy<C>, mut progress: impl FnMut(usize)) -> Result<Errors> {
        if self.batches == 0 {
            return Err(Error::config("batches", "at least 1", 0));
        }
        let batches = batches_of(policy, &self.mixture, [self.batches, self.batch_size], self.seed)?;
        let (expert, semantics, flow) = (&policy.network.action, &policy.config.semantics, policy.flow()?);
        let preparer = policy.preparer();
        let (mut loss, mut squares, mut magnitudes, mut count) = (0.0, 0.0, 0.0, 0.0);
        for (index, batch) in batches.enumerate() {
            let first = (index * self.batch_size) as u64;
            let batch = batch?.place(&preparer);
            let inputs = &batch.inputs;
            let context = policy.fuse(policy.visual_tokens(inputs), inputs)?;
            let trace = &mut Trace::off();
            let conditioning = expert.condition(context.clone(), inputs.state.clone(), &inputs.embodiment, trace);
            let draw = Draw::of(&flow, &policy.config, self.seed, first, [batch.size(), 1], policy.device());
            let (actions, mask) = (batch.actions.clone(), batch.mask.clone());
            let sample = FlowSample { actions, mask, noise: draw.noise, time: draw.time };
            loss += scalar(flow_matching_loss(expert, &conditioning, sample, semantics, trace).loss)?;

            let noise = policy.noise(batch.size(), &Noise::Seed(self.seed.wrapping_add(first)))?;
            let predicted = policy.act(context, inputs, noise, None)?;
            let difference = (predicted - batch.actions.clone()) * batch.mask.clone();
            for value in floats(&read(difference)?) {
                squares += f64::from(value).powi(2);
                magnitudes += f64::from(value).abs();
            }
            count += scalar(batch.mask.sum())?;
            progress(index + 1);
        }
        if count == 0.0 {
            return Err(Error::config("data", "observations with actions that count", "none"));
        }
        Ok(Errors { loss: loss / self.batches as f64, rmse: (squares / count).sqrt(), mae: magnitudes / count })
    }
}
