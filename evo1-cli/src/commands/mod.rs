//! The subcommands, one a file.

#[cfg(feature = "ablate")]
pub(crate) mod ablate;
// `ablate` brings `train`, and that `data`.
#[cfg(any(test, not(all(feature = "ablate", feature = "serve"))))]
mod absent;
pub(crate) mod attention;
pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod convert;
pub(crate) mod cost;
#[cfg(feature = "data")]
pub(crate) mod data;
pub(crate) mod devices;
#[cfg(feature = "train")]
pub(crate) mod evaluate;
pub(crate) mod infer;
pub(crate) mod inspect;
pub(crate) mod man;
mod matrix;
pub(crate) mod probe;
pub(crate) mod schema;
#[cfg(feature = "serve")]
pub(crate) mod serve;
#[cfg(feature = "data")]
pub(crate) mod stats;
pub(crate) mod trace;
#[cfg(feature = "train")]
pub(crate) mod train;
pub(crate) mod tune;

#[cfg(not(feature = "data"))]
absent::absent!("data": data::Data(&crate::common::Common), stats::Stats(&crate::common::Common));
#[cfg(not(feature = "train"))]
absent::absent!("train": train::Train<C>(&crate::common::Common), evaluate::Evaluate<C>(&crate::common::Common));
#[cfg(not(feature = "serve"))]
absent::absent!("serve": serve::Serve<C>(&crate::common::Common));
#[cfg(not(feature = "ablate"))]
absent::absent!("ablate": ablate::Ablate<C>(&crate::common::Common));
