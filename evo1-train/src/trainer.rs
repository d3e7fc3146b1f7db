//! A whole run: batches, steps, checkpoints, metrics and report.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use burn::tensor::Device;
use evo1::{
    Components, CoreError, LoadOptions, Policy, Published, VelocityModel,
    device::{DeviceName, available_memory, peak_memory},
    files::write_atomically,
};
use evo1_data::{DatasetIdentity, Suites};

use crate::{
    Alone, BatchSource, Error, Errors, Group, Learner, Parameter, Result, StepReport, StepTimes, TrainConfig,
    checkpoint::{Checkpoints, optimizer_of, saved},
    config::CONFIG_FILE,
    evaluate::Probe,
    identity::RunIdentity,
    lock::RunLock,
    memory::{MemoryEstimate, Room},
    record::{EventFile, Fact, JsonLines, Metrics, Profile, Warned, write_curves, write_report},
};

/// What a run is opened with, its configuration and device aside.
#[derive(Clone)]
pub struct RunOptions<'a> {
    /// How states and actions are read from datasets.
    pub suites: &'a Suites,
    /// The processes that train together, each of which opens the same configuration.
    pub processes: Arc<dyn Group>,
    /// What may be another thing where a run goes on: names of [`RunIdentity`]'s fields.
    pub allow_change: Vec<String>,
    /// Open everything and write nothing.
    pub is_dry: bool,
}

impl<'a> RunOptions<'a> {
    /// One process, and a run that goes on as it began.
    pub fn new(suites: &'a Suites) -> Self {
        Self { suites, processes: Arc::new(Alone), allow_change: Vec::new(), is_dry: false }
    }

    /// The folder of a run for the process that writes into it: the first one.
    pub(crate) fn lock(&self, output: &Path) -> Result<Option<RunLock>> {
        (!self.is_dry && self.processes.rank() == 0).then(|| RunLock::take(output)).transpose()
    }
}

/// A run that is ready to begin, or to go on.
pub struct Trainer<C: Components = Published> {
    config: TrainConfig,
    learner: Learner<C>,
    batches: Box<dyn BatchSource>,
    /// What is held out, and is looked at by the first process.
    held_out: Option<Probe>,
    identity: RunIdentity,
    checkpoints: Checkpoints,
    memory: MemoryEstimate,
    /// What there may be too little of.
    scarce: Vec<String>,
    /// The run's folder, of the process that writes into it.
    lock: Option<RunLock>,
}

/// What happens in a run.
#[derive(Debug, Clone)]
pub enum Event {
    /// It begins or goes on.
    Started(RunStart),
    /// A step was done.
    Step(StepReport),
    /// A line of `metrics.jsonl` was written.
    Logged(Metrics),
    /// A checkpoint was saved in this folder.
    Saved(PathBuf),
    /// Something that whoever trains should know.
    Warning(String),
}

/// What a run begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunStart {
    /// Steps done before.
    pub step: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Parameters that are trained.
    pub trained_parameters: usize,
    /// All parameters.
    pub parameters: usize,
    /// Observations there are to draw from.
    pub samples: usize,
    /// Observations of a step.
    pub effective_batch: usize,
    /// Learners that share them.
    pub ranks: usize,
    /// Memory that this process takes.
    pub memory: MemoryEstimate,
}

/// What a run has come to.
#[derive(Debug, Clone)]
pub struct Finished<C: Components = Published> {
    /// The policy at its last step.
    pub policy: Policy<C>,
    /// The newest checkpoint.
    pub checkpoint: PathBuf,
    /// Steps done.
    pub steps: u64,
    /// Whether it was ended before its last step.
    pub is_interrupted: bool,
    /// Steps skipped because loss or gradient were not finite.
    pub skipped: u64,
    /// Mean loss of the last logged steps.
    pub loss: f64,
    /// Every line of `metrics.jsonl`.
    pub metrics: Vec<Metrics>,
}

/// An effective batch of less than this part of the recipe's is warned of.
const SMALL_BATCH: f64 = 0.5;

/// A checkpoint that could not be saved is tried again after so many steps.
const RETRY_STEPS: u64 = 100;

