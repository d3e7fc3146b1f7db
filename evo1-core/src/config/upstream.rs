//! Upstream configuration files, read unchanged.
//!
//! A LeRobot policy has a `config.json` (the policy) and may have a `vlm_config.json` (the InternVL model; without it
//! InternVL3-1B is meant). Keys that this crate does not know are reported, not refused: a newer LeRobot may add some.

use std::{cell::RefCell, collections::BTreeSet, path::Path};

use serde_json::{Map, Value, json};

use super::{ActionConfig, GripperRule, LanguageConfig, PolicyConfig, Profile, TilingConfig, VisionConfig, VlmConfig};
use crate::{Error, Result, normalize::NormalizationType};

/// A configuration and the keys of its files that nothing read.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// The policy that the files describe.
    pub config: PolicyConfig,
    /// `file: key` for every key that this crate does not know.
    pub unknown_keys: Vec<String>,
}

/// Keys of LeRobot's `config.json` that do not change what the network computes, or whose parts are free names.
const LEROBOT_KEYS_WITHOUT_EFFECT: [&str; 38] = [
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

/// Reads the LeRobot configuration in `directory`.
pub fn read_lerobot(directory: &Path) -> Result<Upstream> {
    let policy = Document::read(&directory.join("config.json"))?;
    let vlm = read_vlm_config(directory)?;
    lerobot(&policy, vlm.as_ref())
}

/// The InternVL configuration beside a policy's, where there is one.
fn read_vlm_config(directory: &Path) -> Result<Option<Document>> {
    let path = directory.join("vlm_config.json");
    path.exists().then(|| Document::read(&path)).transpose()
}

/// Reads a LeRobot configuration from the text of its files; `origin` stands for the directory in messages.
pub fn parse_lerobot(origin: &Path, config: &str, vlm_config: Option<&str>) -> Result<Upstream> {
    let policy = Document::parse(&origin.join("config.json"), config)?;
    let vlm = vlm_config.map(|text| Document::parse(&origin.join("vlm_config.json"), text)).transpose()?;
    lerobot(&policy, vlm.as_ref())
}

fn lerobot(policy: &Document, vlm: Option<&Document>) -> Result<Upstream> {
    let root = policy.root();
    if let Some(kind) = root.text("type")?
        && kind != "evo1"
    {
        return Err(root.invalid("type", "`evo1`", kind));
    }
    let profile = Profile::LeRobot;
    let mut model = match vlm {
        Some(document) => internvl(&document.root())?,
        None => VlmConfig::internvl3_1b(),
    };
    model.image_size = root.square("image_resolution")?.unwrap_or(model.image_size);
    model.language.num_layers = root.count("vlm_num_layers")?.unwrap_or(model.language.num_layers);
    model.return_cls_only = root.flag("return_cls_only")?.unwrap_or(false);

    let action = ActionConfig {
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
    };
    let config = PolicyConfig {
        tiling: TilingConfig::default(),
        max_views: root.required_count("max_views")?,
        max_text_length: root.count("max_text_length")?.unwrap_or(1024),
        num_inference_steps: root.count("num_inference_timesteps")?.unwrap_or(profile.semantics().default_steps),
        state_dim: feature_width(&root, "input_features", "observation.state")?.unwrap_or(action.max_state_dim),
        action_dim: action_width(&root)?.unwrap_or(action.max_action_dim),
        normalization: normalization(&root)?,
        gripper: gripper(&root)?,
        default_embodiment: root.count("default_embodiment_id")?.unwrap_or(0),
        semantics: profile.semantics(),
        profile,
        vlm: model,
        action,
    };
    config.validate(&policy.name())?;
    let mut unknown_keys = policy.unread_keys(&LEROBOT_KEYS_WITHOUT_EFFECT);
    if let Some(document) = vlm {
        unknown_keys.extend(document.unread_keys(&VLM_KEYS_WITHOUT_EFFECT));
    }
    Ok(Upstream { config, unknown_keys })
}

/// Reads the `config.json` of a checkpoint of the authors' code. Its vision-language model is InternVL3-1B with 14
/// language layers, unless a `vlm_config.json` beside it says otherwise.
pub fn read_authors(directory: &Path) -> Result<Upstream> {
    let policy = Document::read(&directory.join("config.json"))?;
    let vlm = read_vlm_config(directory)?;
    let root = policy.root();
    let profile = Profile::OfficialFlash;
    let mut model = match &vlm {
        Some(document) => internvl(&document.root())?,
        None => VlmConfig::internvl3_1b(),
    };
    model.image_size = root.square("image_size")?.unwrap_or(model.image_size);
    model.language.num_layers =
        root.count("vlm_num_layers")?.unwrap_or(AUTHORS_LANGUAGE_LAYERS.min(model.language.num_layers));
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
    };
    let config = PolicyConfig {
        tiling: TilingConfig::default(),
        max_views: root.count("max_views")?.unwrap_or(3),
        max_text_length: root.count("max_text_length")?.unwrap_or(1024),
        num_inference_steps: root.count("num_inference_timesteps")?.unwrap_or(profile.semantics().default_steps),
        state_dim: action.max_state_dim,
        action_dim: action.max_action_dim,
        normalization: NormalizationType::Bounds,
        gripper: None,
        default_embodiment: 0,
        semantics: profile.semantics(),
        profile,
        vlm: model,
        action,
    };
    config.validate(&policy.name())?;
    Ok(Upstream { config, unknown_keys: policy.unread_keys(&AUTHORS_KEYS_WITHOUT_EFFECT) })
}

