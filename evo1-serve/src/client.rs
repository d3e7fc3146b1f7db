//! A client for robots that run Rust. It blocks, as a control loop does, and answers pings while it waits.
//!
//! It speaks Evo-1's JSON protocol, to this server or to the authors'; of this one it asks for replies and errors as
//! objects, so that it knows the times of a prediction and why there is none.

use std::{collections::BTreeMap, io, net::TcpStream, path::PathBuf, sync::Arc, time::Duration};

use evo1::{ActionChunk, Observation};
use serde::Deserialize;
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio_tungstenite::tungstenite::{
    Connector, Message, WebSocket, client::IntoClientRequest, client_tls_with_config, handshake::HandshakeError,
    http::HeaderValue, protocol::WebSocketConfig, stream::MaybeTlsStream,
};

use crate::{MAX_MESSAGE, Rtc, protocol::json};

/// How a client connects.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// The server's token.
    pub token: Option<String>,
    /// A PEM file of the certificate to trust for `wss://`; the system's when `None`.
    pub certificate: Option<PathBuf>,
    /// How long a connection and a reply may take.
    pub timeout: Duration,
    /// Frames are sent as BGR, because the server swaps the channels.
    pub swaps_channels: bool,
    /// Padded width of an action on the wire: 24.
    pub max_action_dim: usize,
    /// Values of the robot's actions, for observations without an action mask, which are refused without it.
    pub action_dim: Option<usize>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            token: None,
            certificate: None,
            timeout: Duration::from_secs(600),
            swaps_channels: true,
            max_action_dim: 24,
            action_dim: None,
        }
    }
}

/// What goes with one observation. All are this server's own; the authors' does not look at them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CallOptions {
    /// Seed of the noise; the server's when `None`.
    pub seed: Option<u64>,
    /// Euler steps; the policy's when `None`.
    pub steps: Option<usize>,
    /// How long an answer is of use.
    pub deadline: Option<Duration>,
    /// Steps of the Gaussian that smooths the chunk along time.
    pub smoothing: Option<f32>,
    /// Guidance to the chunk of the previous reply.
    pub rtc: Option<Rtc>,
}

/// A reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Actions in the robot's units, as wide as the model's; the robot's are the first columns.
    pub chunk: ActionChunk,
    /// Times by stage, in milliseconds; empty from the authors' server.
    pub milliseconds: BTreeMap<String, f64>,
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection could not be made, or has ended.
    #[error("{url}: {message}")]
    Connection {
        /// The server.
        url: String,
        /// What happened: the reason of its close frame, if it sent one.
        message: String,
    },
    /// The certificate file cannot be used.
    #[error("{}: not a usable certificate: {message}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The server refused the request; the connection goes on.
    #[error("the server refused the request: {kind}: {message}")]
    Refused {
        /// The kind, as [`crate::ErrorKind::name`].
        kind: String,
        /// Cause and remedy.
        message: String,
    },
    /// Nothing says how wide the robot's actions are.
    #[error(
        "how wide the robot's actions are is unknown: give the observation an action mask, or the client `action_dim`"
    )]
    UnknownActionWidth,
    /// The reply is none.
    #[error("the reply is not one of the protocol: {0}")]
    Reply(String),
}

/// A connection to a policy server.
pub struct Client {
    socket: WebSocket<MaybeTlsStream<TcpStream>>,
    url: String,
    options: ClientOptions,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WireReply {
    Bare(Vec<Vec<f32>>),
    Error { error: WireError },
    Object { actions: Vec<Vec<f32>>, milliseconds: BTreeMap<String, f64> },
}

#[derive(Deserialize)]
struct WireError {
    kind: String,
    message: String,
}

impl Client {
    /// Connects to `ws://HOST:PORT` or `wss://HOST:PORT`.
    pub fn connect(url: &str, options: ClientOptions) -> Result<Self, ClientError> {
        let failed =
            |message: &dyn std::fmt::Display| ClientError::Connection { url: url.into(), message: message.to_string() };
        let separator = if url.contains('?') { '&' } else { '?' };
        let path = if url.splitn(4, '/').count() < 4 { "/" } else { "" };
        let full = format!("{url}{path}{separator}errors=json&reply=object");
        let mut request = full.into_client_request().map_err(|error| failed(&error))?;
        if let Some(token) = &options.token {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|error| failed(&error))?;
            request.headers_mut().insert("Authorization", value);
        }
        let host = request.uri().host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let is_tls = request.uri().scheme_str() == Some("wss");
        let port = request.uri().port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let stream = TcpStream::connect((host.as_str(), port)).map_err(|error| failed(&error))?;
        let prepared = stream.set_nodelay(true).and(stream.set_read_timeout(Some(options.timeout)));
        prepared.map_err(|error| failed(&error))?;
        let connector = if is_tls { Connector::Rustls(tls_config(&options)?) } else { Connector::Plain };
        let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
        let (socket, _) = match client_tls_with_config(request, stream, Some(config), Some(connector)) {
            Ok(connected) => connected,
            Err(HandshakeError::Failure(error)) => return Err(failed(&error)),
            Err(HandshakeError::Interrupted(_)) => return Err(failed(&"no handshake within the time")),
        };
        Ok(Self { socket, url: url.to_owned(), options })
    }

