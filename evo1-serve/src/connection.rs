//! One websocket connection: messages in, replies out, in their order.

use std::{borrow::Cow, future::Future, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use evo1::{
    ActionChunk,
    chunk::{ChunkGuidance, rest_of},
};
use futures_util::{SinkExt, StreamExt, stream::FuturesOrdered};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Bytes, Error as WsError, Message,
        error::CapacityError,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use crate::{
    Answer, ErrorKind, Request, RequestError, RequestId,
    access::Access,
    budget::{Meter, Metered, Reservation},
    http::{self, OPENPI_PATH},
    policies::Served,
    protocol::{
        json::{self, Parsed},
        openpi,
    },
    server::{Phase, Shared, Submission},
};

/// Bytes asked of the socket at once.
const READ_BUFFER: usize = 64 * 1024;

/// Longest reason of a close frame in bytes.
const MAX_REASON: usize = 123;

/// How long a peer has to take note that it was closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a message that arrives slowly is looked at.
const TICK: Duration = Duration::from_millis(500);

/// How long a client may be silent before it is noted that it may speak another protocol.
const SILENCE: Duration = Duration::from_secs(5);

/// Most requests of a connection with `queue=latest` whose replies are not sent.
const MAX_SUPERSEDED: usize = 1000;

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Evo-1's JSON.
    Json {
        /// `errors=json`: errors are objects, and the connection stays.
        json_errors: bool,
        /// `reply=object`: replies are objects.
        object_replies: bool,
    },
    /// openpi's msgpack.
    OpenPi,
}

/// How a connection wants to be treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionOptions {
    pub(crate) dialect: Dialect,
    /// The place of its policy.
    pub(crate) policy: usize,
    /// `info=json`: the first message is what is served.
    pub(crate) sends_info: bool,
    /// `queue=latest`: a new request takes the place of those that wait.
    pub(crate) latest: bool,
    /// The page's own requests are no robot's.
    pub(crate) is_page: bool,
}

/// Whose connection it is.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) peer: Option<SocketAddr>,
    /// Whose token it has.
    pub(crate) holder: Option<String>,
}

/// A request's end.
struct Outcome {
    id: Option<RequestId>,
    served: Arc<Served>,
    /// Bytes of its message.
    bytes: usize,
    result: Result<Answer, RequestError>,
    received: Instant,
}

type Pending = FuturesOrdered<Pin<Box<dyn Future<Output = Outcome> + Send>>>;

