//! One dataset as it is used: states and actions by its suite, frames by the names of its cameras.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use evo1_core::{Frame, Observation, StatisticsKey, View, config::Cameras};
use image::ColorType;

use crate::{
    Dataset, DatasetConfig, Error, Feature, MissingVideo, Needed, OpenOptions, Part, Result, Suite, Suites, Table,
    VideoPool,
    sample::{Sample, SampleId},
    video::Wanted,
};

/// A dataset of a configuration.
#[derive(Debug)]
pub struct DatasetSource {
    /// The arm key.
    pub group: String,
    /// Arm and dataset key, `arm/dataset`.
    pub name: Arc<str>,
    /// Its files.
    pub dataset: Dataset,
    /// How it is used.
    pub config: DatasetConfig,
    /// The camera that each view shows; nothing where the dataset lacks a camera of the policy's.
    pub views: Vec<Option<String>>,
    /// The embodiment of its samples.
    pub embodiment: usize,
    suite: Box<dyn Suite>,
    /// Numbers of the episodes that are used.
    episodes: Vec<usize>,
    /// Views that are absent in an episode, by its number and the view's.
    absent: BTreeSet<(usize, usize)>,
}

impl DatasetSource {
    /// Opens a dataset for a policy with these cameras. `embodiment` is used when the configuration names none;
    /// `skip_unreadable` is [`OpenOptions::skip_unreadable`].
    pub(crate) fn open(
        group: &str,
        name: &str,
        config: &DatasetConfig,
        embodiment: usize,
        suites: &Suites,
        cameras: &Cameras,
        (part, skip_unreadable): (Part, bool),
    ) -> Result<Self> {
        let name = format!("{group}/{name}");
        let suite = suites.build(&config.process_suite, &config.suite_config).map_err(|message| Error::Suite {
            dataset: name.clone(),
            suite: config.process_suite.clone(),
            message,
        })?;
        let others = config.weight_column.iter().chain(&config.exclude_frames.column).cloned();
        let options = OpenOptions {
            follow_links: config.follow_links,
            columns: suite.columns().map(|columns| columns.into_iter().chain(others).collect()),
            time: config.time,
            skip_unreadable,
            ..OpenOptions::default()
        };
        let chosen = |dataset: &Dataset| {
            let present = dataset.episodes().iter().map(|episode| episode.index);
            let chosen = config.chosen_episodes(present).map_err(|unfit| {
                evo1_core::Error::invalid("data configuration", format!("{name}.episodes"), unfit.expected, unfit.got)
            });
            chosen.map(|episodes| part.of(episodes))
        };
        let dataset = Dataset::open_at(&config.path, &options, |dataset| {
            let cameras = views(&name, config, dataset, cameras)?.into_iter().flatten().collect();
            Ok(Needed { episodes: chosen(dataset)?, cameras })
        })?;
        let episodes = chosen(&dataset)?;
        let views = views(&name, config, &dataset, cameras)?;
        let is_unseen_depth = |camera: &&str| {
            dataset.feature(camera).is_ok_and(Feature::is_depth) && !views.iter().flatten().any(|view| view == camera)
        };
        let depth: Vec<&str> = dataset.info().cameras().filter(is_unseen_depth).collect();
        if config.view_map.is_empty() && !depth.is_empty() {
            let depth = depth.join(", ");
            tracing::warn!("{name}: {depth} shows depth and is no view; a `view_map` that names it makes it one");
        }
        for camera in views.iter().flatten() {
            if !dataset.feature(camera)?.is_camera() {
                return Err(Error::inconsistent(
                    &dataset.info_path(),
                    format!("`{camera}`"),
                    "a camera",
                    "another column",
                ));
            }
        }
        if views.iter().all(Option::is_none) {
            return Err(Error::inconsistent(&dataset.info_path(), "the number of cameras", "at least 1", 0));
        }
        let embodiment = config.embodiment_id.unwrap_or(embodiment);
        let mut source = Self {
            group: group.to_owned(),
            name: name.into(),
            dataset,
            config: config.clone(),
            views,
            embodiment,
            suite,
            episodes,
            absent: BTreeSet::new(),
        };
        if config.missing_video == MissingVideo::Absent {
            source.find_absent()?;
        }
        if let Some(dimension) = source.relative_last_dimension() {
            tracing::warn!(
                "{}: with `use_delta_action` every action is relative to the state up to its last dimension, {dimension}: \
                 if that is a gripper, the suite `custom` with `relative_dims` leaves it absolute",
                source.name
            );
        }
        Ok(source)
    }

