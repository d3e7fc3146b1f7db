//! What every Evo-1 crate shares.
//!
//! | module | holds |
//! | --- | --- |
//! | [`component`] | components that a configuration chooses by name |
//! | [`config`] | dimensions and choices of every component, presets, upstream `config.json` files |
//! | [`device`] | the devices of this build by name |
//! | [`observation`] | camera frames, views, observations and action chunks |
//! | [`normalize`] | statistics and the normalisers of state and action |
//! | [`context`] | what the vision-language model hands to the action expert |
//! | [`cost`] | parameters and operations of components |
//! | [`ops`] | attention and activations as PyTorch computes them |
//! | [`files`] | writing without a moment in which a file is half written |
//! | [`hub`] | repositories on the Hugging Face Hub, and their download (feature `hub`) |
//! | [`weights`] | checkpoint files, names of their tensors, strict loading, seeded initialisation |
//! | [`trace`] | a record of named intermediate tensors |
//! | [`rng`] | the one seedable generator |
//! | [`test_support`] | what several test suites need |
#![forbid(unsafe_code)]

pub mod component;
pub mod config;
pub mod constants;
pub mod context;
pub mod cost;
pub mod device;
pub mod error;
pub mod files;
pub mod hub;
mod json;
pub mod normalize;
pub mod observation;
pub mod ops;
pub mod rng;
pub mod test_support;
pub mod trace;
pub mod weights;

pub use component::{Choice, Component, OneOf};
pub use context::Context;
pub use error::{Error, Result};
pub use observation::{ActionChunk, Frame, Observation, StatisticsKey, View};
pub use trace::Trace;
