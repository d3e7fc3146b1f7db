//! A whole run: batches, steps, checkpoints, metrics and report.

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use burn::tensor::Device;
use evo1::{
    Components, CoreError, LoadOptions, Policy, Published, VelocityModel, device::DeviceName, files::write_atomically,
};

use crate::{
    BatchSource, Error, Learner, Result, StepReport, TrainBatch, TrainConfig,
    checkpoint::{Checkpoints, restore},
    config::CONFIG_FILE,
    record::{EventFile, Fact, Metrics, MetricsFile, write_curves, write_report},
};

/// A run that is ready to begin, or to go on.
pub struct Trainer<C: Components = Published> {
    config: TrainConfig,
    learner: Learner<C>,
    batches: Box<dyn BatchSource>,
    checkpoints: Checkpoints,
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

impl Trainer {
    /// The run in the configuration's folder, going on from its newest checkpoint with batches of one's own.
    ///
    /// # Errors
    /// When there is no checkpoint, or it does not fit the configuration.
    pub fn resume(config: TrainConfig, batches: Box<dyn BatchSource>, device: &Device) -> Result<Self> {
        Self::resume_with(config, device, |_| Ok(batches))
    }
}

impl<C: Components> Trainer<C> {
    /// A new run of a policy on batches, in a folder that holds no run yet.
    ///
    /// # Errors
    /// When a value of the configuration cannot be used, a batch is larger than the data, or the folder holds a run.
    pub fn new(config: TrainConfig, policy: Policy<C>, batches: Box<dyn BatchSource>) -> Result<Self> {
        config.validate()?;
        let checkpoints = config.output.join("checkpoints");
        if checkpoints.exists() && fs::read_dir(&checkpoints).is_ok_and(|mut entries| entries.next().is_some()) {
            let expected = "a folder without a run in it (`--resume` goes on with one)";
            return Err(Error::config("output", expected, config.output.display()));
        }
        let learner = Learner::new(with_dropout(policy, config.dropout), config.learner()?)?;
        Self::with_learner(config, learner, batches)
    }

    /// [`Trainer::resume`] with batches that are made for the checkpoint's policy.
    pub(crate) fn resume_with(
        config: TrainConfig,
        device: &Device,
        batches: impl FnOnce(&Policy<C>) -> Result<Box<dyn BatchSource>>,
    ) -> Result<Self> {
        config.validate()?;
        let newest = Checkpoints::open(&config.output, config.checkpoints)?.newest()?;
        let newest = newest.ok_or_else(|| Error::checkpoint(&config.output, "there is no checkpoint to go on from"))?;
        let options = LoadOptions { is_strict: config.policy.strict, ..LoadOptions::new(device) };
        let (policy, report) = Policy::load_as::<C>(&newest, &options)?;
        report.warn();
        let batches = batches(&policy)?;
        let learner = restore(&newest, policy, config.learner()?)?;
        Self::with_learner(config, learner, batches)
    }

    fn with_learner(config: TrainConfig, learner: Learner<C>, batches: Box<dyn BatchSource>) -> Result<Self> {
        let (batch, samples) = (batches.batch_size(), batches.samples());
        if batch > samples {
            let expected = format!("at most the {samples} samples of the data");
            return Err(Error::config("batch_size", expected, batch));
        }
        let devices = config.devices.iter().map(|name| name.parse::<DeviceName>()?.open());
        let devices: Vec<Device> = devices.collect::<Result<_, CoreError>>()?;
        let learner = if devices.is_empty() { learner } else { learner.on_devices(&devices) };
        let checkpoints = Checkpoints::open(&config.output, config.checkpoints)?;
        Ok(Self { config, learner, batches, checkpoints })
    }

