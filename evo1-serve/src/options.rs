//! How a server runs.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::{
    Error, Result, Tokens,
    protocol::{MAX_INSTRUCTION, Protocol, Scaling},
};

/// Evo-1's port.
pub const DEFAULT_PORT: u16 = 9000;

/// Most bytes of a message, as the authors' server takes them: 100,000,000.
pub const MAX_MESSAGE: usize = 100_000_000;

/// How a server runs. [`Self::default`] is what the authors' server does, bound to loopback.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerOptions {
    /// Where it listens; port 0 takes a free one.
    pub bind: SocketAddr,
    /// Tokens of which clients must bring one, as `Authorization: Bearer TOKEN`, `Authorization: Api-Key TOKEN` or `?token=`.
    pub tokens: Tokens,
    /// Where LeRobot's clients (asynchronous inference, gRPC) find it; nowhere when `None`. They know neither tokens nor TLS.
    pub lerobot: Option<SocketAddr>,
    /// Actions that a robot of LeRobot's executes in a second: what the times in replies to it are counted by.
    pub lerobot_fps: f64,
    /// Certificate chain and private key, PEM files, for TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// How often these files are looked at; new connections get what they hold then.
    pub tls_renewal: Duration,
    /// Names by which clients may ask for the server where there is no token; addresses and `localhost` always may. Other
    /// names are refused: a page of another site can give its name the server's address.
    pub allow_hosts: Vec<String>,
    /// Origins of pages that may connect beside the server's own, as browsers write them: `https://robot.example`, `null`.
    pub allow_origins: Vec<String>,
    /// Listen outside loopback without a token.
    pub is_insecure: bool,
    /// What websockets speak at any path but `/openpi` and `/evo1`, which have their own.
    pub protocol: Protocol,
    /// The first and third channel of JSON images change places, as the authors' server does.
    pub swaps_channels: bool,
    /// Who scales frames of the JSON protocol; whom the model says when `None`.
    pub scaling: Option<Scaling>,
    /// Cameras of openpi's and LeRobot's observations in the order of the policy's views; empty: the policy's own, or as they come where it
    /// knows none.
    pub cameras: Vec<String>,
    /// File to which a line of JSON is appended for each request; none when `None`.
    pub access_log: Option<PathBuf>,
    /// Whether a trace of each request is sent to OpenTelemetry's collector, which the environment names
    /// (`OTEL_EXPORTER_OTLP_ENDPOINT`, `http://localhost:4318` by default).
    #[cfg(feature = "otel")]
    pub traces: bool,
    /// The instruction of observations that have none: openpi's are refused when `None`, LeRobot's have an empty one then.
    pub prompt: Option<String>,
    /// Most requests that wait for the device; one more is answered *overloaded* at once.
    pub queue: usize,
    /// Most requests of one connection that wait, are computed or whose replies are not sent; at the limit nothing more is
    /// read from it. Connections with `queue=latest`, of whose requests one waits at most, have a limit of their own.
    pub max_in_flight: usize,
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
            tokens: Tokens::default(),
            lerobot: None,
            lerobot_fps: 30.0,
            tls: None,
            tls_renewal: Duration::from_secs(60),
            allow_hosts: Vec::new(),
            allow_origins: Vec::new(),
            is_insecure: false,
            protocol: Protocol::Evo1,
            swaps_channels: true,
            scaling: None,
            cameras: Vec::new(),
            access_log: None,
            #[cfg(feature = "otel")]
            traces: false,
            prompt: None,
            queue: 64,
            max_in_flight: 4,
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
        if !self.bind.ip().is_loopback() && self.tokens.is_empty() && !self.is_insecure {
            return Err(Error::Insecure { bind: self.bind });
        }
        if let Some(bind) = self.lerobot
            && (!bind.ip().is_loopback() || !self.tokens.is_empty() || self.tls.is_some())
            && !self.is_insecure
        {
            return Err(Error::InsecureLeRobot { bind });
        }
        let positive = [
            ("queue", self.queue),
            ("max-in-flight", self.max_in_flight),
            ("max-batch", self.max_batch),
            ("max-message", self.max_message),
            ("max-memory", self.max_memory),
            ("max-connections", self.max_connections),
        ];
        let wrong = |option, message: String| Err(Error::Option { option, message });
        if let Some((option, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return wrong(option, "it must be at least 1".into());
        }
        if !(self.lerobot_fps > 0.0 && self.lerobot_fps.is_finite()) {
            return wrong("lerobot-fps", format!("it must be above 0, got {}", self.lerobot_fps));
        }
        if self.tls_renewal.is_zero() {
            return wrong("tls-renewal", "it must be longer than nothing".into());
        }
        if let Some(host) = self.allow_hosts.iter().find(|host| !is_host_name(host)) {
            return wrong("allow-host", format!("expected a name without scheme, port and path, got `{host}`"));
        }
        if let Some(origin) = self.allow_origins.iter().find(|origin| !is_origin(origin)) {
            return wrong(
                "allow-origin",
                format!("expected `SCHEME://HOST[:PORT]` in lower case, or `null`, got `{origin}`"),
            );
        }
        match &self.prompt {
            Some(prompt) if prompt.len() > MAX_INSTRUCTION => {
                wrong("prompt", format!("it has {} bytes, but at most {MAX_INSTRUCTION} are read", prompt.len()))
            }
            _ => Ok(()),
        }
    }
}

