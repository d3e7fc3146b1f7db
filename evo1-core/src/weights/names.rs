//! Where the parameters of our modules stand in a checkpoint.

use super::{Owner, ParamSpec};

/// A way of naming the tensors of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// LeRobot's: transformers' InternVL below `model.embedder.model.`, separate q, k and v in the vision tower.
    LeRobot,
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

/// Our path segments and LeRobot's, in the order in which they are replaced.
const LEROBOT: [(&str, &str); 18] = [
    ("vlm.", "model.embedder.model."),
    ("action.", "model.action_head."),
    ("vision_tower.layers.", "vision_tower.encoder.layer."),
    ("patch_embedding.", "patch_embeddings.projection."),
    ("attention.output.", "attention.projection_layer."),
    ("layer_scale_1", "lambda_1"),
    ("layer_scale_2", "lambda_2"),
    (".projector.", ".multi_modal_projector."),
    ("model.action_head.blocks.", "model.action_head.transformer_blocks."),
    (".cross_attention.out_proj.", ".attn.out_proj."),
    (".cross_attention.", ".attn."),
    ("feed_forward.linear_1.", "ff.0."),
    ("feed_forward.linear_2.", "ff.2."),
    ("action_encoder.w1.", "action_encoder.W1."),
    ("action_encoder.w2.", "action_encoder.W2."),
    ("action_encoder.w3.", "action_encoder.W3."),
    (".Shared.", ".linear."),
    (".PerCategory.", "."),
];

impl Naming {
    /// The place of a parameter.
    pub fn place(self, spec: &ParamSpec) -> Place {
        let Self::LeRobot = self;
        let mut name = spec.path.clone();
        if spec.owner == Owner::Norm {
            name = name.replace(".gamma", ".weight").replace(".beta", ".bias");
        }
        for (ours, theirs) in LEROBOT {
            name = name.replacen(ours, theirs, 1);
        }
        // PyTorch's MultiheadAttention stacks the projections of q, k and v.
        for (part, first, count) in [(".attn.q_proj.", 0, 1), (".attn.kv_proj.", 1, 2)] {
            if let Some((block, leaf)) = name.split_once(part) {
                return Place { name: format!("{block}.attn.in_proj_{leaf}"), first, count, of: 3 };
            }
        }
        Place { name, first: 0, count: 1, of: 1 }
    }

    /// Whether a tensor that no parameter uses may be there: constant tables that we compute, and layers of a base
    /// model above the `language_layers` that are kept.
    pub fn is_expected_extra(self, name: &str, language_layers: usize) -> bool {
        let Self::LeRobot = self;
        const TABLES: [&str; 2] = ["action_head.time_pos_enc.pe", "action_head.action_encoder.pos_encoding.pe"];
        let cut = name
            .split_once("language_model.layers.")
            .and_then(|(_, rest)| rest.split('.').next()?.parse::<usize>().ok())
            .is_some_and(|layer| layer >= language_layers);
        cut || TABLES.iter().any(|table| name.ends_with(table)) || name.ends_with("lm_head.weight")
    }
}
