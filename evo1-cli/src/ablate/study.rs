//! A study's file, and the cells that it asks for, all checked before anything runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use evo1::{Choice, Components};
use evo1_train::{DataSource, TrainConfig, assign, parse_config};
use eyre::{Result, WrapErr, bail, ensure, eyre};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::axes::{self, Axis, Target};
use crate::{
    commands::{evaluate::WeightType, serve::Serve},
    rollout::{Evaluator, Goals, Plan},
};

/// The file of a study.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// What the study is called.
    title: String,
    /// What the study asks, in a sentence or two.
    #[serde(default)]
    question: String,
    /// A training configuration, or the path of one. Paths in it are relative to the folder that the program runs in.
    base: Value,
    /// Values of the base that are others than its file's.
    #[serde(default)]
    set: Map<String, Value>,
    /// A grid: every combination of the axes' values, the last
    /// axis varying fastest.
    #[serde(default)]
    axes: Map<String, Value>,
    /// A list instead of a grid: the axes' values of each cell.
    #[serde(default)]
    cells: Vec<Map<String, Value>>,
    /// The cell that others are compared with: the first.
    #[serde(default)]
    reference: Option<String>,
    /// A training run of each cell for each of them.
    seeds: Vec<u64>,
    /// What cells are measured on.
    held_out: HeldOut,
    /// What cells do in closed loop, beside: nothing.
    #[serde(default)]
    measure: Option<Measure>,
}

/// How a cell is tried in closed loop, as `evo1 evaluate --rollout` does it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Measure {
    /// The evaluator.
    pub(crate) command: String,
    /// What the policy is to do, by the names that the evaluator knows.
    pub(crate) tasks: Vec<String>,
    /// Goals of each task, as `0:20`, `3,5,8` or a list.
    #[schemars(with = "String")]
    pub(crate) goals: Goals,
    /// Evaluators side by side: 1.
    #[serde(default = "one")]
    pub(crate) parallel: u16,
    /// Options of `evo1 serve`: none.
    #[serde(default)]
    pub(crate) serve: String,
}

fn one() -> u16 {
    1
}

impl Measure {
    /// What results depend on.
    pub(crate) fn identity(&self) -> Result<Value> {
        let Self { tasks, goals, serve, .. } = self;
        Ok(json!([self.plan()?.evaluator.identity()?, tasks, goals, serve]))
    }

    fn plan(&self) -> Result<Plan> {
        let evaluator = self.command.parse::<Evaluator>().map_err(|message| eyre!("`measure.command`: {message}"))?;
        let (tasks, goals) = (self.tasks.clone(), self.goals.clone());
        Ok(Plan { evaluator, tasks, goals, parallel: self.parallel.into() })
    }

    fn validate(&self) -> Result<()> {
        self.plan()?.validate().wrap_err("`measure.tasks`")?;
        ensure!(self.parallel > 0, "`measure.parallel` must be at least 1");
        ensure!(!self.tasks.iter().any(|task| task.contains(',')), "`measure.tasks`: a name with a comma in it");
        Serve::parse(&self.serve, 0).map_err(|message| eyre!("`measure.serve`: {message}"))?;
        Ok(())
    }
}

/// What cells are measured on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeldOut {
    /// The path of a data configuration, or its contents.
    pub(crate) data: DataSource,
    /// Batches of 32 observations: 8.
    #[serde(default = "eight")]
    pub(crate) batches: usize,
}

fn eight() -> usize {
    8
}

/// A study, checked.
#[derive(Debug)]
pub(crate) struct Study {
    pub(crate) title: String,
    pub(crate) question: String,
    pub(crate) cells: Vec<Cell>,
    /// Index of the cell that others are compared with.
    pub(crate) reference: usize,
    pub(crate) seeds: Vec<u64>,
    pub(crate) held_out: HeldOut,
    pub(crate) measure: Option<Measure>,
    /// The study's file.
    pub(crate) text: String,
}

/// What the command line changes of a study's base.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Another base, of which the file's `set` changes nothing.
    pub(crate) base: Option<PathBuf>,
    /// Values of the base, each `dotted.path=value`.
    pub(crate) set: Vec<String>,
}

