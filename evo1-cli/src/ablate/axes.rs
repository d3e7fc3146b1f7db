//! The axes of a study by name.

use eyre::{Result, eyre};

/// What an axis changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// A value of the training configuration, by its dotted path.
    Training(&'static str),
    /// A value of the evaluation: cells that differ in nothing else share a training run.
    Evaluation(&'static str),
    /// `single`: everything is trained for all steps. `two`: the action expert for the first half, then everything.
    Stages,
}

/// An axis.
pub(crate) struct Axis {
    pub(crate) name: &'static str,
    pub(crate) target: Target,
    /// What its values are, for messages and documents.
    pub(crate) values: &'static str,
}

const fn axis(name: &'static str, target: Target, values: &'static str) -> Axis {
    Axis { name, target, values }
}

use Target::{Evaluation, Stages, Training};

/// Every axis with a name of its own.
pub(crate) const AXES: [Axis; 29] = [
    axis("expert", Training("policy.overrides.action.expert"), "diffusion-transformer"),
    axis("vlm", Training("policy.overrides.vlm.model"), "internvl3"),
    axis(
        "integration",
        Training("policy.overrides.action.design.integration"),
        "mid-layer-cross, interleaved, layer-wise, joint-kv",
    ),
    axis("layer_pairing", Training("policy.overrides.action.design.layer_pairing"), "a language layer for each block"),
    axis("state", Training("policy.overrides.action.design.state"), "token, per-step, absent"),
    axis("time", Training("policy.overrides.action.design.time"), "added, ada-ln"),
    axis("head", Training("policy.overrides.action.design.head"), "seq-pool, per-step"),
    axis("blocks", Training("policy.overrides.action.num_layers"), "blocks of the action expert"),
    axis("horizon", Training("policy.overrides.action.horizon"), "steps of an action chunk"),
    axis("embodiments", Training("policy.overrides.action.num_categories"), "1: shared, more: heads for each"),
    axis("vlm_layers", Training("policy.overrides.vlm.language.num_layers"), "language layers kept"),
    axis("vision_layers", Training("policy.overrides.vlm.vision.num_layers"), "layers of the vision tower"),
    axis("noise", Training("policy.overrides.flow.noise"), "uniform, normal"),
    axis("time_draw", Training("policy.overrides.flow.time_draw"), "beta(a, b), uniform, logit-normal(mean, std)"),
    axis("kappa", Training("policy.overrides.semantics.time_scale"), "κ of the time table, for example 999 or 1000"),
    axis(
        "loss",
        Training("policy.overrides.semantics.loss"),
        "mean-of-masked-prediction, mean-of-masked-pair, sum-over-mask",
    ),
    axis("profile", Training("policy.profile"), "paper, official, official-flash, lerobot"),
    axis("train_steps", Training("steps"), "steps of training"),
    axis("batch_size", Training("batch_size"), "observations of a batch"),
    axis("draws", Training("draws"), "points on the path for each observation"),
    axis("dropout", Training("dropout"), "from 0 to below 1"),
    axis("learning_rate", Training("optimizer.learning_rate"), "above 0"),
    axis("weight_decay", Training("optimizer.weight_decay"), "at least 0"),
    axis("trained", Training("trained"), "{vision: …, language: …, action: …}, each true or false"),
    axis("stages", Stages, "single, two"),
    axis("steps", Evaluation("steps"), "steps of the sampler"),
    axis("solver", Evaluation("solver"), "euler, heun, midpoint"),
    axis("grid", Evaluation("grid"), "uniform, shifted(s), cosine, given(0, …, 1)"),
    axis("weights", Evaluation("weights"), "f32, int8"),
];

/// An axis by its name, or by the dotted path of a value of the training configuration.
pub(super) fn find(name: &str) -> Result<Option<&'static Axis>> {
    let found = AXES.iter().find(|axis| axis.name == name);
    if found.is_none() && !name.contains('.') {
        let lines: Vec<String> = AXES.iter().map(|axis| format!("  {:14} {}", axis.name, axis.values)).collect();
        return Err(eyre!(
            "there is no axis `{name}`; the axes are\n{}\nor the dotted path of a value of the training configuration, \
             such as optimizer.betas",
            lines.join("\n")
        ));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_that_does_not_exist_is_reported_with_those_that_do() {
        assert!(find("integration").expect("known").is_some());
        assert!(find("optimizer.betas").expect("a path").is_none());
        let Err(error) = find("integratoin") else { panic!("misspelt") };
        let message = error.to_string();
        assert!(message.contains("no axis `integratoin`") && message.contains("joint-kv"), "{message}");
    }
}