    /// Looks for episodes without the video of one of their views.
    fn find_absent(&mut self) -> Result<()> {
        for (view, camera) in self.views.iter().enumerate() {
            let Some(camera) = camera.as_ref() else { continue };
            if !self.dataset.feature(camera)?.is_video() {
                continue;
            }
            let before = self.absent.len();
            let lacking = self.episodes.iter().filter(|&&episode| self.dataset.lacks_video(episode, camera));
            self.absent.extend(lacking.map(|&episode| (episode, view)));
            let count = self.absent.len() - before;
            if count > 0 {
                let total = self.episodes.len();
                tracing::warn!(
                    "{}: {count} of {total} episodes have no video of {camera}: the view is absent",
                    self.name
                );
            }
        }
        let is_blind = |&&episode: &&usize| {
            let mut shown = (0..self.views.len()).filter(|&view| self.views[view].is_some());
            shown.all(|view| self.absent.contains(&(episode, view)))
        };
        match self.episodes.iter().find(is_blind) {
            Some(&episode) => {
                let what = format!("the number of videos of episode {episode}");
                Err(Error::inconsistent(self.dataset.root(), what, "at least 1", 0))
            }
            None => Ok(()),
        }
    }

    /// The last dimension of an action where it is relative to the state, which a gripper must not be.
    fn relative_last_dimension(&self) -> Option<usize> {
        if !self.config.use_delta_action {
            return None;
        }
        // An episode that cannot be read is refused where it is needed.
        let table = self.dataset.table(*self.episodes.first()?).ok()?;
        let widths = (self.suite.action(&table, 0).ok()?.len(), self.suite.state(&table, 0).ok()?.len());
        let last = widths.0.checked_sub(1)?;
        self.suite.relative_dims(widths.0, widths.1).iter().any(|range| range.contains(&last)).then_some(last)
    }

    /// The cameras that views show.
    pub fn cameras(&self) -> impl Iterator<Item = &str> {
        self.views.iter().flatten().map(String::as_str)
    }

    /// The key of its statistics.
    pub fn statistics_key(&self) -> StatisticsKey {
        StatisticsKey { arm: Some(self.group.clone()), dataset: Some(self.dataset_key().to_owned()) }
    }

    /// The dataset key, without the arm.
    pub fn dataset_key(&self) -> &str {
        self.name.strip_prefix(&self.group).and_then(|rest| rest.strip_prefix('/')).unwrap_or(&self.name)
    }

    /// The numbers of the episodes that are used, ascending.
    pub fn episodes(&self) -> impl ExactSizeIterator<Item = usize> + Clone {
        self.episodes.iter().copied()
    }

    /// The state of a frame, in the robot's units, with the dimensions that the configuration chooses.
    pub fn state(&self, table: &Table, episode: usize, frame: usize) -> Result<Vec<f32>> {
        let state = self.whole_state(table, episode, frame)?;
        self.chosen(state, self.config.state_dims.as_deref(), "state_dims", episode)
    }

    /// The action of a frame: relative if the configuration says so, grippers two-valued, dimensions chosen.
    pub fn action(&self, table: &Table, episode: usize, frame: usize) -> Result<Vec<f32>> {
        let action = self.suite.action(table, frame);
        let mut action = self.checked(action, "action", episode, frame)?;
        if self.config.use_delta_action {
            let state = self.whole_state(table, episode, frame)?;
            for range in self.suite.relative_dims(action.len(), state.len()) {
                for (action, state) in action[range.clone()].iter_mut().zip(&state[range]) {
                    *action -= state;
                }
            }
        }
        for gripper in &self.config.binarize_gripper {
            let width = action.len();
            let value = action.get_mut(gripper.index).ok_or_else(|| {
                evo1_core::Error::invalid(&self.name, "binarize_gripper.index", format!("below {width}"), gripper.index)
            })?;
            *value = if *value > gripper.threshold { gripper.above } else { gripper.below };
        }
        self.chosen(action, self.config.action_dims.as_deref(), "action_dims", episode)
    }