/// A last checkpoint for which the disk has no room is tried again after so long.
const RETRY_AFTER: Duration = Duration::from_secs(15);

impl Trainer {
    /// The run in the configuration's folder, going on from its newest checkpoint with batches of one's own.
    ///
    /// # Errors
    /// When there is no checkpoint, or it does not fit the configuration.
    pub fn resume(config: TrainConfig, batches: Box<dyn BatchSource>, device: &Device) -> Result<Self> {
        let suites = Suites::default();
        Self::resume_as(config, batches, device, &RunOptions::new(&suites))
    }
}

impl<C: Components> Trainer<C> {
    /// A new run of a policy on batches, in a folder that holds no run yet.
    ///
    /// # Errors
    /// When a value of the configuration cannot be used, a batch is larger than the data, the folder holds a run, or
    /// another process is at work in it.
    pub fn new(config: TrainConfig, policy: Policy<C>, batches: Box<dyn BatchSource>) -> Result<Self> {
        let lock = RunLock::take(&config.output)?;
        Self::begin(config, policy, Arc::new(Alone), Some(lock), |_| Ok(Source { batches, held_out: None }))
    }

    /// [`Trainer::resume`] of a policy that may be made of other components, among several processes or with changes.
    ///
    /// # Errors
    /// As there.
    pub fn resume_as(
        config: TrainConfig,
        batches: Box<dyn BatchSource>,
        device: &Device,
        options: &RunOptions<'_>,
    ) -> Result<Self> {
        Self::resume_with(config, device, options, |_| Ok(Source { batches, held_out: None }))
    }

    /// [`Self::new`] among several processes, with batches that are made for the policy.
    pub(crate) fn begin(
        config: TrainConfig,
        policy: Policy<C>,
        processes: Arc<dyn Group>,
        lock: Option<RunLock>,
        source: impl FnOnce(&Policy<C>) -> Result<Source>,
    ) -> Result<Self> {
        config.validate()?;
        if config.has_begun() {
            let expected = "a folder without a run in it (`--resume` goes on with one)";
            return Err(Error::config("output", expected, config.output.display()));
        }
        let device = policy.device().clone();
        let policy = with_dropout(policy, config.dropout);
        let learner = on_devices(
            Learner::new(policy.clone(), config.learner_among(&*processes)?)?,
            &config,
            &device,
            &processes,
        )?;
        let source = source(&policy)?;
        check_held_out(&config, &source.held_out)?;
        let trained: Vec<Parameter> = learner.trained_parameters().collect();
        let data = data_of(&*source.batches, &*processes)?;
        let identity = RunIdentity::of(&config, &*processes, &trained, data);
        Self::with_learner(config, learner, source, identity, lock)
    }

    /// [`Trainer::resume`] with batches that are made for the checkpoint's policy.
    pub(crate) fn resume_with(
        config: TrainConfig,
        device: &Device,
        options: &RunOptions<'_>,
        source: impl FnOnce(&Policy<C>) -> Result<Source>,
    ) -> Result<Self> {
        config.validate()?;
        let lock = options.lock(&config.output)?;
        let newest = Checkpoints::of(&config.output, config.checkpoints).newest()?;
        let newest = newest.ok_or_else(|| Error::checkpoint(&config.output, "there is no checkpoint to go on from"))?;
        let load = LoadOptions { is_strict: config.policy.strict, ..LoadOptions::new(device) };
        let (policy, report) = Policy::load_as::<C>(&newest, &load)?;
        report.warn();
        let (progress, before) = saved(&newest)?;
        let learner = Learner::new(policy.clone(), config.learner_among(&*options.processes)?)?;
        let source = source(&policy)?;
        check_held_out(&config, &source.held_out)?;
        let trained: Vec<Parameter> = learner.trained_parameters().collect();
        let data = data_of(&*source.batches, &*options.processes)?;
        let identity = RunIdentity::of(&config, &*options.processes, &trained, data);
        let identity = identity.going_on_from(&before, progress.step, &options.allow_change)?;
        let record = optimizer_of(&newest, &trained, &progress, identity.trained != before.trained)?;
        let mut learner = learner.restored(record, progress);
        if config.lora.is_some() {
            let [own, average] = Checkpoints::lora_of(&newest);
            learner = learner.with_lora([&own, &average])?;
        } else if config.ema.is_some() {
            let folder = Checkpoints::ema_of(&newest);
            if folder.is_dir() {
                learner = learner.with_ema(Policy::load_as::<C>(&folder, &load)?.0);
            } else {
                tracing::warn!("{}: there is no average of the weights: it begins with those of now", newest.display());
            }
        }
        let learner = on_devices(learner, &config, device, &options.processes)?;
        Self::with_learner(config, learner, source, identity, lock)
    }

