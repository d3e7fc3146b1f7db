//! Success rates, by task, by group and over all.

use std::path::Path;

use evo1::files::write_atomically;
use evo1_plot::{Bar, bars};
use eyre::Result;
use serde::Serialize;

use super::{
    episodes::{Episode, Episodes},
    evaluator::Plan,
};
use crate::plot::write_png;

/// The 97.5th percentile of the normal distribution: of 95 % intervals.
pub(crate) const Z: f64 = 1.959_963_984_540_054;

/// The interval in which a success rate lies with 95 %, after Wilson.
pub(crate) fn wilson(successes: usize, episodes: usize) -> (f64, f64) {
    if episodes == 0 {
        return (0.0, 1.0);
    }
    let n = episodes as f64;
    let (rate, z2) = (successes as f64 / n, Z * Z);
    let scale = 1.0 + z2 / n;
    let (center, half) = (rate + z2 / (2.0 * n), Z * (rate * (1.0 - rate) / n + z2 / (4.0 * n * n)).sqrt());
    // Exact at the ends, where rounding would leave something.
    let low = if successes == 0 { 0.0 } else { (center - half) / scale };
    let high = if successes == episodes { 1.0 } else { (center + half) / scale };
    (low, high)
}

/// Successes of some episodes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Rate {
    pub(crate) name: String,
    pub(crate) successes: usize,
    pub(crate) episodes: usize,
    /// Goals that no result came of.
    pub(crate) missing: usize,
    /// Of the episodes; nothing of none.
    pub(crate) rate: Option<f64>,
    /// Its 95 % interval.
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// Of the episodes that succeeded.
    pub(crate) mean_steps: Option<f64>,
}

impl Rate {
    pub(crate) fn of<'a>(name: &str, episodes: impl IntoIterator<Item = &'a Episode>, missing: usize) -> Self {
        let (mut successes, mut count, mut steps) = (0, 0, 0);
        for episode in episodes {
            count += 1;
            if episode.success {
                successes += 1;
                steps += episode.steps;
            }
        }
        let (low, high) = wilson(successes, count);
        let mean = |sum: f64, of: usize| (of > 0).then(|| sum / of as f64);
        Self {
            name: name.to_owned(),
            successes,
            episodes: count,
            missing,
            rate: mean(successes as f64, count),
            low,
            high,
            mean_steps: mean(steps as f64, successes),
        }
    }

    /// The rate in words: `83.3 % (64.1–93.3)`.
    pub(crate) fn in_percent(&self) -> String {
        let Some(rate) = self.rate else { return "–".into() };
        format!("{:.1} % ({:.1}–{:.1})", 100.0 * rate, 100.0 * self.low, 100.0 * self.high)
    }
}

/// What came of a plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// All episodes together.
    pub(crate) all: Rate,
    pub(crate) mean_of_tasks: Option<f64>,
    /// In the order in which they come up; none where evaluators name none.
    pub(crate) groups: Vec<Rate>,
    pub(crate) mean_of_groups: Option<f64>,
    /// In the plan's order.
    pub(crate) tasks: Vec<Rate>,
    /// Tasks and goals without a result.
    pub(crate) missing: Vec<(String, u64)>,
    pub(crate) episodes: Vec<Episode>,
}

impl Summary {
    pub(crate) fn of(plan: &Plan, results: &Episodes) -> Self {
        let (mut episodes, mut missing) = (Vec::new(), Vec::new());
        for task in &plan.tasks {
            for &seed in plan.goals.numbers() {
                match results.of(task, seed) {
                    Some(episode) => episodes.push(episode.clone()),
                    None => missing.push((task.clone(), seed)),
                }
            }
        }
        let of_task = |task: &String| {
            let own = episodes.iter().filter(|episode| episode.task == *task);
            Rate::of(task, own, missing.iter().filter(|(name, _)| name == task).count())
        };
        let mut names: Vec<&String> = Vec::new();
        for group in episodes.iter().filter_map(|episode| episode.group.as_ref()) {
            if !names.contains(&group) {
                names.push(group);
            }
        }
        let of_group = |name: &String| {
            let own: Vec<&Episode> = episodes.iter().filter(|episode| episode.group.as_ref() == Some(name)).collect();
            let is_own = |task: &String| own.iter().any(|episode| episode.task == *task);
            let missing = missing.iter().filter(|(task, _)| is_own(task)).count();
            Rate::of(name, own.iter().copied(), missing)
        };
        let tasks: Vec<Rate> = plan.tasks.iter().map(of_task).collect();
        let groups: Vec<Rate> = names.into_iter().map(of_group).collect();
        Self {
            all: Rate::of("all", &episodes, missing.len()),
            mean_of_tasks: mean(&tasks),
            mean_of_groups: mean(&groups),
            groups,
            tasks,
            missing,
            episodes,
        }
    }

    /// Tasks, then groups, then all.
    fn rates(&self) -> impl Iterator<Item = (&'static str, &Rate)> {
        let tasks = self.tasks.iter().map(|rate| ("task", rate));
        let groups = self.groups.iter().map(|rate| ("group", rate));
        tasks.chain(groups).chain([("all", &self.all)])
    }

