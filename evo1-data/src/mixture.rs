//! All datasets of a configuration, and how often each frame is drawn.

use std::{
    collections::BTreeMap,
    fmt,
    num::NonZeroUsize,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use evo1_core::{config::Cameras, normalize::Statistics};

use crate::{
    DataConfig, DatasetConfig, DatasetSource, Error, OnError, Part, Result, Suites, Table, VideoPool,
    sample::{Sample, SampleId},
    sampler::{DataSampler, Position, Run},
    statistics::{self, StatisticsPer},
};

/// The datasets that a policy is trained on, open, with the weights of their frames.
pub struct Mixture {
    /// The configuration.
    pub config: DataConfig,
    sources: Vec<DatasetSource>,
    horizon: usize,
    sampler: DataSampler,
    videos: VideoPool,
    skipped: Skipped,
}

/// An episode of which something could not be read and is skipped; displayed, what and why in one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedEpisode {
    /// The first of its frames that failed, of those that were asked for.
    pub sample: SampleId,
    /// What was wrong.
    pub reason: String,
}

impl fmt::Display for SkippedEpisode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sample, reason } = self;
        write!(f, "{sample}: {reason}")
    }
}

/// Episodes that could not be read, by dataset and number.
#[derive(Debug, Default)]
pub(crate) struct Skipped(Mutex<BTreeMap<(usize, usize), SkippedEpisode>>);

impl Skipped {
    /// The episodes that metadata lists and no table holds, of which opening has warned.
    fn listed(sources: &[DatasetSource]) -> Self {
        let mut all = BTreeMap::new();
        for (index, source) in sources.iter().enumerate() {
            for (&episode, reason) in source.dataset.left_out() {
                let sample = SampleId { dataset: source.name.clone(), episode, frame: 0 };
                all.insert((index, episode), SkippedEpisode { sample, reason: reason.clone() });
            }
        }
        Self(Mutex::new(all))
    }

    /// Notes a frame that cannot be read, and warns of the first of each episode. Every frame counts for itself, so that
    /// what is skipped does not depend on what was read before.
    pub(crate) fn note(&self, source: usize, sample: SampleId, error: &Error) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(&(source, sample.episode)).map(|episode| episode.sample.frame);
        if known.is_none() {
            tracing::warn!("what cannot be read is skipped: {error}");
        }
        if known.is_none_or(|frame| sample.frame < frame) {
            let reason = match error {
                // The sample is told beside it.
                Error::Sample { reason, .. } => reason.to_string(),
                other => other.to_string(),
            };
            all.insert((source, sample.episode), SkippedEpisode { sample, reason });
        }
    }
}

impl Mixture {
    /// Opens all datasets of a configuration, for windows of `horizon` actions.
    ///
    /// # Errors
    /// When a dataset cannot be read, a view or suite does not exist, or no frame has a weight.
    pub fn open(config: &DataConfig, horizon: usize) -> Result<Self> {
        Self::open_with(config, horizon, &Cameras::default(), &Suites::default())
    }

    /// [`Self::open`] for a policy with these cameras, with suites of your own.
    ///
    /// # Errors
    /// As there, and when a dataset without a `view_map` has other cameras.
    pub fn open_with(config: &DataConfig, horizon: usize, cameras: &Cameras, suites: &Suites) -> Result<Self> {
        let mut sources = Vec::new();
        for (embodiment, (group, datasets)) in config.data_groups.iter().enumerate() {
            for (name, dataset) in datasets {
                let skips = config.on_error == OnError::Skip;
                let how = (config.part, skips);
                let source = DatasetSource::open(group, name, dataset, embodiment, suites, cameras, how)?;
                // Nothing is held out of a single episode.
                if config.part == Part::All || source.episodes().len() > 0 {
                    sources.push(source);
                }
            }
        }
        let skipped = Skipped::listed(&sources);
        let skips = (config.on_error == OnError::Skip).then_some(&skipped);
        let sampler = DataSampler::new(weighted(&sources, skips)?);
        if sampler.len() == 0 {
            let names = sources.iter().map(|source| &*source.name).collect::<Vec<_>>().join(", ");
            return Err(Error::NoSamples(names));
        }
        let limit = NonZeroUsize::new(config.decoder_cache_size).unwrap_or(NonZeroUsize::MIN);
        Ok(Self { config: config.clone(), sources, horizon, sampler, videos: VideoPool::new(limit), skipped })
    }

    /// The datasets.
    pub fn sources(&self) -> &[DatasetSource] {
        &self.sources
    }

    /// Actions of a sample.
    pub fn horizon(&self) -> usize {
        self.horizon
    }

    /// Samples there are: frames that are not excluded. An epoch has as many draws.
    pub fn len(&self) -> u64 {
        self.sampler.len()
    }

    /// Never: a mixture without samples cannot be opened.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sample that is drawn at a position of the shuffled order.
    pub fn draw(&self, position: Position) -> Result<Sample> {
        let (source, episode, frame) = self.sampler.draw(position);
        self.read(source, episode, frame)
    }

