//! LeRobot's `config.json` of an `evo1` policy.

use serde_json::{Map, Value, json};

use super::{
    document::{Document, Fields},
    internvl,
};
use crate::{
    Result,
    config::{ActionConfig, Design, GripperRule, PolicyConfig, Profile, VlmConfig},
    normalize::NormalizationType,
};

/// Keys of LeRobot's `config.json` that do not change what the network computes, or whose parts are free names.
pub(super) const KEYS_WITHOUT_EFFECT: [&str; 38] = [
    "type",
    "n_obs_steps",
    "input_features",
    "output_features",
    "device",
    "use_amp",
    "use_peft",
    "push_to_hub",
    "repo_id",
    "private",
    "tags",
    "license",
    "pretrained_path",
    "pretrained_revision",
    "training_stage",
    "n_action_steps",
    "empty_cameras",
    "vlm_model_name",
    "vlm_dtype",
    "use_flash_attn",
    "action_head",
    "enable_gradient_checkpointing",
    "gradient_checkpointing_use_reentrant",
    "finetune_vlm",
    "finetune_language_model",
    "finetune_vision_model",
    "finetune_action_head",
    "apply_training_stage_defaults",
    "task_field",
    "embodiment_id_field",
    "rtc_config",
    "optimizer_lr",
    "optimizer_betas",
    "optimizer_eps",
    "optimizer_weight_decay",
    "optimizer_grad_clip_norm",
    "scheduler_warmup_steps",
    "gripper_index",
];

/// Whether a `config.json` is LeRobot's: it names the type of its policy, the authors' does not.
pub(super) fn is_lerobot(policy: &Document) -> bool {
    policy.root().value("type").is_some()
}

/// Reads a LeRobot configuration.
pub(super) fn read(policy: &Document, vlm: Option<&Document>) -> Result<PolicyConfig> {
    let root = policy.root();
    if let Some(kind) = root.text("type")?
        && kind != "evo1"
    {
        return Err(root.invalid("type", "`evo1`", kind));
    }
    let profile = Profile::LeRobot;
    let mut model = match vlm {
        Some(document) => internvl::native(&document.root())?,
        None => VlmConfig::internvl3_1b(),
    };
    model.image_size = root.square("image_resolution")?.unwrap_or(model.image_size);
    model.language.num_layers = root.count("vlm_num_layers")?.unwrap_or(model.language.num_layers);
    model.return_cls_only = root.flag("return_cls_only")?.unwrap_or(false);

    let action = ActionConfig {
        expert: ActionConfig::published_expert(),
        embed_dim: root.required_count("embed_dim")?,
        hidden_dim: root.required_count("hidden_dim")?,
        state_hidden_dim: root.required_count("state_hidden_dim")?,
        num_heads: root.required_count("num_heads")?,
        num_layers: root.required_count("num_layers")?,
        horizon: root.required_count("chunk_size")?,
        max_action_dim: root.required_count("max_action_dim")?,
        max_state_dim: root.required_count("max_state_dim")?,
        num_categories: root.count("num_categories")?.unwrap_or(1),
        dropout: root.number("dropout")?.unwrap_or(0.0),
        design: Design::default(),
    };
    Ok(PolicyConfig {
        max_views: root.required_count("max_views")?,
        max_text_length: root.count("max_text_length")?.unwrap_or(1024),
        num_inference_steps: root.count("num_inference_timesteps")?.unwrap_or(profile.semantics().default_steps),
        state_dim: feature_width(&root, "input_features", "observation.state")?.unwrap_or(action.max_state_dim),
        action_dim: action_width(&root)?.unwrap_or(action.max_action_dim),
        normalization: normalization(&root)?,
        gripper: gripper(&root)?,
        default_embodiment: root.count("default_embodiment_id")?.unwrap_or(0),
        ..PolicyConfig::of(model, action, profile)
    })
}

/// A LeRobot `config.json` that says what `config` does.
pub fn lerobot_document(config: &PolicyConfig) -> Value {
    let (action, is_binary) = (&config.action, config.gripper.is_some());
    // What LeRobot writes where no gripper is made two-valued.
    let gripper = config.gripper.unwrap_or(GripperRule { index: 6, threshold: 0.5, above: -1.0, below: 1.0 });
    let size = config.vlm.image_size;
    let views: Map<String, Value> = (0..config.max_views)
        .map(|view| {
            let name = format!("observation.images.view{view}");
            (name, json!({ "type": "VISUAL", "shape": [3, size, size] }))
        })
        .chain([("observation.state".into(), json!({ "type": "STATE", "shape": [config.state_dim] }))])
        .collect();
    let mapping = match config.normalization {
        NormalizationType::Bounds => "MIN_MAX",
        NormalizationType::BoundsQ99 => "QUANTILES",
        NormalizationType::Normal => "MEAN_STD",
        NormalizationType::Identity => "IDENTITY",
    };
    json!({
        "type": "evo1",
        "n_obs_steps": 1,
        "input_features": views,
        "output_features": { "action": { "type": "ACTION", "shape": [config.action_dim] } },
        "chunk_size": action.horizon,
        "n_action_steps": action.horizon,
        "max_state_dim": action.max_state_dim,
        "max_action_dim": action.max_action_dim,
        "max_views": config.max_views,
        "image_resolution": [size, size],
        "normalization_mapping": { "VISUAL": "IDENTITY", "STATE": mapping, "ACTION": mapping },
        "vlm_num_layers": config.vlm.language.num_layers,
        "max_text_length": config.max_text_length,
        "embed_dim": action.embed_dim,
        "hidden_dim": action.hidden_dim,
        "state_hidden_dim": action.state_hidden_dim,
        "num_heads": action.num_heads,
        "num_layers": action.num_layers,
        "dropout": action.dropout,
        "num_inference_timesteps": config.num_inference_steps,
        "num_categories": action.num_categories,
        "default_embodiment_id": config.default_embodiment,
        "return_cls_only": config.vlm.return_cls_only,
        "binarize_gripper": is_binary,
        "gripper_index": gripper.index,
        "gripper_threshold": gripper.threshold,
        "gripper_above_threshold_value": gripper.above,
        "gripper_below_threshold_value": gripper.below,
    })
}