/// One combination of axes' values.
#[derive(Debug)]
pub(crate) struct Cell {
    /// Its values, for example `joint-kv, vlm_layers 2`.
    pub(crate) name: String,
    /// Training configurations that run one after the other, each from the weights of the one before.
    pub(crate) phases: Vec<Value>,
    pub(crate) evaluation: EvaluationSettings,
}

/// What of a prediction a cell may change without another training run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EvaluationSettings {
    /// Steps of the sampler; the policy's own when `None`.
    pub(crate) steps: Option<usize>,
    /// The solver; the policy's own when `None`.
    pub(crate) solver: Option<Choice>,
    /// The times of the sampler; the policy's own when `None`.
    pub(crate) grid: Option<Choice>,
    pub(crate) weights: WeightType,
}

impl Study {
    /// Reads a study and checks every cell of it.
    ///
    /// # Errors
    /// When an axis or a value is none; the message names those that there are.
    pub(crate) fn read<C: Components>(path: &Path, changes: &Changes) -> Result<Self> {
        let text = evo1::files::read_text(path)?;
        Self::parse::<C>(path, text, changes)
    }

    fn parse<C: Components>(path: &Path, text: String, changes: &Changes) -> Result<Self> {
        let context = || format!("cannot use the study {}", path.display());
        let file: File = parse_config(path, &text, false, &[])?;
        file.study::<C>(text, changes).wrap_err_with(context)
    }
}

impl File {
    fn study<C: Components>(mut self, text: String, changes: &Changes) -> Result<Study> {
        ensure!(!self.seeds.is_empty(), "`seeds` names none: give at least one, for example [0, 1, 2]");
        ensure!(self.held_out.batches > 0, "`held_out.batches` must be at least 1");
        let distinct: BTreeSet<u64> = self.seeds.iter().copied().collect();
        ensure!(distinct.len() == self.seeds.len(), "`seeds` names one twice");
        self.measure.as_ref().map_or(Ok(()), Measure::validate)?;
        self.held_out.data.make_absolute()?;
        if let Some(path) = &changes.base {
            (self.base, self.set) = (path.display().to_string().into(), Map::new());
        }
        let mut base = match &self.base {
            Value::String(path) => evo1_train::read_config(Path::new(path), &[])?,
            base => base.clone(),
        };
        for (key, value) in &self.set {
            assign(&mut base, key, value.clone())?;
        }
        let base: Value = parse_config(Path::new("base"), &base.to_string(), false, &changes.set)?;
        check::<C>(&base).wrap_err("`base`")?;
        let combinations = match (self.axes.is_empty(), self.cells.is_empty()) {
            (false, true) => grid(&self.axes)?,
            (true, false) => self.cells.iter().map(|cell| cell.clone().into_iter().collect()).collect(),
            _ => bail!("give either `axes`, a grid, or `cells`, a list"),
        };
        let mut cells = Vec::new();
        for settings in combinations {
            cells.push(cell::<C>(&base, settings)?);
        }
        let mut names = BTreeMap::new();
        for (index, cell) in cells.iter().enumerate() {
            ensure!(names.insert(cell.name.clone(), index).is_none(), "the cell `{}` is there twice", cell.name);
        }
        let reference = match &self.reference {
            None => 0,
            Some(name) => *names.get(name).ok_or_else(|| {
                eyre!(
                    "there is no cell `{name}` to compare with; the cells are {}",
                    names.keys().cloned().collect::<Vec<_>>().join("; ")
                )
            })?,
        };
        let Self { title, question, seeds, held_out, measure, .. } = self;
        Ok(Study { title, question, cells, reference, seeds, held_out, measure, text })
    }
}

/// Every combination of the axes' values.
fn grid(axes: &Map<String, Value>) -> Result<Vec<Vec<(String, Value)>>> {
    let mut combinations = vec![Vec::new()];
    for (name, values) in axes {
        let values = values.as_array().filter(|values| !values.is_empty());
        let values = values.ok_or_else(|| eyre!("axis `{name}`: expected a list of values"))?;
        combinations = combinations
            .into_iter()
            .flat_map(|combination: Vec<(String, Value)>| {
                values.iter().map(move |value| {
                    let mut combination = combination.clone();
                    combination.push((name.clone(), value.clone()));
                    combination
                })
            })
            .collect();
    }
    Ok(combinations)
}

