//! InternVL's own `config.json`: of a policy's `vlm_config.json`, and of a base model.

use std::path::Path;

use serde_json::{Value, json};

use super::document::{Document, Fields};
use crate::{
    Result,
    config::{LanguageConfig, VisionConfig, VlmConfig},
};

/// Whether the `config.json` in `directory` is a base model's: it has a part for the vision tower, a policy's has not.
pub fn is_base(directory: &Path) -> Result<bool> {
    Ok(Document::read(&directory.join("config.json"))?.root().value("vision_config").is_some())
}

/// Reads the `config.json` of a base model with all of its language layers, in InternVL's original keys or in those of
/// transformers' own class.
pub fn read_base(directory: &Path) -> Result<VlmConfig> {
    let document = Document::read(&directory.join("config.json"))?;
    let root = document.root();
    let config = match root.object("llm_config")? {
        Some(language) => original(&root, &language)?,
        None => native(&root)?,
    };
    config.validate(&document.name())?;
    Ok(config)
}

/// Keys of an InternVL `config.json` that do not change what the network computes.
pub(super) const KEYS_WITHOUT_EFFECT: [&str; 28] = [
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

/// The model that a `config.json` of transformers' own InternVL class describes.
pub(super) fn native(root: &Fields<'_>) -> Result<VlmConfig> {
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

    let rope_theta = match text.object("rope_parameters")? {
        Some(rope) => {
            require_plain_rope(&rope)?;
            rope.number("rope_theta")?
        }
        None => text.number("rope_theta")?,
    };
    text.object("rope_scaling")?.as_ref().map(require_plain_rope).transpose()?;
    // Which tokens pad, begin and end a text is the tokenizer's business.
    for key in ["pad_token_id", "bos_token_id", "eos_token_id"] {
        text.count(key)?;
    }
    model(root, &vision, &text, rope_theta)
}

/// Fails unless positions are those of the plain rotary embedding below 32768 tokens: the dynamic kind differs beyond.
fn require_plain_rope(rope: &Fields<'_>) -> Result<()> {
    for key in ["rope_type", "type"] {
        if rope.text(key)? != Some("dynamic") {
            require_supported(rope, key, &"default".into())?;
        }
    }
    // What a kind's own values are is of no consequence then.
    rope.number("factor")?;
    Ok(())
}

/// The model that a `config.json` of InternVL's original code describes.
fn original(root: &Fields<'_>, language: &Fields<'_>) -> Result<VlmConfig> {
    let vision = root.required_object("vision_config")?;
    for (key, supported) in [
        ("qkv_bias", Value::Bool(true)),
        ("qk_normalization", Value::Bool(false)),
        ("hidden_act", "gelu".into()),
        ("norm_type", "layer_norm".into()),
        ("num_channels", 3.into()),
    ] {
        require_supported(&vision, key, &supported)?;
    }
    require_supported(language, "hidden_act", &"silu".into())?;
    require_supported(language, "use_sliding_window", &Value::Bool(false))?;
    language.object("rope_scaling")?.as_ref().map(require_plain_rope).transpose()?;
    require_supported(root, "select_layer", &(-1).into())?;
    require_supported(root, "ps_version", &"v2".into())?;
    let mut config = model(root, &vision, language, language.number("rope_theta")?)?;
    config.image_size = root.count("force_image_size")?.unwrap_or(config.image_size);
    Ok(config)
}

/// The dimensions, whose keys are the same in both.
fn model(root: &Fields<'_>, vision: &Fields<'_>, text: &Fields<'_>, rope_theta: Option<f64>) -> Result<VlmConfig> {
    let image_size = vision.square("image_size")?.ok_or_else(|| vision.missing("image_size"))?;
    let num_heads = text.required_count("num_attention_heads")?;
    let hidden_size = text.required_count("hidden_size")?;
    if let Some(head_dim) = text.count("head_dim")?.filter(|head_dim| head_dim * num_heads != hidden_size) {
        let expected = format!("hidden_size over num_attention_heads, {hidden_size} over {num_heads}");
        return Err(text.invalid("head_dim", expected, head_dim));
    }
    Ok(VlmConfig {
        model: VlmConfig::published_model(),
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
            hidden_size,
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

/// A `vlm_config.json` that says what `config` does, as transformers' InternVL class reads it.
pub fn vlm_document(config: &VlmConfig, image_token: u32) -> Value {
    let VlmConfig { vision, language, .. } = config;
    json!({
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "downsample_ratio": config.downsample_ratio,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "image_seq_length": config.tokens_per_tile(),
        "image_token_id": image_token,
        "vision_config": {
            "model_type": "internvl_vision",
            "attention_bias": true,
            "use_qk_norm": false,
            "hidden_act": "gelu",
            "norm_type": "layer_norm",
            "num_channels": 3,
            "use_absolute_position_embeddings": true,
            "use_mean_pooling": true,
            "image_size": [vision.image_size, vision.image_size],
            "patch_size": [vision.patch_size, vision.patch_size],
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.num_layers,
            "num_attention_heads": vision.num_heads,
            "layer_norm_eps": vision.layer_norm_eps,
        },
        "text_config": {
            "model_type": "qwen2",
            "hidden_act": "silu",
            "use_sliding_window": false,
            "vocab_size": language.vocab_size,
            "hidden_size": language.hidden_size,
            "intermediate_size": language.intermediate_size,
            "num_hidden_layers": language.num_layers,
            "num_attention_heads": language.num_heads,
            "num_key_value_heads": language.num_kv_heads,
            "rms_norm_eps": language.rms_norm_eps,
            "rope_parameters": { "rope_type": "default", "rope_theta": language.rope_theta },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &Value) -> Result<VlmConfig> {
        let directory = tempfile::tempdir().expect("directory");
        std::fs::write(directory.path().join("config.json"), config.to_string()).expect("write");
        read_base(directory.path())
    }

    /// What matters of InternVL3-1B's own `config.json`.
    fn internvl3_1b() -> Value {
        json!({
            "architectures": ["InternVLChatModel"],
            "downsample_ratio": 0.5,
            "force_image_size": 448,
            "llm_config": {
                "architectures": ["Qwen2ForCausalLM"],
                "hidden_act": "silu",
                "hidden_size": 896,
                "intermediate_size": 4864,
                "num_attention_heads": 14,
                "num_hidden_layers": 24,
                "num_key_value_heads": 2,
                "rms_norm_eps": 1e-6,
                "rope_scaling": { "factor": 2.0, "rope_type": "dynamic", "type": "dynamic" },
                "rope_theta": 1e6,
                "use_sliding_window": false,
                "vocab_size": 151_674,
            },
            "ps_version": "v2",
            "select_layer": -1,
            "vision_config": {
                "hidden_act": "gelu",
                "hidden_size": 1024,
                "image_size": 448,
                "intermediate_size": 4096,
                "layer_norm_eps": 1e-6,
                "norm_type": "layer_norm",
                "num_attention_heads": 16,
                "num_channels": 3,
                "num_hidden_layers": 24,
                "patch_size": 14,
                "qk_normalization": false,
                "qkv_bias": true,
            },
        })
    }

    fn with_all_layers() -> VlmConfig {
        let config = VlmConfig::internvl3_1b();
        VlmConfig { language: LanguageConfig { num_layers: 24, ..config.language.clone() }, ..config }
    }

    #[test]
    fn a_base_model_is_read_in_both_layouts() {
        assert_eq!(read(&internvl3_1b()).expect("original"), with_all_layers());
        assert_eq!(read(&vlm_document(&with_all_layers(), 5)).expect("native"), with_all_layers());
    }

    #[test]
    fn other_positions_and_head_sizes_are_refused() {
        let refused = |edit: fn(&mut Value), expected: &str| {
            for mut config in [internvl3_1b(), vlm_document(&with_all_layers(), 5)] {
                let key = if config.get("llm_config").is_some() { "llm_config" } else { "text_config" };
                edit(&mut config[key]);
                let message = read(&config).expect_err("must be refused").to_string();
                assert!(message.contains(expected), "{message}");
            }
        };
        refused(
            |text| text["rope_scaling"] = json!({ "type": "linear", "factor": 4.0 }),
            "must be \"default\", got \"linear\"",
        );
        refused(|text| text["head_dim"] = 128.into(), "hidden_size over num_attention_heads, 896 over 14, got 128");
    }

    #[test]
    fn another_kind_of_internvl_is_refused() {
        let mut other = internvl3_1b();
        other["vision_config"]["qk_normalization"] = true.into();
        let message = read(&other).expect_err("InternViT-6B").to_string();
        assert!(message.contains("`vision_config.qk_normalization` must be false, got true"), "{message}");
        let mut other = internvl3_1b();
        other["ps_version"] = "v1".into();
        assert!(read(&other).is_err());
    }
}
