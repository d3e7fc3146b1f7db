//! The server: connections, the queue and the worker put together.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

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
    Answer, Error, ErrorKind, Model, NamedModel, Request, RequestError, Result, ServerOptions,
    access::{Access, AccessLog},
    budget::{Budget, Reservation},
    http, lerobot,
    metrics::Metrics,
    model::difference,
    policies::{Policies, Served},
    queue::Queue,
    recent::{Last, Recent},
    tls::Certificate,
    worker::{self, Batching, Health},
};

#[cfg(feature = "otel")]
use crate::traces::Traces;

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
    pub(crate) policies: Policies,
    pub(crate) queue: Arc<Queue<Arc<Served>>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) health: watch::Receiver<Health>,
    /// As many messages are parsed at once as there are processors.
    pub(crate) parsers: Semaphore,
    connections: AtomicU64,
    /// Held while a policy is loaded anew.
    reloading: tokio::sync::Mutex<()>,
    pub(crate) recent: Recent,
    pub(crate) access: AccessLog,
    #[cfg(feature = "otel")]
    traces: Option<Traces>,
}

/// A request on its way into the queue.
pub(crate) struct Submission {
    /// Whose turn it is.
    pub(crate) connection: u64,
    /// The policy's place.
    pub(crate) policy: usize,
    /// Its model.
    pub(crate) served: Arc<Served>,
    pub(crate) request: Arc<Request>,
    pub(crate) memory: Reservation,
    pub(crate) received: tokio::time::Instant,
    /// People may see it and its answer.
    pub(crate) is_shown: bool,
}

