#![doc = include_str!("../README.md")]
//!
//! ## Components
//!
//! The components are crates of their own and usable by themselves: [`evo1_vlm`] (re-exported as [`vlm`]),
//! [`evo1_action`] (as [`action`]) and [`evo1_core`], whose modules are re-exported here.
#![forbid(unsafe_code)]

pub mod attention;
mod base;
pub mod chunk;
pub mod convert;
pub mod cost;
mod error;
pub mod inspect;
mod load;
mod network;
mod policy;
mod preparer;
mod presets;
mod save;
mod timing;
pub mod trace;

pub use error::{Error, Result};
pub use evo1_action as action;
pub use evo1_core::{
    ActionChunk, Context, Error as CoreError, Frame, Observation, StatisticsKey, Trace, View, config, device, files,
    hub, normalize, ops, rng, weights,
};
pub use evo1_vlm as vlm;
pub use load::{LoadOptions, LoadReport};
pub use network::Evo1;
pub use policy::{ActionWidth, FinishOptions, Noise, Policy, PredictOptions, Prediction};
pub use preparer::{Inputs, Preparer};
pub use presets::byte_tokenizer;
pub use timing::StageTimes;
