//! LeRobot's `config.json` of an `evo1` policy.

use serde_json::{Map, Value, json};

use super::{
    document::{Document, Fields},
    internvl,
};
use crate::{
    Result,
    config::{ActionConfig, Cameras, Design, GripperRule, PolicyConfig, Profile, VlmConfig},
    normalize::{Normalization, NormalizationType},
};

/// Keys of LeRobot's `config.json` that do not change what the network computes, or whose parts are free names.
pub(super) const KEYS_WITHOUT_EFFECT: [&str; 35] = [
    "type",
    "n_obs_steps",
    "input_features",
    "output_features",
    "device",
    "use_amp",
    "push_to_hub",
    "repo_id",
    "private",
    "tags",
    "license",
    "pretrained_path",
    "pretrained_revision",
    "training_stage",
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
    if root.flag("use_peft")?.unwrap_or(false) {
        return Err(root.invalid(
            "use_peft",
            "false: `evo1 convert --from POLICY --adapter DIR` adds an adapter to its policy's weights",
            true,
        ));
    }
    let profile = Profile::LeRobot;
    let mut model = match vlm {
        Some(document) => internvl::native(&document.root())?,
        None => VlmConfig::internvl3_1b(),
    };
    if let (None, Some(embed), Some(name)) = (vlm, root.count("embed_dim")?, root.text("vlm_model_name")?)
        && embed != model.language.hidden_size
    {
        let hidden = model.language.hidden_size;
        let expected = format!(
            "InternVL3-1B, of {hidden} channels, where no `vlm_config.json` (the `config.json` of the model) describes another; \
             `embed_dim` is {embed}"
        );
        return Err(root.invalid("vlm_model_name", expected, name));
    }
    model.image_size = root.square("image_resolution")?.unwrap_or(model.image_size);
    model.language.num_layers = match (root.count("vlm_num_layers")?, vlm) {
        (Some(layers), _) => layers,
        // A null stands for all layers of the base model, where a key that is missing stands for those that Evo-1 keeps.
        (None, None) if root.is_null("vlm_num_layers") => INTERNVL3_1B_LANGUAGE_LAYERS,
        (None, _) => model.language.num_layers,
    };
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
    let max_views = root.required_count("max_views")?;
    let steps = root.count("n_action_steps")?;
    Ok(PolicyConfig {
        max_views,
        cameras: cameras(&root, model.image_size)?,
        n_action_steps: steps.filter(|&steps| steps != action.horizon),
        max_text_length: root.count("max_text_length")?.unwrap_or(1024),
        num_inference_steps: root.count("num_inference_timesteps")?.unwrap_or(profile.semantics().default_steps),
        state_dim: feature_width(&root, "input_features", "observation.state")?,
        action_dim: feature_width(&root, "output_features", "action")?,
        cropped_action_dim: root.count("postprocess_action_dim")?,
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
    let Normalization { state: of_state, action: of_action } = config.normalization;
    // LeRobot knows no robot of an unknown width: its columns are the network's.
    let state_dim = config.state_dim.unwrap_or(action.max_state_dim);
    let action_dim = config.action_dim.unwrap_or(action.max_action_dim);
    let size = config.vlm.image_size;
    let names = match config.cameras.names.as_slice() {
        [] => (0..config.max_views).map(unknown_camera).collect(),
        names => names.to_vec(),
    };
    let views: Map<String, Value> = names
        .into_iter()
        .enumerate()
        .map(|(view, name)| {
            let [width, height] = config.cameras.sizes.get(view).copied().unwrap_or([size; 2]);
            (name, json!({ "type": "VISUAL", "shape": [3, height, width] }))
        })
        .chain([("observation.state".into(), json!({ "type": "STATE", "shape": [state_dim] }))])
        .collect();
    json!({
        "type": "evo1",
        "n_obs_steps": 1,
        "input_features": views,
        "output_features": { "action": { "type": "ACTION", "shape": [action_dim] } },
        "postprocess_action_dim": config.cropped_action_dim,
        "chunk_size": action.horizon,
        "n_action_steps": config.n_action_steps.unwrap_or(action.horizon),
        "empty_cameras": config.cameras.optional,
        "max_state_dim": action.max_state_dim,
        "max_action_dim": action.max_action_dim,
        "max_views": config.max_views,
        "image_resolution": [size, size],
        "normalization_mapping": { "VISUAL": "IDENTITY", "STATE": mode(of_state), "ACTION": mode(of_action) },
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

/// Most cameras that LeRobot adds: as many as a prompt has views at most.
const MOST_EMPTY_CAMERAS: usize = 100;

/// Language layers of InternVL3-1B, of which Evo-1 keeps some.
const INTERNVL3_1B_LANGUAGE_LAYERS: usize = 24;

/// What a camera is called that has no name: LeRobot has none without.
fn unknown_camera(view: usize) -> String {
    format!("observation.images.view{view}")
}

/// The cameras that LeRobot looks at: the features that are pictures, in their order, and those that it adds for as many as
/// may be lacking.
fn cameras(root: &Fields<'_>, image_size: usize) -> Result<Cameras> {
    let optional = root.count("empty_cameras")?.unwrap_or(0);
    if optional > MOST_EMPTY_CAMERAS {
        return Err(root.invalid("empty_cameras", format!("at most {MOST_EMPTY_CAMERAS}"), optional));
    }
    let (mut names, mut sizes) = (Vec::new(), Vec::new());
    if let Some(features) = root.object("input_features")? {
        for name in features.keys() {
            let feature = features.required_object(name)?;
            if feature.text("type")? == Some("VISUAL") {
                names.push(name.to_owned());
                sizes.push(match feature.counts("shape")?.as_deref() {
                    Some(&[3, height, width]) => Some([width, height]).filter(Cameras::is_size),
                    _ => None,
                });
            }
        }
    }
    if (0..names.len()).all(|view| names[view] == unknown_camera(view)) {
        return Ok(Cameras::default());
    }
    let added = (0..optional).map(|empty| format!("observation.images.empty_camera_{empty}"));
    names.extend(added.filter(|name| !names.contains(name)).collect::<Vec<_>>());
    // LeRobot gives the cameras that it adds the model's size.
    sizes.resize(names.len(), Some([image_size; 2]));
    let sizes = sizes.into_iter().collect::<Option<_>>().unwrap_or_default();
    Ok(Cameras { names, optional, sizes, ..Cameras::default() })
}

/// First dimension of the shape of a feature.
fn feature_width(root: &Fields<'_>, features: &str, feature: &str) -> Result<Option<usize>> {
    let Some(features) = root.object(features)? else { return Ok(None) };
    let Some(feature) = features.object(feature)? else { return Ok(None) };
    Ok(feature.counts("shape")?.and_then(|shape| shape.first().copied()))
}

/// LeRobot's names of normalisations.
const MODES: [(&str, NormalizationType); 5] = [
    ("MIN_MAX", NormalizationType::Bounds),
    ("QUANTILES", NormalizationType::BoundsQ99),
    ("QUANTILE10", NormalizationType::BoundsQ90),
    ("MEAN_STD", NormalizationType::Normal),
    ("IDENTITY", NormalizationType::Identity),
];

/// LeRobot's name of a normalisation.
fn mode(kind: NormalizationType) -> &'static str {
    MODES.iter().find(|(_, known)| *known == kind).map_or("IDENTITY", |(name, _)| name)
}

/// The normalisation of a name of LeRobot's.
pub(crate) fn normalization_of(mode: &str) -> Option<NormalizationType> {
    MODES.iter().find(|(name, _)| *name == mode).map(|(_, kind)| *kind)
}

/// LeRobot's names of normalisations, for messages.
pub(crate) fn modes() -> String {
    MODES.map(|(name, _)| name).join(", ")
}

/// What normalises states and actions: LeRobot leaves alone what its mapping does not name.
fn normalization(root: &Fields<'_>) -> Result<Normalization> {
    let Some(mapping) = root.object("normalization_mapping")? else { return Ok(Normalization::default()) };
    mapping.text("VISUAL")?;
    let of = |feature: &str| {
        let mode = mapping.text(feature)?.unwrap_or("IDENTITY");
        normalization_of(mode).ok_or_else(|| mapping.invalid(feature, format!("one of {}", modes()), mode))
    };
    Ok(Normalization { state: of("STATE")?, action: of("ACTION")? })
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
        assert_eq!((config.action.horizon, config.action.max_action_dim, config.action_dim), (4, 5, Some(4)));
        assert_eq!((config.vlm.language.num_layers, config.vlm.tokens_per_tile()), (2, 4));
    }

    #[test]
    fn sizes_of_frames_are_read_and_written_where_every_camera_has_one() {
        let sizes = |edit: fn(&mut Map<String, Value>)| parse(edit).expect("a policy").config.cameras.sizes;
        assert_eq!(sizes(|_| {}), [[56, 56], [56, 56]]);
        let wide = |fields: &mut Map<String, Value>| {
            fields["input_features"]["observation.images.cam1"]["shape"] = json!([3, 480, 640]);
            fields["empty_cameras"] = json!(1);
            fields["max_views"] = json!(3);
        };
        let config = parse(wide).expect("a policy").config;
        assert_eq!(config.cameras.sizes, [[56, 56], [640, 480], [56, 56]], "LeRobot adds cameras of the model's size");
        let written = lerobot_document(&config);
        assert_eq!(written["input_features"]["observation.images.cam1"]["shape"], json!([3, 480, 640]));
        for shape in [json!([480, 640, 3]), json!([3, 0, 640]), json!([3, 480, 99_999]), json!([640])] {
            let mut text: Value =
                serde_json::from_str(include_str!("../../../../fixtures/tiny-lerobot/config.json")).expect("JSON");
            text["input_features"]["observation.images.cam1"]["shape"] = shape;
            let vlm = include_str!("../../../../fixtures/tiny-lerobot/vlm_config.json");
            let read = parse_upstream(Path::new("policy"), &text.to_string(), Some(vlm)).expect("a policy");
            assert_eq!(read.config.cameras.sizes, Vec::<[usize; 2]>::new());
        }
    }

    #[test]
    fn a_null_number_of_layers_stands_for_all_and_a_missing_one_for_those_that_evo_1_keeps() {
        let layers = |edit: fn(&mut Map<String, Value>)| {
            let mut fields: Map<String, Value> =
                serde_json::from_value(lerobot_document(&PolicyConfig::evo1())).expect("an object");
            edit(&mut fields);
            let text = serde_json::to_string(&fields).expect("json");
            parse_upstream(Path::new("policy"), &text, None).expect("a policy").config.vlm.language.num_layers
        };
        let null = |fields: &mut Map<String, Value>| _ = fields.insert("vlm_num_layers".into(), Value::Null);
        let missing = |fields: &mut Map<String, Value>| _ = fields.remove("vlm_num_layers");
        assert_eq!((layers(|_| {}), layers(null), layers(missing)), (14, 24, 14));
    }

    #[test]
    fn a_cropped_action_is_as_wide_for_the_network_as_its_feature() {
        let config =
            parse(|fields| _ = fields.insert("postprocess_action_dim".into(), 3.into())).expect("a policy").config;
        assert_eq!((config.action_dim, config.cropped_action_dim), (Some(4), Some(3)));
        let unknown = parse(|fields| _ = fields.remove("output_features")).expect("a policy").config;
        assert_eq!((unknown.action_dim, unknown.cropped_action_dim), (None, None));
        let wide = message(|fields| _ = fields.insert("postprocess_action_dim".into(), 5.into()));
        assert!(wide.contains("`postprocess_action_dim` must be from 1 to the action's width, got 5 for 4"), "{wide}");
    }

    #[test]
    fn states_and_actions_are_normalised_each_as_the_mapping_says() {
        let with = |mapping: Value| parse(|fields| _ = fields.insert("normalization_mapping".into(), mapping.clone()));
        let of = |mapping: Value| with(mapping).expect("a policy").config.normalization;
        let (state, action) = (NormalizationType::Normal, NormalizationType::BoundsQ90);
        assert_eq!(of(json!({ "STATE": "MEAN_STD", "ACTION": "QUANTILE10" })), Normalization { state, action });
        let action = NormalizationType::Bounds;
        assert_eq!(of(json!({ "ACTION": "MIN_MAX" })), Normalization { state: NormalizationType::Identity, action });
        let other = with(json!({ "STATE": "MAX" })).expect_err("refused").to_string();
        assert!(other.contains("MIN_MAX, QUANTILES, QUANTILE10, MEAN_STD, IDENTITY, got MAX"), "{other}");
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