    fn with_learner(
        config: TrainConfig,
        learner: Learner<C>,
        Source { batches, held_out }: Source,
        identity: RunIdentity,
        lock: Option<RunLock>,
    ) -> Result<Self> {
        let (batch, samples) = (batches.batch_size(), batches.samples());
        if batch > samples {
            let expected = format!("at most the {samples} samples of the data");
            return Err(Error::config("batch_size", expected, batch));
        }
        let (memory, is_on_host) = learner.memory(&config, samples);
        let room = Room {
            of_device: config.device_memory_mb.map(|megabytes| megabytes << 20),
            of_host: available_memory(),
            is_on_host,
        };
        let progress = learner.progress();
        let mut scarce: Vec<String> = memory.check(&room, progress.step > progress.skipped)?.into_iter().collect();
        if let Some(limit) = config.cache_mb.filter(|limit| memory.frozen > limit << 20) {
            let estimate = memory.frozen >> 20;
            scarce.push(format!(
                "`cache_mb` of {limit} has no room for what the frozen model makes of all samples, about {estimate} MB: \
                 the rest is computed each time"
            ));
        }
        let open =
            if lock.is_some() { Checkpoints::open } else { |run: &Path, config| Ok(Checkpoints::of(run, config)) };
        let checkpoints = open(&config.output, config.checkpoints)?;
        Ok(Self { config, learner, batches, held_out, identity, checkpoints, memory, scarce, lock })
    }

    /// Runs to the end, or until `on_event` breaks; then, and where anything goes wrong, a checkpoint is saved.
    ///
    /// # Errors
    /// When the data cannot be read, the network diverges, or the last checkpoint cannot be saved.
    pub fn run(mut self, on_event: impl FnMut(&Event) -> ControlFlow<()>) -> Result<Finished<C>> {
        let text = self.config.to_yaml()?;
        let mut record = RunLog::open(&self.config.output, &self.learner, self.lock.is_some())?;
        let start = self.start();
        let mut run =
            Run { listener: Listener { on_event, flow: ControlFlow::Continue(()) }, start, text, retry: None };
        if self.lock.is_some() {
            write_atomically(&self.config.output.join(CONFIG_FILE), run.text.as_bytes())?;
        }
        run.listener.tell(Event::Started(start));
        for text in self.warnings() {
            run.warn(&mut record, text);
        }
        let ended = self.steps(&mut record, &mut run);
        let step = self.learner.progress().step;
        let nothing_was_done = ended.is_err() && step == start.step;
        let saved = if self.lock.is_none() || self.checkpoints.has(step) || nothing_was_done {
            Ok(())
        } else {
            self.save_at_the_end(&mut record, &mut run)
        };
        // The others wait for what the first one has saved.
        let has_failed = vec![f64::from(u8::from(saved.is_err()))];
        let failed = self.learner.processes().gather(has_failed).map(|failed| failed.concat().contains(&1.0));
        match (ended, saved) {
            (Ok(()), Ok(())) if failed? => {
                return Err(Error::Group("the first rank could not save the last step".into()));
            }
            (Ok(()), saved) => saved?,
            (Err(error), Ok(())) => return Err(error),
            (Err(error), Err(unsaved)) => {
                run.warn(&mut record, format!("step {step} could not be saved: {unsaved}"));
                return Err(error);
            }
        }
        self.finish(record)
    }