/// Why a connection ends.
enum End {
    /// The peer has left, or cannot be reached.
    Gone,
    /// It is closed, with a code and a reason.
    Close(u16, Cow<'static, str>),
    /// The same, while the peer is in the middle of a message.
    Break(u16, Cow<'static, str>),
}

struct Connection<S> {
    socket: WebSocketStream<Metered<S>>,
    meter: Arc<Meter>,
    shared: Arc<Shared>,
    terms: ConnectionOptions,
    number: u64,
    /// Its client has sent no message, and may wait for one.
    is_silent: bool,
    client: Client,
    /// Requests so far.
    requests: u64,
    /// The previous reply's chunk, normalised, which the next may be guided to if the same model computes it.
    chunk: Option<(Arc<Served>, ActionChunk)>,
    /// How long the previous request took, which openpi's clients are told.
    previous: Option<Duration>,
}

/// Serves a client's connection until it ends.
pub(crate) async fn serve<S>(stream: S, shared: Arc<Shared>, terms: ConnectionOptions, client: Client)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let max = shared.options.max_message;
    let config =
        WebSocketConfig::default().read_buffer_size(READ_BUFFER).max_message_size(Some(max)).max_frame_size(Some(max));
    let meter = Meter::new(shared.budget.clone());
    let stream = Metered::new(stream, meter.clone());
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let number = shared.next_connection();
    let metrics = shared.metrics.clone();
    let _open = metrics.opened(client.holder.as_deref());
    let is_silent = !matches!(terms.dialect, Dialect::OpenPi) && !terms.is_page;
    let mut connection = Connection {
        socket,
        meter,
        shared,
        terms,
        number,
        is_silent,
        client,
        requests: 0,
        chunk: None,
        previous: None,
    };
    let end = connection.run().await;
    connection.end(end).await;
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    async fn run(&mut self) -> End {
        if self.terms.dialect == Dialect::OpenPi {
            let metadata = openpi::metadata(&self.served().description);
            if let Err(end) = self.send(Message::Binary(metadata.into())).await {
                return end;
            }
        }
        if self.terms.sends_info {
            let info = http::info_document(&self.shared, self.terms.policy);
            if let Err(end) = self.send(Message::text(info)).await {
                return end;
            }
        }
        let mut pending = Pending::new();
        let mut phase = self.shared.phase.subscribe();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silence = std::pin::pin!(sleep(SILENCE));
        // Of requests that only the newest of counts, all but two are over, and wait for their turn to say so.
        let most = if self.terms.latest { MAX_SUPERSEDED } else { self.shared.options.max_in_flight };
        loop {
            if *phase.borrow_and_update() == Phase::Draining && pending.is_empty() {
                return End::Close(CloseCode::Away.into(), "the server is shutting down".into());
            }
            let reads = pending.len() < most;
            let step = tokio::select! {
                Some(outcome) = pending.next(), if !pending.is_empty() => self.finish(outcome).await,
                message = self.socket.next(), if reads => self.message(message, &mut pending).await,
                _ = tick.tick() => self.check_arrival(reads),
                () = &mut silence, if self.is_silent => {
                    self.note_silence();
                    Ok(())
                }
                _ = phase.changed() => Ok(()),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// Takes in what the socket gave.
    async fn message(&mut self, message: Option<Result<Message, WsError>>, pending: &mut Pending) -> Result<(), End> {
        let payload = match message {
            None => return Err(End::Gone),
            Some(Ok(Message::Text(text))) => Bytes::from(text),
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(_)) => return Ok(()),
            Some(Err(error)) => return Err(self.broken(error)),
        };
        self.is_silent = false;
        let received = Instant::now();
        let (memory, arrival) = self.meter.complete();
        let metrics = &self.shared.metrics;
        metrics.stage("receive", arrival);
        metrics.received_bytes.inc_by(payload.len() as u64);
        let (served, bytes) = (self.served(), payload.len());
        let Parsed { id, request } = parse(&self.shared, served.clone(), self.terms.dialect, payload).await;
        self.shared.metrics.stage("parse", received.elapsed());
        let accepted = request.and_then(|request| {
            let request = self.counted(request);
            self.submit(self.guided(request, &served), served.clone(), memory, received)
        });
        pending.push_back(match accepted {
            Ok(answer) => Box::pin(async move { Outcome { id, served, bytes, result: answer.await, received } }),
            Err(error) => Box::pin(std::future::ready(Outcome { id, served, bytes, result: Err(error), received })),
        });
        Ok(())
    }

    /// The model that its policy is now.
    fn served(&self) -> Arc<Served> {
        self.shared.policies.served(self.terms.policy)
    }

    fn counted(&mut self, request: Request) -> Request {
        let number = self.requests;
        self.requests += 1;
        Request { number, ..request }
    }

    /// The request with the chunk that it asks to be guided to; the first of a connection is free.
    fn guided(&self, mut request: Request, served: &Arc<Served>) -> Arc<Request> {
        let chunk = self.chunk.as_ref().filter(|(model, _)| Arc::ptr_eq(model, served));
        request.guidance = request.rtc.zip(chunk).and_then(|(rtc, (_, chunk))| {
            let left_over = rest_of(chunk, rtc.executed)?;
            Some(ChunkGuidance { config: rtc.config, left_over, delay: rtc.delay })
        });
        Arc::new(request)
    }

    fn submit(
        &self,
        request: Arc<Request>,
        served: Arc<Served>,
        memory: Reservation,
        received: Instant,
    ) -> Result<impl Future<Output = Result<Answer, RequestError>> + Send + 'static, RequestError> {
        if self.terms.latest {
            self.shared.check(&served, &request)?;
            self.shared.queue.supersede(self.number);
        }
        let (policy, is_shown) = (self.terms.policy, !self.terms.is_page);
        self.shared.submit(Submission { connection: self.number, policy, served, request, memory, received, is_shown })
    }

    /// Sends a reply, or what stands for an error.
    async fn finish(&mut self, outcome: Outcome) -> Result<(), End> {
        let Outcome { id, served, bytes, result, received } = outcome;
        self.log(bytes, received.elapsed(), result.as_ref().map_err(|error| error.kind));
        let answer = match result {
            Ok(answer) => answer,
            Err(error) => return self.refuse(&error, id.as_ref()).await,
        };
        let total = received.elapsed();
        let reply = match self.terms.dialect {
            Dialect::Json { object_replies: true, .. } => {
                Message::text(json::reply_object(&answer, id.as_ref(), total))
            }
            Dialect::Json { .. } => Message::text(json::reply(&answer.chunk)),
            Dialect::OpenPi => Message::binary(openpi::reply(&answer, total, self.previous)),
        };
        let sending = Instant::now();
        self.send(reply).await?;
        self.previous = Some(received.elapsed());
        self.chunk = Some((served, answer.normalized.clone()));
        let metrics = &self.shared.metrics;
        metrics.answered(self.protocol(), self.policy(), self.client.holder.as_deref(), &answer);
        metrics.stage("send", sending.elapsed());
        metrics.stage("total", received.elapsed());
        Ok(())
    }

    fn protocol(&self) -> &'static str {
        match self.terms.dialect {
            Dialect::Json { .. } => "json",
            Dialect::OpenPi => "openpi",
        }
    }

    fn policy(&self) -> &str {
        self.shared.policies.name(self.terms.policy)
    }

    fn log(&self, bytes: usize, took: Duration, result: Result<&Answer, ErrorKind>) {
        let Client { peer, ref holder } = self.client;
        let (protocol, policy, holder) = (self.protocol(), self.policy(), holder.as_deref());
        self.shared.record(&Access { peer, protocol, policy, holder, bytes, took, result });
    }

    /// Tells the client of an error in the way that it understands.
    async fn refuse(&mut self, error: &RequestError, id: Option<&RequestId>) -> Result<(), End> {
        self.shared.metrics.failed(error.kind);
        tracing::debug!("connection {}: {}: {error}", self.number, error.kind.name());
        let close = || End::Close(error.kind.close_code(), error.message.clone().into());
        match self.terms.dialect {
            Dialect::Json { json_errors, .. } if json_errors || id.is_some() => {
                self.send(Message::text(json::error_object(error, id))).await?;
                if error.kind.is_of_one_request() { Ok(()) } else { Err(close()) }
            }
            // A client that did not ask for objects would take one for its next actions, and cannot tell which request
            // got no reply either: it gets the newest one's alone, as it asked.
            Dialect::Json { .. } if error.kind == ErrorKind::Superseded => Ok(()),
            Dialect::Json { .. } => Err(close()),
            Dialect::OpenPi => {
                self.send(Message::text(format!("{}: {error}", error.kind.name()))).await?;
                Err(close())
            }
        }
    }

    /// What a failed read means.
    fn broken(&self, error: WsError) -> End {
        let refused = |kind: ErrorKind, message: Cow<'static, str>| {
            self.shared.metrics.failed(kind);
            self.log(0, Duration::ZERO, Err(kind));
            End::Break(kind.close_code(), message)
        };
        match error {
            WsError::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
                refused(ErrorKind::TooLarge, format!("a message may have {max_size} bytes, this one has {size}").into())
            }
            WsError::Io(_) if self.meter.is_over() => {
                refused(ErrorKind::Overloaded, "overloaded: the memory for requests is taken".into())
            }
            WsError::Protocol(error) if !is_disconnect(&error) => {
                refused(ErrorKind::InvalidRequest, format!("not a websocket message: {error}").into())
            }
            WsError::Utf8(_) => refused(ErrorKind::InvalidRequest, "a text message must be UTF-8".into()),
            _ => End::Gone,
        }
    }

    /// Looks at a message that arrives. While the socket is not read, it is not the client that is slow.
    fn check_arrival(&self, reads: bool) -> Result<(), End> {
        let limit = self.shared.options.transfer_timeout;
        if !reads {
            self.meter.restart_clock();
        }
        if self.meter.arriving().is_none_or(|time| time <= limit) {
            return Ok(());
        }
        self.shared.metrics.failed(ErrorKind::TooSlow);
        self.log(0, limit, Err(ErrorKind::TooSlow));
        let message = format!("a message must arrive within {} s", limit.as_secs());
        Err(End::Break(ErrorKind::TooSlow.close_code(), message.into()))
    }

    /// Says once what a connection without a message may be.
    fn note_silence(&mut self) {
        self.is_silent = false;
        if self.meter.arriving().is_none() {
            tracing::warn!(
                "connection {} has sent nothing for {} s: a client of openpi waits here for ever, because this path speaks \
                 Evo-1's JSON; openpi's protocol is at {OPENPI_PATH}, and everywhere with `--protocol openpi`",
                self.number,
                SILENCE.as_secs()
            );
        }
    }

    async fn send(&mut self, message: Message) -> Result<(), End> {
        match timeout(self.shared.options.transfer_timeout, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(End::Gone),
        }
    }

    async fn end(mut self, end: End) {
        let (code, reason, is_broken) = match end {
            End::Gone => return,
            End::Close(code, reason) => (code, reason, false),
            End::Break(code, reason) => (code, reason, true),
        };
        let frame = CloseFrame { code: code.into(), reason: shortened(&reason).into() };
        let close = async {
            self.socket.send(Message::Close(Some(frame))).await.ok()?;
            if !is_broken {
                while let Some(Ok(_)) = self.socket.next().await {}
                return Some(());
            }
            // The peer is still sending, and would lose the close frame if the socket closed on what it sends. What has
            // arrived of its message is let go.
            let mut stream = self.socket.into_inner().into_inner();
            self.meter.discard();
            stream.shutdown().await.ok()?;
            discard(&mut stream).await.ok()
        };
        let _ = timeout(CLOSE_TIMEOUT, close).await;
    }
}

