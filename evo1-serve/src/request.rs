//! What a client asks for and what it gets, in no protocol's words.

use std::time::Duration;

use evo1::{ActionChunk, FinishOptions, Observation, StageTimes, action::flow::GuidanceConfig, chunk::ChunkGuidance};
use serde::{Deserialize, Serialize};

/// One prediction that a client asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What the robot sees, is told and knows of itself.
    pub observation: Observation,
    /// Seed of the noise; when `None` the server's plus [`Self::number`].
    pub seed: Option<u64>,
    /// How many requests came before it on its connection.
    pub number: u64,
    /// Euler steps; the policy's when `None`.
    pub steps: Option<usize>,
    /// Guidance to the chunk before, which the connection remembers.
    pub rtc: Option<Rtc>,
    /// The chunk that the prediction is guided to, once it is known.
    pub guidance: Option<ChunkGuidance>,
    /// What is made of the actions.
    pub finish: FinishOptions,
    /// How long the client waits for an answer, from the moment its message was complete.
    pub deadline: Option<Duration>,
    /// What the client calls the request.
    pub id: Option<RequestId>,
}

impl Request {
    /// A request for an observation's chunk, with nothing else said.
    pub fn of(observation: Observation) -> Self {
        Self {
            observation,
            seed: None,
            number: 0,
            steps: None,
            rtc: None,
            guidance: None,
            finish: FinishOptions::default(),
            deadline: None,
            id: None,
        }
    }
}

/// Real-time chunking as a client asks for it: guidance to the chunk that the connection's previous reply held.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rtc {
    /// Actions of that chunk that were executed when the observation was made.
    pub executed: usize,
    /// Actions of it that will be executed until the reply is there.
    #[serde(default)]
    pub delay: usize,
    /// How the prediction is guided.
    #[serde(flatten)]
    pub config: GuidanceConfig,
}

/// A client's name for a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RequestId {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

/// What the model made of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Actions in the robot's units.
    pub chunk: ActionChunk,
    /// Actions as the flow ended in them: normalised, as wide as the model's.
    pub normalized: ActionChunk,
    /// Times of the model's stages, for the whole batch.
    pub times: StageTimes,
    /// How long the request waited for its turn.
    pub queued: Duration,
    /// How many requests were computed together.
    pub batch: usize,
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// Cause and remedy.
    pub message: String,
}

/// Kinds of failure, as they stand in error objects and in the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The message is not one of the protocol, or asks for what the policy cannot do.
    InvalidRequest,
    /// The message is larger than is allowed.
    TooLarge,
    /// The message took too long to arrive.
    TooSlow,
    /// The queue, or the memory for messages, is full.
    Overloaded,
    /// The client's deadline has passed.
    DeadlineExceeded,
    /// A newer request of the same connection has taken its place.
    Superseded,
    /// The model computed NaN or infinity, which is never sent.
    NonFinite,
    /// The server is about to end.
    ShuttingDown,
    /// The model failed.
    Internal,
}

/// Close code for what the client did wrong.
const POLICY_VIOLATION: u16 = 1008;

/// Close code for what the server could not do.
const INTERNAL_ERROR: u16 = 1011;

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::InvalidRequest,
        Self::TooLarge,
        Self::TooSlow,
        Self::Overloaded,
        Self::DeadlineExceeded,
        Self::Superseded,
        Self::NonFinite,
        Self::ShuttingDown,
        Self::Internal,
    ];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::TooLarge => "too_large",
            Self::TooSlow => "too_slow",
            Self::Overloaded => "overloaded",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Superseded => "superseded",
            Self::NonFinite => "non_finite",
            Self::ShuttingDown => "shutting_down",
            Self::Internal => "internal",
        }
    }

    /// The code with which a websocket is closed for it.
    pub fn close_code(self) -> u16 {
        match self {
            Self::InvalidRequest | Self::TooLarge | Self::TooSlow => POLICY_VIOLATION,
            _ => INTERNAL_ERROR,
        }
    }

    /// Whether the connection can go on after it: its messages are still told apart.
    pub(crate) fn is_of_one_request(self) -> bool {
        !matches!(self, Self::TooLarge | Self::TooSlow | Self::ShuttingDown)
    }
}

impl RequestError {
    /// An error of a kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message)
    }
}
