//! The action expert of Evo-1, each part a module of its own.
//!
//! | module | holds |
//! | --- | --- |
//! | [`model`] | what every action expert is: the seam for one of your own |
//! | [`expert`] | the published one: context, state and noisy actions → velocity |
//! | [`integration`] | where the keys and values of its blocks come from: the variants of the paper's figure 6 |
//! | [`head`] | how it makes a velocity of action tokens |
//! | [`block`], [`attention`] | its block, with keys and values apart |
//! | [`encoders`] | the encoder of noisy actions |
//! | [`category`] | linear layers and MLPs with weights per embodiment |
//! | [`time`] | sinusoidal tables of time and step |
//! | [`flow`] | training objective and sampler; noise, times, grids and solvers |
#![forbid(unsafe_code)]

pub mod attention;
pub mod block;
pub mod category;
pub mod encoders;
pub mod expert;
pub mod flow;
pub mod head;
pub mod integration;
pub mod model;
pub mod time;

pub use expert::{ActionExpert, Conditioning};
pub use flow::{Flow, FlowLoss, FlowSample, Sampler, flow_matching_loss};
pub use model::{FlowTime, VelocityModel, embodiments};
