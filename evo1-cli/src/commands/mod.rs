//! The subcommands, one a file.

pub(crate) mod ablate;
pub(crate) mod attention;
pub(crate) mod bench;
pub(crate) mod convert;
pub(crate) mod cost;
pub(crate) mod data;
pub(crate) mod devices;
pub(crate) mod evaluate;
pub(crate) mod infer;
pub(crate) mod inspect;
pub(crate) mod probe;
pub(crate) mod serve;
pub(crate) mod stats;
pub(crate) mod trace;
pub(crate) mod train;
