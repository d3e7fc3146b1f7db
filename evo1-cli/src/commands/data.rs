//! `evo1 data`: what a dataset holds, and a picture of one of its episodes.

use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use evo1::config::Cameras;
use evo1_data::{
    DataConfig, Dataset, DatasetConfig, DatasetSource, Episodes, Mixture, Needed, OpenOptions, Problem, ProblemKind,
    VideoPool, VideoReader,
};
use evo1_plot::{
    Lines,
    sheet::{self, Strip},
};
use eyre::Result;
use serde_json::{Value, json};

use crate::{
    common::Common,
    output::say,
    plot::{picture, write_png},
};

/// What is drawn below the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Curves {
    State,
    Action,
}

/// Say what a LeRobot dataset holds, and draw a contact sheet of an episode: its frames, states and actions.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  evo1 data fixtures/lerobot-datasets/v30 --plot sheet.png --episode 1\n  evo1 data fixtures/lerobot-datasets/v30 --check"
)]
pub(crate) struct Data {
    /// Folder of the dataset (version 2.0, 2.1 or 3.0), or hf://datasets/owner/name[@revision]
    #[arg(value_name = "DIR")]
    path: PathBuf,

    /// Where to write the contact sheet
    #[arg(long, value_name = "FILE.png")]
    plot: Option<PathBuf>,

    /// Where to write a recording of the episode for the viewer Rerun (a build with the feature `rerun`)
    #[arg(long, value_name = "FILE.rrd")]
    rrd: Option<PathBuf>,

    /// The episode that is drawn or recorded
    #[arg(long, value_name = "N", default_value_t = 0)]
    episode: usize,

    /// Frames of each camera on the contact sheet
    #[arg(long, value_name = "N", default_value = "8")]
    frames: NonZeroUsize,

    /// Curves below the frames of the contact sheet
    #[arg(long, value_enum, value_delimiter = ',', default_value = "state,action")]
    curves: Vec<Curves>,

    /// How states and actions are read
    #[arg(long, value_name = "NAME", default_value = "default")]
    suite: String,

    /// Columns of the state, side by side [default: the suite's]
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    state_key: Vec<String>,

    /// Columns of the action, side by side [default: the suite's]
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    action_key: Vec<String>,

    /// Files may be links out of the folder, as in a Hugging Face cache
    #[arg(long)]
    follow_links: bool,

    /// Read all tables and the indices of all videos once, and say what is wrong, by kind, and what can be done about it
    #[arg(long)]
    check: bool,

    /// Make a copy in this new folder, with metadata that agrees with the tables and videos; other files are hard links
    #[arg(long, value_name = "OUT")]
    repair: Option<PathBuf>,

    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

impl Data {
    pub(crate) fn run(self, common: &Common) -> Result<()> {
        // What cannot be used is shown all the same, with what is wrong with it.
        let options = OpenOptions {
            follow_links: self.follow_links,
            columns: if self.check { None } else { Some(BTreeSet::new()) },
            skip_unreadable: true,
            ..OpenOptions::default()
        };
        let dataset = Dataset::open_at(&self.path, &options, |dataset| {
            let mut needed = Needed::all(dataset);
            if !self.check && self.repair.is_none() {
                // The first episode's videos stand for all.
                needed.episodes.truncate(1);
            }
            Ok(needed)
        })?;
        let mut summary = summary(&dataset);
        let problems = if self.check { check(&dataset) } else { Vec::new() };
        if self.check {
            summary["problems"] = problems.iter().map(described).collect();
            let kinds: BTreeSet<ProblemKind> = problems.iter().map(|problem| problem.kind).collect();
            summary["remedies"] = kinds.into_iter().map(|kind| (kind.to_string(), kind.remedy())).collect();
        }
        let repair = self.repair.as_ref().map(|to| dataset.repair(to)).transpose()?;
        if let Some(repair) = &repair {
            summary["repaired"] = json!(repair.repaired);
            summary["left"] = json!(repair.left);
        }
        if self.json {
            say!("{summary}")?;
        } else {
            print(&summary)?;
            if self.check && problems.is_empty() {
                say!("nothing wrong was found")?;
            }
        }
        if !problems.is_empty() {
            eyre::bail!("{} problems in {}", problems.len(), self.path.display());
        }
        if let Some((repair, to)) = repair.zip(self.repair.as_ref()).filter(|(repair, _)| !repair.left.is_empty()) {
            eyre::bail!("{} disagreements are left in {}", repair.left.len(), to.display());
        }
        if self.plot.is_none() && self.rrd.is_none() {
            return Ok(());
        }
        let keys = [("state_key", &self.state_key), ("action_key", &self.action_key)];
        let given = keys.into_iter().filter(|(_, columns)| !columns.is_empty());
        let config = DatasetConfig {
            suite_config: given.map(|(name, columns)| (name.to_owned(), json!(columns))).collect(),
            process_suite: self.suite.clone(),
            episodes: Some(Episodes::List(vec![self.episode])),
            follow_links: self.follow_links,
            ..DatasetConfig::new(&self.path)
        };
        let mixture = Mixture::open_with(&DataConfig::single(config), 1, &Cameras::default(), &common.suites)?;
        let source = &mixture.sources()[0];
        if let Some(path) = &self.plot {
            self.draw(source, path)?;
        }
        if let Some(path) = &self.rrd {
            self.record(source, path)?;
        }
        Ok(())
    }

    #[cfg(feature = "rerun")]
    fn record(&self, source: &DatasetSource, path: &Path) -> Result<()> {
        let bar = indicatif::ProgressBar::new(0);
        let recording = source.recording(self.episode, &VideoPool::new(NonZeroUsize::MIN), |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        })?;
        bar.finish_and_clear();
        Ok(evo1::files::write_atomically(path, &recording)?)
    }

