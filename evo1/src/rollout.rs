//! A policy that predicts again and again, as on a robot.
//!
//! ```text
//! observations ── prepare_on_host ──► numbers ── three uploads ──► fixed buffers
//! fixed buffers ── all of the network's work, recorded once as a graph ──► actions ── one download ──► chunks
//! ```
//!
//! On a device that records graphs ([`has_graphs`]) the work of a prediction is thousands of launches that are the same each
//! time. The first prediction of a shape runs as it is, which compiles its kernels; the second one is recorded; from then on
//! the device repeats the recording in one launch. What changes between predictions is in the buffers; what does not (the
//! steps of the sampler, how many tiles and tokens there are) is part of the recording, and of its [`Key`].

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, ThreadId},
    time::Instant,
};

use burn::tensor::{DType, Graph, Int, IntDType, Tensor, TensorData, capture, kind::Basic};
use evo1_action::{Sampler, VelocityModel};
use evo1_core::{
    ActionChunk, Observation, Trace,
    constants::{Used, used},
    device::{has_graphs, is_asynchronous},
};
use evo1_vlm::{
    TokenBatch, VisionLanguageModel,
    frame::{LevelTable, Pixels},
};

use crate::{
    Components, HostInputs, Inputs, Policy, PredictOptions, Prediction, Preparer, Published, Result, StageTimes,
};

/// Prompts whose padding nothing sees are padded to a multiple of so many tokens, so that they share a recording.
const BUCKET: usize = 64;

/// Recordings that are kept, the last ones that were used. Each holds the memory of a prediction's tensors.
const KEPT: usize = 8;

/// A recording that failed so often is not tried again: another thread's use of the device spoils one now and then.
const ATTEMPTS: u32 = 3;

/// A policy in use: the same predictions as the policy's own, with less work on the host where the device can repeat its
/// work.
///
/// On other devices it predicts as the policy does. There is no way to change the policy, since recordings would not follow.
/// Predictions of one `Rollout` on several threads wait for each other where they are recorded.
pub struct Rollout<C: Components = Published> {
    policy: Arc<Policy<C>>,
    preparer: Preparer,
    records: Mutex<Vec<Record<C>>>,
    /// Whether the last prediction was repeated by the device.
    was_replayed: AtomicBool,
}

impl<C: Components> fmt::Debug for Rollout<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rollout").field("policy", &self.policy).field("graphs", &self.graphs()).finish()
    }
}

impl<C: Components> From<Policy<C>> for Rollout<C> {
    fn from(policy: Policy<C>) -> Self {
        Self::new(policy)
    }
}

impl<C: Components> Rollout<C> {
    /// A policy in use.
    pub fn new(policy: Policy<C>) -> Self {
        let preparer = policy.preparer();
        Self { policy: Arc::new(policy), preparer, records: Mutex::default(), was_replayed: AtomicBool::new(false) }
    }

    /// The policy.
    pub fn policy(&self) -> &Policy<C> {
        &self.policy
    }

    /// Whether predictions can become graphs: the device has them, and the vision-language model can be recorded.
    pub fn can_capture(&self) -> bool {
        has_graphs(self.policy.device()) && self.policy.network.vlm.reads_placed_tokens()
    }

    /// Whether the last prediction was a graph that the device repeated.
    pub fn is_captured(&self) -> bool {
        self.was_replayed.load(Ordering::Relaxed)
    }

    /// How many graphs there are now.
    pub fn graphs(&self) -> usize {
        self.records().iter().filter(|record| matches!(record.state, State::Graph(_))).count()
    }

    /// [`Policy::predict`].
    pub fn predict(&self, observation: &Observation, options: &PredictOptions) -> Result<ActionChunk> {
        let mut chunks = self.predict_batch(std::slice::from_ref(observation), options)?;
        Ok(chunks.remove(0))
    }

    /// [`Policy::predict_batch`].
    pub fn predict_batch(&self, observations: &[Observation], options: &PredictOptions) -> Result<Vec<ActionChunk>> {
        let (predictions, _) = self.predict_batch_timed(observations, options)?;
        Ok(predictions.into_iter().map(|prediction| prediction.chunk).collect())
    }

