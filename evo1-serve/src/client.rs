//! A client for robots that run Rust. It blocks, as a control loop does, and answers pings while it waits.
//!
//! It speaks Evo-1's JSON protocol, to this server or to the authors'; of this one it asks for replies and errors as
//! objects, so that it knows the times of a prediction and why there is none.
//!
//! **A chunk is that of the observation it was asked for, or an error.** Each request has an id, and replies with another are
//! passed over. After whatever went wrong on the way, a reply that came too late included, the connection is given up; the
//! next request makes a new one. No observation is sent twice: by then there is a newer one.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use evo1::{ActionChunk, Observation, StatisticsKey, config::Cameras};
use serde::Deserialize;
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio_tungstenite::tungstenite::{
    Connector, Error as WsError, Message, WebSocket, client::IntoClientRequest, client_tls_with_config,
    handshake::HandshakeError, http::HeaderValue, protocol::WebSocketConfig, stream::MaybeTlsStream,
};

use crate::{
    MAX_MESSAGE, RequestId, Robot, Rtc,
    http::INFO_HEADER,
    protocol::json::{self, WireOptions},
};

/// How a client connects.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// The server's token.
    pub token: Option<String>,
    /// A PEM file of the certificate to trust for `wss://`; the system's when `None`.
    pub certificate: Option<PathBuf>,
    /// How long a connection may take to be made, handshakes included; the system's own limits hold for looking up a name.
    pub connect_timeout: Duration,
    /// How long a message may take to be sent.
    pub write_timeout: Duration,
    /// How long its reply may take from then on. It ends a request for good: with [`CallOptions::deadline`] the server gives up
    /// too, and the connection goes on.
    pub read_timeout: Duration,
    /// How a connection that has ended is made anew.
    pub reconnect: Reconnect,
    /// Is told what becomes of the connection.
    pub listener: Option<Listener>,
    /// Frames are sent as BGR, because the server swaps the channels; when `None` as the server says, and the authors' does.
    pub swaps_channels: Option<bool>,
    /// Values of the robot's actions, for observations without an action mask; those that the server knows when `None`.
    pub action_dim: Option<usize>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            token: None,
            certificate: None,
            connect_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(30),
            reconnect: Reconnect::default(),
            listener: None,
            swaps_channels: None,
            action_dim: None,
        }
    }
}

/// How a request makes a connection that has ended anew: tries with pauses between them, each twice as long as the one
/// before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconnect {
    /// Most tries of one request. With 0 a connection that has ended stays so.
    pub tries: u32,
    /// The first pause.
    pub pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self { tries: 5, pause: Duration::from_millis(100), longest_pause: Duration::from_secs(2) }
    }
}

/// What becomes of a client's connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectionEvent<'a> {
    /// It was given up.
    Lost(&'a ClientError),
    /// It could not be made anew.
    Failed {
        /// Tries so far.
        tries: u32,
        /// Why.
        error: &'a ClientError,
    },
    /// It was made anew. The server knows nothing of the one before: its first reply is guided to no other.
    Restored {
        /// Tries that it took.
        tries: u32,
    },
}