/// Why a policy was not loaded anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// Another one is being loaded.
    #[error("a policy is being loaded already")]
    UnderWay,
    /// The policy of before stays.
    #[error("`{name}` stays as it is: {reason}")]
    Failed {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

impl Shared {
    pub(crate) fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes down a request that has been answered or refused just now.
    pub(crate) fn record(&self, access: &Access<'_>) {
        self.access.request(access);
        #[cfg(feature = "otel")]
        self.traces.iter().for_each(|traces| traces.request(access));
    }

    /// Fails when a request cannot be computed, or none is taken any more.
    pub(crate) fn check(&self, served: &Served, request: &Request) -> Result<(), RequestError> {
        match *self.phase.borrow() {
            Phase::Draining => Err(RequestError::new(ErrorKind::ShuttingDown, "the server is shutting down")),
            Phase::Serving => served.model.check(request),
        }
    }

    /// Puts a request into the queue and returns what waits for its answer. It holds the request's memory. An answer that is
    /// not finite is an error.
    pub(crate) fn submit(
        self: &Arc<Self>,
        submission: Submission,
    ) -> Result<impl Future<Output = Result<Answer, RequestError>> + Send + 'static, RequestError> {
        let Submission { connection, policy, served, request, memory, received, is_shown } = submission;
        self.check(&served, &request)?;
        let shared = self.clone();
        let ticket = shared.queue.push(connection, served, request.clone())?;
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
            if !answer.chunk.values().iter().all(|value| value.is_finite()) {
                return Err(RequestError::new(ErrorKind::NonFinite, "the prediction is not finite"));
            }
            if is_shown {
                let policy = shared.policies.name(policy).to_owned();
                shared.recent.push(Last { policy, request, answer: answer.clone(), received: received.into_std() });
            }
            Ok(answer)
        })
    }

    /// Loads policies anew, all or that of a place, and has each take its place once it is warm. Those of before answer until
    /// then, and stay where one cannot be loaded.
    pub(crate) async fn reload(&self, place: Option<usize>) -> Result<Vec<String>, ReloadError> {
        let _one_at_a_time = self.reloading.try_lock().map_err(|_| ReloadError::UnderWay)?;
        let places = match place {
            Some(place) => vec![place],
            None => (0..self.policies.names().count()).collect(),
        };
        let mut done = Vec::new();
        for place in places {
            let name = self.policies.name(place).to_owned();
            let loaded = self.load(place).await;
            self.metrics.reloaded(loaded.is_ok());
            match loaded {
                Ok(served) => self.policies.replace(place, served),
                Err(reason) => {
                    tracing::warn!("`{name}` stays as it is: {reason}");
                    return Err(ReloadError::Failed { name, reason });
                }
            }
            tracing::info!("`{name}` has been loaded anew");
            done.push(name);
        }
        Ok(done)
    }

    /// A place's policy, loaded anew and warm.
    async fn load(&self, place: usize) -> Result<Arc<Served>, String> {
        let load = self.policies.load(place).ok_or("it cannot be loaded anew")?;
        let loaded = tokio::task::spawn_blocking(move || load()).await;
        let model = loaded.map_err(|error| format!("loading it failed: {error}"))??;
        let served = Arc::new(Served::new(model, &self.options));
        let old = self.policies.served(place);
        if let Some(field) = difference(&old.description, &served.description) {
            return Err(format!(
                "the new policy is for another robot: its `{field}` (/info) is not that of the old one, which clients rely on; \
                 start the server again"
            ));
        }
        let warm = self.queue.warm_up(served.clone()).await;
        warm.map_err(|_| "the model has stopped".to_owned())?.map_err(|error| error.to_string())?;
        Ok(served)
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

/// Has a server load its policies anew.
#[derive(Clone)]
pub struct Reload(Arc<Shared>);

impl Reload {
    /// Loads every policy anew, and has each take its place once it is warm. Connections stay, and requests under way are
    /// answered by the policies of before, which stay where one cannot be loaded.
    ///
    /// # Errors
    /// When one cannot be loaded, is the same again for want of a [`NamedModel::load`], or fails at its first prediction; or
    /// when another call has not ended.
    pub async fn all(&self) -> Result<Vec<String>, ReloadError> {
        self.0.reload(None).await
    }
}

impl Server {
    /// Listens, and starts the thread that computes.
    ///
    /// # Errors
    /// As [`Self::bind_all`].
    pub async fn bind(model: Arc<dyn Model>, options: ServerOptions) -> Result<Self> {
        Self::bind_all(vec![NamedModel::of(model)], options).await
    }

    /// [`Self::bind`] for several models, of which the first is that of clients that name none.
    ///
    /// # Errors
    /// When the options or the names do not fit together, an address or a certificate cannot be used, or the system gives no
    /// thread.
    pub async fn bind_all(models: Vec<NamedModel>, options: ServerOptions) -> Result<Self> {
        options.validate()?;
        let policies = Policies::new(models, &options)?;
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
            worker::spawn(policies.all(), queue.clone(), metrics.clone(), batching).map_err(|error| start(&error))?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Shared {
            budget: Budget::new(options.max_memory),
            phase: watch::Sender::new(Phase::Serving),
            parsers: Semaphore::new(processors),
            connections: AtomicU64::new(0),
            reloading: tokio::sync::Mutex::default(),
            recent: Recent::default(),
            access: AccessLog::open(options.access_log.as_deref())?,
            #[cfg(feature = "otel")]
            traces: options.traces.then(Traces::open).transpose()?,
            options,
            policies,
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

    /// What has it load its policies anew.
    pub fn reload_handle(&self) -> Reload {
        Reload(self.shared.clone())
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
    let (shared, peer) = (shared.clone(), stream.peer_addr().ok());
    tokio::spawn(async move {
        match tls {
            None => converse(stream, peer, shared, permit).await,
            Some(tls) => {
                if let Ok(Ok(stream)) = timeout(HEAD_TIMEOUT, tls.accept(stream)).await {
                    converse(stream, peer, shared, permit).await;
                }
            }
        }
    });
}

/// Speaks HTTP on a connection until it ends or becomes a websocket.
async fn converse<S>(stream: S, peer: Option<SocketAddr>, shared: Arc<Shared>, permit: Arc<OwnedSemaphorePermit>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut phase = shared.phase.subscribe();
    let service = hyper::service::service_fn(move |request| {
        let (shared, permit) = (shared.clone(), permit.clone());
        async move { Ok::<_, std::convert::Infallible>(http::respond(request, peer, shared, permit).await) }
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