/// Parses a message beside the threads that talk to clients, which have others to serve.
async fn parse(shared: &Shared, served: Arc<Served>, dialect: Dialect, payload: Bytes) -> Parsed {
    let _turn = shared.parsers.acquire().await;
    let parse = move || match dialect {
        Dialect::Json { .. } => json::parse(&payload, &served.shape, served.json),
        Dialect::OpenPi => Parsed { id: None, request: openpi::parse(&payload, &served.shape, &served.observations) },
    };
    tokio::task::spawn_blocking(parse).await.unwrap_or_else(|error| {
        let message = format!("the message could not be parsed: {error}");
        Parsed { id: None, request: Err(RequestError::new(ErrorKind::Internal, message)) }
    })
}

/// A peer that vanishes is no error of its own.
fn is_disconnect(error: &tokio_tungstenite::tungstenite::error::ProtocolError) -> bool {
    use tokio_tungstenite::tungstenite::error::ProtocolError::{
        ReceivedAfterClosing, ResetWithoutClosingHandshake, SendAfterClosing,
    };
    matches!(error, ReceivedAfterClosing | ResetWithoutClosingHandshake | SendAfterClosing)
}

async fn discard(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; READ_BUFFER];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// As much of a reason as a close frame holds.
fn shortened(reason: &str) -> &str {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_between_characters() {
        let long = "ä".repeat(100);
        assert_eq!(shortened(&long), "ä".repeat(61));
        assert_eq!(shortened("short"), "short");
    }
}
