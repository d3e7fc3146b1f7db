//! How a server runs.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::{Error, Result, protocol::Scaling};

/// Evo-1's port.
pub const DEFAULT_PORT: u16 = 9000;

/// Most bytes of a message, as the authors' server takes them: 100,000,000.
pub const MAX_MESSAGE: usize = 100_000_000;

/// How a server runs. [`Self::default`] is what the authors' server does, bound to loopback.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerOptions {
    /// Where it listens; port 0 takes a free one.
    pub bind: SocketAddr,
    /// The token that clients must bring, as `Authorization: Bearer TOKEN`, `Authorization: Api-Key TOKEN` or `?token=`.
    pub token: Option<String>,
    /// Certificate chain and private key, PEM files, for TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Listen outside loopback without a token.
    pub is_insecure: bool,
    /// The first and third channel of JSON images change places, as the authors' server does.
    pub swaps_channels: bool,
    /// Who scales frames of the JSON protocol.
    pub scaling: Scaling,
    /// Cameras of the openpi protocol in the order of the policy's views; empty: the policy's own, or as they come where it
    /// knows none.
    pub cameras: Vec<String>,
    /// Most requests that wait for the device; one more is answered *overloaded* at once.
    pub queue: usize,
    /// Most requests computed together.
    pub max_batch: usize,
    /// How long the device waits for more requests when there is room in a batch.
    pub batch_wait: Duration,
    /// How long a request may take when it does not say so itself.
    pub deadline: Option<Duration>,
    /// Most bytes of a message.
    pub max_message: usize,
    /// Most bytes of all messages that arrive or wait together.
    pub max_memory: usize,
    /// Most connections.
    pub max_connections: usize,
    /// How long a message, a handshake or a reply may be on its way.
    pub transfer_timeout: Duration,
    /// How long the server waits for requests to end when it is told to stop.
    pub drain_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)),
            token: None,
            tls: None,
            is_insecure: false,
            swaps_channels: true,
            scaling: Scaling::OpenCv,
            cameras: Vec::new(),
            queue: 64,
            max_batch: 1,
            batch_wait: Duration::ZERO,
            deadline: None,
            max_message: MAX_MESSAGE,
            max_memory: 2_000_000_000,
            max_connections: 4096,
            transfer_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(120),
        }
    }
}

impl ServerOptions {
    /// Fails unless the options fit together.
    pub fn validate(&self) -> Result<()> {
        if !self.bind.ip().is_loopback() && self.token.is_none() && !self.is_insecure {
            return Err(Error::Insecure { bind: self.bind });
        }
        let positive = [
            ("queue", self.queue),
            ("max-batch", self.max_batch),
            ("max-message", self.max_message),
            ("max-memory", self.max_memory),
            ("max-connections", self.max_connections),
        ];
        match positive.into_iter().find(|(_, value)| *value == 0) {
            Some((option, _)) => Err(Error::Option { option, message: "it must be at least 1".into() }),
            None if self.token.as_ref().is_some_and(String::is_empty) => {
                Err(Error::Option { option: "token", message: "it is empty".into() })
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_outside_loopback_needs_a_token_or_to_be_told() {
        let open = ServerOptions { bind: SocketAddr::from(([0, 0, 0, 0], 9000)), ..ServerOptions::default() };
        let message = open.validate().expect_err("insecure").to_string();
        assert!(message.contains("--token") && message.contains("--insecure"), "{message}");
        ServerOptions { token: Some("t".into()), ..open.clone() }.validate().expect("with a token");
        ServerOptions { is_insecure: true, ..open }.validate().expect("told");
        ServerOptions::default().validate().expect("loopback");
        assert!(ServerOptions { queue: 0, ..ServerOptions::default() }.validate().is_err());
        assert!(ServerOptions { token: Some(String::new()), ..ServerOptions::default() }.validate().is_err());
    }
}