    #[cfg(not(feature = "rerun"))]
    fn record(&self, _: &DatasetSource, path: &Path) -> Result<()> {
        eyre::bail!(
            "{} is not written, since this build makes no recordings: build with `--features rerun`",
            path.display()
        )
    }

    fn draw(&self, source: &DatasetSource, path: &Path) -> Result<()> {
        let table = source.dataset.table(self.episode)?;
        let (rows, videos) = (table.rows(), VideoPool::new(NonZeroUsize::MIN));
        let count = self.frames.get().min(rows);
        let shown: Vec<usize> = (0..count).map(|at| at * (rows - 1) / (count - 1).max(1)).collect();
        let mut strips = Vec::new();
        for camera in source.cameras() {
            let mut frames = Vec::new();
            for &number in &shown {
                let frame = source.frame(&table, self.episode, number, camera, &videos)?;
                frames.push((format!("frame {number}"), picture(&frame)?));
            }
            strips.push(Strip { name: camera.to_owned(), frames });
        }
        let (mut states, mut actions) = (Vec::new(), Vec::new());
        for frame in 0..rows {
            states.extend(source.state(&table, self.episode, frame)?);
            actions.extend(source.action(&table, self.episode, frame)?);
        }
        let lines = |values, what, feature, y_name| Lines {
            values,
            names: source.dimension_names(what, feature, values.len() / rows),
            x_name: "frame of the episode",
            y_name,
        };
        let charts: Vec<Lines<'_>> = self
            .curves
            .iter()
            .map(|curves| match curves {
                Curves::State => lines(&states, "state", "observation.state", "state (robot units)"),
                Curves::Action => lines(&actions, "action", "action", "action (robot units)"),
            })
            .collect();
        let instruction = source.instruction(&table, self.episode, 0)?;
        let title = format!("Episode {}: {instruction}", self.episode);
        write_png(path, sheet::draw(&title, &strips, &charts))
    }
}

/// What is wrong with a dataset.
fn check(dataset: &Dataset) -> Vec<Problem> {
    let bar = indicatif::ProgressBar::new(0);
    let problems = dataset.check(|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    problems
}

fn described(problem: &Problem) -> Value {
    json!({ "kind": problem.kind.to_string(), "episode": problem.episode, "message": problem.message })
}

/// What a dataset holds.
fn summary(dataset: &Dataset) -> Value {
    let (info, episodes) = (dataset.info(), dataset.episodes());
    let lengths = || episodes.iter().map(|episode| episode.length);
    let mut features = serde_json::Map::new();
    for (name, feature) in &info.features {
        // The first episode's video stands for all.
        let first = episodes.first().filter(|_| feature.is_video());
        let codec = first.map(|episode| {
            let codec = dataset.clip(episode.index, name).and_then(|clip| VideoReader::codec_of(&clip.path));
            codec.map_or_else(|error| format!("not readable: {error}"), str::to_owned)
        });
        let names = feature.dimension_names();
        let mut entry = json!({ "dtype": feature.dtype, "shape": feature.shape, "names": names, "codec": codec });
        if feature.is_depth() {
            entry["is_depth"] = true.into();
        }
        features.insert(name.clone(), entry);
    }
    json!({
        "version": info.codebase_version,
        "robot": info.robot_type,
        "episodes": episodes.len(),
        "frames": lengths().sum::<usize>(),
        "fps": info.fps,
        "shortest_episode": lengths().min(),
        "longest_episode": lengths().max(),
        "tasks": dataset.tasks().values().collect::<Vec<_>>(),
        "features": features,
        "disagreements": dataset.disagreements(),
    })
}

/// Problems of a kind that are printed.
const MOST_SHOWN: usize = 20;

fn print(summary: &Value) -> Result<()> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    for key in ["version", "robot", "episodes", "frames", "fps", "shortest_episode", "longest_episode"] {
        say!("{:<20} {}", key.replace('_', " "), text(&summary[key]))?;
    }
    for (number, task) in summary["tasks"].as_array().into_iter().flatten().enumerate() {
        say!("{:<20} {}", format!("task {number}"), text(task))?;
    }
    for (name, feature) in summary["features"].as_object().into_iter().flatten() {
        let codec = feature["codec"].as_str().map_or_else(String::new, |codec| format!(", {codec}"));
        let depth = if feature["is_depth"] == true { ", depth: no view unless named" } else { "" };
        say!("{name:<42} {} {}{codec}{depth}", text(&feature["dtype"]), feature["shape"])?;
    }
    for (what, key) in
        [("disagreement", "disagreements"), ("repaired in the copy", "repaired"), ("left in the copy", "left")]
    {
        for found in summary[key].as_array().into_iter().flatten() {
            say!("{what:<20} {}", text(found))?;
        }
    }
    for (kind, remedy) in summary["remedies"].as_object().into_iter().flatten() {
        let problems = summary["problems"].as_array().into_iter().flatten();
        let of_kind: Vec<&Value> = problems.filter(|problem| problem["kind"] == kind[..]).collect();
        say!("{kind}: {} problems; {}", of_kind.len(), text(remedy))?;
        for problem in of_kind.iter().take(MOST_SHOWN) {
            let episode =
                problem["episode"].as_u64().map_or_else(String::new, |episode| format!("episode {episode}: "));
            say!("  {episode}{}", text(&problem["message"]))?;
        }
        if of_kind.len() > MOST_SHOWN {
            say!("  … and {} more; `--json` has all", of_kind.len() - MOST_SHOWN)?;
        }
    }
    Ok(())
}