    /// [`Policy::predict_batch_timed`]. A device that works while the host goes on is waited for once, so that the times
    /// of its stages are one, [`StageTimes::device`].
    pub fn predict_batch_timed(
        &self,
        observations: &[Observation],
        options: &PredictOptions,
    ) -> Result<(Vec<Prediction>, StageTimes)> {
        let policy = &*self.policy;
        if !is_asynchronous(policy.device()) {
            return policy.predict_batch_timed(observations, options);
        }
        let start = Instant::now();
        let inputs = self.preparer.prepare_on_host(observations, options.skips_unseen)?;
        let noise = policy.noise_values(observations.len(), &options.noise)?;
        let prepared = Instant::now();
        let actions = if options.guidance.is_none() && self.can_capture() {
            self.repeated_on_host(inputs, noise, options)?
        } else {
            let inputs = self.preparer.place(inputs);
            let noise = TensorData::new(noise, inputs.action_mask.dims());
            self.computed(&inputs, Tensor::from_data(noise, (policy.device(), DType::F32)), options)?
        };
        let normalized = policy.normalized(actions)?;
        let computed = Instant::now();
        let predictions = policy.finished(normalized, observations, options.finish)?;
        let times = StageTimes {
            prepare: prepared - start,
            device: computed - prepared,
            finish: computed.elapsed(),
            ..StageTimes::default()
        };
        Ok((predictions, times))
    }

    /// Predicts until such predictions are graphs, if they become any.
    pub fn warm_up(&self, observations: &[Observation], options: &PredictOptions) -> Result<()> {
        for _ in 0..=ATTEMPTS {
            self.predict_batch(observations, options)?;
            if !self.can_capture() || self.is_captured() {
                break;
            }
        }
        Ok(())
    }

    /// Stages 2 to 5: normalised actions of prepared inputs, `[batch, horizon, max_action_dim]`, which nothing waits for.
    ///
    /// # Errors
    /// As [`Policy::fuse`] and [`Policy::act`].
    pub fn actions(&self, inputs: &Inputs, noise: Tensor<3>, steps: Option<usize>) -> Result<Tensor<3>> {
        let (policy, options) = (&*self.policy, PredictOptions { steps, ..PredictOptions::default() });
        if !self.can_capture() {
            return self.computed(inputs, noise, &options);
        }
        let Inputs { pixels, black_tiles, tokens, state, embodiment, action_mask } = inputs;
        let tiles = pixels.as_ref().map_or(0, |pixels| pixels.dims()[0]);
        let others = policy.others(pixels.clone(), black_tiles);
        let (tokens, numbers) = self.tokens(tokens.clone(), tiles, true)?;
        let numbers = Tensor::from_data(numbers.as_slice(), (policy.device(), DType::I32));
        let upload = Buffers {
            pixels: others.map(|pixels| PixelBuffer::Normalized(pixels.flatten(0, 3))),
            numbers: Tensor::cat(vec![numbers, embodiment.clone().cast(IntDType::I32)], 0),
            values: Tensor::cat(
                vec![state.clone().flatten(0, 1), action_mask.clone().flatten(0, 2), noise.flatten(0, 2)],
                0,
            ),
        };
        self.repeated(upload, tokens, tiles, black_tiles.clone(), steps)
    }

    /// Normalised actions, launch by launch.
    fn computed(&self, inputs: &Inputs, noise: Tensor<3>, options: &PredictOptions) -> Result<Tensor<3>> {
        self.was_replayed.store(false, Ordering::Relaxed);
        let context = self.policy.fuse(self.policy.visual_tokens(inputs), inputs)?;
        self.policy.act_guided(context, inputs, noise, options)
    }

