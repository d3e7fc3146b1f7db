//! Qwen2.5-0.5B, cut to its first layers, without the output head.

mod attention;
mod decoder;
mod layer;
mod mlp;
mod rope;

pub use attention::{AttentionMask, LanguageAttention};
pub use decoder::Decoder;
pub use layer::DecoderLayer;
pub use mlp::GatedMlp;
pub use rope::RotaryTable;