    /// Runs to the end, or until `on_event` breaks; then, too, a checkpoint is saved.
    ///
    /// # Errors
    /// When the data cannot be read, the network diverges, or the last checkpoint cannot be saved.
    pub fn run(mut self, on_event: impl FnMut(&Event) -> ControlFlow<()>) -> Result<Finished<C>> {
        let document = serde_json::to_value(&self.config).expect("a configuration is JSON");
        let text = serde_saphyr::to_string(&document).map_err(|error| Error::config("config", "YAML", error))?;
        write_atomically(&self.config.output.join(CONFIG_FILE), text.as_bytes())?;
        let mut record = RunLog::open(&self.config.output, &self.learner)?;
        let start = self.start();
        let mut listener = Listener { on_event, flow: ControlFlow::Continue(()) };
        listener.tell(Event::Started(start));
        for warning in self.warnings() {
            record.warnings.push(warning.clone());
            listener.tell(Event::Warning(warning));
        }
        let mut saving = Saving { retry: None, is_saved: self.checkpoints.has(start.step) };
        while self.learner.progress().step < self.config.steps && listener.flow.is_continue() {
            saving.is_saved = false;
            let report = self.step(&mut record)?;
            listener.tell(Event::Step(report));
            if report.is_skipped {
                let text = format!("step {}: loss or gradient not finite, skipped", report.step);
                listener.tell(Event::Warning(text));
            }
            let step = self.learner.progress().step;
            if step.is_multiple_of(self.config.log_every) || step == self.config.steps {
                listener.tell(Event::Logged(record.log(&self.learner)?));
            }
            let is_due = step.is_multiple_of(self.config.checkpoints.every) || saving.retry == Some(step);
            if is_due && step < self.config.steps {
                let saved = self.save(&mut record, start, &text);
                listener.tell(saving.event(step, saved));
            }
        }
        if !saving.is_saved {
            let path = self.save(&mut record, start, &text)?;
            listener.tell(Event::Saved(path));
        }
        self.finish(record)
    }

    fn finish(self, record: RunLog) -> Result<Finished<C>> {
        let checkpoint = self.checkpoints.newest()?;
        let checkpoint = checkpoint.ok_or_else(|| Error::checkpoint(&self.config.output, "the checkpoint is gone"))?;
        let metrics = record.metrics.lines().to_vec();
        let progress = self.learner.progress();
        Ok(Finished {
            policy: self.learner.policy(),
            checkpoint,
            steps: progress.step,
            skipped: progress.skipped,
            loss: metrics.last().map_or(f64::NAN, |line| line.loss),
            metrics,
        })
    }

    fn step(&mut self, record: &mut RunLog) -> Result<StepReport> {
        let first = self.learner.progress().batches;
        let count = (self.config.accumulate * self.config.devices.len().max(1)) as u64;
        let waiting = Instant::now();
        let batches: Vec<TrainBatch> =
            (first..first + count).map(|index| self.batches.batch(index)).collect::<Result<_>>()?;
        record.waited += waiting.elapsed();
        let report = self.learner.step(&batches)?;
        record.add(&report);
        Ok(report)
    }

    fn save(&self, record: &mut RunLog, start: RunStart, configuration: &str) -> Result<PathBuf> {
        let path = self.checkpoints.save(&self.learner, record.loss_since_save())?;
        record.losses_since_save = Mean::default();
        self.report(record, start, configuration)?;
        Ok(path)
    }

    fn report(&self, record: &RunLog, start: RunStart, configuration: &str) -> Result<()> {
        let (output, progress) = (&self.config.output, self.learner.progress());
        let metrics = record.metrics.lines();
        let speed = metrics.last().map_or(0.0, |line| line.samples_per_second);
        let facts: Vec<Fact> = vec![
            ("steps", format!("{} of {}", progress.step, self.config.steps)),
            ("samples seen", record.samples.to_string()),
            ("effective batch", start.effective_batch.to_string()),
            ("samples of the data", start.samples.to_string()),
            ("trained parameters", format!("{} of {}", start.trained_parameters, start.parameters)),
            ("samples a second, last logged", format!("{speed:.1}")),
            ("skipped steps", progress.skipped.to_string()),
            (
                "best checkpoint",
                self.checkpoints.best().map_or("none".into(), |(step, loss)| format!("step {step}, loss {loss:.4}")),
            ),
        ];
        write_curves(&output.join("curves.png"), metrics)?;
        write_report(&output.join("report.html"), &facts, &record.warnings, metrics, configuration)
    }

    fn start(&self) -> RunStart {
        let (trained_parameters, parameters) = self.learner.parameter_counts();
        RunStart {
            step: self.learner.progress().step,
            steps: self.config.steps,
            trained_parameters,
            parameters,
            samples: self.batches.samples(),
            effective_batch: self.config.effective_batch(),
        }
    }

