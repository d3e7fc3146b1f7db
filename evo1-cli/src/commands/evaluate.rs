//! `evo1 evaluate`: the loss and the action error of a policy on recorded data, or how often it succeeds.

use std::path::PathBuf;
#[cfg(feature = "serve")]
use std::{
    io::IsTerminal,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use clap::Args;
use evo1::{
    Choice, Components, Policy,
    cost::{Workload, costs_as},
};
use evo1_train::{DataSource, Errors, Evaluation, EvaluationConfig, evaluate_with};
use eyre::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
#[cfg(feature = "serve")]
use {
    evo1::CoreError,
    evo1_train::FileLock,
    eyre::{ensure, eyre},
    tracing::info,
};

#[cfg(feature = "serve")]
use crate::{
    commands::serve::{Background, Serve},
    common::{PROGRESS, folder_sum, local},
    process::Signals,
    rollout::{Episode, Episodes, Evaluator, Identity, Plan, Running, Summary, in_words},
};
use crate::{
    common::{Common, parse_choice},
    output::say,
};

/// Measure a policy: on recorded demonstrations, or by what it does.
///
/// With `--data`, usually demonstrations that it was not trained on: the training loss, and how far predicted actions are from
/// those recorded. Observations, times and noise come from the seed: the same command gives the same numbers.
///
/// With `--rollout`, how often it succeeds. The policy is served at a free port, and COMMAND is started for each share of the goals,
/// with the server's URL, a task and numbers of goals in the environment (`EVO1_URL`, `EVO1_TASK`, `EVO1_SEEDS`) and in place of
/// `{url}`, `{task}` and `{seeds}` in its words. It prints for each goal a line
/// `{"task": "reach-v3", "seed": 7, "success": true, "steps": 83}`, if it likes with a `group` of the task; other lines are
/// ignored. Goals without a result are tried once more. The folder gets `episodes.jsonl`, which the same command goes on with,
/// `success.json`, `success.csv` and `success.png`; rates have 95 % intervals (Wilson).
#[derive(Args)]
#[command(
    after_help = "Examples:\n  evo1 evaluate --policy runs/first/checkpoints/step-00000020 --data recipes/data/example.yaml --batches 2\n  evo1 evaluate --tasks reach-v3,push-v3 --goals 0:20 --out runs/successes \\\n    --rollout 'python scripts/metaworld/rollout.py --size 224 --quality fast --horizon 4 --cameras corner2,behindGripper'\n\nExit codes: 0 every goal has a result, 130 interrupted (what there is is kept), 2 wrong use, 1 anything else: goals without a result, for example"
)]
pub(crate) struct Evaluate {
    /// Policy directory; the embedded policy when left out
    #[arg(long, value_name = "DIR")]
    policy: Option<PathBuf>,

    /// Data configuration, as training reads it; its augmentation and its noise on states are left out
    #[arg(long, value_name = "FILE", required_unless_present = "rollout", conflicts_with = "rollout")]
    data: Option<PathBuf>,

    #[command(flatten)]
    rollout: RolloutOptions,

    /// Batches of 32 observations
    #[arg(long, value_name = "N", default_value_t = 8, conflicts_with = "rollout")]
    batches: usize,

    /// Seed of what is drawn; with `--rollout`, of the noise of a connection's first prediction
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// Steps of the sampler; the policy's own number when left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: Option<u32>,

    /// The solver, for example euler, heun or midpoint; the policy's own when left out
    #[arg(long, value_parser = parse_choice)]
    solver: Option<Choice>,

    /// The times between which the sampler steps, for example uniform, shifted(3) or cosine; the policy's own when left out
    #[arg(long, value_parser = parse_choice)]
    grid: Option<Choice>,

    /// Number type of the weights of linear layers
    #[arg(long, value_enum, default_value_t)]
    weights: WeightType,

    /// Print JSON instead of lines
    #[arg(long)]
    json: bool,
}

/// The number type of the weights while predicting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WeightType {
    /// Single precision.
    #[default]
    F32,
    /// Linear layers in eight bits.
    Int8,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// The training loss.
    pub(crate) loss: f64,
    /// Root of the mean squared difference of predicted and recorded actions, normalised.
    pub(crate) rmse: f64,
    /// Mean absolute difference of predicted and recorded actions, normalised.
    pub(crate) mae: f64,
    /// Observations.
    pub(crate) samples: usize,
    /// Median time from prepared inputs of one observation to its actions.
    pub(crate) milliseconds: f64,
    /// Parameters of the policy.
    pub(crate) parameters: u64,
    /// Floating-point operations of a prediction.
    pub(crate) flops: u64,
}