    /// One prediction: sends the observation and waits for its chunk.
    pub fn predict(&mut self, observation: &Observation, call: &CallOptions) -> Result<Reply, ClientError> {
        if observation.action_mask.is_none() && self.options.action_dim.is_none() {
            return Err(ClientError::UnknownActionWidth);
        }
        let message = json::encode(observation, call, &self.options);
        self.exchange(&message).and_then(|reply| read_reply(&reply))
    }

    /// Sends a message as it is and waits for the reply, as it is.
    pub fn exchange(&mut self, message: &str) -> Result<String, ClientError> {
        self.socket.send(Message::text(message)).map_err(|error| self.ended(&error))?;
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return Ok(text.to_string()),
                Ok(Message::Close(frame)) => {
                    let reason = frame.map(|frame| format!("closed with {}: {}", u16::from(frame.code), frame.reason));
                    return Err(self.ended(&reason.unwrap_or_else(|| "closed without a reason".into())));
                }
                Ok(_) => {}
                Err(tokio_tungstenite::tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(self.ended(&format!("no reply within {} s", self.options.timeout.as_secs())));
                }
                Err(error) => return Err(self.ended(&error)),
            }
        }
    }

    /// Says goodbye; dropping the client does without.
    pub fn close(mut self) {
        let _ = self.socket.close(None);
        while self.socket.read().is_ok() {}
    }

    fn ended(&self, message: &dyn std::fmt::Display) -> ClientError {
        ClientError::Connection { url: self.url.clone(), message: message.to_string() }
    }
}

/// Reads a reply of this server or of the authors'.
pub fn read_reply(text: &str) -> Result<Reply, ClientError> {
    let reply = serde_json::from_str(text).map_err(|error| ClientError::Reply(error.to_string()))?;
    let (rows, milliseconds) = match reply {
        WireReply::Bare(actions) => (actions, BTreeMap::new()),
        WireReply::Object { actions, milliseconds } => (actions, milliseconds),
        WireReply::Error { error: WireError { kind, message } } => return Err(ClientError::Refused { kind, message }),
    };
    let width = rows.first().map_or(0, Vec::len);
    if width == 0 || rows.iter().any(|row| row.len() != width) {
        return Err(ClientError::Reply("its rows have no common width".into()));
    }
    Ok(Reply { chunk: ActionChunk::new(width, rows.concat()), milliseconds })
}

fn tls_config(options: &ClientOptions) -> Result<Arc<ClientConfig>, ClientError> {
    let mut roots = RootCertStore::empty();
    match &options.certificate {
        Some(path) => {
            let unusable = |message: String| ClientError::Certificate { path: path.clone(), message };
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))? {
                let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
                roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Connection { url: "wss".into(), message: error.to_string() })?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_both_servers_are_read() {
        let bare = read_reply("[[1, 2], [3, 4.5]]").expect("bare");
        assert_eq!((bare.chunk.horizon(), bare.chunk.values()), (2, &[1.0, 2.0, 3.0, 4.5][..]));
        let object = read_reply(r#"{"request_id":null,"actions":[[1]],"batch":1,"milliseconds":{"total":2.5}}"#);
        assert_eq!(object.expect("object").milliseconds["total"], 2.5);
        let error =
            read_reply(r#"{"request_id":1,"error":{"kind":"overloaded","message":"full"}}"#).expect_err("error");
        assert!(matches!(error, ClientError::Refused { kind, .. } if kind == "overloaded"));
        for none in ["[]", "[[1], [2, 3]]", "[[]]", "{}", "x", "[[null]]"] {
            assert!(matches!(read_reply(none), Err(ClientError::Reply(_))), "{none}");
        }
    }
}