    /// [`Self::repeated`] of inputs that are not on the device yet.
    fn repeated_on_host(&self, inputs: HostInputs, noise: Vec<f32>, options: &PredictOptions) -> Result<Tensor<3>> {
        let (policy, size) = (&*self.policy, self.policy.config.vlm.image_size);
        let HostInputs { pixels, black_tiles, tokens, state, embodiment, action_mask } = inputs;
        let tiles = pixels.tiles(size);
        let (tokens, mut numbers) = self.tokens(tokens, tiles, options.skips_unseen)?;
        numbers.extend(embodiment.iter().map(|&id| id as i32));
        let values = [state, action_mask, noise].concat();
        let upload = Buffers::of(pixels.without(&black_tiles, size), numbers, values, policy);
        self.repeated(upload, tokens, tiles, black_tiles, options.steps)
    }

    /// Prompts as long as those they share a graph with, and their numbers.
    fn tokens(&self, tokens: TokenBatch, tiles: usize, skips_unseen: bool) -> Result<(TokenBatch, Vec<i32>)> {
        let (vlm, tokenizer) = (&self.policy.network.vlm, &self.policy.tokenizer);
        let tokens = match self.preparer.skips(skips_unseen) {
            true => tokens.padded_to_multiple(BUCKET, tokenizer.padding()),
            false => tokens,
        };
        vlm.check_tokens(&tokens)?;
        let visual = tiles * self.policy.config.vlm.tokens_per_tile();
        let numbers = tokens.numbers(tokenizer.image_context(), visual)?;
        Ok((tokens, numbers))
    }

    /// Normalised actions of a prediction that is, or is to become, a graph.
    fn repeated(
        &self,
        upload: Buffers,
        tokens: TokenBatch,
        tiles: usize,
        black_tiles: Vec<usize>,
        steps: Option<usize>,
    ) -> Result<Tensor<3>> {
        let policy = &*self.policy;
        let key = Key {
            thread: thread::current().id(),
            shape: tokens.dims(),
            hides: !tokens.is_all_visible(),
            tiles,
            black_tiles,
            are_levels: matches!(upload.pixels, Some(PixelBuffer::Levels(_))),
            steps: policy.steps(steps)?,
        };
        let mut records = self.records();
        let mut record = match records.iter().position(|record| record.key == key) {
            Some(at) => records.remove(at),
            None => {
                // First, so that the memory of what is dropped is there for what comes.
                if records.len() >= KEPT {
                    records.remove(0);
                }
                Record::new(key, tokens, &self.policy, &self.preparer)?
            }
        };
        let actions = record.run(upload, policy)?;
        self.was_replayed.store(matches!(record.state, State::Graph(_)), Ordering::Relaxed);
        records.push(record);
        Ok(actions)
    }

    fn records(&self) -> MutexGuard<'_, Vec<Record<C>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a recording cannot be given anew.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    /// Recorded work belongs to the thread that recorded it: others use the device in an order of their own.
    thread: ThreadId,
    /// Prompts and their length.
    shape: [usize; 2],
    /// Whether any token is hidden.
    hides: bool,
    tiles: usize,
    black_tiles: Vec<usize>,
    /// Whether the device normalises the pixels.
    are_levels: bool,
    /// Steps of the sampler.
    steps: usize,
}

/// What a prediction reads on the device.
struct Buffers {
    pixels: Option<PixelBuffer>,
    /// Numbers of the tokens ([`TokenBatch::numbers`]), then the embodiment ids.
    numbers: Tensor<1, Int>,
    /// States, action masks and noise.
    values: Tensor<1>,
}

/// Tiles that are not black, `[tiles · 3 · size · size]`.
enum PixelBuffer {
    Levels(Tensor<1, Int>),
    Normalized(Tensor<1>),
}

impl Buffers {
    /// New ones of values on the host.
    fn of<C: Components>(pixels: Pixels, numbers: Vec<i32>, values: Vec<f32>, policy: &Policy<C>) -> Self {
        let device = policy.device();
        let shapes = [pixels.len(), numbers.len(), values.len()].map(|length| [length]);
        let pixels = (!pixels.is_empty()).then(|| match pixels {
            Pixels::Levels(levels) => {
                PixelBuffer::Levels(Tensor::from_data(TensorData::new(levels, shapes[0]), (device, DType::U8)))
            }
            Pixels::Normalized(values) => {
                PixelBuffer::Normalized(Tensor::from_data(TensorData::new(values, shapes[0]), (device, DType::F32)))
            }
        });
        Self {
            pixels,
            numbers: Tensor::from_data(TensorData::new(numbers, shapes[1]), (device, DType::I32)),
            values: Tensor::from_data(TensorData::new(values, shapes[2]), (device, DType::F32)),
        }
    }