/// A function that is told what becomes of a connection. It is called by the thread that predicts, which waits for it.
#[derive(Clone)]
pub struct Listener(Arc<dyn Fn(ConnectionEvent<'_>) + Send + Sync>);

impl Listener {
    /// A listener that calls `tell`.
    pub fn new(tell: impl Fn(ConnectionEvent<'_>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

/// What a server says of its policy when a client connects: `/info`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ServerInfo {
    /// The policy.
    pub policy: String,
    /// Steps of a chunk.
    pub horizon: usize,
    /// Actions of a chunk that are meant to be executed before the next one is asked for.
    pub n_action_steps: usize,
    /// Padded width of an action.
    pub max_action_dim: usize,
    /// Width of the robot's action, where it is known.
    pub action_dim: Option<usize>,
    /// Width of the robot's state, where it is known.
    pub state_dim: Option<usize>,
    /// Camera views.
    pub views: usize,
    /// The cameras of the views: [`Cameras::arrange`] puts frames with names in their order.
    pub cameras: Cameras,
    /// Whether the server swaps the first and third channel of images.
    pub swaps_channels: bool,
    /// Robots whose statistics it has.
    pub robots: Vec<Robot>,
}

impl ServerInfo {
    /// Width of the actions of the robot with these statistics, as far as it is known.
    pub fn action_dim_of(&self, statistics: &StatisticsKey) -> Option<usize> {
        let key = [&statistics.arm, &statistics.dataset].into_iter().flatten().map(String::as_str).collect::<Vec<_>>();
        let robot = self.robots.iter().find(|robot| robot.key == key.join("/"));
        self.action_dim.or(robot.map(|robot| robot.action_dim))
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
    /// Guidance to the chunk of the connection's previous reply.
    pub rtc: Option<Rtc>,
    /// What the request is called; a client counts its requests when `None`.
    pub request_id: Option<RequestId>,
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
    /// Something took longer than the client waits.
    #[error("{url}: {what} within {} s", limit.as_secs_f64())]
    Timeout {
        /// The server.
        url: String,
        /// What did not happen.
        what: &'static str,
        /// How long it was waited for.
        limit: Duration,
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

/// A connection to a policy server, which is made anew when it has ended.
pub struct Client {
    url: String,
    options: ClientOptions,
    /// The connection, as long as what comes on it belongs to what was asked for.
    link: Option<Link>,
    /// Requests that were given a number.
    requests: u64,
}

impl Client {
    /// Connects to `ws://HOST:PORT` or `wss://HOST:PORT`, at once or not at all.
    pub fn connect(url: &str, options: ClientOptions) -> Result<Self, ClientError> {
        let link = Link::connect(url, &options)?;
        Ok(Self { url: url.to_owned(), options, link: Some(link), requests: 0 })
    }

    /// One prediction: sends the observation and waits for its chunk. First it makes a connection that has ended anew.
    ///
    /// # Errors
    /// [`ClientError::Refused`] leaves the connection as it is. [`ClientError::Connection`], [`ClientError::Timeout`] and
    /// [`ClientError::Reply`] end it.
    pub fn predict(&mut self, observation: &Observation, call: &CallOptions) -> Result<Reply, ClientError> {
        let link = self.linked()?;
        let wire = self.options.wire(link.info.as_ref(), observation);
        let horizon = link.info.as_ref().map(|info| info.horizon);
        self.link = Some(link);
        if observation.action_mask.is_none() && wire.action_dim.is_none() {
            return Err(ClientError::UnknownActionWidth);
        }
        let id = call.request_id.clone().unwrap_or_else(|| {
            self.requests += 1;
            RequestId::Number(self.requests)
        });
        let call = CallOptions { request_id: Some(id.clone()), ..call.clone() };
        let message = json::encode(observation, &call, &wire);
        self.converse(&message, |reply| {
            let reply = WireReply::read(reply)?;
            if !reply.is_to(&id) {
                return Ok(None);
            }
            let reply = reply.chunk()?;
            match horizon.filter(|&horizon| horizon != reply.chunk.horizon()) {
                Some(horizon) => {
                    let got = reply.chunk.horizon();
                    Err(ClientError::Reply(format!("a chunk has {horizon} actions, as the server said, got {got}")))
                }
                None => Ok(Some(reply)),
            }
        })
    }

    /// What the server said when the connection was made; nothing without a connection, or from the authors' server.
    pub fn info(&self) -> Option<&ServerInfo> {
        self.link.as_ref()?.info.as_ref()
    }

    /// The connection, which is made anew if it has ended.
    fn linked(&mut self) -> Result<Link, ClientError> {
        match self.link.take() {
            Some(link) => Ok(link),
            None => self.reconnect(),
        }
    }

    /// Sends a message as it is and waits for the reply, as it is: the next one, whatever its id.
    ///
    /// # Errors
    /// As [`Self::predict`], but refusals are replies.
    pub fn exchange(&mut self, message: &str) -> Result<String, ClientError> {
        self.converse(message, |reply| Ok(Some(reply.to_owned())))
    }

    /// Sends a message and waits until `accept` finds its reply.
    fn converse<T>(
        &mut self,
        message: &str,
        accept: impl FnMut(&str) -> Result<Option<T>, ClientError>,
    ) -> Result<T, ClientError> {
        let mut link = self.linked()?;
        let result = link.converse(message, &self.url, &self.options, accept);
        match &result {
            Ok(_) | Err(ClientError::Refused { .. }) => self.link = Some(link),
            Err(error) => self.tell(ConnectionEvent::Lost(error)),
        }
        result
    }

    fn reconnect(&self) -> Result<Link, ClientError> {
        let Reconnect { tries, mut pause, longest_pause } = self.options.reconnect;
        let mut last = ClientError::connection(&self.url, &"the connection has ended, and is not to be made anew");
        for tried in 1..=tries {
            if tried > 1 {
                sleep(pause);
                pause = (pause * 2).min(longest_pause);
            }
            match Link::connect(&self.url, &self.options) {
                Ok(link) => {
                    self.tell(ConnectionEvent::Restored { tries: tried });
                    return Ok(link);
                }
                Err(error) => {
                    self.tell(ConnectionEvent::Failed { tries: tried, error: &error });
                    last = error;
                }
            }
        }
        Err(last)
    }

    fn tell(&self, event: ConnectionEvent<'_>) {
        if let Some(Listener(tell)) = &self.options.listener {
            tell(event);
        }
    }

    /// Says goodbye; dropping the client does without.
    pub fn close(self) {
        if let Some(mut link) = self.link {
            link.deadline.set(self.options.write_timeout);
            let _ = link.socket.close(None);
            while link.socket.read().is_ok() {}
        }
    }
}

impl ClientError {
    fn connection(url: &str, message: &dyn fmt::Display) -> Self {
        Self::Connection { url: url.to_owned(), message: message.to_string() }
    }

    /// A failure of the connection while `what` was waited for.
    fn of(url: &str, error: &WsError, what: &'static str, limit: Duration) -> Self {
        match error {
            WsError::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
                Self::Timeout { url: url.to_owned(), what, limit }
            }
            // Its body says why and what to do.
            WsError::Http(response) => {
                let body = String::from_utf8_lossy(response.body().as_deref().unwrap_or_default()).into_owned();
                Self::connection(url, &format!("{}: {}", response.status(), body.trim_end()))
            }
            error => Self::connection(url, error),
        }
    }
}

/// A websocket, all whose reading and writing ends at a time.
struct Link {
    socket: WebSocket<MaybeTlsStream<Timed>>,
    deadline: Deadline,
    info: Option<ServerInfo>,
}

impl Link {
    fn connect(url: &str, options: &ClientOptions) -> Result<Self, ClientError> {
        let failed = |error: &dyn fmt::Display| ClientError::connection(url, error);
        let late = |error: WsError| ClientError::of(url, &error, "no connection", options.connect_timeout);
        let separator = if url.contains('?') { '&' } else { '?' };
        let path = if url.splitn(4, '/').count() < 4 { "/" } else { "" };
        let full = format!("{url}{path}{separator}errors=json&reply=object&info=json");
        let mut request = full.into_client_request().map_err(|error| failed(&error))?;
        if let Some(token) = &options.token {
            let value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|error| failed(&error))?;
            request.headers_mut().insert("Authorization", value);
        }
        let host = request.uri().host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let is_tls = request.uri().scheme_str() == Some("wss");
        let port = request.uri().port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let deadline = Deadline::default();
        deadline.set(options.connect_timeout);
        let stream = open(&host, port, &deadline).map_err(|error| late(error.into()))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        let stream = Timed { stream, deadline: deadline.clone() };
        let connector = if is_tls { Connector::Rustls(tls_config(options)?) } else { Connector::Plain };
        let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
        match client_tls_with_config(request, stream, Some(config), Some(connector)) {
            Ok((mut socket, response)) => {
                let info = match response.headers().contains_key(INFO_HEADER) {
                    true => Some(read_info(&mut socket, url, options)?),
                    false => None,
                };
                Ok(Self { socket, deadline, info })
            }
            Err(HandshakeError::Failure(error)) => Err(late(error)),
            Err(HandshakeError::Interrupted(_)) => Err(failed(&"the handshake was interrupted")),
        }
    }

    fn converse<T>(
        &mut self,
        message: &str,
        url: &str,
        options: &ClientOptions,
        mut accept: impl FnMut(&str) -> Result<Option<T>, ClientError>,
    ) -> Result<T, ClientError> {
        let &ClientOptions { write_timeout, read_timeout, .. } = options;
        self.deadline.set(write_timeout);
        let sent = self.socket.send(Message::text(message));
        sent.map_err(|error| ClientError::of(url, &error, "the message was not sent", write_timeout))?;
        self.deadline.set(read_timeout);
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    if let Some(reply) = accept(&text)? {
                        return Ok(reply);
                    }
                }
                Ok(Message::Binary(_)) => {
                    let remedy = "it is binary: if this path speaks openpi's protocol, Evo-1's is at /evo1";
                    return Err(ClientError::Reply(remedy.into()));
                }
                Ok(Message::Close(frame)) => {
                    let reason = frame.map(|frame| format!("closed with {}: {}", u16::from(frame.code), frame.reason));
                    return Err(ClientError::connection(url, &reason.unwrap_or("closed without a reason".into())));
                }
                Ok(_) => {}
                Err(error) => return Err(ClientError::of(url, &error, "no reply", read_timeout)),
            }
        }
    }
}

/// The message that says what is served.
fn read_info(
    socket: &mut WebSocket<MaybeTlsStream<Timed>>,
    url: &str,
    options: &ClientOptions,
) -> Result<ServerInfo, ClientError> {
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => {
                let unreadable = |error| ClientError::Reply(format!("what the server says of its policy: {error}"));
                return serde_json::from_str(&text).map_err(unreadable);
            }
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            Ok(other) => return Err(ClientError::connection(url, &format!("it began with {other:?}"))),
            Err(error) => return Err(ClientError::of(url, &error, "no connection", options.connect_timeout)),
        }
    }
}

