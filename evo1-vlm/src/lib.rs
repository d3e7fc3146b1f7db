//! InternVL3 as Evo-1 uses it, each part a module of its own.
//!
//! | module | from → to |
//! | --- | --- |
//! | [`frame`] | camera frame → normalised tiles |
//! | [`vision`] | tiles → patch tokens (InternViT) |
//! | [`unshuffle`] | 2 × 2 patch tokens → one token of four times the channels |
//! | [`projector`] | vision channels → language channels |
//! | [`prompt`] | views and instruction → token ids |
//! | [`tokens`] | a batch of token ids, their positions and which of them are hidden |
//! | [`splice`] | token embeddings and visual tokens → input of the language model |
//! | [`language`] | Qwen2, cut to its first layers → fused tokens |
//! | [`internvl`] | all of it: pixels and token ids → [`Context`](evo1_core::Context) |
//! | [`model`] | what every vision-language model is: the seam for one of your own |
#![forbid(unsafe_code)]

pub mod error;
pub mod frame;
pub mod internvl;
pub mod language;
pub mod model;
pub mod projector;
pub mod prompt;
pub mod segments;
pub mod splice;
pub mod tokens;
pub mod unshuffle;
pub mod vision;
mod words;

pub use error::{Error, Result};
pub use internvl::InternVl;
pub use model::VisionLanguageModel;
pub use prompt::{Prompt, PromptTokenizer, Word};
pub use segments::Segment;
pub use tokens::{PlacedTokens, TokenBatch};
pub use words::word_tokenizer;
