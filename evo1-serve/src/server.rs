//! The server: connections, the queue and the worker put together.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use evo1::config::Cameras;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{MissedTickBehavior, interval, sleep, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    Answer, Description, Error, ErrorKind, Model, Request, RequestError, Result, ServerOptions,
    budget::{Budget, Reservation},
    http, lerobot,
    metrics::Metrics,
    protocol::{ObservationOptions, Shape, json::JsonOptions},
    queue::Queue,
    tls::Certificate,
    worker::{self, Batching, Health},
};

/// How long a client may take for the head of an HTTP request, and for a TLS handshake.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes of the head of an HTTP request.
const MAX_HEAD: usize = 16 * 1024;

/// How long to wait when the system has no socket left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long connections may take to tell their clients that the model has stopped.
const FAREWELL: Duration = Duration::from_secs(2);

/// A peer that does not answer the system's probes is gone: after a minute of silence, six probes.
const KEEPALIVE: socket2::TcpKeepalive = socket2::TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10))
    .with_retries(6);

/// Where a server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    /// Requests under way are answered, and no others taken.
    Draining,
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) options: ServerOptions,
    pub(crate) model: Arc<dyn Model>,
    pub(crate) shape: Shape,
    pub(crate) description: Description,
    /// How observations are read whose images have names.
    pub(crate) observations: ObservationOptions,
    pub(crate) queue: Arc<Queue>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) health: watch::Receiver<Health>,
    /// As many messages are parsed at once as there are processors.
    pub(crate) parsers: Semaphore,
    connections: AtomicU64,
    last: Mutex<Option<Arc<Last>>>,
}

/// The last request of a robot and its answer.
#[derive(Debug)]
pub(crate) struct Last {
    pub(crate) request: Arc<Request>,
    pub(crate) answer: Answer,
    pub(crate) received: Instant,
}

impl Shared {
    pub(crate) fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn json_options(&self) -> JsonOptions {
        JsonOptions { swaps_channels: self.options.swaps_channels, scaling: self.options.scaling }
    }

    /// Fails when a request cannot be computed, or none is taken any more.
    pub(crate) fn check(&self, request: &Request) -> Result<(), RequestError> {
        match *self.phase.borrow() {
            Phase::Draining => Err(RequestError::new(ErrorKind::ShuttingDown, "the server is shutting down")),
            Phase::Serving => self.model.check(request),
        }
    }

    /// Puts a connection's request into the queue and returns what waits for its answer. It holds the request's memory. An
    /// answer that is not finite is an error. People see the last request that `is_shown`.
    pub(crate) fn submit(
        self: &Arc<Self>,
        connection: u64,
        request: Arc<Request>,
        memory: Reservation,
        received: tokio::time::Instant,
        is_shown: bool,
    ) -> Result<impl Future<Output = Result<Answer, RequestError>> + Send + 'static, RequestError> {
        self.check(&request)?;
        let shared = self.clone();
        let ticket = shared.queue.push(connection, request.clone())?;
        let deadline = request.deadline.or(shared.options.deadline);
        Ok(async move {
            let _memory = memory;
            let answer = match deadline {
                None => ticket.wait().await,
                Some(deadline) => timeout_at(received + deadline, ticket.wait()).await.unwrap_or_else(|_| {
                    let message = format!("no answer within {} ms", deadline.as_millis());
                    Err(RequestError::new(ErrorKind::DeadlineExceeded, message))
                }),
            }?;
            if is_shown {
                shared.remember(Last { request, answer: answer.clone(), received: received.into_std() });
            }
            match answer.chunk.values().iter().all(|value| value.is_finite()) {
                true => Ok(answer),
                false => Err(RequestError::new(ErrorKind::NonFinite, "the prediction is not finite")),
            }
        })
    }

    fn remember(&self, last: Last) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(last));
    }

    pub(crate) fn last(&self) -> Option<Arc<Last>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A server that listens; [`Self::run`] makes it answer.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    lerobot: Option<TcpListener>,
    tls: Option<Certificate>,
    shared: Arc<Shared>,
    worker: JoinHandle<()>,
}

/// Tells a server to stop: requests under way are answered, and no others taken.
#[derive(Debug, Clone)]
pub struct Stop(watch::Sender<Phase>);

impl Stop {
    /// Tells it.
    pub fn stop(&self) {
        self.0.send_replace(Phase::Draining);
    }
}