/// The robot's action width: `postprocess_action_dim` if it is given, else `output_features.action.shape`.
fn action_width(root: &Fields<'_>) -> Result<Option<usize>> {
    let cropped = root.count("postprocess_action_dim")?;
    Ok(cropped.or(feature_width(root, "output_features", "action")?))
}

/// First dimension of the shape of a feature.
fn feature_width(root: &Fields<'_>, features: &str, feature: &str) -> Result<Option<usize>> {
    let Some(features) = root.object(features)? else { return Ok(None) };
    let Some(feature) = features.object(feature)? else { return Ok(None) };
    Ok(feature.counts("shape")?.and_then(|shape| shape.first().copied()))
}

fn normalization(root: &Fields<'_>) -> Result<NormalizationType> {
    let Some(mapping) = root.object("normalization_mapping")? else { return Ok(NormalizationType::Bounds) };
    mapping.text("VISUAL")?;
    let state = mapping.text("STATE")?.unwrap_or("MIN_MAX");
    let action = mapping.text("ACTION")?.unwrap_or("MIN_MAX");
    if state != action {
        return Err(mapping.invalid("ACTION", format!("the same as STATE, `{state}`"), action));
    }
    match action {
        "MIN_MAX" => Ok(NormalizationType::Bounds),
        "QUANTILES" => Ok(NormalizationType::BoundsQ99),
        "MEAN_STD" => Ok(NormalizationType::Normal),
        "IDENTITY" => Ok(NormalizationType::Identity),
        other => Err(mapping.invalid("ACTION", "MIN_MAX, QUANTILES, MEAN_STD or IDENTITY", other)),
    }
}

fn gripper(root: &Fields<'_>) -> Result<Option<GripperRule>> {
    let threshold = root.number("gripper_threshold")?.unwrap_or(0.5) as f32;
    let below = root.number("gripper_below_threshold_value")?.unwrap_or(1.0) as f32;
    let above = root.number("gripper_above_threshold_value")?.unwrap_or(-1.0) as f32;
    if !root.flag("binarize_gripper")?.unwrap_or(false) {
        return Ok(None);
    }
    let index = root.required_count("gripper_index")?;
    Ok(Some(GripperRule { index, threshold, above, below }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::upstream::{Origin, Upstream, parse as parse_upstream};

    fn parse(edit: impl Fn(&mut Map<String, Value>)) -> Result<Upstream> {
        let text = include_str!("../../../../fixtures/tiny-lerobot/config.json");
        let mut fields: Map<String, Value> = serde_json::from_str(text).expect("fixture");
        edit(&mut fields);
        let text = serde_json::to_string(&fields).expect("json");
        let vlm = include_str!("../../../../fixtures/tiny-lerobot/vlm_config.json");
        parse_upstream(Path::new("policy"), &text, Some(vlm))
    }

    fn message(edit: impl Fn(&mut Map<String, Value>)) -> String {
        parse(edit).expect_err("must be refused").to_string()
    }

    #[test]
    fn a_lerobot_policy_is_read_without_unknown_keys() {
        let upstream = parse(|_| {}).expect("fixture");
        assert_eq!((upstream.origin, upstream.unknown_keys), (Origin::LeRobot, vec![]));
        let config = upstream.config;
        assert_eq!((config.action.horizon, config.action.max_action_dim, config.action_dim), (4, 5, 4));
        assert_eq!((config.vlm.language.num_layers, config.vlm.tokens_per_tile()), (2, 4));
    }

    #[test]
    fn unknown_keys_are_reported() {
        let upstream = parse(|fields| {
            fields.insert("new_option".into(), 1.into());
        });
        assert_eq!(upstream.expect("fixture").unknown_keys, ["policy/config.json: new_option"]);
    }

    #[test]
    fn a_missing_field_is_named() {
        let got = message(|fields| {
            fields.remove("chunk_size");
        });
        assert_eq!(got, "policy/config.json: field `chunk_size` is missing");
    }

    #[test]
    fn values_that_cannot_be_are_named() {
        let set = |key: &'static str, value: Value| {
            message(move |fields| {
                fields.insert(key.into(), value.clone());
            })
        };
        assert!(set("num_heads", 0.into()).contains("`num_heads` must be a divisor of embed_dim, got 0 for 48"));
        assert!(set("chunk_size", (-1).into()).contains("`chunk_size` must be a whole number"));
        assert!(set("chunk_size", 0.into()).contains("`chunk_size` must be a whole number of at least 1, got 0"));
        assert!(set("embed_dim", 50.into()).contains("`num_heads` must be a divisor of embed_dim"));
        assert!(set("embed_dim", 52.into()).contains("the language model's hidden_size, got 52 for 48"));
        assert!(set("type", "act".into()).contains("`type` must be `evo1`, got act"));
        assert!(set("num_inference_timesteps", 0.into()).contains("num_inference_timesteps"));
        assert!(set("image_resolution", serde_json::json!([56, 57])).contains("two equal ones"));
        assert!(set("image_resolution", serde_json::json!([57, 57])).contains("a multiple of vision.patch_size"));
    }
}