    /// A sample that begins at a frame: its observation, and the actions of it and the next `horizon − 1` frames, the
    /// last one repeated past the episode's end.
    pub fn sample(&self, episode: usize, frame: usize, horizon: usize, videos: &VideoPool) -> Result<Sample> {
        let table = self.dataset.table(episode)?;
        let last = table.rows().saturating_sub(1);
        if frame > last {
            let (path, what) = (self.table_path(episode), format!("a frame of episode {episode}"));
            return Err(Error::inconsistent(&path, what, format!("at most {last}"), frame));
        }
        let state = self.state(&table, episode, frame)?;
        let (mut actions, mut action_is_pad, mut action_width) = (Vec::new(), Vec::with_capacity(horizon), 0);
        for step in frame..frame + horizon {
            let action = self.action(&table, episode, step.min(last))?;
            action_width = action.len();
            actions.extend(action);
            action_is_pad.push(step > last);
        }
        let views = self.views.iter().enumerate().map(|(view, camera)| match camera {
            Some(camera) if !self.absent.contains(&(episode, view)) => {
                self.frame(&table, episode, frame, camera, videos).map(View::Present)
            }
            _ => Ok(View::Absent),
        });
        let observation = Observation {
            views: views.collect::<Result<_>>()?,
            state,
            instruction: self.instruction(&table, episode, frame)?.to_owned(),
            embodiment: Some(self.embodiment),
            statistics: self.statistics_key(),
            action_mask: Some(vec![true; action_width]),
            ..Observation::default()
        };
        let id = SampleId { dataset: self.name.clone(), episode, frame };
        Ok(Sample { id, observation, actions, action_width, action_is_pad })
    }

    /// The instruction of a frame: that of its task index, and without such a column the only one of the dataset or of the
    /// episode.
    ///
    /// # Errors
    /// When the task index is none, or without it the episode has several instructions or none.
    pub fn instruction<'a>(&'a self, table: &Table, episode: usize, frame: usize) -> Result<&'a str> {
        const TASK: &str = "task_index";
        let tasks = self.dataset.tasks();
        let bad = |expected: String, got: String| {
            let what = format!("`{TASK}` of episode {episode}, frame {frame}");
            Error::inconsistent(&self.table_path(episode), what, expected, got)
        };
        if let Some(indices) = table.ints(TASK) {
            let task = indices[frame];
            let found = usize::try_from(task).ok().and_then(|task| tasks.get(&task));
            let expected = || format!("one of {:?}", tasks.keys().collect::<Vec<_>>());
            return found.map(String::as_str).ok_or_else(|| bad(expected(), task.to_string()));
        }
        if let Some(reason) = table.reason(TASK) {
            return Err(bad("a whole number".into(), reason.into()));
        }
        self.only_instruction(episode)?.ok_or_else(|| {
            let count = self.dataset.episode(episode).map_or(0, |episode| episode.tasks.len());
            bad("there, or one instruction for the whole episode".into(), format!("none, and {count} instructions"))
        })
    }

    /// The instruction of an episode whose frames all have the same, as far as metadata says it.
    pub(crate) fn only_instruction(&self, episode: usize) -> Result<Option<&str>> {
        let only = match self.dataset.tasks().len() {
            1 => self.dataset.tasks().values().next(),
            _ => match self.dataset.episode(episode)?.tasks.as_slice() {
                [task] => Some(task),
                _ => None,
            },
        };
        Ok(only.map(String::as_str))
    }

    /// Names of a vector's dimensions: those of a feature, where it names as many as there are.
    pub fn dimension_names(&self, what: &str, feature: &str, width: usize) -> Vec<String> {
        let named = self.dataset.feature(feature).map(|feature| feature.dimension_names()).unwrap_or_default();
        if named.len() == width { named } else { (0..width).map(|dimension| format!("{what} {dimension}")).collect() }
    }

    /// A camera's frame.
    pub fn frame(
        &self,
        table: &Table,
        episode: usize,
        frame: usize,
        camera: &str,
        videos: &VideoPool,
    ) -> Result<Frame> {
        if !self.dataset.feature(camera)?.is_video() {
            let bytes = self.dataset.picture(episode, frame, camera)?;
            let is_asked_for = self.config.view_map.values().any(|view| view == camera);
            return picture(&bytes, is_asked_for).map_err(|message| {
                let what = format!("picture `{camera}` of episode {episode}, frame {frame}: {message}");
                Error::format(&self.table_path(episode), "parquet", what)
            });
        }
        let fps = self.dataset.info().fps;
        let clip = self.dataset.clip(episode, camera)?;
        let wanted = match self.config.time.tolerance(fps) {
            None => Wanted::Number(frame),
            Some(tolerance) => {
                let time = table.floats("timestamp", frame).and_then(|times| times.first().copied());
                Wanted::Time { seconds: time.map_or(frame as f64 / fps, f64::from), tolerance }
            }
        };
        videos.with(&clip.path, |video| video.frame_of(&clip, wanted, fps))
    }

    fn whole_state(&self, table: &Table, episode: usize, frame: usize) -> Result<Vec<f32>> {
        self.checked(self.suite.state(table, frame), "state", episode, frame)
    }

    /// A vector that the suite read, if it could and every value is finite.
    fn checked(
        &self,
        vector: Result<Vec<f32>, String>,
        column: &str,
        episode: usize,
        frame: usize,
    ) -> Result<Vec<f32>> {
        let vector = vector.map_err(|message| {
            let message = format!("{message}, which the suite `{}` reads", self.config.process_suite);
            Error::format(&self.table_path(episode), "parquet", message)
        })?;
        match vector.iter().find(|value| !value.is_finite()) {
            Some(&value) => {
                let (path, column) = (self.table_path(episode), column.to_owned());
                Err(Error::NonFinite { path, column, episode, frame, value })
            }
            None => Ok(vector),
        }
    }

    fn chosen(&self, vector: Vec<f32>, dims: Option<&[usize]>, key: &str, episode: usize) -> Result<Vec<f32>> {
        let Some(dims) = dims else { return Ok(vector) };
        dims.iter()
            .map(|&dimension| {
                vector.get(dimension).copied().ok_or_else(|| {
                    let expected = format!("below {}, the width in episode {episode}", vector.len());
                    evo1_core::Error::invalid(&self.name, key, expected, dimension).into()
                })
            })
            .collect()
    }

    /// For messages: where the table of an episode is.
    fn table_path(&self, episode: usize) -> std::path::PathBuf {
        self.dataset.table_path(episode).unwrap_or_else(|_| Path::new(self.dataset.root()).to_owned())
    }
}