    /// Whether nothing else holds the tensors: they are written where they are, and not moved.
    fn are_own(&self) -> bool {
        let of_pixels = match &self.pixels {
            Some(PixelBuffer::Levels(levels)) => levels.can_mut(),
            Some(PixelBuffer::Normalized(values)) => values.can_mut(),
            None => true,
        };
        of_pixels && self.numbers.can_mut() && self.values.can_mut()
    }

    /// Writes the values of new buffers of one shape into these.
    fn refresh(&mut self, new: Self) {
        match (&mut self.pixels, new.pixels) {
            (Some(PixelBuffer::Levels(old)), Some(PixelBuffer::Levels(new))) => refresh(old, new),
            (Some(PixelBuffer::Normalized(old)), Some(PixelBuffer::Normalized(new))) => refresh(old, new),
            (old, new) => *old = new,
        }
        refresh(&mut self.numbers, new.numbers);
        refresh(&mut self.values, new.values);
    }
}

fn refresh<K: Basic>(buffer: &mut Tensor<1, K>, new: Tensor<1, K>) {
    let [length] = new.dims();
    buffer.inplace(|buffer| buffer.slice_assign(0..length, new));
}

/// Work of one kind: what runs first, is then recorded, and then repeated.
///
/// The graph stands first, so that it is dropped before what it reads.
struct Record<C: Components> {
    state: State,
    key: Key,
    buffers: Option<Arc<Mutex<Buffers>>>,
    /// Constants that the graph reads.
    used: Used,
    work: Arc<Work<C>>,
}

type Recorded = Graph<Result<Tensor<3>>, Box<dyn FnMut() -> Result<Tensor<3>> + Send>>;

enum State {
    /// Has not been recorded, after so many attempts.
    Eager(u32),
    /// Is repeated by the device.
    Graph(Box<Recorded>),
}

impl<C: Components> Record<C> {
    fn new(key: Key, tokens: TokenBatch, policy: &Arc<Policy<C>>, preparer: &Preparer) -> Result<Self> {
        if !key.black_tiles.is_empty() {
            policy.black_tokens();
        }
        let work = Work {
            levels: key.are_levels.then(|| preparer.level_table(policy.network.vlm.dtype())),
            sampler: policy.sampler(key.steps)?,
            tiles: key.tiles,
            black_tiles: key.black_tiles.clone(),
            tokens,
            policy: Arc::clone(policy),
        };
        Ok(Self { state: State::Eager(0), key, buffers: None, used: Used::default(), work: Arc::new(work) })
    }

