//! The vision tower InternViT-300M: tiles in, patch tokens out.

mod attention;
mod embeddings;
mod layer;
mod tower;

use evo1_core::weights::{InitialScales, InitialValue, ParamSpec};

pub use attention::VisionAttention;
pub use embeddings::VisionEmbeddings;
pub use layer::VisionLayer;
pub use tower::VisionTower;

/// Standard deviation of the class token, as transformers initialises it.
const CLASS_TOKEN_STD: f32 = 0.02;

/// How the tower's parameters start that PyTorch has no default for.
pub fn initial_value(spec: &ParamSpec, scales: &InitialScales) -> Option<InitialValue> {
    match spec.path.rsplit('.').next()? {
        "position_embeddings" => Some(InitialValue::of_std(scales.positions)),
        "cls_token" => Some(InitialValue::of_std(CLASS_TOKEN_STD)),
        "layer_scale_1" | "layer_scale_2" => Some(InitialValue::Constant(scales.layer_scale)),
        _ => None,
    }
}
