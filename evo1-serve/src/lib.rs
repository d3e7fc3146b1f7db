//! A policy server that robots can trust: existing Evo-1 clients connect to it unchanged.
//!
//! | module | holds |
//! | --- | --- |
//! | [`protocol`] | messages: Evo-1's websocket JSON, openpi's msgpack and LeRobot's pickles |
//! | [`scale`] | OpenCV's bilinear scaling |
//! | [`Model`] | what is served: a [`PolicyModel`], or anything else that predicts; several by their names ([`NamedModel`]) |
//! | [`Server`] | connections, the queue and the one thread that computes |
//! | [`client`] | a client for robots that run Rust |
//!
//! The way of a request: its connection reads the message, parses it and puts it into the queue; the worker takes it out,
//! computes and hands the answer back; the connection sends it. Connections never compute and the worker never waits for
//! one, so that pings are answered during an inference of any length.
#![forbid(unsafe_code)]

mod access;
mod budget;
pub mod client;
mod connection;
mod error;
mod http;
mod lerobot;
mod metrics;
mod model;
mod options;
mod policies;
pub mod protocol;
mod queue;
mod recent;
mod request;
pub mod scale;
mod server;
mod tls;
mod tokens;
#[cfg(feature = "otel")]
mod traces;
mod watchdog;
mod worker;

pub use error::{Error, Result};
pub use evo1::{Description, Robot};
pub use model::{Model, PolicyModel};
pub use options::{DEFAULT_PORT, MAX_MESSAGE, ServerOptions};
pub use policies::{Load, NamedModel, is_policy_name};
pub use request::{Answer, ErrorKind, Request, RequestError, RequestId, Rtc};
pub use server::{Reload, ReloadError, Server, Stop};
pub use tokens::Tokens;