    /// The actions of new values.
    fn run(&mut self, upload: Buffers, policy: &Policy<C>) -> Result<Tensor<3>> {
        let own = self.buffers.as_ref().filter(|buffers| locked(buffers).are_own());
        let Some(buffers) = own else {
            // The first time; or written buffers would be others than those that a graph reads.
            self.state = State::Eager(0);
            let buffers = self.buffers.insert(Arc::new(Mutex::new(upload)));
            return self.work.run(&locked(buffers));
        };
        locked(buffers).refresh(upload);
        if let State::Eager(attempts) = self.state
            && attempts < ATTEMPTS
        {
            let (work, of_work) = (Arc::clone(&self.work), Arc::clone(buffers));
            let closure: Box<dyn FnMut() -> Result<Tensor<3>> + Send> = Box::new(move || work.run(&locked(&of_work)));
            let (graph, constants) = used(|| capture(policy.device(), closure));
            self.used = constants;
            self.state = match graph.is_hardware() && graph.output().is_ok() {
                true => State::Graph(Box::new(graph)),
                false => State::Eager(attempts + 1),
            };
            let Key { tiles, shape: [batch, tokens], steps, .. } = self.key;
            let of_what = format!("{batch} × {tokens} tokens, {tiles} tiles and {steps} steps");
            match &self.state {
                State::Graph(_) => tracing::info!("predictions of {of_what} are one graph from now on"),
                State::Eager(_) => tracing::warn!("a prediction of {of_what} could not be recorded as a graph"),
            }
        }
        match &mut self.state {
            State::Eager(_) => self.work.run(&locked(buffers)),
            State::Graph(graph) => {
                // SAFETY: the contract of `Graph::replay`.
                // - Liveness: the closure, which the graph owns, owns the work with the policy's weights, the table of levels
                //   and the visual tokens of black tiles, and shares the buffers; the constants that it asked for are in
                //   `used`; the output is the graph's. All of them are dropped after the graph, with this record.
                // - No concurrent use: the buffers are this record's, which is used by one call at a time (`records` is
                //   locked) and written above, before the replay. Weights and constants are only ever read.
                // - Same stream: the key holds the thread that captured, whose stream it is, so that the buffers are written,
                //   the replay is started and the output is read on that thread.
                #[allow(
                    unsafe_code,
                    reason = "burn cannot see that what a graph reads is alive; this type keeps it so"
                )]
                let actions = unsafe { graph.replay() };
                match actions {
                    Ok(actions) => Ok(actions.clone()),
                    Err(_) => unreachable!("a graph has an output"),
                }
            }
        }
    }
}

fn locked(buffers: &Mutex<Buffers>) -> MutexGuard<'_, Buffers> {
    buffers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All that the device does for a prediction: nothing is uploaded, read or waited for.
struct Work<C: Components> {
    policy: Arc<Policy<C>>,
    levels: Option<LevelTable>,
    sampler: Sampler,
    /// Prompts of the right shape.
    tokens: TokenBatch,
    tiles: usize,
    black_tiles: Vec<usize>,
}

impl<C: Components> Work<C> {
    /// Normalised actions, `[batch, horizon, max_action_dim]`.
    fn run(&self, buffers: &Buffers) -> Result<Tensor<3>> {
        let Self { policy, levels, sampler, tokens, tiles, black_tiles } = self;
        let (config, [batch, _]) = (&policy.config, tokens.dims());
        let size = config.vlm.image_size;
        let pixels = buffers.pixels.as_ref().map(|pixels| match (pixels, levels) {
            (PixelBuffer::Levels(pixels), Some(table)) => table.normalized(pixels.clone(), size),
            (PixelBuffer::Levels(_), None) => unreachable!("levels have a table"),
            (PixelBuffer::Normalized(pixels), _) => pixels.clone().reshape([-1, 3, size as i64, size as i64]),
        });
        let patches = pixels.map(|pixels| policy.network.vlm.patches(pixels, &mut Trace::off()));
        let visual = policy.project_among(patches, *tiles, black_tiles);

        let [numbers] = buffers.numbers.dims();
        let embodiment = buffers.numbers.clone().narrow(0, numbers - batch, batch);
        let tokens = tokens.clone().placed(buffers.numbers.clone(), config.max_text_length.next_multiple_of(BUCKET));
        let context = policy.fuse_tokens(visual, &tokens)?;

        let (state, chunk) =
            (config.action.max_state_dim, [batch, config.action.horizon, config.action.max_action_dim]);
        let actions = chunk.iter().product::<usize>();
        let values = |start, length| buffers.values.clone().narrow(0, start, length);
        let state_values = values(0, batch * state).reshape([batch, state]);
        let mask = values(batch * state, actions).reshape(chunk);
        let noise = values(batch * state + actions, actions).reshape(chunk);
        let (expert, mut trace) = (&policy.network.action, Trace::off());
        let conditioning = expert.condition(context, state_values, &embodiment, &mut trace);
        Ok(sampler.sample(expert, &conditioning, noise, mask, &mut trace)?)
    }
}
