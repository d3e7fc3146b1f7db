//! Evo-1, the vision-language-action model (arXiv 2511.04555): a [`Policy`] turns camera frames, an instruction and a robot's
//! state into a chunk of actions.
//!
//! ```
//! use evo1::{Frame, LoadOptions, Observation, Policy, PredictOptions, View, device::DeviceName};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let device = "auto".parse::<DeviceName>()?.open()?;
//!     let policy = Policy::embedded(&LoadOptions::new(&device))?; // Policy::load reads a policy directory
//!     let observation = Observation {
//!         views: vec![View::Present(Frame::black(224, 224)); 2],
//!         state: vec![0.0, 0.6, 0.15, 1.0, 0.0, 0.7, 0.02, 0.0],
//!         instruction: "Press the button".into(),
//!         ..Observation::default()
//!     };
//!     let chunk = policy.predict(&observation, &PredictOptions::default())?;
//!     assert_eq!((chunk.horizon(), chunk.width()), (8, 4));
//!     Ok(())
//! }
//! ```
//!
//! [`Policy::quantized`] keeps the weights of linear layers in eight bits, and [`Policy::packed`] in the order in which the processor
//! reads them, which takes a fifth off the action expert and changes results by rounding alone; both for inference only.
//!
//! # Components
//!
//! An action expert, an integration, a head, a vision-language model, a noise schedule or a suite of your own is a type in a
//! crate of your own; three lines make a program of it that has every command of `evo1`, and in which configurations, recipes and
//! studies name it like a built-in one:
//!
//! ```ignore
//! fn main() -> std::process::ExitCode {
//!     evo1_cli::main::<(InternVl, OneOf<MyExpert, ActionExpert>)>()
//! }
//! ```
//!
//! The repository's examples `own_action_head`, `own_integration`, `own_vlm`, `own_time_grid` and `own_suite` are to be copied.
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