fn cell<C: Components>(base: &Value, settings: Vec<(String, Value)>) -> Result<Cell> {
    let mut given_name = None;
    let (mut training, mut evaluation, mut is_two_stage) = (base.clone(), json!({}), false);
    let mut shown = Vec::new();
    // Values that fit only together may be refused one after the other: what counts is the last word.
    let mut refusal = None;
    for (name, value) in settings {
        if name == "name" {
            given_name = value.as_str().map(str::to_owned);
            continue;
        }
        let found = axes::find(&name)?;
        let refused = |error: eyre::Report| {
            let values = found.map_or("a value of the training configuration", |axis: &Axis| axis.values);
            eyre!("axis `{name}` cannot be {value}: {error:#} (its values: {values})")
        };
        match found.map(|axis| axis.target) {
            None => {
                assign(&mut training, &name, value.clone())?;
                refusal = refusal.or_else(|| check::<C>(&training).err().map(refused));
            }
            Some(Target::Training(path)) => {
                assign(&mut training, path, value.clone())?;
                refusal = refusal.or_else(|| check::<C>(&training).err().map(refused));
            }
            Some(Target::Evaluation(key)) => {
                assign(&mut evaluation, key, value.clone())?;
                let settings: EvaluationSettings =
                    serde_json::from_value(evaluation.clone()).map_err(|error| refused(error.into()))?;
                if settings.steps == Some(0) {
                    return Err(refused(eyre!("a prediction needs at least 1 step")));
                }
                settings.solver.as_ref().map(C::solver).transpose().map_err(|error| refused(error.into()))?;
                settings.grid.as_ref().map(C::time_grid).transpose().map_err(|error| refused(error.into()))?;
            }
            Some(Target::Stages) => {
                is_two_stage = match value.as_str() {
                    Some("single") => false,
                    Some("two") => true,
                    _ => return Err(refused(eyre!("no such number of stages"))),
                };
            }
        }
        shown.push(value.as_str().map_or_else(|| format!("{name} {value}"), str::to_owned));
    }
    if let Err(error) = check::<C>(&training) {
        return Err(refusal.unwrap_or(error));
    }
    let evaluation = serde_json::from_value(evaluation)?;
    let phases = if is_two_stage { two_stages(&training)? } else { vec![training] };
    Ok(Cell { name: given_name.unwrap_or_else(|| shown.join(", ")), phases, evaluation })
}

/// The action expert for the first half of the steps, then everything.
fn two_stages(training: &Value) -> Result<Vec<Value>> {
    let steps = config(training)?.steps;
    ensure!(steps > 1, "two stages need at least 2 steps, not {steps}");
    let phase = |steps: u64, vlm: bool| {
        let mut phase = training.clone();
        assign(&mut phase, "stage", Value::Null)?;
        assign(&mut phase, "trained", json!({ "vision": vlm, "language": vlm, "action": true }))?;
        assign(&mut phase, "steps", steps.into())?;
        Ok(phase)
    };
    [phase(steps / 2, false), phase(steps - steps / 2, true)].into_iter().collect()
}

/// The training configuration of a document.
pub(super) fn config(document: &Value) -> Result<TrainConfig> {
    Ok(parse_config(Path::new("training configuration"), &document.to_string(), false, &[])?)
}

/// Fails unless a document is a training configuration whose policy can be built.
fn check<C: Components>(document: &Value) -> Result<()> {
    let config = config(document)?;
    config.validate()?;
    if config.policy.preset.is_some() {
        C::check(&config.policy.preset_config()?, "policy")?;
    }
    Ok(())
}

/// The document of a phase of a cell with a seed, an output folder, and the policy that it goes on from.
pub(crate) fn phase_document(phase: &Value, seed: u64, output: &Path, from: Option<&PathBuf>) -> Result<Value> {
    let mut document = phase.clone();
    assign(&mut document, "seed", seed.into())?;
    assign(&mut document, "output", output.display().to_string().into())?;
    if let Some(from) = from {
        assign(&mut document, "policy", json!({ "from": from }))?;
    }
    Ok(document)
}

#[cfg(test)]
pub(super) mod tests {
    use evo1::Published;

