//! One dataset as it is used: states and actions by its suite, frames by the names of its cameras.

use std::{path::Path, sync::Arc};

use evo1_core::{Frame, Observation, StatisticsKey, View, config::Cameras};

use crate::{
    Dataset, DatasetConfig, Error, OpenOptions, Result, Suite, Suites, Table, VideoPool,
    sample::{Sample, SampleId},
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
}

impl DatasetSource {
    /// Opens a dataset for a policy with these cameras. `embodiment` is used when the configuration names none.
    pub(crate) fn open(
        group: &str,
        name: &str,
        config: &DatasetConfig,
        embodiment: usize,
        suites: &Suites,
        cameras: &Cameras,
    ) -> Result<Self> {
        let options = OpenOptions { follow_links: config.follow_links, ..OpenOptions::default() };
        let dataset = Dataset::open(&config.path, &options)?;
        let name = format!("{group}/{name}");
        let bad = |field: &str, message: String| {
            Error::from(evo1_core::Error::invalid("data configuration", format!("{name}.{field}"), message, "that"))
        };
        let suite = suites.build(&config.process_suite, &config.suite_config).map_err(|message| {
            evo1_core::Error::invalid(
                "data configuration",
                format!("{name}.process_suite"),
                message,
                &config.process_suite,
            )
        })?;
        let total = dataset.episodes().len();
        config.episode_range(total).map_err(|message| bad("episodes", message))?;
        let views: Vec<Option<String>> = if config.view_map.is_empty() {
            let given = dataset.info().cameras().map(|camera| (camera.to_owned(), camera.to_owned())).collect();
            cameras
                .arrange(given)
                .map_err(|reason| Error::Cameras { dataset: name.clone(), reason: Box::new(reason) })?
        } else {
            config.view_map.values().cloned().map(Some).collect()
        };
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
        let source = Self {
            group: group.to_owned(),
            name: name.into(),
            dataset,
            config: config.clone(),
            views,
            embodiment,
            suite,
        };
        if let Some(dimension) = source.relative_last_dimension() {
            tracing::warn!(
                "{}: with `use_delta_action` every action is relative to the state up to its last dimension, {dimension}: \
                 if that is a gripper, the suite `custom` with `relative_dims` leaves it absolute",
                source.name
            );
        }
        Ok(source)
    }

    /// The last dimension of an action where it is relative to the state, which a gripper must not be.
    fn relative_last_dimension(&self) -> Option<usize> {
        if !self.config.use_delta_action {
            return None;
        }
        // An episode that cannot be read is refused where it is needed.
        let table = self.dataset.table(self.episodes().start).ok()?;
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

    /// The numbers of the episodes that are used.
    pub fn episodes(&self) -> std::ops::Range<usize> {
        let total = self.dataset.episodes().len();
        self.config.episode_range(total).unwrap_or(0..total)
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
        let views = self.views.iter().map(|camera| match camera {
            Some(camera) => self.frame(&table, episode, frame, camera, videos).map(View::Present),
            None => Ok(View::Absent),
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

    /// The instruction of a frame.
    pub fn instruction(&self, table: &Table, episode: usize, frame: usize) -> Result<&str> {
        let tasks = self.dataset.tasks();
        let task = match table.ints("task_index") {
            Some(indices) => indices[frame],
            // Without the column the dataset has one instruction.
            None => tasks.keys().next().map_or(0, |&task| task as i64),
        };
        let found = usize::try_from(task).ok().and_then(|task| tasks.get(&task));
        found.map(String::as_str).ok_or_else(|| {
            let what = format!("`task_index` of episode {episode}, frame {frame}");
            Error::inconsistent(
                &self.table_path(episode),
                what,
                format!("one of {:?}", tasks.keys().collect::<Vec<_>>()),
                task,
            )
        })
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
            return picture(&bytes).map_err(|message| {
                let what = format!("picture `{camera}` of episode {episode}, frame {frame}: {message}");
                Error::format(&self.table_path(episode), "parquet", what)
            });
        }
        let fps = self.dataset.info().fps;
        let clip = self.dataset.clip(episode, camera)?;
        let time = match table.floats("timestamp", frame) {
            Some(&[time]) => f64::from(time),
            _ => frame as f64 / fps,
        };
        videos.frame_at(&clip.path, clip.start + time, 0.5 / fps)
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

/// A PNG or JPEG picture.
fn picture(bytes: &[u8]) -> Result<Frame, String> {
    let picture = image::load_from_memory(bytes).map_err(|error| error.to_string())?.into_rgb8();
    let (width, height) = picture.dimensions();
    Frame::new(width as usize, height as usize, picture.into_raw()).map_err(|error| error.to_string())
}
