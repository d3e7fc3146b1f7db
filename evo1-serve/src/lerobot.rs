//! LeRobot's asynchronous inference: the gRPC service that its `RobotClient` talks to.
//!
//! A client calls `Ready` and `SendPolicyInstructions` once, then `SendObservations` from the thread that moves the robot and
//! `GetActions` from another. The newest observation that the filter lets through waits; `GetActions` predicts from it, or
//! returns nothing after [`PATIENCE`]. Source: LeRobot, `async_inference/policy_server.py`, `transport/services.proto`.
//!
//! LeRobot's server knows one robot. Here each connection has a [`Session`], and a connection that is made anew without a
//! word goes on with the one that its machine has left.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    sync::{Notify, OwnedSemaphorePermit},
    time::{Instant, sleep, timeout},
};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    server::{ClientStreamingService, Grpc, UnaryService},
};
use tonic_prost::ProstCodec;

use crate::{
    Answer, ErrorKind, RequestError,
    access::Access,
    budget::Reservation,
    http,
    policies::Served,
    protocol::lerobot::{self, Filter, Instructions, Moment, POLICY_TYPE, Timed},
    server::{Phase, Shared, Submission},
};

/// How long `GetActions` waits for an observation.
const PATIENCE: Duration = Duration::from_secs(2);

/// Most bytes of a gRPC message, LeRobot's own limit. Observations come in parts of half of it.
const MAX_PART: usize = 4 * 1024 * 1024;

/// Bytes that a client may send ahead: what a connection may hold that nobody has asked for yet.
const WINDOW: u32 = 1024 * 1024;

/// A connection on which nothing has been asked for so long is none of a robot's.
const FIRST_CALL: Duration = Duration::from_secs(10);

/// A client that does not answer a ping for so long is gone.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Most sessions whose connections are gone.
const MAX_LEFT: usize = 256;

/// Where a message is in a row of parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum TransferState {
    Unknown = 0,
    Begin = 1,
    Middle = 2,
    End = 3,
}

/// A part of an observation.
#[derive(Clone, PartialEq, prost::Message)]
struct Part {
    #[prost(enumeration = "TransferState", tag = "1")]
    transfer_state: i32,
    #[prost(bytes = "bytes", tag = "2")]
    data: Bytes,
}

/// A pickle: of the instructions, or of actions.
#[derive(Clone, PartialEq, prost::Message)]
struct Data {
    #[prost(bytes = "bytes", tag = "1")]
    data: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

/// What the server knows of a robot.
struct Session {
    /// Its number among connections, by which it has its turn in the queue.
    number: u64,
    /// The place of its policy.
    policy: usize,
    instructions: Arc<Instructions>,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    filter: Filter,
    waiting: Option<Waiting>,
    requests: u64,
}

/// The observation that is predicted from next.
struct Waiting {
    timed: Timed,
    served: Arc<Served>,
    memory: Reservation,
    received: Instant,
    bytes: usize,
}

impl Session {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sessions whose connections are gone, each with the address that it came from.
#[derive(Clone, Default)]
pub(crate) struct Sessions(Arc<Mutex<Vec<Left>>>);

/// A session whose connection is gone.
struct Left {
    peer: IpAddr,
    session: Arc<Session>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Vec<Left>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, peer: IpAddr, session: Arc<Session>) {
        session.lock().waiting = None;
        let mut left = self.lock();
        // A robot whose client has started again has left another one behind.
        left.retain(|old| old.peer != peer || old.session.instructions != session.instructions);
        if left.len() >= MAX_LEFT {
            left.remove(0);
        }
        left.push(Left { peer, session });
    }

    /// The session that a peer has left, if it is clear which one.
    fn take(&self, peer: IpAddr) -> Option<Arc<Session>> {
        let mut left = self.lock();
        let mut of_peer = left.iter().enumerate().filter(|(_, left)| left.peer == peer);
        let (place, _) = of_peer.next()?;
        let is_only = of_peer.next().is_none();
        is_only.then(|| left.remove(place).session)
    }
}

/// A connection, which leaves its session behind.
struct Connection {
    shared: Arc<Shared>,
    sessions: Sessions,
    peer: SocketAddr,
    session: Mutex<Option<Arc<Session>>>,
    _window: Reservation,
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(session) = self.session.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            self.sessions.leave(self.peer.ip(), session);
        }
    }
}