impl Server {
    /// Listens, and starts the thread that computes.
    ///
    /// # Errors
    /// When the options do not fit together, the address or a certificate cannot be used, or the system gives no thread.
    pub async fn bind(model: Arc<dyn Model>, options: ServerOptions) -> Result<Self> {
        options.validate()?;
        let tls = options.tls.as_ref().map(|(chain, key)| Certificate::read(chain, key)).transpose()?;
        let bind = options.bind;
        let failed = |reason| Error::Bind { bind, reason };
        let listener = TcpListener::bind(bind).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let lerobot = match options.lerobot {
            None => None,
            Some(bind) => Some(TcpListener::bind(bind).await.map_err(|reason| Error::Bind { bind, reason })?),
        };
        let start = |error: &dyn std::fmt::Display| Error::Start(error.to_string());
        let metrics = Arc::new(Metrics::new().map_err(|error| start(&error))?);
        let queue = Queue::new(options.queue);
        let batching = Batching { max: options.max_batch, wait: options.batch_wait };
        let (health, worker) =
            worker::spawn(model.clone(), queue.clone(), metrics.clone(), batching).map_err(|error| start(&error))?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let description = model.description();
        let cameras = match options.cameras.as_slice() {
            [] => description.cameras.clone(),
            names => {
                let sizes = Some(&description.cameras.sizes).filter(|sizes| sizes.len() == names.len());
                Cameras { sizes: sizes.cloned().unwrap_or_default(), ..Cameras::named(names.iter().cloned()) }
            }
        };
        let shared = Shared {
            shape: model.shape(),
            description,
            observations: ObservationOptions { cameras, prompt: options.prompt.clone() },
            budget: Budget::new(options.max_memory),
            phase: watch::Sender::new(Phase::Serving),
            parsers: Semaphore::new(processors),
            connections: AtomicU64::new(0),
            last: Mutex::default(),
            options,
            model,
            queue,
            metrics,
            health,
        };
        Ok(Self { listener, address, lerobot, tls, shared: Arc::new(shared), worker })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where LeRobot's clients find it.
    pub fn lerobot_address(&self) -> Option<SocketAddr> {
        self.lerobot.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// What tells it to stop.
    pub fn stop_handle(&self) -> Stop {
        Stop(self.shared.phase.clone())
    }

    /// Waits until the first prediction is done and requests are answered without delay.
    pub async fn ready(&self) -> Result<()> {
        let mut health = self.shared.health.clone();
        let warm = health.wait_for(|health| *health != Health::WarmingUp).await;
        match warm.map(|health| *health) {
            Ok(Health::Ready) => Ok(()),
            _ => Err(Error::WorkerStopped),
        }
    }

    /// Answers until it is told to stop and the requests under way have their answers.
    ///
    /// # Errors
    /// When the model stops computing, or requests are still under way when the time to end has passed.
    pub async fn run(self) -> Result<()> {
        let Self { listener, lerobot, mut tls, shared, worker, .. } = self;
        let sessions = lerobot::Sessions::default();
        let most = u32::try_from(shared.options.max_connections).unwrap_or(u32::MAX).min(Semaphore::MAX_PERMITS as u32);
        let permits = Arc::new(Semaphore::new(most as usize));
        let (mut phase, mut health) = (shared.phase.subscribe(), shared.health.clone());
        let drains = async { phase.wait_for(|phase| *phase == Phase::Draining).await.map(drop) };
        let stops = async { health.wait_for(|health| *health == Health::Stopped).await.map(drop) };
        let (mut drains, mut stops) = (std::pin::pin!(drains), std::pin::pin!(stops));
        let mut renewal = interval(shared.options.tls_renewal);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let worker_stopped = loop {
            tokio::select! {
                stream = accepted(&listener) => if let Some((stream, permit)) = admitted(stream, &shared, &permits) {
                    accept(stream, tls.as_ref().map(Certificate::acceptor), &shared, permit);
                },
                stream = accepted_if(lerobot.as_ref()) => {
                    if let Some((stream, permit)) = admitted(stream, &shared, &permits) {
                        lerobot::serve(stream, shared.clone(), sessions.clone(), permit);
                    }
                },
                _ = renewal.tick() => if let Some(certificate) = &mut tls {
                    match certificate.renew() {
                        Ok(true) => tracing::info!("new connections get the certificate that has been renewed"),
                        Ok(false) => {}
                        Err(error) => tracing::warn!("the certificate stays as it is: {error}"),
                    }
                },
                _ = &mut drains => break false,
                _ = &mut stops => break true,
            }
        };
        drop((listener, lerobot));
        shared.phase.send_replace(Phase::Draining);
        let time = if worker_stopped { FAREWELL } else { shared.options.drain_timeout };
        let drained = timeout(time, permits.acquire_many(most)).await.is_ok();
        if worker_stopped {
            return Err(Error::WorkerStopped);
        }
        if !drained {
            return Err(Error::DrainTimeout { connections: most as usize - permits.available_permits() });
        }
        shared.queue.close();
        match tokio::task::spawn_blocking(move || worker.join()).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Error::WorkerStopped),
        }
    }
}

/// The next connection.
async fn accepted(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!("a connection could not be accepted: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The next connection of a listener, if there is one; else it waits for ever.
async fn accepted_if(listener: Option<&TcpListener>) -> TcpStream {
    match listener {
        Some(listener) => accepted(listener).await,
        None => std::future::pending().await,
    }
}

/// A connection and its permit, if there is room for one more.
fn admitted(
    stream: TcpStream,
    shared: &Shared,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, Arc<OwnedSemaphorePermit>)> {
    let Ok(permit) = permits.clone().try_acquire_owned() else {
        tracing::warn!("a connection was refused: {} are open, which is the limit", shared.options.max_connections);
        return None;
    };
    // Both make a connection better; it works without.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE);
    Some((stream, Arc::new(permit)))
}

/// Serves a connection in a task of its own.
fn accept(stream: TcpStream, tls: Option<TlsAcceptor>, shared: &Arc<Shared>, permit: Arc<OwnedSemaphorePermit>) {
    let shared = shared.clone();
    tokio::spawn(async move {
        match tls {
            None => converse(stream, shared, permit).await,
            Some(tls) => {
                if let Ok(Ok(stream)) = timeout(HEAD_TIMEOUT, tls.accept(stream)).await {
                    converse(stream, shared, permit).await;
                }
            }
        }
    });
}

/// Speaks HTTP on a connection until it ends or becomes a websocket.
async fn converse<S>(stream: S, shared: Arc<Shared>, permit: Arc<OwnedSemaphorePermit>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut phase = shared.phase.subscribe();
    let service = hyper::service::service_fn(move |request| {
        let response = http::respond(request, shared.clone(), permit.clone());
        std::future::ready(Ok::<_, std::convert::Infallible>(response))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let drains = async { phase.wait_for(|phase| *phase == Phase::Draining).await.map(drop) };
    // Errors are the peer's: it left, or spoke no HTTP.
    tokio::select! {
        _ = connection.as_mut() => {}
        _ = drains => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