    fn steps(&mut self, record: &mut RunLog, run: &mut Run<impl FnMut(&Event) -> ControlFlow<()>>) -> Result<()> {
        while self.learner.progress().step < self.config.steps {
            let is_broken = vec![f64::from(u8::from(run.listener.flow.is_break()))];
            // All ranks stop after the same step.
            if self.learner.processes().gather(is_broken)?.concat().contains(&1.0) {
                break;
            }
            let Self { learner, batches, config, .. } = &mut *self;
            let report = learner.step_from(config.accumulate, config.batch_size, |first| batches.batch(first))?;
            record.add(&report);
            run.listener.tell(Event::Step(report.clone()));
            if report.is_skipped {
                let of = if report.unusable.is_empty() {
                    String::new()
                } else {
                    format!(": {}", report.unusable.join("; "))
                };
                run.warn(record, format!("step {}: loss or gradient not finite, skipped{of}", report.step));
            }
            let step = self.learner.progress().step;
            let is_last = step == self.config.steps;
            let is_looked_at =
                self.config.held_out.as_ref().is_some_and(|held_out| step.is_multiple_of(held_out.every));
            if self.lock.is_some() && (is_looked_at || is_last) {
                self.look_at_held_out(record, run);
            }
            if step.is_multiple_of(self.config.log_every) || is_last || is_looked_at {
                let (line, failure) = record.log(&self.learner);
                run.listener.tell(Event::Logged(line));
                failure.into_iter().for_each(|text| run.warn(record, text));
            }
            let is_due = step.is_multiple_of(self.config.checkpoints.every) || run.retry == Some(step);
            if is_due && !is_last && self.lock.is_some() {
                match self.save(record, run) {
                    Ok(()) => run.retry = None,
                    Err(error) => {
                        // What was saved before is whole, so that the run goes on even where this one has no room.
                        run.retry = Some(step + RETRY_STEPS);
                        run.warn(record, format!("no checkpoint at step {step}, will be tried again: {error}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Computes the errors on what is held out, if they are not those of the present step already. What cannot be read of it
    /// ends no run.
    fn look_at_held_out(&self, record: &mut RunLog, run: &mut Run<impl FnMut(&Event) -> ControlFlow<()>>) {
        let step = self.learner.progress().step;
        let Some(probe) = self.held_out.as_ref().filter(|_| record.looked_at != Some(step)) else { return };
        let errors = |policy: &Policy<C>| probe.errors(policy, |_| ());
        let own = errors(&self.learner.policy());
        let average = self.learner.ema_policy().map(|policy| errors(&policy)).transpose();
        record.looked_at = Some(step);
        (record.held_out, record.held_out_ema) = match (own, average) {
            (Ok(own), Ok(average)) => (Some(own), average),
            (Err(error), _) | (_, Err(error)) => {
                run.warn(record, format!("step {step}: no errors on what is held out: {error}"));
                (None, None)
            }
        };
    }

    /// Saves the last step, waiting for room where the disk is full, until that is done or the run is broken off.
    fn save_at_the_end(&self, record: &mut RunLog, run: &mut Run<impl FnMut(&Event) -> ControlFlow<()>>) -> Result<()> {
        let is_wanted = run.listener.flow.is_continue();
        loop {
            match self.save(record, run) {
                Err(error) if error.is_full() && is_wanted && run.listener.flow.is_continue() => {
                    let seconds = RETRY_AFTER.as_secs();
                    run.warn(record, format!("the last step cannot be saved, tried again in {seconds} s: {error}"));
                    std::thread::sleep(RETRY_AFTER);
                }
                done => return done,
            }
        }
    }

    fn save(&self, record: &mut RunLog, run: &mut Run<impl FnMut(&Event) -> ControlFlow<()>>) -> Result<()> {
        self.look_at_held_out(record, run);
        let held_out = record.held_out_ema.or(record.held_out).map(|errors| errors.loss);
        let loss = held_out.unwrap_or_else(|| record.losses_since_save.value());
        let path = self.checkpoints.save(&self.learner, &self.identity, loss)?;
        record.losses_since_save = Mean::default();
        run.listener.tell(Event::Saved(path));
        if let Err(error) = self.report(record, run.start, &run.text) {
            run.warn(record, format!("no report: {error}"));
        }
        Ok(())
    }

    fn finish(self, record: RunLog) -> Result<Finished<C>> {
        let (metrics, progress) = (record.metrics.lines().to_vec(), self.learner.progress());
        let checkpoint = match &self.lock {
            Some(_) => self.checkpoints.newest()?,
            // The first process has written it, wherever its disk is.
            None => Some(self.checkpoints.path(progress.step)),
        };
        let checkpoint = checkpoint.ok_or_else(|| Error::checkpoint(&self.config.output, "the checkpoint is gone"))?;
        Ok(Finished {
            policy: self.learner.policy(),
            checkpoint,
            steps: progress.step,
            is_interrupted: progress.step < self.config.steps,
            skipped: progress.skipped,
            loss: metrics.last().map_or(f64::NAN, |line| line.loss),
            metrics,
        })
    }

    fn report(&self, record: &RunLog, start: RunStart, configuration: &str) -> Result<()> {
        let (output, progress) = (&self.config.output, self.learner.progress());
        let metrics = record.metrics.lines();
        let last = metrics.last();
        let mut facts: Vec<Fact> = vec![
            ("steps", format!("{} of {}", progress.step, self.config.steps)),
            ("samples seen", progress.observations.to_string()),
            ("effective batch", start.effective_batch.to_string()),
            ("devices", start.ranks.to_string()),
            ("samples of the data", start.samples.to_string()),
            ("trained parameters", format!("{} of {}", start.trained_parameters, start.parameters)),
            ("samples a second, last logged", format!("{:.1}", last.map_or(0.0, |line| line.samples_per_second))),
            ("memory, as estimated before", start.memory.to_string()),
            ("skipped steps", progress.skipped.to_string()),
            (
                "best checkpoint",
                self.checkpoints.best().map_or("none".into(), |(step, loss)| format!("step {step}, loss {loss:.4}")),
            ),
        ];
        for (what, errors) in [("held out", record.held_out), ("held out, averaged weights", record.held_out_ema)] {
            let text = |errors: Errors| format!("loss {:.4}, action error {:.4}", errors.loss, errors.rmse);
            facts.extend(errors.map(|errors| (what, text(errors))));
        }
        facts.extend(last.map(|line| ("milliseconds of a step", line.times.to_string())));
        facts.extend(peak_memory().map(|bytes| ("memory of the process, at most", format!("{} MB", bytes >> 20))));
        facts.extend(
            self.identity
                .changes
                .iter()
                .map(|change| ("changed", format!("before step {}: {}", change.step, change.text))),
        );
        facts.extend(self.batches.skipped().into_iter().map(|skipped| ("not read", skipped)));
        write_curves(&output.join("curves.png"), metrics)?;
        write_report(&output.join("report.html"), &facts, record.warnings.lines(), metrics, configuration)
    }

    /// What the run begins with.
    pub fn start(&self) -> RunStart {
        let (trained_parameters, parameters) = self.learner.parameter_counts();
        RunStart {
            step: self.learner.progress().step,
            steps: self.config.steps,
            trained_parameters,
            parameters,
            samples: self.batches.samples(),
            effective_batch: self.identity.effective_batch,
            ranks: self.learner.group().size(),
            memory: self.memory,
        }
    }

    /// What is known to make runs fail, and what was changed now.
    pub fn warnings(&self) -> Vec<String> {
        let (batch, step) = (self.identity.effective_batch, self.learner.progress().step);
        let small = self.config.recipe_batch.filter(|&recipe| (batch as f64) < SMALL_BATCH * recipe as f64);
        let small = small.map(|recipe| {
            format!(
                "the effective batch is {batch}, the recipe's is {recipe}: the commonest reason for results that fall \
                 short (raise `accumulate` to {}, or use more devices)",
                (recipe * self.config.accumulate).div_ceil(batch)
            )
        });
        let changes = self.identity.changes.iter().filter(|change| change.step == step);
        let changes = changes.map(|change| format!("the run goes on as another one: {}", change.text));
        small.into_iter().chain(changes).chain(self.scarce.clone()).collect()
    }
}

/// What a run trains on, and what it looks at besides.
pub(crate) struct Source {
    pub(crate) batches: Box<dyn BatchSource>,
    pub(crate) held_out: Option<Probe>,
}

/// What the data are. The first process alone looks at their files; the others must have as many observations.
fn data_of(batches: &dyn BatchSource, processes: &dyn Group) -> Result<Vec<DatasetIdentity>> {
    let samples = processes.gather(vec![batches.samples() as f64])?.concat();
    if let Some(other) = samples.iter().position(|count| *count != samples[0]) {
        let expected = format!("the same for all processes, which is {} observations for the first", samples[0]);
        return Err(Error::config("data", expected, format!("{} for process {other}", samples[other])));
    }
    let own = if processes.rank() == 0 { batches.identity() } else { Vec::new() };
    let text = processes.shared(serde_json::to_string(&own).expect("values under string keys are JSON"))?;
    serde_json::from_str(&text)
        .map_err(|error| Error::Group(format!("what the first process says of the data: {error}")))
}

/// Fails where something is to be held out of batches that come from elsewhere.
fn check_held_out(config: &TrainConfig, held_out: &Option<Probe>) -> Result<()> {
    if config.held_out.is_some() && held_out.is_none() {
        let expected = "null where batches do not come from the configuration's data";
        return Err(Error::config("held_out", expected, "something"));
    }
    Ok(())
}

/// The learner on the devices of the configuration, or on the one that it was made on.
fn on_devices<C: Components>(
    learner: Learner<C>,
    config: &TrainConfig,
    device: &Device,
    processes: &Arc<dyn Group>,
) -> Result<Learner<C>> {
    let named = config.devices.iter().map(|name| name.parse::<DeviceName>()?.open());
    let mut devices: Vec<Device> = named.collect::<Result<_, CoreError>>()?;
    if devices.is_empty() {
        devices.push(device.clone());
    }
    learner.on_devices(&devices, Arc::clone(processes))
}

/// The policy with another dropout, which its configuration then says.
fn with_dropout<C: Components>(policy: Policy<C>, dropout: Option<f64>) -> Policy<C> {
    let Some(dropout) = dropout else { return policy };
    let device = policy.device().clone();
    let Policy { mut config, mut network, tokenizer, statistics, .. } = policy;
    config.action.dropout = dropout;
    network.action = network.action.with_dropout(dropout);
    Policy::new_as(config, network, tokenizer, statistics, &device)
}

/// What a run carries along.
struct Run<F> {
    listener: Listener<F>,
    start: RunStart,
    /// The configuration, as it is written.
    text: String,
    /// The step at which a checkpoint is tried again that failed.
    retry: Option<u64>,
}

impl<F: FnMut(&Event) -> ControlFlow<()>> Run<F> {
    fn warn(&mut self, record: &mut RunLog, text: String) {
        record.warned(&text);
        self.listener.tell(Event::Warning(text));
    }
}

/// Who hears of a run, and may end it.
struct Listener<F> {
    on_event: F,
    /// Broken from the first event on that was answered so.
    flow: ControlFlow<()>,
}

impl<F: FnMut(&Event) -> ControlFlow<()>> Listener<F> {
    fn tell(&mut self, event: Event) {
        if (self.on_event)(&event).is_break() {
            self.flow = ControlFlow::Break(());
        }
    }
}

/// What a run writes besides checkpoints, and what it counts for it. Nothing of it ends a run.
struct RunLog {
    metrics: JsonLines<Metrics>,
    warnings: JsonLines<Warned>,
    events: Option<EventFile>,
    /// Whether the last line could not be written, which is said once.
    has_failed: bool,
    step: u64,
    began: Instant,
    /// The seconds of earlier processes.
    seconds_before: f64,
    logged: Instant,
    samples_since_log: u64,
    steps_since_log: u32,
    loss: Mean,
    gradient_norm: Mean,
    losses_since_save: Mean,
    learning_rate: f64,
    times: StepTimes,
    held_out: Option<Errors>,
    held_out_ema: Option<Errors>,
    /// The step that they are of.
    looked_at: Option<u64>,
}

/// A mean that grows by one value at a time.
#[derive(Default)]
struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn take(&mut self) -> f64 {
        let mean = self.value();
        *self = Self::default();
        mean
    }

    fn value(&self) -> f64 {
        if self.count == 0 { f64::NAN } else { self.sum / self.count as f64 }
    }
}

impl RunLog {
    /// Opens the files in a run's folder, whose lines of later steps were written before the run was killed and are
    /// dropped. Only the process that `writes` touches them.
    fn open<C: Components>(output: &Path, learner: &Learner<C>, writes: bool) -> Result<Self> {
        let step = learner.progress().step;
        let (metrics, warnings) = match writes {
            true => (
                JsonLines::open(&output.join("metrics.jsonl"), |line: &Metrics| line.step <= step)?,
                JsonLines::open(&output.join("warnings.jsonl"), |line: &Warned| line.step <= step)?,
            ),
            false => (JsonLines::default(), JsonLines::default()),
        };
        let seconds_before = metrics.lines().last().map_or(0.0, |line: &Metrics| line.seconds);
        let events = writes.then(|| EventFile::create(&output.join(format!("events.out.tfevents.{step:08}"))));
        Ok(Self {
            metrics,
            warnings,
            has_failed: false,
            events: events.and_then(Result::ok),
            step,
            began: Instant::now(),
            seconds_before,
            logged: Instant::now(),
            samples_since_log: 0,
            steps_since_log: 0,
            loss: Mean::default(),
            gradient_norm: Mean::default(),
            losses_since_save: Mean::default(),
            learning_rate: 0.0,
            times: StepTimes::default(),
            held_out: None,
            held_out_ema: None,
            looked_at: None,
        })
    }

    fn add(&mut self, report: &StepReport) {
        self.step = report.step + 1;
        self.samples_since_log += report.observations as u64;
        self.steps_since_log += 1;
        self.learning_rate = report.learning_rate;
        self.times += report.times;
        if !report.is_skipped {
            self.loss.add(report.loss);
            self.gradient_norm.add(report.gradient_norm);
            self.losses_since_save.add(report.loss);
        }
    }

    fn warned(&mut self, text: &str) {
        // Where there is no room for a line, the warning is still told, and in the report.
        let _ = self.warnings.push(Warned { step: self.step, text: text.to_owned() });
    }

    /// A line of what the steps since the one before came to; and what there is to say where it cannot be written.
    fn log<C: Components>(&mut self, learner: &Learner<C>) -> (Metrics, Option<String>) {
        let seconds = self.logged.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
        let progress = learner.progress();
        let metrics = Metrics {
            step: progress.step,
            loss: self.loss.take(),
            gradient_norm: self.gradient_norm.take(),
            learning_rate: self.learning_rate,
            samples: progress.observations,
            samples_per_second: self.samples_since_log as f64 / seconds,
            waiting: (self.times.data.as_secs_f64() / seconds).min(1.0),
            skipped: progress.skipped,
            seconds: self.seconds_before + self.began.elapsed().as_secs_f64(),
            times: Profile::of(self.times, self.steps_since_log),
            held_out: self.held_out.filter(|_| self.looked_at == Some(progress.step)),
            held_out_ema: self.held_out_ema.filter(|_| self.looked_at == Some(progress.step)),
        };
        let mut values = vec![
            ("loss", metrics.loss),
            ("gradient_norm", metrics.gradient_norm),
            ("learning_rate", metrics.learning_rate),
            ("samples_per_second", metrics.samples_per_second),
        ];
        values.extend(metrics.held_out.map(|errors| ("held_out/loss", errors.loss)));
        values.extend(metrics.held_out.map(|errors| ("held_out/rmse", errors.rmse)));
        values.extend(metrics.held_out_ema.map(|errors| ("held_out_ema/loss", errors.loss)));
        let written = self.metrics.push(metrics);
        let events = self.events.as_mut().map_or(Ok(()), |events| events.scalars(progress.step, &values));
        let failure = written.err().map(|error| error.to_string()).or(events.err().map(|error| error.to_string()));
        let is_new = failure.is_some() && !self.has_failed;
        self.has_failed = failure.is_some();
        self.logged = Instant::now();
        (self.samples_since_log, self.steps_since_log, self.times) = (0, 0, StepTimes::default());
        (metrics, failure.filter(|_| is_new).map(|failure| format!("metrics are not written: {failure}")))
    }
}
