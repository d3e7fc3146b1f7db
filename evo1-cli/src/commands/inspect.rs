//! `evo1 inspect`: what is in a policy or weight file.

use std::path::{Path, PathBuf};

use clap::Args;
use evo1::{
    Components, Policy,
    config::{Cameras, GripperRule, PolicyConfig},
    cost::Workload,
    inspect::{Inspection, Kind, TensorFacts, inspect_as},
};
use eyre::{Result, bail};
use indicatif::HumanBytes;

use super::{bench::Preset, cost};
use crate::{
    common::{Common, byte_bar, local},
    output,
};

/// Show what is in a policy directory, a base model or a weight file: configuration, parameters by component, number
/// types, size and SHA-256, and every tensor with values that no trained network has.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  evo1 inspect evo1/assets/metaworld\n  evo1 inspect --flops --preset evo1\n\nWith --strict, anything unusual ends with exit code 1."
)]
pub(crate) struct Inspect {
    /// Policy directory, base model or weight file; or hf://owner/name
    #[arg(value_name = "PATH", required_unless_present = "preset")]
    path: Option<PathBuf>,

    /// Show parameters and floating-point operations of a prediction by component instead, from the configuration alone
    #[arg(long)]
    flops: bool,

    /// With --flops: the sizes of a preset instead of a policy's
    #[arg(long, requires = "flops", conflicts_with = "path")]
    preset: Option<Preset>,

    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(crate) fn run<C: Components>(self, common: &Common) -> Result<()> {
        if self.flops {
            return self.run_flops::<C>(common);
        }
        let path = local(self.path())?;
        let bar = byte_bar()?;
        let inspection = inspect_as::<C>(&path, |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })?;
        bar.finish_and_clear();
        let text = if self.json { serde_json::to_string_pretty(&inspection)? + "\n" } else { described(&inspection) };
        output::print(format_args!("{text}"))?;
        if common.strict && !inspection.is_clean() {
            bail!("{} is not as it should be", self.path().display());
        }
        Ok(())
    }

    fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    fn run_flops<C: Components>(&self, common: &Common) -> Result<()> {
        let config = match self.preset {
            Some(preset) => preset.config(),
            None => Policy::config_of(&local(self.path())?)?,
        };
        let config = match common.profile {
            Some(profile) => config.with_profile(profile),
            None => config,
        };
        let workload = Workload::of(&config);
        let text = match self.json {
            true => format!("{:#}\n", cost::document::<C>(&config, &workload)?),
            false => cost::table::<C>(&config, &workload)?,
        };
        output::print(format_args!("{text}"))
    }
}

/// A width of the robot's, or that its statistics know it.
fn known(width: Option<usize>) -> String {
    width.map_or_else(|| "as many as statistics have".into(), |width| width.to_string())
}

/// The cameras in the order of the views, and by what other names observations may call them.
fn cameras(policy: &PolicyConfig) -> Vec<String> {
    let Cameras { names, optional, aliases, sizes } = &policy.cameras;
    if names.is_empty() {
        return vec![format!("unknown: up to {} views, in the order in which frames come", policy.max_views)];
    }
    let also = |name: &String| -> String {
        aliases.iter().filter(|(_, stands_for)| *stands_for == name).map(|(alias, _)| format!(", or {alias}")).collect()
    };
    let size = |view: usize| sizes.get(view).map(|[width, height]| format!(", {width} × {height}")).unwrap_or_default();
    let line = |(view, name): (usize, &String)| format!("{name}{}{}", also(name), size(view));
    let mut lines: Vec<String> = names.iter().enumerate().map(line).collect();
    if *optional > 0 {
        lines.push(format!("of which {optional} may be lacking"));
    }
    lines
}

/// How a chunk is executed.
fn execution(policy: &PolicyConfig) -> String {
    let steps = policy.n_action_steps.unwrap_or(policy.action.horizon);
    let gripper = policy.gripper.map_or_else(String::new, |GripperRule { index, threshold, above, below }| {
        format!("; column {index} becomes {above} above {threshold}, else {below}")
    });
    format!("{steps} of {} steps before the next chunk{gripper}", policy.action.horizon)
}