impl ClientOptions {
    /// How an observation is written: as these options say, else as the server does.
    fn wire(&self, info: Option<&ServerInfo>, observation: &Observation) -> WireOptions {
        let known = info.and_then(|info| info.action_dim_of(&observation.statistics));
        let usual = WireOptions::default();
        WireOptions {
            swaps_channels: self
                .swaps_channels
                .unwrap_or(info.map_or(usual.swaps_channels, |info| info.swaps_channels)),
            max_action_dim: info.map_or(usual.max_action_dim, |info| info.max_action_dim),
            action_dim: self.action_dim.or(known),
        }
    }
}

/// Connects to the first address of a host that answers.
fn open(host: &str, port: u16, deadline: &Deadline) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, deadline.left()?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// When reading and writing end, shared by a stream and who sets it.
#[derive(Debug, Clone)]
struct Deadline(Arc<Mutex<Instant>>);

impl Default for Deadline {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Deadline {
    fn set(&self, time: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + time;
    }

    fn left(&self) -> io::Result<Duration> {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

/// A socket that is read and written until a time: a peer that drips byte by byte has no longer than one that is silent.
#[derive(Debug)]
struct Timed {
    stream: TcpStream,
    deadline: Deadline,
}

/// The system says that it would have to wait on.
fn as_timeout(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.deadline.left()?))?;
        self.stream.read(buffer).map_err(as_timeout)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.deadline.left()?))?;
        self.stream.write(bytes).map_err(as_timeout)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WireReply {
    Bare(Vec<Vec<f32>>),
    Error { request_id: Option<RequestId>, error: WireError },
    Object { request_id: Option<RequestId>, actions: Vec<Vec<f32>>, milliseconds: BTreeMap<String, f64> },
}

