//! Evaluators: programs that try a served policy on goals, and print what came of each.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    str::FromStr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use evo1::CoreError;
use eyre::{Report, Result, ensure, eyre};
use tracing::warn;

use super::{
    episodes::{Episode, Episodes},
    goals::{Goals, listed},
};
use crate::process::{Log, Process, Signals};

/// Evaluators that each of those side by side runs one after the other, so that all end at about the same time.
const SHARES: usize = 4;

/// The command of an evaluator. It is started once for each share of the goals, which are all of one task, and is told of
/// them by the environment (`EVO1_URL`, `EVO1_TASK`, `EVO1_SEEDS`) and where it has `{url}`, `{task}` and `{seeds}` in its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Evaluator {
    text: String,
    words: Vec<String>,
}

impl FromStr for Evaluator {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match shlex::split(text) {
            Some(words) if !words.is_empty() => Ok(Self { text: text.to_owned(), words }),
            _ => Err("expected a program and its arguments, with quotes as in a shell".into()),
        }
    }
}

impl Evaluator {
    /// What results of it depend on: its text, and the contents of files that are named in it, such as a script. Not of its
    /// first word, which is a program of the machine.
    pub(crate) fn identity(&self) -> Result<BTreeMap<String, String>> {
        let mut identity = BTreeMap::from([("command".to_owned(), self.text.clone())]);
        for word in self.words.iter().skip(1).filter(|word| Path::new(word).is_file()) {
            identity.insert(format!("file {word}"), evo1::files::sha256(Path::new(word), |_| ())?);
        }
        Ok(identity)
    }

    fn command(&self, url: &str, share: &Share<'_>) -> Command {
        let seeds = listed(&share.seeds);
        let filled =
            |word: &String| word.replace("{url}", url).replace("{task}", share.task).replace("{seeds}", &seeds);
        let mut command = Command::new(filled(&self.words[0]));
        command.args(self.words[1..].iter().map(filled)).stdin(Stdio::null());
        command.env("EVO1_URL", url).env("EVO1_TASK", share.task).env("EVO1_SEEDS", &seeds);
        command
    }
}

/// What is tried, and how.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) evaluator: Evaluator,
    pub(crate) tasks: Vec<String>,
    /// Of each task.
    pub(crate) goals: Goals,
    /// Evaluators side by side.
    pub(crate) parallel: usize,
}

/// Goals of a task that one process tries.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Share<'a> {
    task: &'a str,
    seeds: Vec<u64>,
}

/// A plan under way.
pub(crate) struct Running<'a> {
    pub(crate) plan: &'a Plan,
    /// Where the policy is served.
    pub(crate) url: &'a str,
    /// The folder for the evaluators' messages.
    pub(crate) logs: PathBuf,
    pub(crate) signals: &'a Signals,
    /// Whether there is no server any more.
    pub(crate) is_over: &'a (dyn Fn() -> bool + Sync),
    /// Hears of each result.
    pub(crate) progress: &'a (dyn Fn(&Episode) + Sync),
}

/// What threads write to.
struct State<'a> {
    episodes: &'a mut Episodes,
    /// What evaluators ran into.
    problems: Vec<String>,
    /// What ends everything.
    failure: Option<Report>,
}

impl Plan {
    /// Fails unless tasks have names that an evaluator can be told.
    pub(crate) fn validate(&self) -> Result<()> {
        let distinct: BTreeSet<&String> = self.tasks.iter().collect();
        ensure!(!self.tasks.is_empty(), "there is no task to try: name at least one");
        ensure!(distinct.len() == self.tasks.len(), "a task is named twice");
        ensure!(self.tasks.iter().all(|task| !task.trim().is_empty()), "a task has no name");
        Ok(())
    }

    /// The goals without a result, at most `most` in a share.
    fn shares(&self, episodes: &Episodes, most: usize) -> VecDeque<Share<'_>> {
        let of_task = |task| {
            let missing: Vec<u64> = self.missing_of(task, episodes).collect();
            let shares = missing.chunks(most.max(1)).map(|seeds| Share { task, seeds: seeds.to_vec() });
            shares.collect::<Vec<_>>()
        };
        self.tasks.iter().flat_map(|task| of_task(task)).collect()
    }

    fn missing_of<'a>(&'a self, task: &'a str, episodes: &'a Episodes) -> impl Iterator<Item = u64> + 'a {
        self.goals.numbers().iter().copied().filter(move |&seed| episodes.of(task, seed).is_none())
    }

    /// Goals without a result.
    pub(crate) fn missing(&self, episodes: &Episodes) -> usize {
        self.tasks.iter().map(|task| self.missing_of(task, episodes).count()).sum()
    }
}

