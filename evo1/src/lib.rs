#![doc = include_str!("../README.md")]
//!
//! ## Components
//!
//! The components are crates of their own and usable by themselves: [`evo1_vlm`] (re-exported as [`vlm`]),
//! [`evo1_action`] (as [`action`]) and [`evo1_core`], whose modules are re-exported here.
#![deny(unsafe_code)]

pub mod attention;
mod base;
pub mod chunk;
mod components;
pub mod convert;
pub mod cost;
mod description;
mod error;
pub mod inspect;
mod load;
mod network;
mod policy;
mod preparer;
mod presets;
mod rollout;
mod save;
mod timing;
pub mod trace;

pub use components::{Components, Published};
pub use description::{Description, Robot};
pub use error::{Error, Result};
pub use evo1_action::{self as action, VelocityModel};
pub use evo1_core::{
    ActionChunk, Choice, Component, Context, Error as CoreError, Frame, Observation, OneOf, StatisticsKey, Trace, View,
    config, device, files, hub, normalize, ops, rng, test_support, weights,
};
pub use evo1_vlm::{self as vlm, VisionLanguageModel};
pub use load::{LoadOptions, LoadReport};
pub use network::Evo1;
pub use policy::{ActionWidth, FinishOptions, Noise, Policy, PredictOptions, Prediction};
pub use preparer::{HostInputs, Inputs, Preparer};
pub use presets::byte_tokenizer;
pub use rollout::Rollout;
pub use timing::StageTimes;