/// Whether a `config.json` is LeRobot's: it names the type of its policy, the authors' does not.
pub fn is_lerobot(directory: &Path) -> Result<bool> {
    Ok(Document::read(&directory.join("config.json"))?.root().value("type").is_some())
}

/// A LeRobot `config.json` that says what `config` does.
pub fn lerobot_document(config: &PolicyConfig) -> Value {
    let (action, gripper) = (&config.action, config.gripper);
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
    let mut document = json!({
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
        "binarize_gripper": gripper.is_some(),
    });
    if let Some(GripperRule { index, threshold, above, below }) = gripper {
        document["gripper_index"] = index.into();
        document["gripper_threshold"] = threshold.into();
        document["gripper_above_threshold_value"] = above.into();
        document["gripper_below_threshold_value"] = below.into();
    }
    document
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
    })
}

/// Language layers that the authors' code keeps.
const AUTHORS_LANGUAGE_LAYERS: usize = 14;

/// Keys of the authors' `config.json` that say how to train, not what the network computes.
const AUTHORS_KEYS_WITHOUT_EFFECT: [&str; 42] = [
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

/// The robot's action width: `output_features.action.shape`, or `postprocess_action_dim` when that is smaller.
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

/// Keys of an InternVL `config.json` that do not change what the network computes.
const VLM_KEYS_WITHOUT_EFFECT: [&str; 28] = [
    "architectures",
    "output_hidden_states",
    "return_dict",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "chunk_size_feed_forward",
    "is_encoder_decoder",
    "id2label",
    "label2id",
    "problem_type",
    "hidden_dropout_prob",
    "attention_dropout",
    "projection_dropout",
    "initializer_range",
    "use_mask_token",
    "layer_scale_init_value",
    "_name_or_path",
    "model_type",
    "output_attentions",
    "max_position_embeddings",
    "use_cache",
    "tie_word_embeddings",
    "sliding_window",
    "max_window_layers",
    "layer_types",
    "image_token_id",
    "image_seq_length",
];

/// Choices of an InternVL configuration of which this crate implements one: the key and the value it must have.
fn require_supported(fields: &Fields<'_>, key: &'static str, supported: &Value) -> Result<()> {
    match fields.value(key) {
        Some(value) if value != supported => Err(fields.invalid(key, supported, value)),
        _ => Ok(()),
    }
}

fn internvl(root: &Fields<'_>) -> Result<VlmConfig> {
    let vision = root.required_object("vision_config")?;
    for (key, supported) in [
        ("attention_bias", Value::Bool(true)),
        ("use_qk_norm", Value::Bool(false)),
        ("hidden_act", "gelu".into()),
        ("norm_type", "layer_norm".into()),
        ("num_channels", 3.into()),
        ("use_absolute_position_embeddings", Value::Bool(true)),
        ("use_mean_pooling", Value::Bool(true)),
    ] {
        require_supported(&vision, key, &supported)?;
    }
    let text = root.required_object("text_config")?;
    require_supported(&text, "hidden_act", &"silu".into())?;
    require_supported(&text, "use_sliding_window", &Value::Bool(false))?;
    require_supported(root, "vision_feature_layer", &(-1).into())?;
    require_supported(root, "vision_feature_select_strategy", &"default".into())?;
    require_supported(root, "projector_hidden_act", &"gelu".into())?;

    let image_size = vision.square("image_size")?.ok_or_else(|| vision.missing("image_size"))?;
    let rope_theta = match text.object("rope_parameters")? {
        Some(rope) => {
            require_supported(&rope, "rope_type", &"default".into())?;
            rope.number("rope_theta")?
        }
        None => text.number("rope_theta")?,
    };
    let num_heads = text.required_count("num_attention_heads")?;
    let mut padding_ids = Vec::new();
    for key in ["pad_token_id", "bos_token_id", "eos_token_id"] {
        padding_ids.extend(text.count(key)?);
    }
    Ok(VlmConfig {
        vision: VisionConfig {
            image_size,
            patch_size: vision.square("patch_size")?.ok_or_else(|| vision.missing("patch_size"))?,
            hidden_size: vision.required_count("hidden_size")?,
            intermediate_size: vision.required_count("intermediate_size")?,
            num_layers: vision.required_count("num_hidden_layers")?,
            num_heads: vision.required_count("num_attention_heads")?,
            layer_norm_eps: vision.number("layer_norm_eps")?.unwrap_or(1e-6),
        },
        language: LanguageConfig {
            vocab_size: text.required_count("vocab_size")?,
            hidden_size: text.required_count("hidden_size")?,
            intermediate_size: text.required_count("intermediate_size")?,
            num_layers: text.required_count("num_hidden_layers")?,
            num_heads,
            num_kv_heads: text.count("num_key_value_heads")?.unwrap_or(num_heads),
            rms_norm_eps: text.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta: rope_theta.ok_or_else(|| text.missing("rope_theta"))?,
        },
        image_size,
        downsample_ratio: root.number("downsample_ratio")?.unwrap_or(0.5),
        return_cls_only: false,
    })
}

/// A JSON file, and which of its keys were asked for.
struct Document {
    path: std::path::PathBuf,
    fields: Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
}

impl Document {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|reason| Error::io("read", path, reason))?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self> {
        let json = |message: String| Error::Json { path: path.to_owned(), message };
        match serde_json::from_str(text).map_err(|error| json(error.to_string()))? {
            Value::Object(fields) => Ok(Self { path: path.to_owned(), fields, read: RefCell::default() }),
            other => Err(json(format!("expected an object, got {}", kind_of(&other)))),
        }
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn root(&self) -> Fields<'_> {
        Fields { document: self, prefix: String::new(), fields: &self.fields }
    }

    /// Keys, at any depth below objects that were read, that neither were asked for nor are known to have no effect.
    fn unread_keys(&self, without_effect: &[&str]) -> Vec<String> {
        let mut unread = Vec::new();
        let mut open = vec![(String::new(), &self.fields)];
        while let Some((prefix, fields)) = open.pop() {
            for (key, value) in fields {
                let name = format!("{prefix}{key}");
                match value {
                    _ if without_effect.contains(&key.as_str()) => {}
                    Value::Object(inner) if self.read.borrow().contains(&name) => {
                        open.push((format!("{name}."), inner));
                    }
                    _ if self.read.borrow().contains(&name) => {}
                    _ => unread.push(format!("{}: {name}", self.name())),
                }
            }
        }
        unread
    }
}

