//! The action expert of Evo-1, each part a module of its own.
//!
//! | module | holds |
//! | --- | --- |
//! | [`category`] | linear layers and MLPs with weights per embodiment |
//! | [`time`] | sinusoidal tables of time and step |
//! | [`encoders`] | state encoder and action encoder |
//! | [`block`] | the attention block, with the context's keys and values computed once |
//! | [`integration`] | what each block attends to: the variants of the paper's figure 6 |
//! | [`head`] | the whole network: context, state and noisy actions → velocity |
//! | [`flow`] | training objective and sampler |
#![forbid(unsafe_code)]

pub mod block;
pub mod category;
pub mod encoders;
pub mod flow;
pub mod head;
pub mod integration;
pub mod time;

pub use flow::{FlowLoss, FlowSample, Sampler, flow_matching_loss};
pub use head::{ActionExpert, Conditioning, init_action_expert};