    /// What is known to make runs fail.
    fn warnings(&self) -> Vec<String> {
        let batch = self.config.effective_batch();
        let small = self.config.recipe_batch.filter(|&recipe| (batch as f64) < SMALL_BATCH * recipe as f64);
        let small = small.map(|recipe| {
            format!(
                "the effective batch is {batch}, the recipe's is {recipe}: the commonest reason for results that fall \
                 short (raise `accumulate` to {}, or use more devices)",
                (recipe * self.config.accumulate).div_ceil(batch)
            )
        });
        small.into_iter().collect()
    }
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

/// Whether a run's present step is saved, and when what failed is tried again.
struct Saving {
    retry: Option<u64>,
    is_saved: bool,
}

impl Saving {
    /// What came of saving a checkpoint in the middle of a run: what was saved before is whole, so that the run goes on
    /// even where this one has no room.
    fn event(&mut self, step: u64, saved: Result<PathBuf>) -> Event {
        match saved {
            Ok(path) => {
                (self.retry, self.is_saved) = (None, true);
                Event::Saved(path)
            }
            Err(error) => {
                self.retry = Some(step + RETRY_STEPS);
                Event::Warning(format!("no checkpoint at step {step}, will be tried again: {error}"))
            }
        }
    }
}

/// What a run writes besides checkpoints, and what it counts for it.
struct RunLog {
    metrics: MetricsFile,
    events: EventFile,
    warnings: Vec<String>,
    began: Instant,
    logged: Instant,
    waited: Duration,
    samples: u64,
    samples_since_log: u64,
    loss: Mean,
    gradient_norm: Mean,
    losses_since_save: Mean,
    learning_rate: f64,
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
    fn open<C: Components>(output: &Path, learner: &Learner<C>) -> Result<Self> {
        let step = learner.progress().step;
        let path = output.join(format!("events.out.tfevents.{step:08}"));
        let events = EventFile::create(&path).map_err(|reason| CoreError::io("write", &path, reason))?;
        let metrics = MetricsFile::open(output, step)?;
        let samples = metrics.lines().last().map_or(0, |line| line.samples);
        Ok(Self {
            metrics,
            events,
            warnings: Vec::new(),
            began: Instant::now(),
            logged: Instant::now(),
            waited: Duration::ZERO,
            samples,
            samples_since_log: 0,
            loss: Mean::default(),
            gradient_norm: Mean::default(),
            losses_since_save: Mean::default(),
            learning_rate: 0.0,
        })
    }

    fn add(&mut self, report: &StepReport) {
        self.samples += report.observations as u64;
        self.samples_since_log += report.observations as u64;
        self.learning_rate = report.learning_rate;
        if !report.is_skipped {
            self.loss.add(report.loss);
            self.gradient_norm.add(report.gradient_norm);
            self.losses_since_save.add(report.loss);
        }
    }

    fn loss_since_save(&self) -> f64 {
        self.losses_since_save.value()
    }

    fn log<C: Components>(&mut self, learner: &Learner<C>) -> Result<Metrics> {
        let seconds = self.logged.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
        let progress = learner.progress();
        let metrics = Metrics {
            step: progress.step,
            loss: self.loss.take(),
            gradient_norm: self.gradient_norm.take(),
            learning_rate: self.learning_rate,
            samples: self.samples,
            samples_per_second: self.samples_since_log as f64 / seconds,
            waiting: (self.waited.as_secs_f64() / seconds).min(1.0),
            skipped: progress.skipped,
            seconds: self.began.elapsed().as_secs_f64(),
        };
        self.metrics.push(metrics)?;
        let values = [
            ("loss", metrics.loss),
            ("gradient_norm", metrics.gradient_norm),
            ("learning_rate", metrics.learning_rate),
            ("samples_per_second", metrics.samples_per_second),
        ];
        self.events
            .scalars(progress.step, &values)
            .map_err(|reason| Error::from(CoreError::io("write", "the TensorBoard events", reason)))?;
        (self.logged, self.waited, self.samples_since_log) = (Instant::now(), Duration::ZERO, 0);
        Ok(metrics)
    }
}
