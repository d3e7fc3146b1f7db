//! The `config.json` of a checkpoint of the authors' code.

use serde_json::{Value, json};

use super::{
    document::{Document, Fields},
    internvl,
};
use crate::{
    Result,
    config::{ActionConfig, Design, PolicyConfig, Profile, VlmConfig},
    normalize::{Normalization, NormalizationType},
};

/// Reads a configuration of the authors' code. Its vision-language model is InternVL3-1B with 14 language layers, unless
/// another is given.
pub(super) fn read(policy: &Document, vlm: Option<&Document>) -> Result<PolicyConfig> {
    let root = policy.root();
    let profile = Profile::OfficialFlash;
    let mut model = match vlm {
        Some(document) => internvl::native(&document.root())?,
        None => VlmConfig::internvl3_1b(),
    };
    model.image_size = root.square("image_size")?.unwrap_or(model.image_size);
    model.language.num_layers =
        root.count("vlm_num_layers")?.unwrap_or(KEPT_LANGUAGE_LAYERS.min(model.language.num_layers));
    model.return_cls_only = root.flag("return_cls_only")?.unwrap_or(false);
    // `action_horizon` is the newer name and wins where both are given.
    let horizon = match root.count("action_horizon")? {
        Some(horizon) => {
            root.count("horizon")?;
            horizon
        }
        None => root.required_count("horizon")?,
    };
    let action = ActionConfig {
        expert: ActionConfig::published_expert(),
        embed_dim: root.count("embed_dim")?.unwrap_or(model.language.hidden_size),
        hidden_dim: root.count("hidden_dim")?.unwrap_or(1024),
        state_hidden_dim: root.count("state_hidden_dim")?.unwrap_or(1024),
        num_heads: root.count("num_heads")?.unwrap_or(8),
        num_layers: root.count("num_layers")?.unwrap_or(8),
        horizon,
        max_action_dim: root.required_count("per_action_dim")?,
        max_state_dim: root.required_count("state_dim")?,
        num_categories: root.count("num_categories")?.unwrap_or(1),
        dropout: root.number("dropout")?.unwrap_or(0.0),
        design: Design::default(),
    };
    Ok(PolicyConfig {
        max_views: root.count("max_views")?.unwrap_or(3),
        max_text_length: root.count("max_text_length")?.unwrap_or(1024),
        num_inference_steps: root.count("num_inference_timesteps")?.unwrap_or(profile.semantics().default_steps),
        normalization: normalization(&root)?,
        ..PolicyConfig::of(model, action, profile)
    })
}

/// What the authors' server normalises with: `bounds` unless the configuration says another.
fn normalization(root: &Fields<'_>) -> Result<Normalization> {
    let kind = match root.text("normalization_type")? {
        None | Some("bounds") => NormalizationType::Bounds,
        Some("bounds_q99") => NormalizationType::BoundsQ99,
        Some("normal") => NormalizationType::Normal,
        Some(other) => return Err(root.invalid("normalization_type", "one of bounds, bounds_q99, normal", other)),
    };
    Ok(Normalization::both(kind))
}

/// A `config.json` of the authors' code that says what `config` does, as far as that code can.
pub fn authors_document(config: &PolicyConfig) -> Value {
    let action = &config.action;
    json!({
        "vlm_name": "OpenGVLab/InternVL3-1B",
        "action_head": "flowmatching",
        "return_cls_only": config.vlm.return_cls_only,
        "image_size": config.vlm.image_size,
        "horizon": action.horizon,
        "per_action_dim": action.max_action_dim,
        "state_dim": action.max_state_dim,
        "embed_dim": action.embed_dim,
        "hidden_dim": action.hidden_dim,
        "state_hidden_dim": action.state_hidden_dim,
        "num_heads": action.num_heads,
        "num_layers": action.num_layers,
        "dropout": action.dropout,
        "num_categories": action.num_categories,
        "num_inference_timesteps": config.num_inference_steps,
        "vlm_num_layers": config.vlm.language.num_layers,
        "max_text_length": config.max_text_length,
        "max_views": config.max_views,
        "normalization_type": match config.normalization.action {
            NormalizationType::BoundsQ99 => "bounds_q99",
            NormalizationType::Normal => "normal",
            // Others are said beside this file.
            NormalizationType::Bounds | NormalizationType::BoundsQ90 | NormalizationType::Identity => "bounds",
        },
    })
}

/// Language layers that Evo-1 keeps of its base model's.
pub const KEPT_LANGUAGE_LAYERS: usize = 14;

/// Keys of the authors' `config.json` that say how to train, not what the network computes.
pub(super) const KEYS_WITHOUT_EFFECT: [&str; 42] = [
    "device",
    "run_name",
    "vlm_name",
    "action_head",
    "action_dim",
    "disable_wandb",
    "wandb_project",
    "debug",
    "dataset_type",
    "data_paths",
    "dataset_config_path",
    "binarize_gripper",
    "use_augmentation",
    "vision_masked",
    "max_samples_per_file",
    "video_backend",
    "cache_dir",
    "lr",
    "batch_size",
    "num_workers",
    "prefetch_factor",
    "pin_memory",
    "persistent_workers",
    "max_steps",
    "warmup_steps",
    "grad_clip_norm",
    "weight_decay",
    "fused_adamw",
    "non_finite_max_streak",
    "log_interval",
    "ckpt_interval",
    "save_dir",
    "enable_gradient_checkpointing",
    "gradient_checkpointing_use_reentrant",
    "resume",
    "resume_path",
    "resume_pretrain",
    "finetune_vlm",
    "finetune_language_model",
    "finetune_vision_model",
    "finetune_action_head",
    "horizon",
];
