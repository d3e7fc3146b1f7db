//! The vision tower InternViT-300M: tiles in, patch tokens out.

mod attention;
mod embeddings;
mod layer;
mod tower;

pub use attention::VisionAttention;
pub use embeddings::VisionEmbeddings;
pub use layer::VisionLayer;
pub use tower::VisionTower;