fn described(inspection: &Inspection) -> String {
    let mut text = format!("path          {}\n", inspection.path.display());
    if let Some(config) = &inspection.config {
        let kind = match config.kind {
            Kind::LeRobot => "a LeRobot policy",
            Kind::Authors => "a checkpoint of the authors' code",
            Kind::Base => "a base model",
        };
        text += &format!("kind          {kind}, from {}\n", config.files.join(", "));
        if let (Some(profile), Some(source)) = (config.profile, config.profile_source) {
            text += &format!("profile       {profile}: {source}\n");
        }
        let vlm = &config.vlm;
        text += &format!(
            "model         {0} × {0} pixels, {1} vision layers of {2}, {3} language layers of {4}\n",
            vlm.image_size,
            vlm.vision.num_layers,
            vlm.vision.hidden_size,
            vlm.language.num_layers,
            vlm.language.hidden_size,
        );
        if let Some(policy) = &config.policy {
            let action = &policy.action;
            text += &format!(
                "actions       {} steps of {} (padded to {}), states of {} (padded to {}), {} blocks\n",
                action.horizon,
                known(policy.action_dim),
                action.max_action_dim,
                known(policy.state_dim),
                action.max_state_dim,
                action.num_layers,
            );
        }
        if let Some(policy) = &config.policy {
            text += &listed("cameras", &cameras(policy));
            text += &format!("execution     {}\n", execution(policy));
        }
        text += &listed("unknown keys", &config.unknown_keys);
    }
    text += &format!("names         {}\n", inspection.naming.unwrap_or("of no known kind"));
    for file in &inspection.files {
        let size = HumanBytes(file.bytes);
        text += &format!("file          {}, {size}, sha256 {}\n", file.path.display(), file.sha256);
    }
    text += &format!("\n{:<16}{:>8}{:>15}{:>15}  number types\n", "component", "tensors", "parameters", "expected");
    for component in &inspection.components {
        text += &row(component.component.name(), &component.found, component.expected);
    }
    for (name, tensors) in [("without use", &inspection.skipped), ("unknown", &inspection.other)] {
        if tensors.tensors > 0 {
            text += &row(name, tensors, None);
        }
    }
    let total: u64 = inspection.components.iter().map(|component| component.found.parameters).sum();
    let expected = inspection.components.iter().map(|component| component.expected).sum::<Option<u64>>();
    let tensors = inspection.components.iter().map(|component| component.found.tensors).sum();
    text += &row("all", &TensorFacts { tensors, parameters: total, dtypes: Default::default() }, expected);
    text += "\n";
    if let Some(misfit) = &inspection.misfit {
        text += &format!("fit           {misfit}\n");
    } else if inspection.config.is_some() {
        text += "fit           the weights are those that the configuration asks for\n";
    }
    let findings: Vec<String> = inspection.findings.iter().map(ToString::to_string).collect();
    text + &listed("unusual", &findings)
}

fn row(name: &str, found: &TensorFacts, expected: Option<u64>) -> String {
    let expected = expected.map(grouped).unwrap_or_default();
    let mut dtypes: Vec<&str> = found.dtypes.keys().map(String::as_str).collect();
    dtypes.sort_unstable();
    let line = format!(
        "{name:<16}{:>8}{:>15}{expected:>15}  {}",
        grouped(found.tensors),
        grouped(found.parameters),
        dtypes.join(", ")
    );
    format!("{}\n", line.trim_end())
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

/// A title and what belongs under it, one a line.
fn listed(title: &str, items: &[String]) -> String {
    match items {
        [] => format!("{title:<14}none\n"),
        [first, rest @ ..] => {
            let rest: String = rest.iter().map(|item| format!("{:14}{item}\n", "")).collect();
            format!("{title:<14}{first}\n{rest}")
        }
    }
}