#[derive(Deserialize)]
struct WireError {
    kind: String,
    message: String,
}

impl WireReply {
    fn read(text: &str) -> Result<Self, ClientError> {
        serde_json::from_str(text).map_err(|error| ClientError::Reply(error.to_string()))
    }

    /// Whether it can be the reply to a request: the authors' server names none, and an error may be of no request.
    fn is_to(&self, id: &RequestId) -> bool {
        match self {
            Self::Bare(_) => true,
            Self::Error { request_id, .. } | Self::Object { request_id, .. } => {
                request_id.as_ref().is_none_or(|replied| replied == id)
            }
        }
    }

    fn chunk(self) -> Result<Reply, ClientError> {
        let (rows, milliseconds) = match self {
            Self::Bare(actions) => (actions, BTreeMap::new()),
            Self::Object { actions, milliseconds, .. } => (actions, milliseconds),
            Self::Error { error: WireError { kind, message }, .. } => {
                return Err(ClientError::Refused { kind, message });
            }
        };
        let width = rows.first().map_or(0, Vec::len);
        if width == 0 || rows.iter().any(|row| row.len() != width) {
            return Err(ClientError::Reply("its rows have no common width".into()));
        }
        Ok(Reply { chunk: ActionChunk::new(width, rows.concat()), milliseconds })
    }
}

/// Reads a reply of this server or of the authors'.
pub fn read_reply(text: &str) -> Result<Reply, ClientError> {
    WireReply::read(text)?.chunk()
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