/// How a policy is tried.
#[derive(Args)]
#[cfg_attr(not(feature = "serve"), allow(dead_code, reason = "they are refused"))]
struct RolloutOptions {
    /// Program, with its arguments, that tries the policy on goals
    #[arg(long, value_name = "COMMAND", requires_all = ["tasks", "goals", "out"])]
    rollout: Option<String>,

    /// Tasks that are tried, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "rollout")]
    tasks: Vec<String>,

    /// Goals of each task, by their numbers: 0:20 for those from 0 to 19, 3,10:20
    #[arg(long, value_name = "GOALS", requires = "rollout")]
    goals: Option<String>,

    /// Folder for the results
    #[arg(long, value_name = "DIR", requires = "rollout")]
    out: Option<PathBuf>,

    /// Evaluators side by side
    #[arg(long, value_name = "N", default_value_t = 1, requires = "rollout", value_parser = clap::value_parser!(u16).range(1..=1024))]
    parallel: u16,

    /// Options of `evo1 serve` for the server, for example '--smoothing 2 --scaling policy'
    #[arg(
        long,
        value_name = "OPTIONS",
        default_value = "",
        requires = "rollout",
        allow_hyphen_values = true,
        hide_default_value = true
    )]
    serve: String,

    /// Drop results in the folder that are of another policy or command, instead of refusing to go on
    #[arg(long, requires = "rollout")]
    fresh: bool,
}

impl Evaluate {
    pub(crate) fn run<C: Components>(self, common: &Common) -> Result<()> {
        #[cfg(feature = "serve")]
        if let Some(command) = &self.rollout.rollout {
            return self.tried::<C>(common, command);
        }
        #[cfg(not(feature = "serve"))]
        if self.rollout.rollout.is_some() {
            bail!("this build cannot serve, and so has no `evo1 evaluate --rollout`: build with `--features serve`");
        }
        let Some(data) = self.data.clone() else { bail!("give `--data FILE` or `--rollout COMMAND`") };
        let policy = self.ready(self.load::<C>(common)?)?;
        let config = EvaluationConfig {
            batches: self.batches,
            seed: self.seed,
            ..EvaluationConfig::new(DataSource::File(data))
        };
        let bar = ProgressBar::new(config.batches as u64)
            .with_style(ProgressStyle::with_template("{bar:40} batch {pos} of {len}, {eta} left")?);
        let evaluation = evaluate_with(&policy, &config, &common.suites, |done| bar.set_position(done as u64))?;
        bar.finish_and_clear();
        let Evaluation { errors: Errors { loss, rmse, mae }, samples, milliseconds } = evaluation;
        let costs = costs_as::<C>(&policy.config, &Workload::of(&policy.config))?;
        let parameters = costs.iter().map(|component| component.parameters).sum();
        let flops = costs.iter().map(|component| component.flops).sum();
        let measured = Measured { loss, rmse, mae, samples, milliseconds, parameters, flops };
        if self.json {
            return say!("{}", serde_json::to_string(&measured)?);
        }
        say!("observations   {samples}")?;
        say!("loss           {loss:.5}")?;
        say!("action error   {rmse:.5} root mean square, {mae:.5} mean absolute, in normalised units")?;
        say!("one prediction {milliseconds:.2} ms, {:.3} GFLOP", flops as f64 / 1e9)
    }

    /// The policy with the sampler of the command line.
    fn load<C: Components>(&self, common: &Common) -> Result<Policy<C>> {
        let device = common.open_device()?;
        let mut policy = common.policy::<C>(self.policy.as_deref(), &device)?;
        if let Some(solver) = &self.solver {
            policy.config.flow.solver = solver.clone();
        }
        if let Some(grid) = &self.grid {
            policy.config.flow.grid = grid.clone();
        }
        if let Some(steps) = self.steps {
            policy.config.num_inference_steps = steps as usize;
        }
        Ok(policy)
    }

    /// A policy with its weights as the command line wants them.
    fn ready<C: Components>(&self, policy: Policy<C>) -> Result<Policy<C>> {
        Ok(match self.weights {
            WeightType::F32 => policy.packed(),
            WeightType::Int8 => policy.quantized()?,
        })
    }