    /// Where the sample that is drawn at a position is from.
    pub fn drawn_id(&self, position: Position) -> SampleId {
        let (source, episode, frame) = self.sampler.draw(position);
        SampleId { dataset: self.sources[source].name.clone(), episode, frame }
    }

    /// Episodes of which something could not be read and is skipped, so far, and those that metadata lists and no table holds.
    pub fn skipped(&self) -> Vec<SkippedEpisode> {
        self.skipped.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Notes a frame that cannot be read.
    pub(crate) fn skip(&self, (source, episode, frame): (usize, usize, usize), error: &Error) {
        let sample = SampleId { dataset: self.sources[source].name.clone(), episode, frame };
        self.skipped.note(source, sample, error);
    }

    /// Statistics of every dataset over exactly the windows that samples are, by arm and dataset key. `progress` is told
    /// after each episode how many of how many are done. Windows whose numbers cannot be read are left out where
    /// unreadable samples are skipped ([`OnError::Skip`]); videos are not looked at.
    pub fn statistics(&self, progress: impl FnMut(usize, usize)) -> Result<Statistics> {
        self.statistics_per(StatisticsPer::Dataset, progress)
    }

    /// The same, of every dataset or of every arm.
    ///
    /// # Errors
    /// When a table cannot be read, or vectors that share their statistics differ in width.
    pub fn statistics_per(&self, per: StatisticsPer, mut progress: impl FnMut(usize, usize)) -> Result<Statistics> {
        let skips = (self.config.on_error == OnError::Skip).then_some(&self.skipped);
        statistics::of_mixture(&self.sources, self.sampler.runs(), self.horizon, per, skips, &mut progress)
    }

    /// The sample at a place of the unshuffled order; nothing past the last one.
    #[cfg(feature = "epochs")]
    pub(crate) fn in_order(&self, place: u64) -> Option<Result<Sample>> {
        let (source, episode, frame) = self.sampler.in_order(place)?;
        Some(self.read(source, episode, frame))
    }

    /// The runs of frames of one weight.
    pub(crate) fn runs(&self) -> &[Run] {
        self.sampler.runs()
    }

    pub(crate) fn locate(&self, position: Position) -> (usize, usize, usize) {
        self.sampler.draw(position)
    }

    pub(crate) fn locate_replacement(&self, position: Position, attempt: usize) -> (usize, usize, usize) {
        self.sampler.replacement(position, attempt)
    }

    pub(crate) fn read(&self, source: usize, episode: usize, frame: usize) -> Result<Sample> {
        let source = &self.sources[source];
        source
            .sample(episode, frame, self.horizon, &self.videos)
            .map_err(|error| error.in_sample(SampleId { dataset: source.name.clone(), episode, frame }))
    }
}

/// The runs of all datasets, their weights scaled to the shares of datasets and tasks.
fn weighted(sources: &[DatasetSource], skips: Option<&Skipped>) -> Result<Vec<Run>> {
    let named = sources.iter().filter(|source| source.config.weight.is_some()).count();
    if named != 0 && named != sources.len() {
        let without = sources.iter().find(|source| source.config.weight.is_none()).map_or("", |source| &source.name);
        return Err(evo1_core::Error::invalid(
            "data configuration",
            format!("{without}.weight"),
            "given for every dataset or none",
            "none",
        )
        .into());
    }
    let mut all = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let mut runs = source_runs(index, source, skips)?;
        if let Some(share) = source.config.weight {
            scale(&mut runs, share, || source.name.to_string())?;
        }
        all.extend(runs);
    }
    Ok(all)
}

/// Scales weights so that they sum up to `share`.
fn scale(runs: &mut [Run], share: f64, name: impl Fn() -> String) -> Result<()> {
    let total: f64 = runs.iter().map(|run| run.weight * run.count as f64).sum();
    if total == 0.0 && share > 0.0 {
        return Err(Error::NoSamples(name()));
    }
    if total > 0.0 {
        runs.iter_mut().for_each(|run| run.weight *= share / total);
    }
    Ok(())
}

fn source_runs(index: usize, source: &DatasetSource, skips: Option<&Skipped>) -> Result<Vec<Run>> {
    let config = &source.config;
    let known = source.dataset.tasks();
    if let Some(weights) = &config.task_weights {
        let is_named = |task: &String| weights.contains_key(task);
        let wrong = known
            .values()
            .find(|task| !is_named(task))
            .or_else(|| weights.keys().find(|name| !known.values().any(|task| task == *name)));
        if let Some(task) = wrong {
            let field = format!("{}.task_weights", source.name);
            let expected = format!("the dataset's instructions: {:?}", known.values().collect::<Vec<_>>());
            let got = if is_named(task) { "one that it does not have" } else { "a list without" };
            return Err(
                evo1_core::Error::invalid("data configuration", field, expected, format!("{got}: {task:?}")).into()
            );
        }
    }
    check_exclusions(source)?;
    let mut by_task: BTreeMap<Option<String>, Vec<Run>> = BTreeMap::new();
    for episode in source.episodes() {
        match (episode_runs(index, source, episode), skips) {
            (Ok(runs), _) => runs.into_iter().for_each(|(task, run)| by_task.entry(task).or_default().push(run)),
            (Err(error), Some(skipped)) => {
                skipped.note(index, SampleId { dataset: source.name.clone(), episode, frame: 0 }, &error);
            }
            (Err(error), None) => return Err(error),
        }
    }
    if let Some(weights) = &config.task_weights {
        for (task, runs) in &mut by_task {
            let name = task.as_deref().unwrap_or_default();
            scale(runs, weights.get(name).copied().unwrap_or(0.0), || format!("{}, task {name:?}", source.name))?;
        }
    }
    Ok(by_task.into_values().flatten().collect())
}

