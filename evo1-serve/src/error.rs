//! The error of this crate.

use std::{net::SocketAddr, path::PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a server cannot run, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Anybody could move the robot.
    #[error(
        "{bind} is outside loopback, so that anybody who reaches it could use the policy: set --token, or say --insecure"
    )]
    Insecure {
        /// The address.
        bind: SocketAddr,
    },
    /// Anybody could move the robot by the door that has no lock.
    #[error(
        "--lerobot {bind}: LeRobot's clients know neither tokens nor TLS, so that anybody who reaches this address could use \
         the policy: listen on loopback without a token, or say --insecure"
    )]
    InsecureLeRobot {
        /// The address.
        bind: SocketAddr,
    },
    /// An option cannot be used.
    #[error("--{option}: {message}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {bind}: {reason}")]
    Bind {
        /// The address.
        bind: SocketAddr,
        /// The operating system's answer.
        reason: std::io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("{}: not a usable certificate or key: {message}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A file of tokens cannot be used.
    #[error("{}: not a usable file of tokens: {message}", path.display())]
    Tokens {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// Traces cannot be sent.
    #[cfg(feature = "otel")]
    #[error("traces cannot be sent: {0}; `OTEL_EXPORTER_OTLP_ENDPOINT` says where to")]
    Traces(String),
    /// The access log cannot be written.
    #[error("{}: the access log cannot be written: {reason}", path.display())]
    AccessLog {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        reason: std::io::Error,
    },
    /// The system gives no thread, or the metrics cannot be set up.
    #[error("cannot start the server: {0}")]
    Start(String),
    /// The thread that computes has ended.
    #[error("the model has stopped computing; the server ends, because it cannot answer any more")]
    WorkerStopped,
    /// Requests were still under way when the time to end had passed.
    #[error("{connections} connections were still busy when the time to end had passed")]
    DrainTimeout {
        /// How many.
        connections: usize,
    },
}
