//! Where the parameters of our modules stand in a checkpoint.

use super::{Owner, ParamSpec, WeightFile};
use crate::{Error, Result};

/// A way of naming the tensors of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Naming {
    layout: Layout,
    /// What stands before the vision-language model's names.
    vlm: &'static str,
    /// What the language model's transformer is called.
    language: &'static str,
    /// What stands before the action expert's names; `None` in a checkpoint without one.
    action: Option<&'static str>,
}

/// How a checkpoint arranges its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// As our modules hold them: under their paths, linear weights not transposed, nothing fused.
    Burn,
    /// As in transformers' own InternVL: separate q, k and v.
    Native,
    /// As in InternVL's original code: q, k and v in one tensor.
    Original,
}

/// A parameter's place in a checkpoint: a whole tensor, or some equal parts of one along its first dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The tensor's name.
    pub name: String,
    /// Index of the first part.
    pub first: usize,
    /// Number of parts that are the parameter's.
    pub count: usize,
    /// Number of parts that the tensor is made of; 1 when the parameter is the whole tensor.
    pub of: usize,
}

impl Place {
    /// Shape of the whole tensor, of which the parameter has `shape`.
    pub fn whole_shape(&self, mut shape: Vec<usize>) -> Vec<usize> {
        if let Some(rows) = shape.first_mut() {
            *rows = *rows / self.count * self.of;
        }
        shape
    }
}

/// Our path segments below the vision-language model and transformers', in the order in which they are replaced.
const NATIVE: [(&str, &str); 5] = [
    ("vision_tower.layers.", "vision_tower.encoder.layer."),
    ("patch_embedding.", "patch_embeddings.projection."),
    (".attention.output.", ".attention.projection_layer."),
    (".layer_scale_", ".lambda_"),
    ("projector.", "multi_modal_projector."),
];

/// Our path segments below the vision-language model and InternVL's original ones.
const ORIGINAL: [(&str, &str); 11] = [
    ("vision_tower.embeddings.cls_token", "vision_model.embeddings.class_embedding"),
    ("vision_tower.embeddings.position_embeddings", "vision_model.embeddings.position_embedding"),
    ("vision_tower.embeddings.", "vision_model.embeddings."),
    ("vision_tower.layers.", "vision_model.encoder.layers."),
    (".attention.output.", ".attn.proj."),
    (".layernorm_before.", ".norm1."),
    (".layernorm_after.", ".norm2."),
    (".layer_scale_", ".ls"),
    ("projector.layer_norm.", "mlp1.0."),
    ("projector.linear_1.", "mlp1.1."),
    ("projector.linear_2.", "mlp1.3."),
];

/// Our path segments below the action expert and the references', which agree.
const ACTION: [(&str, &str); 9] = [
    ("blocks.", "transformer_blocks."),
    (".cross_attention.", ".attn."),
    (".feed_forward.linear_1.", ".ff.0."),
    (".feed_forward.linear_2.", ".ff.2."),
    ("action_encoder.w1.", "action_encoder.W1."),
    ("action_encoder.w2.", "action_encoder.W2."),
    ("action_encoder.w3.", "action_encoder.W3."),
    (".Shared.", ".linear."),
    (".PerCategory.", "."),
];

/// Constant tables of the action expert that checkpoints carry and that we compute: of the time, and of a step's place.
pub const TABLES: [&str; 2] = ["time_pos_enc.pe", "action_encoder.pos_encoding.pe"];

/// Projections that a checkpoint holds in one tensor: ours, the tensor's, and which parts of how many.
const FUSED: [(&str, &str, [usize; 3]); 5] = [
    (".attn.q_proj.", ".attn.in_proj_", [0, 1, 3]),
    (".attn.kv_proj.", ".attn.in_proj_", [1, 2, 3]),
    (".attention.q_proj.", ".attn.qkv.", [0, 1, 3]),
    (".attention.k_proj.", ".attn.qkv.", [1, 1, 3]),
    (".attention.v_proj.", ".attn.qkv.", [2, 1, 3]),
];