/// The camera that each view shows: those of the configuration, or those of the policy.
fn views(name: &str, config: &DatasetConfig, dataset: &Dataset, cameras: &Cameras) -> Result<Vec<Option<String>>> {
    if !config.view_map.is_empty() {
        let known: Vec<&str> = dataset.info().cameras().collect();
        if let Some(unknown) = config.view_map.values().find(|camera| !known.contains(&camera.as_str())) {
            let (field, expected) = (format!("{name}.view_map"), format!("of its cameras: {}", known.join(", ")));
            return Err(evo1_core::Error::invalid("data configuration", field, expected, unknown).into());
        }
        return Ok(config.view_map.values().cloned().map(Some).collect());
    }
    let is_view =
        |camera: &&str| cameras.view(camera).is_some() || !dataset.feature(camera).is_ok_and(Feature::is_depth);
    let views = dataset.info().cameras().filter(is_view);
    let given = views.map(|camera| (camera.to_owned(), camera.to_owned())).collect();
    cameras.arrange(given).map_err(|reason| Error::Cameras { dataset: name.to_owned(), reason: Box::new(reason) })
}

/// A PNG, JPEG or TIFF picture. One of 16 bits, as depth has, is scaled to 8 where a configuration names its camera.
fn picture(bytes: &[u8], is_asked_for: bool) -> Result<Frame, String> {
    let picture = image::load_from_memory(bytes).map_err(|error| error.to_string())?;
    if matches!(picture.color(), ColorType::Rgb32F | ColorType::Rgba32F) {
        return Err("it has fractions for levels, of which nothing says the range".into());
    }
    if picture.color().bytes_per_pixel() > picture.color().channel_count() && !is_asked_for {
        return Err("it has more than 8 bits, as depth has; a `view_map` that names the camera makes it a view".into());
    }
    let picture = picture.into_rgb8();
    let (width, height) = picture.dimensions();
    Frame::new(width as usize, height as usize, picture.into_raw()).map_err(|error| error.to_string())
}
