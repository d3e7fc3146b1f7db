//! Evo-1, the vision-language-action model, on [burn](https://burn.dev): camera frames, an instruction and a robot's
//! state go in, a chunk of robot actions comes out.
//!
//! ```
//! use evo1::{Frame, Observation, Policy, PredictOptions, View, device::DeviceName};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = "auto".parse::<DeviceName>()?.open()?;
//! let policy = Policy::tiny(0, &device)?; // random weights; Policy::load reads a policy directory
//! let observation = Observation {
//!     views: vec![View::Present(Frame::black(224, 224))],
//!     state: vec![0.0, 0.6, 0.15, 1.0, 0.0, 0.7, 0.02, 0.0],
//!     instruction: "Press the button".into(),
//!     ..Observation::default()
//! };
//! let chunk = policy.predict(&observation, &PredictOptions::default())?;
//! assert_eq!((chunk.horizon(), chunk.width()), (16, 4));
//! # Ok(())
//! # }
//! ```
//!
//! The components are crates of their own and usable by themselves: [`evo1_vlm`] (re-exported as [`vlm`]),
//! [`evo1_action`] (as [`action`]) and [`evo1_core`], whose modules are re-exported here.
#![forbid(unsafe_code)]

mod error;
mod load;
mod network;
mod policy;
mod presets;
pub mod trace;

pub use error::{Error, Result};
pub use evo1_action as action;
pub use evo1_core::{
    ActionChunk, Context, Frame, Observation, StatisticsKey, Trace, View, config, device, normalize, rng, weights,
};
pub use evo1_vlm as vlm;
pub use load::{LoadOptions, LoadReport};
pub use network::Evo1;
pub use policy::{Inputs, Noise, Policy, PredictOptions};