/// Refuses frames to exclude that are not there: whoever names them means others.
fn check_exclusions(source: &DatasetSource) -> Result<()> {
    let bad = |episode: usize, expected: String, got: String| {
        let field = format!("{}.exclude_frames.episodes.{episode}", source.name);
        Error::from(evo1_core::Error::invalid("data configuration", field, expected, got))
    };
    for (&episode, ranges) in &source.config.exclude_frames.episodes {
        let length = match source.dataset.episode(episode) {
            Ok(recorded) => recorded.length,
            Err(error) => return Err(bad(episode, "an episode that is there".into(), error.to_string())),
        };
        if let Some([first, end]) = ranges.iter().find(|[first, _]| *first >= length) {
            return Err(bad(
                episode,
                format!("frames below {length}, the episode's length"),
                format!("[{first}, {end}]"),
            ));
        }
    }
    Ok(())
}

/// The runs of an episode, with their instructions when these have shares.
fn episode_runs(index: usize, source: &DatasetSource, episode: usize) -> Result<Vec<(Option<String>, Run)>> {
    let config = &source.config;
    let (length, stride) = (source.dataset.episode(episode)?.length, config.frame_stride);
    let only = source.only_instruction(episode)?;
    let needs_tasks = config.task_weights.is_some() && only.is_none();
    let needs_columns = config.weight_column.is_some() || config.exclude_frames.column.is_some() || needs_tasks;
    let table = if needs_columns { Some(source.dataset.table(episode)?) } else { None };
    let weight = |frame: usize| -> Result<f64> {
        let mut weight = 1.0;
        for frames in &config.frame_weights {
            if frame >= frames.from && frames.to.is_none_or(|to| frame < to) {
                weight *= frames.weight;
            }
        }
        let excluded = config.exclude_frames.episodes.get(&episode);
        if excluded.is_some_and(|ranges| ranges.iter().any(|&[first, end]| (first..end).contains(&frame))) {
            return Ok(0.0);
        }
        let Some(table) = &table else { return Ok(weight) };
        if let Some(column) = &config.weight_column {
            weight *= scalar(source, table, column, frame)?;
        }
        match &config.exclude_frames.column {
            Some(column) if scalar(source, table, column, frame)? != 0.0 => Ok(0.0),
            _ => Ok(weight),
        }
    };
    let task = |frame: usize| match (&config.task_weights, &table) {
        (None, _) => Ok(None),
        (Some(_), Some(table)) if only.is_none() => source.instruction(table, episode, frame).map(Some),
        (Some(_), _) => Ok(only),
    };
    let mut runs: Vec<(Option<String>, Run)> = Vec::new();
    for frame in (0..length).step_by(stride) {
        let (weight, task) = (weight(frame)?, task(frame)?);
        match runs.last_mut() {
            Some((last, run)) if run.weight == weight && last.as_deref() == task => run.count += 1,
            _ => runs.push((
                task.map(str::to_owned),
                Run { source: index, episode, first: frame, count: 1, stride, weight },
            )),
        }
    }
    Ok(runs)
}

/// A number of a column that must be finite and not negative.
fn scalar(source: &DatasetSource, table: &Table, column: &str, frame: usize) -> Result<f64> {
    let bad = |got: String| {
        let expected = "a column of single numbers";
        Error::inconsistent(&source.dataset.info_path(), format!("`{column}`"), expected, got)
    };
    let value = match (table.ints(column), table.vector(column, frame)) {
        (Some(values), _) => values[frame] as f64,
        (None, Ok(&[value])) => f64::from(value),
        (None, Ok(several)) => return Err(bad(format!("{} values in a row", several.len()))),
        (None, Err(reason)) => return Err(bad(reason)),
    };
    if value.is_finite() && value >= 0.0 {
        return Ok(value);
    }
    let what = format!("`{column}` in frame {frame}");
    Err(Error::inconsistent(&source.dataset.info_path(), what, "a number of at least 0", value))
}

/// The datasets of one folder each, everything at its default; for looking at data.
impl From<DatasetConfig> for DataConfig {
    fn from(dataset: DatasetConfig) -> Self {
        Self::single(dataset)
    }
}

/// Frames of a run.
pub(crate) fn frames(run: &Run) -> std::iter::StepBy<Range<usize>> {
    (run.first..run.first + run.count * run.stride).step_by(run.stride)
}