/// A component of the model that checkpoints are divided into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelPart {
    /// InternViT.
    VisionTower,
    /// From visual to language channels.
    Projector,
    /// Qwen2.
    LanguageModel,
    /// The flow-matching head and its encoders.
    ActionExpert,
}

impl ModelPart {
    /// Every component, in the order of the data.
    pub const ALL: [Self; 4] = [Self::VisionTower, Self::Projector, Self::LanguageModel, Self::ActionExpert];

    /// Its name in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::VisionTower => "vision tower",
            Self::Projector => "projector",
            Self::LanguageModel => "language model",
            Self::ActionExpert => "action expert",
        }
    }

    /// The component of a parameter of our modules, by its path.
    pub fn of(path: &str) -> Option<Self> {
        Naming::BURN.component(path)
    }
}

/// What PyTorch's wrappers put before every name: `torch.compile`, and training on several devices.
const WRAPPERS: [&str; 2] = ["_orig_mod.", "module."];

impl Naming {
    /// A LeRobot policy.
    pub const LEROBOT: Self = Self {
        layout: Layout::Native,
        vlm: "model.embedder.model.",
        language: "language_model.",
        action: Some("model.action_head."),
    };

    /// A checkpoint of the authors' code.
    pub const AUTHORS: Self = Self {
        layout: Layout::Original,
        vlm: "embedder.model.",
        language: "language_model.model.",
        action: Some("action_head."),
    };

    /// InternVL3 as first published, without an action expert.
    pub const BASE_ORIGINAL: Self = Self { vlm: "", action: None, ..Self::AUTHORS };

    /// InternVL3 in transformers' arrangement, as the conversion script of its time wrote it.
    pub const BASE_CONVERTED: Self =
        Self { layout: Layout::Native, vlm: "", language: "language_model.model.", action: None };

    /// InternVL3 in transformers' arrangement, as its present class writes it.
    pub const BASE_NATIVE: Self =
        Self { layout: Layout::Native, vlm: "model.", language: "language_model.", action: None };

    /// Our own modules', for burn's file format.
    pub const BURN: Self =
        Self { layout: Layout::Burn, vlm: "vlm.", language: "language_model.", action: Some("action.") };

    /// Every naming.
    pub const ALL: [Self; 6] =
        [Self::LEROBOT, Self::AUTHORS, Self::BASE_ORIGINAL, Self::BASE_CONVERTED, Self::BASE_NATIVE, Self::BURN];

    /// The naming of a checkpoint, by where its token embeddings and its vision tower are; burn's by how its names begin.
    pub fn detect(file: &WeightFile) -> Result<Self> {
        let is_used = |naming: &Self| {
            let embeddings = format!("{}{}embed_tokens.weight", naming.vlm, naming.language);
            let has = |tower: &str| file.contains(&embeddings) && file.contains(&format!("{}{tower}", naming.vlm));
            match naming.layout {
                // A vision-language model of another kind has other names, and stands in no other program's files.
                Layout::Burn => file.names().any(|name| name.starts_with(naming.vlm)),
                Layout::Native => has("vision_tower.embeddings.cls_token"),
                Layout::Original => has("vision_model.embeddings.class_embedding"),
            }
        };
        let known = Self::ALL.into_iter().find(is_used);
        known.ok_or_else(|| match WRAPPERS.iter().find(|prefix| file.names().all(|name| name.starts_with(**prefix))) {
            Some(prefix) => Error::WrappedNames { path: file.path().to_owned(), prefix },
            None => {
                Error::UnknownNaming { path: file.path().to_owned(), names: file.names().map(str::to_owned).collect() }
            }
        })
    }