    /// Tries the policy by an evaluator.
    #[cfg(feature = "serve")]
    fn tried<C: Components>(&self, common: &Common, command: &str) -> Result<()> {
        let RolloutOptions { tasks, goals, parallel, .. } = &self.rollout;
        let refused = |option: &'static str| move |message| eyre!("{option}: {message}");
        let plan = Plan {
            evaluator: command.parse::<Evaluator>().map_err(refused("--rollout"))?,
            tasks: tasks.clone(),
            goals: goals.as_deref().unwrap_or_default().parse().map_err(refused("--goals"))?,
            parallel: (*parallel).into(),
        };
        plan.validate()?;
        let serve = Serve::parse(&self.rollout.serve, self.seed).map_err(refused("--serve"))?;
        let Some(out) = &self.rollout.out else { bail!("give `--out DIR`, the folder for the results") };
        std::fs::create_dir_all(out).map_err(|reason| CoreError::io("create", out, reason))?;
        let lock = FileLock::try_take(&out.join("lock"))?;
        let _lock = lock.map_err(|holder| eyre!("{} is in use by {holder}", out.display()))?;
        let mut episodes =
            Episodes::open(&out.join("episodes.jsonl"), &self.identity(common, &plan)?, self.rollout.fresh)?;
        let signals = Signals::listen()?;
        let problems = match plan.missing(&episodes) {
            0 => Vec::new(),
            missing => {
                let policy = self.ready(serve.fitted(self.load::<C>(common)?)?)?;
                let model = serve.served(policy, Common::policy_name(self.policy.as_deref()));
                let server = Background::start(Arc::new(model), &serve)?;
                let shown = Shown::new(missing, common.quiet)?;
                let running = Running {
                    plan: &plan,
                    url: &server.url,
                    logs: out.join("logs"),
                    signals: &signals,
                    is_over: &|| server.is_over(),
                    progress: &|episode| shown.hear(episode),
                };
                let tried = running.run(&mut episodes);
                shown.bar.finish_and_clear();
                let stopped = server.stop();
                let problems = tried?;
                stopped?;
                problems
            }
        };
        let summary = Summary::of(&plan, &episodes);
        summary.write(out)?;
        if self.json {
            say!("{}", serde_json::to_string(&summary)?)?;
        } else {
            say!("{}results in {}", summary.table(), out.display())?;
        }
        let (missing, of) = (summary.missing.len(), summary.missing.len() + summary.episodes.len());
        ensure!(
            missing == 0,
            "{missing} of {of} goals have no result, and count neither way; the same command tries them again. {}",
            in_words(&problems)
        );
        Ok(())
    }

    /// What results depend on.
    #[cfg(feature = "serve")]
    fn identity(&self, common: &Common, plan: &Plan) -> Result<Identity> {
        let mut identity = plan.evaluator.identity()?;
        let policy = match &self.policy {
            Some(folder) => folder_sum(&local(folder)?)?,
            None => Common::policy_name(None),
        };
        let written = |choice: &Option<Choice>| choice.as_ref().map(ToString::to_string);
        let settings = serde_json::json!({
            "serve": self.rollout.serve,
            "seed": self.seed,
            "steps": self.steps,
            "solver": written(&self.solver),
            "grid": written(&self.grid),
            "weights": self.weights,
            "dtype": common.dtype_name(),
            "profile": common.profile.map(|profile| profile.name()),
        });
        identity.insert("policy".into(), policy);
        identity.insert("settings".into(), settings.to_string());
        identity.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        Ok(identity)
    }
}

/// What is seen of evaluators at work: a bar on a terminal, lines elsewhere.
#[cfg(feature = "serve")]
struct Shown {
    bar: ProgressBar,
    /// Results, and successes among them.
    counts: Mutex<(usize, usize, Instant)>,
    missing: usize,
    says_lines: bool,
}

#[cfg(feature = "serve")]
impl Shown {
    /// Between two lines of progress.
    const EVERY: Duration = Duration::from_secs(30);

    fn new(missing: usize, is_quiet: bool) -> Result<Self> {
        let style = ProgressStyle::with_template("{bar:40} goal {pos} of {len}, {msg}, {eta} left")?;
        let bar = if is_quiet { ProgressBar::hidden() } else { ProgressBar::new(missing as u64) };
        let says_lines = !is_quiet && !std::io::stderr().is_terminal();
        Ok(Self { bar: bar.with_style(style), counts: Mutex::new((0, 0, Instant::now())), missing, says_lines })
    }

    fn hear(&self, episode: &Episode) {
        let Episode { task, seed, success, steps, .. } = episode;
        info!("{task}, goal {seed}: {} after {steps} steps", if *success { "success" } else { "no success" });
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.0 += 1;
        counts.1 += usize::from(*success);
        let (done, successes, said) = *counts;
        let text = format!("{:.1} % successful", 100.0 * successes as f64 / done as f64);
        if self.says_lines && (said.elapsed() >= Self::EVERY || done == self.missing) {
            info!(target: PROGRESS, "goal {done} of {}, {text}", self.missing);
            counts.2 = Instant::now();
        }
        self.bar.set_message(text);
        self.bar.set_position(done as u64);
    }
}