    use super::*;

    const BASE: &str = "title: T\nbase: {policy: {preset: tiny}, stage: null, trained: {vision: true, language: true, \
                        action: true}, steps: 10}\nseeds: [0, 1]\nheld_out: {data: data.yaml}\n";

    pub(in crate::ablate) fn study(rest: &str) -> Result<Study> {
        Study::parse::<Published>(Path::new("study.yaml"), format!("{BASE}{rest}"), &Changes::default())
    }

    fn message(rest: &str) -> String {
        format!("{:#}", study(rest).expect_err("must be refused"))
    }

    #[test]
    fn a_grid_has_every_combination() {
        let study = study("axes: {integration: [mid-layer-cross, joint-kv], vlm_layers: [1, 2]}").expect("a study");
        let names: Vec<&str> = study.cells.iter().map(|cell| cell.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "mid-layer-cross, vlm_layers 1",
                "mid-layer-cross, vlm_layers 2",
                "joint-kv, vlm_layers 1",
                "joint-kv, vlm_layers 2"
            ]
        );
        assert_eq!(study.cells[2].phases[0]["policy"]["overrides"]["action"]["design"]["integration"], "joint-kv");
    }

    #[test]
    fn the_command_line_changes_the_base() {
        let changes = Changes { base: None, set: vec!["steps=30".into(), "optimizer.learning_rate=0.01".into()] };
        let text = format!("{BASE}set: {{draws: 2}}\naxes: {{noise: [uniform]}}");
        let study = Study::parse::<Published>(Path::new("study.yaml"), text, &changes).expect("a study");
        let phase = &study.cells[0].phases[0];
        assert_eq!((&phase["steps"], &phase["draws"]), (&json!(30), &json!(2)));
        assert_eq!(phase["optimizer"]["learning_rate"], json!(0.01));
    }

    #[test]
    fn two_stages_have_as_many_steps_as_one() {
        let study = study("cells: [{stages: single}, {name: both, stages: two}]\nreference: both").expect("a study");
        assert_eq!(study.reference, 1);
        let phases = &study.cells[1].phases;
        assert_eq!((phases.len(), &phases[0]["steps"], &phases[1]["steps"]), (2, &json!(5), &json!(5)));
        assert_eq!((&phases[0]["trained"]["vision"], &phases[1]["trained"]["vision"]), (&json!(false), &json!(true)));
    }

    #[test]
    fn what_is_wrong_is_reported_with_what_would_be_right() {
        let wrong = message("axes: {integration: [mid-layer]}");
        assert!(
            wrong.contains("axis `integration` cannot be \"mid-layer\"") && wrong.contains("layer-wise"),
            "{wrong}"
        );
        assert!(message("axes: {integraton: [joint-kv]}").contains("there is no axis `integraton`"));
        assert!(message("axes: {optimizer.rate: [1]}").contains("unknown field `rate`"));
        assert!(message("axes: {solver: [rk4]}").contains("euler, heun, midpoint"));
        assert!(message("axes: {vlm_layers: [0]}").contains("from 1 to 1000"));
        assert!(message("axes: {time_draw: [gamma]}").contains("logit-normal(mean, std)"));
        assert!(message("axes: {stages: [three]}").contains("single, two"));
        assert!(message("axes: {noise: uniform}").contains("expected a list"));
        assert!(message("axes: {steps.more: [1]}").contains("`steps`, which is a value"));
        assert!(message("").contains("either `axes`, a grid, or `cells`"));
        assert!(message("cells: [{noise: normal}, {noise: normal}]").contains("there twice"));
        assert!(message("axes: {noise: [normal]}\nreference: uniform").contains("the cells are normal"));
        let measure = |measure: &str| message(&format!("axes: {{noise: [normal]}}\nmeasure: {{{measure}}}"));
        assert!(measure("command: \"'\", tasks: [a], goals: 1").contains("`measure.command`: expected a program"));
        assert!(measure("command: x, tasks: [a, a], goals: 1").contains("named twice"));
        assert!(measure("command: x, tasks: [a], goals: 3:1").contains("it names no goal"));
        assert!(measure("command: x, tasks: [a], goals: 1, serve: --steps").contains("`measure.serve`"));
    }
}