/// Serves a connection in a task of its own.
pub(crate) fn serve(stream: TcpStream, shared: Arc<Shared>, sessions: Sessions, permit: Arc<OwnedSemaphorePermit>) {
    let Ok(peer) = stream.peer_addr() else { return };
    let mut window = Reservation::none(shared.budget.clone());
    if !window.grow(WINDOW as usize) {
        tracing::warn!("a connection of LeRobot's was refused: the memory for requests is taken");
        return;
    }
    let mut phase = shared.phase.subscribe();
    // A call waits for actions while another one brings observations.
    let calls = u32::try_from(shared.options.max_in_flight).unwrap_or(u32::MAX).max(2);
    let metrics = shared.metrics.clone();
    let connection =
        Arc::new(Connection { shared, sessions, peer, session: Mutex::default(), _window: window, _permit: permit });
    let called = Arc::new(Notify::new());
    let first_call = called.clone();
    let service = hyper::service::service_fn(move |request| {
        called.notify_one();
        let connection = connection.clone();
        async move { Ok::<_, Infallible>(connection.respond(request).await) }
    });
    tokio::spawn(async move {
        let _open = metrics.opened(None);
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_concurrent_streams(calls)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let drains = async { phase.wait_for(|phase| *phase == Phase::Draining).await.map(drop) };
        let silence = async {
            if timeout(FIRST_CALL, first_call.notified()).await.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        // Errors are the peer's: it left, or spoke no HTTP/2.
        tokio::select! {
            _ = connection.as_mut() => {}
            () = silence => {}
            _ = drains => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    });
}

/// A function as one of gRPC's.
struct Handler<F>(F);

impl<F, Fut, M1, M2> UnaryService<M1> for Handler<F>
where
    F: FnMut(Request<M1>) -> Fut,
    Fut: Future<Output = Result<Response<M2>, Status>>,
{
    type Response = M2;
    type Future = Fut;

    fn call(&mut self, request: Request<M1>) -> Fut {
        (self.0)(request)
    }
}

impl<F, Fut, M1, M2> ClientStreamingService<M1> for Handler<F>
where
    F: FnMut(Request<Streaming<M1>>) -> Fut,
    Fut: Future<Output = Result<Response<M2>, Status>>,
{
    type Response = M2;
    type Future = Fut;

    fn call(&mut self, request: Request<Streaming<M1>>) -> Fut {
        (self.0)(request)
    }
}

impl Connection {
    async fn respond(self: Arc<Self>, request: hyper::Request<Incoming>) -> hyper::Response<Body> {
        let host = request.uri().authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
        if !http::is_known_host(&host, &self.shared.options) {
            let message = http::unknown_host(&host);
            tracing::warn!("refused: {message}");
            return Status::permission_denied(message).into_http();
        }
        match request.uri().path() {
            "/transport.AsyncInference/Ready" => {
                let ready = Handler(|_: Request<Empty>| std::future::ready(self.ready()));
                grpc::<Empty, Empty>().unary(ready, request).await
            }
            "/transport.AsyncInference/SendPolicyInstructions" => {
                let instruct = Handler(|request: Request<Data>| {
                    std::future::ready(self.instruct(&request.into_inner().data).map_err(|error| self.failed(&error)))
                });
                grpc::<Empty, Data>().unary(instruct, request).await
            }
            "/transport.AsyncInference/SendObservations" => {
                let observe = Handler(|parts: Request<Streaming<Part>>| {
                    let connection = self.clone();
                    async move { connection.observe(parts.into_inner()).await }
                });
                grpc::<Empty, Part>().client_streaming(observe, request).await
            }
            "/transport.AsyncInference/GetActions" => {
                let act = Handler(|_: Request<Empty>| {
                    let connection = self.clone();
                    async move { connection.act().await }
                });
                grpc::<Data, Empty>().unary(act, request).await
            }
            path => Status::unimplemented(format!("there is no `{path}` here")).into_http(),
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Session>>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection's session, or the one that its machine has left.
    fn session(&self) -> Result<Arc<Session>, Status> {
        let mut slot = self.slot();
        if slot.is_none() {
            *slot = self.sessions.take(self.peer.ip());
        }
        slot.clone().ok_or_else(|| {
            Status::failed_precondition(
                "this server knows nothing of the robot, because it has started after it: start the robot's client again",
            )
        })
    }

    fn log(&self, bytes: usize, took: Duration, result: Result<&Answer, ErrorKind>) {
        let policy = self.slot().as_ref().map_or("", |session| self.shared.policies.name(session.policy)).to_owned();
        let (peer, policy) = (Some(self.peer), policy.as_str());
        self.shared.record(&Access { peer, protocol: "lerobot", policy, holder: None, bytes, took, result });
    }

    /// An error as gRPC's, counted.
    fn failed(&self, error: &RequestError) -> Status {
        self.shared.metrics.failed(error.kind);
        self.log(0, Duration::ZERO, Err(error.kind));
        tracing::debug!("LeRobot's client at {}: {}: {error}", self.peer, error.kind.name());
        let code = match error.kind {
            ErrorKind::InvalidRequest => Code::InvalidArgument,
            ErrorKind::TooLarge | ErrorKind::Overloaded => Code::ResourceExhausted,
            // LeRobot's client sends again what took too long.
            ErrorKind::TooSlow | ErrorKind::Superseded => Code::Aborted,
            ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
            ErrorKind::ShuttingDown => Code::Unavailable,
            ErrorKind::NonFinite | ErrorKind::Internal => Code::Internal,
        };
        Status::new(code, error.message.clone())
    }

    fn ready(&self) -> Result<Response<Empty>, Status> {
        *self.slot() = None;
        Ok(Response::new(Empty {}))
    }

    fn instruct(&self, message: &[u8]) -> Result<Response<Empty>, RequestError> {
        let instructions = lerobot::instructions(message)?;
        if instructions.policy_type != POLICY_TYPE {
            return Err(RequestError::invalid(format!(
                "this server has a policy of type `{POLICY_TYPE}`, and the client asks for `{}`: start it with \
                 --policy_type={POLICY_TYPE}",
                instructions.policy_type
            )));
        }
        let policies = &self.shared.policies;
        let is_asked = |(place, name): (usize, &str)| {
            is_same_policy(&instructions.policy, name)
                || is_same_policy(&instructions.policy, &policies.served(place).description.policy)
        };
        let Some(policy) = policies.names().enumerate().position(is_asked) else {
            let names: Vec<&str> = policies.names().collect();
            return Err(RequestError::invalid(format!(
                "this server has `{}`, and the client asks for `{}`: start it with --pretrained_name_or_path={}",
                names.join("`, `"),
                instructions.policy,
                names[0]
            )));
        };
        tracing::info!(
            "LeRobot's client at {} asks for {} actions of `{}`; they are predicted on this server's device",
            self.peer,
            instructions.actions_per_chunk,
            instructions.policy
        );
        *self.slot() = Some(Arc::new(Session {
            number: self.shared.next_connection(),
            policy,
            instructions: Arc::new(instructions),
            state: Mutex::default(),
            arrived: Notify::new(),
        }));
        Ok(Response::new(Empty {}))
    }

    /// Takes an observation in, and has it wait if the filter lets it through.
    async fn observe(&self, parts: Streaming<Part>) -> Result<Response<Empty>, Status> {
        let session = self.session()?;
        let failed = |error: RequestError| self.failed(&error);
        let limit = self.shared.options.transfer_timeout;
        let started = Instant::now();
        let message = timeout(limit, self.receive(parts)).await.unwrap_or_else(|_| {
            let message = format!("a message must arrive within {} s", limit.as_secs());
            Err(RequestError::new(ErrorKind::TooSlow, message))
        });
        let (message, memory) = message.map_err(failed)?;
        let received = Instant::now();
        let metrics = &self.shared.metrics;
        metrics.stage("receive", received - started);
        let bytes = message.len();
        metrics.received_bytes.inc_by(bytes as u64);
        let served = self.shared.policies.served(session.policy);
        let (at_work, of) = (served.clone(), session.clone());
        let _turn = self.shared.parsers.acquire().await;
        let parsed = tokio::task::spawn_blocking(move || {
            let accepts = |moment: &Moment, state: &[f32]| of.lock().filter.accepts(moment, state);
            lerobot::parse(&message, &of.instructions, &at_work.shape, &at_work.observations, accepts)
        });
        let parsed = parsed.await.unwrap_or_else(|error| {
            Err(RequestError::new(ErrorKind::Internal, format!("the message could not be parsed: {error}")))
        });
        metrics.stage("parse", received.elapsed());
        if let Some(timed) = parsed.map_err(failed)? {
            self.shared.check(&served, &timed.request).map_err(failed)?;
            session.lock().waiting = Some(Waiting { timed, served, memory, received, bytes });
            session.arrived.notify_one();
        }
        Ok(Response::new(Empty {}))
    }

    /// The bytes of a message in parts, and their memory.
    async fn receive(&self, mut parts: Streaming<Part>) -> Result<(Vec<u8>, Reservation), RequestError> {
        let overloaded = || RequestError::new(ErrorKind::Overloaded, "overloaded: the memory for requests is taken");
        let max = self.shared.options.max_message;
        let mut memory = Reservation::none(self.shared.budget.clone());
        // The part that arrives.
        let mut arriving = Reservation::none(self.shared.budget.clone());
        if !arriving.grow(MAX_PART) {
            return Err(overloaded());
        }
        let mut message = Vec::new();
        while let Some(part) = parts.next().await {
            let part = part.map_err(|status| RequestError::invalid(format!("not a message: {}", status.message())))?;
            let state = TransferState::try_from(part.transfer_state).unwrap_or(TransferState::Unknown);
            if state == TransferState::Unknown {
                return Err(RequestError::invalid("a part of an observation is the first, one between, or the last"));
            }
            if state == TransferState::Begin {
                message.clear();
            }
            if message.len() + part.data.len() > max {
                let message = format!("a message may have {max} bytes, this one has more");
                return Err(RequestError::new(ErrorKind::TooLarge, message));
            }
            if !memory.grow(part.data.len()) {
                return Err(overloaded());
            }
            message.extend_from_slice(&part.data);
            if state == TransferState::End {
                // Nothing more comes but the call's end. A reply before it would break the call off, and HTTP/2 counts such
                // calls and gives the connection up.
                while parts.next().await.is_some_and(|part| part.is_ok()) {}
                return Ok((message, memory));
            }
        }
        Err(RequestError::invalid("the observation has no last part"))
    }

    /// Predicts from the observation that waits, or from the next one. No data where none comes.
    async fn act(&self) -> Result<Response<Data>, Status> {
        let Some(session) = self.session().ok() else {
            // The client asks again at once.
            sleep(PATIENCE).await;
            return self.session().and(Ok(Response::new(Data::default())));
        };
        let Ok(waiting) = timeout(PATIENCE, self.next(&session)).await else {
            return Ok(Response::new(Data::default()));
        };
        let Waiting { timed, served, memory, received, bytes } = waiting.map_err(|error| self.failed(&error))?;
        let (undo, number) = {
            let mut state = session.lock();
            let number = state.requests;
            state.requests += 1;
            (state.filter.note(&timed), number)
        };
        let request = Arc::new(crate::Request { number, ..timed.request });
        let (connection, policy) = (session.number, session.policy);
        let submission = Submission { connection, policy, served, request, memory, received, is_shown: true };
        let answer = match self.shared.submit(submission) {
            Ok(answer) => answer.await,
            Err(error) => Err(error),
        };
        let answer = answer.map_err(|error| {
            session.lock().filter.undo(undo);
            self.failed(&error)
        })?;
        let (period, most) = (self.shared.options.lerobot_fps.recip(), session.instructions.actions_per_chunk);
        let data = lerobot::reply(&answer.chunk, &timed.moment, period, most);
        let metrics = &self.shared.metrics;
        metrics.answered("lerobot", self.shared.policies.name(policy), None, &answer);
        metrics.stage("total", received.elapsed());
        self.log(bytes, received.elapsed(), Ok(&answer));
        Ok(Response::new(Data { data: data.into() }))
    }

    /// The observation that waits, once there is one. Fails when the server stops.
    async fn next(&self, session: &Session) -> Result<Waiting, RequestError> {
        let mut phase = self.shared.phase.subscribe();
        loop {
            if let Some(waiting) = session.lock().waiting.take() {
                return Ok(waiting);
            }
            tokio::select! {
                () = session.arrived.notified() => {}
                _ = phase.wait_for(|phase| *phase == Phase::Draining) => {
                    return Err(RequestError::new(ErrorKind::ShuttingDown, "the server is shutting down"));
                }
            }
        }
    }
}

fn grpc<Encode, Decode>() -> Grpc<ProstCodec<Encode, Decode>>
where
    Encode: prost::Message + Send + 'static,
    Decode: prost::Message + Default + Send + 'static,
{
    Grpc::new(ProstCodec::default()).max_decoding_message_size(MAX_PART)
}

/// Whether a client means the served policy: by its whole name, or by the last part of it, which a directory and a repository
/// have in common.
fn is_same_policy(asked: &str, served: &str) -> bool {
    let last = |name: &str| name.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    asked == served || (!last(asked).is_empty() && last(asked) == last(served))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_known_by_its_name() {
        for asked in ["/srv/policies/fold", "fold", "user/fold", "/other/fold/"] {
            assert!(is_same_policy(asked, "/srv/policies/fold"), "{asked}");
        }
        for asked in ["", "/", "folds", "/srv/policies"] {
            assert!(!is_same_policy(asked, "/srv/policies/fold"), "{asked}");
        }
    }
}