    /// Whose names these are.
    pub fn description(self) -> &'static str {
        match self {
            Self::LEROBOT => "LeRobot's",
            Self::AUTHORS => "the authors'",
            Self::BASE_ORIGINAL => "InternVL3's original ones",
            Self::BASE_CONVERTED => "InternVL3's as first converted for transformers",
            Self::BASE_NATIVE => "InternVL3's in transformers",
            _ => "burn's",
        }
    }

    /// The component that a tensor belongs to, by its name; `None` for a name of another kind.
    pub fn component(self, name: &str) -> Option<ModelPart> {
        if let Some(action) = self.action
            && name.starts_with(action)
        {
            return Some(ModelPart::ActionExpert);
        }
        let rest = name.strip_prefix(self.vlm)?;
        let starts = [
            (self.language, ModelPart::LanguageModel),
            ("vision_tower.", ModelPart::VisionTower),
            ("vision_model.", ModelPart::VisionTower),
            ("multi_modal_projector.", ModelPart::Projector),
            ("projector.", ModelPart::Projector),
            ("mlp1.", ModelPart::Projector),
        ];
        starts.into_iter().find(|(start, _)| rest.starts_with(start)).map(|(_, component)| component)
    }

    /// Language layers that a checkpoint has.
    pub fn language_layers(self, file: &WeightFile) -> usize {
        let layers = format!("{}{}layers.", self.vlm, self.language);
        let indices =
            file.names().filter_map(|name| name.strip_prefix(&layers)?.split('.').next()?.parse::<usize>().ok());
        indices.max().map_or(0, |last| last + 1)
    }

    /// Whether a checkpoint of this naming has an action expert.
    pub fn has_action_expert(self) -> bool {
        self.action.is_some()
    }

    /// Whether linear weights stand as PyTorch keeps them, transposed to ours.
    pub fn is_torch_layout(self) -> bool {
        self.layout != Layout::Burn
    }

    /// Whether a parameter stands in a checkpoint transposed to ours.
    pub fn is_transposed(self, spec: &ParamSpec) -> bool {
        self.is_torch_layout() && spec.is_transposed()
    }

    /// The shape that a parameter, or the part of a tensor that is the parameter's, has in a checkpoint.
    pub fn shape_of(self, spec: &ParamSpec) -> Vec<usize> {
        if self.is_torch_layout() { spec.torch_shape() } else { spec.shape.clone() }
    }

    /// The name of a constant table that checkpoints carry and that we compute: `time_pos_enc.pe`, or
    /// `action_encoder.pos_encoding.pe`. `None` in a checkpoint without an action expert.
    pub fn table(self, table: &str) -> Option<String> {
        Some(format!("{}{table}", self.action?))
    }

    /// The place of a parameter; `None` for the action expert's in a checkpoint without one.
    pub fn place(self, spec: &ParamSpec) -> Option<Place> {
        let mut path = spec.path.clone();
        if self.layout == Layout::Burn {
            return Some(Place { name: path, first: 0, count: 1, of: 1 });
        }
        if spec.owner == Owner::Norm {
            path = path.replace(".gamma", ".weight").replace(".beta", ".bias");
        }
        let name = if let Some(rest) = path.strip_prefix("action.") {
            format!("{}{}", self.action?, replaced(rest, &ACTION))
        } else {
            let rest = path.strip_prefix("vlm.").unwrap_or(&path);
            let table: &[(&str, &str)] = match self.layout {
                Layout::Original => &ORIGINAL,
                Layout::Native | Layout::Burn => &NATIVE,
            };
            match rest.strip_prefix("language_model.") {
                Some(rest) => format!("{}{}{rest}", self.vlm, self.language),
                None => format!("{}{}", self.vlm, replaced(rest, table)),
            }
        };
        for (part, whole, [first, count, of]) in FUSED {
            // The tower's projections are separate tensors in the native layout.
            if part.starts_with(".attention.") && self.layout == Layout::Native {
                continue;
            }
            if let Some((before, leaf)) = name.split_once(part) {
                return Some(Place { name: format!("{before}{whole}{leaf}"), first, count, of });
            }
        }
        Some(Place { name, first: 0, count: 1, of: 1 })
    }

    /// Whether a tensor that no parameter uses may be there: constant tables that we compute, the output head of a base
    /// model, and its layers above the `language_layers` that are kept.
    pub fn is_expected_extra(self, name: &str, language_layers: usize) -> bool {
        let is_table = |name: &str| TABLES.iter().any(|table| self.table(table).as_deref() == Some(name));
        let layers = format!("{}{}layers.", self.vlm, self.language);
        let is_cut = name
            .strip_prefix(&layers)
            .and_then(|rest| rest.split('.').next()?.parse::<usize>().ok())
            .is_some_and(|layer| layer >= language_layers);
        is_cut || is_table(name) || name.ends_with("lm_head.weight")
    }
}

