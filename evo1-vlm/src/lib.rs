//! InternVL3 as Evo-1 uses it, each part a module of its own.
//!
//! | module | from → to |
//! | --- | --- |
//! | [`frame`] | camera frame → normalised tiles |
//! | [`vision`] | tiles → patch tokens (InternViT) |
//! | [`unshuffle`] | 2 × 2 patch tokens → one token of four times the channels |
//! | [`projector`] | vision channels → language channels |
//! | [`prompt`] | views and instruction → token ids |
//! | [`tokens`] | a batch of token ids, their positions and which of them are masked |
//! | [`splice`] | token embeddings and visual tokens → input of the language model |
//! | [`language`] | Qwen2, cut to its first layers → fused tokens |
//! | [`model`] | all of it: pixels and token ids → [`Context`](evo1_core::Context) |
#![forbid(unsafe_code)]

pub mod error;
pub mod frame;
pub mod language;
pub mod model;
pub mod pieces;
pub mod projector;
pub mod prompt;
pub mod splice;
pub mod tokens;
pub mod unshuffle;
pub mod vision;
mod words;

pub use error::{Error, Result};
pub use model::{InternVl, init_internvl};
pub use prompt::{Prompt, PromptTokenizer, Word};
pub use tokens::TokenBatch;
pub use words::word_tokenizer;