    /// Lines for people.
    pub(crate) fn table(&self) -> String {
        let width = self.rates().map(|(_, rate)| rate.name.chars().count()).max().unwrap_or(0);
        let mut text = format!("{:width$}  {:>11}  {:22}  {:>5}\n", "", "successes", "rate (95 %)", "steps");
        let mut before = "task";
        for (kind, rate) in self.rates() {
            if kind != before {
                text.push('\n');
                before = kind;
            }
            let count = format!("{} of {}", rate.successes, rate.episodes);
            let steps = rate.mean_steps.map_or_else(|| "–".into(), |steps| format!("{steps:.0}"));
            text += &format!("{:width$}  {count:>11}  {:22}  {steps:>5}", rate.name, rate.in_percent());
            if rate.missing > 0 {
                text += &format!("  {} missing", rate.missing);
            }
            text.push('\n');
        }
        for (name, mean) in [("tasks", self.mean_of_tasks), ("groups", self.mean_of_groups)] {
            if let Some(mean) = mean {
                text += &format!("mean of the {name}: {:.1} %\n", 100.0 * mean);
            }
        }
        text
    }

    /// A line for each rate.
    fn csv(&self) -> String {
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
        let mut text = "kind,name,successes,episodes,missing,rate,low,high,mean_steps\n".to_owned();
        for (kind, rate) in self.rates() {
            let Rate { name, successes, episodes, missing, low, high, .. } = rate;
            let (name, steps) = (name.replace('"', "\"\""), number(rate.mean_steps));
            let rate = number(rate.rate);
            text += &format!("{kind},\"{name}\",{successes},{episodes},{missing},{rate},{low},{high},{steps}\n");
        }
        text
    }

    /// Writes `success.json`, `success.csv` and, where there is a result, `success.png` into a folder.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        write_atomically(&folder.join("success.json"), serde_json::to_string_pretty(self)?.as_bytes())?;
        write_atomically(&folder.join("success.csv"), self.csv().as_bytes())?;
        let bars: Vec<Bar> = self.rates().filter_map(|(_, rate)| bar(rate)).collect();
        if bars.is_empty() {
            return Ok(());
        }
        let foot = "line: 95 % interval (Wilson) of the episodes' success rate";
        write_png(&folder.join("success.png"), bars::draw_to(100.0, "Success rate (%)", foot, &bars))
    }
}

/// A rate as a bar, in percent.
pub(crate) fn bar(rate: &Rate) -> Option<Bar> {
    Some(Bar {
        name: rate.name.clone(),
        value: 100.0 * rate.rate?,
        whisker: (100.0 * rate.low, 100.0 * rate.high),
        dots: vec![],
        label: format!("{:.1} %, {} of {}", 100.0 * rate.rate?, rate.successes, rate.episodes),
    })
}

/// The mean of those that have a rate; nothing of none.
fn mean(rates: &[Rate]) -> Option<f64> {
    let rates: Vec<f64> = rates.iter().filter_map(|rate| rate.rate).collect();
    (!rates.is_empty()).then(|| rates.iter().sum::<f64>() / rates.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::Identity;

    #[test]
    fn intervals_are_wilsons() {
        // Of SciPy's `binomtest(15, 18).proportion_ci(method="wilson")` and so on.
        for ((successes, episodes), (low, high)) in
            [((15, 18), (0.607_780, 0.941_634)), ((0, 10), (0.0, 0.277_533)), ((81, 263), (0.255_289, 0.366_210))]
        {
            let (is_low, is_high) = wilson(successes, episodes);
            assert!((is_low - low).abs() < 1e-5 && (is_high - high).abs() < 1e-5, "{is_low} {is_high}");
        }
        assert_eq!(wilson(0, 0), (0.0, 1.0));
        assert_eq!(wilson(7, 7).1, 1.0);
    }

    #[test]
    fn rates_are_those_of_tasks_and_groups_and_what_is_missing_is_said() {
        let folder = tempfile::tempdir().expect("folder");
        let mut results = Episodes::open(&folder.path().join("e.jsonl"), &Identity::new(), false).expect("file");
        for (task, group, wins) in [("a", "easy", 2), ("b", "hard", 0), ("c", "hard", 1)] {
            for seed in 0..2 {
                let (task, group) = (task.to_owned(), Some(group.to_owned()));
                results.add(Episode { task, seed, success: seed < wins, steps: 10 + seed, group }).expect("written");
            }
        }
        let tasks: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        let goals = "0:3".parse().expect("goals");
        let plan = Plan { evaluator: "try".parse().expect("a command"), tasks, goals, parallel: 1 };
        let summary = Summary::of(&plan, &results);
        assert_eq!((summary.all.successes, summary.all.episodes, summary.all.missing), (3, 6, 6));
        assert_eq!((summary.tasks[0].rate, summary.tasks[0].mean_steps), (Some(1.0), Some(10.5)));
        assert_eq!((summary.tasks[3].rate, summary.tasks[3].missing), (None, 3));
        assert_eq!(summary.mean_of_tasks, Some(0.5));
        let groups: Vec<_> = summary.groups.iter().map(|rate| (rate.name.as_str(), rate.rate, rate.missing)).collect();
        assert_eq!(groups, [("easy", Some(1.0), 1), ("hard", Some(0.25), 2)]);
        assert_eq!(summary.mean_of_groups, Some(0.625));
        let table = summary.table();
        assert!(
            table.contains("1 of 4") && table.contains("25.0 % (4.6–69.9)") && table.contains("6 missing"),
            "{table}"
        );
        assert!(table.ends_with("mean of the tasks: 50.0 %\nmean of the groups: 62.5 %\n"), "{table}");
        summary.write(folder.path()).expect("written");
        let csv = std::fs::read_to_string(folder.path().join("success.csv")).expect("csv");
        assert!(csv.contains("task,\"d\",0,0,3,,0,1,\n") && csv.contains("group,\"hard\",1,4,2,0.25,"), "{csv}");
        assert!(folder.path().join("success.png").is_file());
        let json = std::fs::read_to_string(folder.path().join("success.json")).expect("json");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!((json["missing"][0][0].as_str(), json["episodes"][1]["seed"].as_u64()), (Some("a"), Some(1)));
    }
}