fn replaced(path: &str, table: &[(&str, &str)]) -> String {
    table.iter().fold(path.to_owned(), |path, (ours, theirs)| path.replacen(ours, theirs, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(naming: Naming, path: &str, owner: Owner) -> Option<(String, [usize; 3])> {
        let spec = ParamSpec { path: path.into(), shape: vec![], owner };
        naming.place(&spec).map(|place| (place.name, [place.first, place.count, place.of]))
    }

    fn name(naming: Naming, path: &str, owner: Owner) -> String {
        place(naming, path, owner).expect("a place").0
    }

    #[test]
    fn the_tower_is_found_in_both_layouts() {
        let norm = "vlm.vision_tower.layers.3.layernorm_before.gamma";
        assert_eq!(
            name(Naming::LEROBOT, norm, Owner::Norm),
            "model.embedder.model.vision_tower.encoder.layer.3.layernorm_before.weight"
        );
        assert_eq!(
            name(Naming::AUTHORS, norm, Owner::Norm),
            "embedder.model.vision_model.encoder.layers.3.norm1.weight"
        );
        let value = "vlm.vision_tower.layers.0.attention.v_proj.bias";
        assert_eq!(
            place(Naming::AUTHORS, value, Owner::Linear),
            Some(("embedder.model.vision_model.encoder.layers.0.attn.qkv.bias".into(), [2, 1, 3]))
        );
        assert_eq!(
            place(Naming::BASE_NATIVE, value, Owner::Linear),
            Some(("model.vision_tower.encoder.layer.0.attention.v_proj.bias".into(), [0, 1, 1]))
        );
    }

    #[test]
    fn language_model_and_projector_are_found_in_every_naming() {
        let layer = "vlm.language_model.layers.5.mlp.up_proj.weight";
        let names = Naming::ALL.map(|naming| name(naming, layer, Owner::Linear));
        assert_eq!(
            names,
            [
                "model.embedder.model.language_model.layers.5.mlp.up_proj.weight",
                "embedder.model.language_model.model.layers.5.mlp.up_proj.weight",
                "language_model.model.layers.5.mlp.up_proj.weight",
                "language_model.model.layers.5.mlp.up_proj.weight",
                "model.language_model.layers.5.mlp.up_proj.weight",
                layer,
            ]
        );
        assert_eq!(name(Naming::BASE_ORIGINAL, "vlm.projector.linear_2.bias", Owner::Linear), "mlp1.3.bias");
        for (naming, name) in Naming::ALL.into_iter().zip(names) {
            assert!(naming.is_expected_extra(&name, 5) && !naming.is_expected_extra(&name, 6), "{name}");
        }
    }

    #[test]
    fn every_name_has_the_component_of_its_parameter() {
        for path in [
            "vlm.vision_tower.embeddings.cls_token",
            "vlm.vision_tower.layers.0.attention.q_proj.weight",
            "vlm.projector.linear_1.weight",
            "vlm.language_model.layers.0.mlp.up_proj.weight",
            "action.seq_pool_proj.weight",
        ] {
            for naming in Naming::ALL {
                let Some((name, _)) = place(naming, path, Owner::Linear) else { continue };
                assert_eq!(naming.component(&name), ModelPart::of(path), "{name}");
                assert!(naming.component(&name).is_some(), "{name}");
            }
        }
        assert_eq!(Naming::LEROBOT.component("optimizer.state"), None);
    }

    #[test]
    fn the_action_expert_is_named_alike_or_absent() {
        let keys = "action.blocks.1.cross_attention.kv_proj.weight";
        assert_eq!(
            place(Naming::AUTHORS, keys, Owner::Linear),
            Some(("action_head.transformer_blocks.1.attn.in_proj_weight".into(), [1, 2, 3]))
        );
        assert_eq!(place(Naming::BASE_ORIGINAL, keys, Owner::Linear), None);
        assert_eq!(
            name(Naming::LEROBOT, "action.mlp_head.fc1.PerCategory.weight", Owner::Other),
            "model.action_head.mlp_head.fc1.weight"
        );
    }
}