/// The fields of one object of a [`Document`].
struct Fields<'a> {
    document: &'a Document,
    prefix: String,
    fields: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn missing(&self, key: &str) -> Error {
        Error::MissingField { path: self.document.path.clone(), field: self.name(key) }
    }

    fn invalid(&self, key: &str, expected: impl ToString, got: impl ToString) -> Error {
        Error::invalid(self.document.name(), self.name(key), expected, got)
    }

    /// The value of a key that is there and not null.
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.document.read.borrow_mut().insert(self.name(key));
        self.fields.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(&self, key: &str, expected: &str, convert: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => match convert(value) {
                Some(typed) => Ok(Some(typed)),
                None => Err(self.invalid(key, expected, value)),
            },
        }
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    fn count(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number from 0 to 4294967295", as_count)
    }

    fn required_count(&self, key: &str) -> Result<usize> {
        self.count(key)?.ok_or_else(|| self.missing(key))
    }

    fn counts(&self, key: &str) -> Result<Option<Vec<usize>>> {
        self.typed(key, "a list of whole numbers", |value| value.as_array()?.iter().map(as_count).collect())
    }

    /// A side length, written as one number or as two equal ones.
    fn square(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "one number or two equal ones", |value| match value.as_array() {
            None => as_count(value),
            Some(sides) => match sides.as_slice() {
                [height, width] if height == width => as_count(height),
                _ => None,
            },
        })
    }

    fn object(&self, key: &str) -> Result<Option<Fields<'a>>> {
        let fields = self.typed(key, "an object", Value::as_object)?;
        Ok(fields.map(|fields| Fields { document: self.document, prefix: format!("{}.", self.name(key)), fields }))
    }

    fn required_object(&self, key: &str) -> Result<Fields<'a>> {
        self.object(key)?.ok_or_else(|| self.missing(key))
    }
}

/// A number of things: small enough that products of a few of them do not overflow.
fn as_count(value: &Value) -> Option<usize> {
    u32::try_from(value.as_u64()?).ok().map(|count| count as usize)
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(edit: impl Fn(&mut Map<String, Value>)) -> Result<Upstream> {
        let text = include_str!("../../../fixtures/tiny-lerobot/config.json");
        let mut fields: Map<String, Value> = serde_json::from_str(text).expect("fixture");
        edit(&mut fields);
        let text = serde_json::to_string(&fields).expect("json");
        parse_lerobot(Path::new("policy"), &text, Some(include_str!("../../../fixtures/tiny-lerobot/vlm_config.json")))
    }

    fn message(edit: impl Fn(&mut Map<String, Value>)) -> String {
        parse(edit).expect_err("must be refused").to_string()
    }

    #[test]
    fn a_lerobot_policy_is_read_without_unknown_keys() {
        let upstream = parse(|_| {}).expect("fixture");
        assert_eq!(upstream.unknown_keys, Vec::<String>::new());
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