impl Running<'_> {
    /// Tries what has no result yet, and once more, each goal by itself, what has none then; why some still have none.
    ///
    /// # Errors
    /// When the evaluator cannot be started, a result cannot be written, or a signal came.
    pub(crate) fn run(&self, episodes: &mut Episodes) -> Result<Vec<String>> {
        std::fs::create_dir_all(&self.logs).map_err(|reason| CoreError::io("create", &self.logs, reason))?;
        let missing = self.plan.missing(episodes);
        let most = missing.div_ceil(SHARES * self.plan.parallel.max(1));
        let problems = self.round(most, episodes)?;
        let still_missing = self.plan.missing(episodes);
        // Where many goals have given nothing the evaluator is broken: trying every goal by itself would say so late.
        let is_broken = still_missing == missing && most > 1;
        if still_missing == 0 || is_broken || (self.is_over)() {
            return Ok(if still_missing == 0 { Vec::new() } else { problems });
        }
        warn!("{still_missing} goals without a result are tried once more: {}", in_words(&problems));
        self.round(1, episodes)
    }

    fn round(&self, most: usize, episodes: &mut Episodes) -> Result<Vec<String>> {
        let queue = Mutex::new(self.plan.shares(episodes, most));
        let state = Mutex::new(State { episodes, problems: Vec::new(), failure: None });
        std::thread::scope(|scope| {
            for _ in 0..self.plan.parallel.max(1) {
                scope.spawn(|| {
                    loop {
                        if self.signals.came() || (self.is_over)() || lock(&state).failure.is_some() {
                            break;
                        }
                        let Some(share) = lock(&queue).pop_front() else { break };
                        match self.try_share(&share, &state) {
                            Ok(None) => {}
                            Ok(Some(problem)) => lock(&state).problems.push(problem),
                            Err(error) => {
                                lock(&state).failure.get_or_insert(error);
                            }
                        }
                    }
                });
            }
        });
        self.signals.check()?;
        let State { problems, failure, .. } = state.into_inner().unwrap_or_else(PoisonError::into_inner);
        failure.map_or(Ok(problems), Err)
    }

    /// Has an evaluator try a share; why some of it has no result.
    fn try_share(&self, share: &Share<'_>, state: &Mutex<State<'_>>) -> Result<Option<String>> {
        let file_name: String =
            share.task.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
        let (log, messages) = Log::open(&self.logs.join(format!("{file_name}.log")))?;
        let mut command = self.plan.evaluator.command(self.url, share);
        let started = Process::start(command.stderr(messages), self.signals);
        let process =
            started.map_err(|error| eyre!("cannot start `{}`: {error}", command.get_program().to_string_lossy()))?;
        let (mut missing, mut problem): (BTreeSet<u64>, _) = (share.seeds.iter().copied().collect(), None);
        let status = process.run(|line| {
            // Other lines are not ours.
            if !line.trim_start().starts_with('{') {
                return;
            }
            let heard = self.hear(line, share.task, &mut missing, state);
            if let Err(error) = heard {
                problem.get_or_insert_with(|| error.to_string());
            }
        })?;
        let problem = match problem {
            Some(problem) => Some(problem),
            None if !status.success() => Some(format!("it ended with {status}: {}", log.last_lines())),
            None => None,
        };
        if missing.is_empty() {
            if let Some(problem) = problem {
                warn!("{}: every goal has a result, but of the evaluator: {problem}", share.task);
            }
            return Ok(None);
        }
        let (count, of) = (missing.len(), share.seeds.len());
        let problem = problem.unwrap_or_else(|| "it gave no result".into());
        Ok(Some(format!("{}: {count} of {of} goals have no result: {problem}", share.task)))
    }

    /// Takes a line of an evaluator.
    fn hear(&self, line: &str, task: &str, missing: &mut BTreeSet<u64>, state: &Mutex<State<'_>>) -> Result<()> {
        let episode: Episode = serde_json::from_str(line)
            .map_err(|error| eyre!("expected {{\"task\", \"seed\", \"success\", \"steps\"}}, got `{line}`: {error}"))?;
        let is_asked = episode.task == task && missing.remove(&episode.seed);
        ensure!(is_asked, "it gave a result that was not asked for, or a second time: `{line}`");
        (self.progress)(&episode);
        let mut state = lock(state);
        if let Err(error) = state.episodes.add(episode) {
            state.failure.get_or_insert(error);
        }
        Ok(())
    }
}

/// What evaluators ran into, in a line: the first ones.
pub(crate) fn in_words(problems: &[String]) -> String {
    const LISTED: usize = 4;
    let mut text = problems[..problems.len().min(LISTED)].join("; ");
    if problems.len() > LISTED {
        text += &format!("; and {} more", problems.len() - LISTED);
    }
    text
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