fn is_host_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

/// Whether a browser could send it as the `Origin` of a page.
fn is_origin(text: &str) -> bool {
    let is_written_so = |(scheme, host): (&str, &str)| !scheme.is_empty() && !host.contains(['/', '?', '#']);
    text == "null" || (text.split_once("://").is_some_and(is_written_so) && text == text.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_outside_loopback_needs_a_token_or_to_be_told() {
        let open = ServerOptions { bind: SocketAddr::from(([0, 0, 0, 0], 9000)), ..ServerOptions::default() };
        let message = open.validate().expect_err("insecure").to_string();
        assert!(message.contains("--token") && message.contains("--insecure"), "{message}");
        let mut tokens = Tokens::default();
        tokens.add("robot", "t").expect("a token");
        ServerOptions { tokens, ..open.clone() }.validate().expect("with a token");
        ServerOptions { is_insecure: true, ..open }.validate().expect("told");
        ServerOptions::default().validate().expect("loopback");
        let lerobot =
            |address: [u8; 4]| ServerOptions { lerobot: Some((address, 8080).into()), ..ServerOptions::default() };
        lerobot([127, 0, 0, 1]).validate().expect("loopback");
        let message = lerobot([0, 0, 0, 0]).validate().expect_err("insecure").to_string();
        assert!(message.contains("--lerobot 0.0.0.0:8080") && message.contains("--insecure"), "{message}");
        ServerOptions { is_insecure: true, ..lerobot([0, 0, 0, 0]) }.validate().expect("told");
        let mut tokens = Tokens::default();
        tokens.add("robot", "t").expect("a token");
        ServerOptions { tokens, ..lerobot([127, 0, 0, 1]) }.validate().expect_err("a door beside the locked one");
        ServerOptions { lerobot_fps: 0.0, ..ServerOptions::default() }.validate().expect_err("no time passes");
        assert!(ServerOptions { queue: 0, ..ServerOptions::default() }.validate().is_err());
        assert!(Tokens::default().add("robot", "").is_err());
    }
    #[test]
    fn doors_that_no_client_can_come_through_are_refused() {
        let host = |name: &str| ServerOptions { allow_hosts: vec![name.into()], ..ServerOptions::default() }.validate();
        let origin =
            |origin: &str| ServerOptions { allow_origins: vec![origin.into()], ..ServerOptions::default() }.validate();
        host("robot.local").expect("a name");
        for wrong in ["http://robot.local", "robot.local:9000", "robot/x", ""] {
            host(wrong).expect_err(wrong);
        }
        for right in ["https://robot.example", "http://a:9000", "null", "file://"] {
            origin(right).expect(right);
        }
        for wrong in ["robot.example", "https://robot.example/", "*", "https://Robot.example"] {
            origin(wrong).expect_err(wrong);
        }
    }
}
