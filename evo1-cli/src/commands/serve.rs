//! `evo1 serve`: the policy server.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use burn::tensor::Device;
use clap::{Args, ValueEnum};
use evo1::{Components, Policy, config::GripperRule};
use evo1_serve::{
    DEFAULT_PORT, Load, MAX_MESSAGE, Model, NamedModel, PolicyModel, Reload, ReloadError, Server, ServerOptions, Stop,
    Tokens, is_policy_name, protocol,
};
use eyre::{Result, WrapErr, bail, eyre};
use tokio::runtime::Runtime;
use tracing::info;

use crate::{common::Common, output::say};

/// Threads that talk to clients: they only move bytes, the device has the others.
const CONNECTION_THREADS: usize = 4;

/// Who holds the token of `--token`, in the metrics.
const TOKEN_NAME: &str = "default";

/// File descriptors that are not connections.
const OTHER_FILES: u64 = 256;

/// Serve a policy to robots: openpi's websocket protocol at /openpi, Evo-1's JSON at any other path or as --protocol says, a
/// page for people at /; LeRobot's asynchronous inference where --lerobot says.
///
/// Answers are those of `evo1 infer` for the same observation and seed. A connection's first request starts from --seed, the
/// next from that plus 1, and so on, unless a request brings a `seed` of its own. SIGTERM ends the server when the requests under way
/// have their answers; SIGHUP loads the policies anew.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  evo1 serve\n  evo1 serve --policy evo1/assets/metaworld --bind 0.0.0.0:9000 --token SECRET --tls-cert cert.pem --tls-key key.pem"
)]
pub(crate) struct Serve {
    /// Policy directory; the embedded policy when left out. Several have names, which clients say in the path
    /// (/policy/NAME) or a header (X-Evo1-Policy); the first is that of clients that name none
    #[arg(long, value_name = "[NAME=]DIR")]
    policy: Vec<String>,

    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value_t = SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT)))]
    bind: SocketAddr,

    /// Token that clients must bring, as `Authorization: Bearer TOKEN` or `?token=TOKEN`
    #[arg(long, value_name = "TOKEN", env = "EVO1_TOKEN", hide_env_values = true)]
    token: Option<String>,

    /// File of further tokens: on each line the name of a holder, which the metrics show, and a token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Where to answer LeRobot's RobotClient (asynchronous inference, gRPC) too; it knows neither tokens nor TLS
    #[arg(long, value_name = "ADDR:PORT")]
    lerobot: Option<SocketAddr>,

    /// Actions that a robot of LeRobot's executes in a second
    #[arg(long, value_name = "N", default_value_t = ServerOptions::default().lerobot_fps, requires = "lerobot")]
    lerobot_fps: f64,

    /// Certificate chain for TLS, PEM; it and its key are looked at every minute, so that they can be renewed
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Private key for TLS, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Name by which clients may ask for a server without tokens (`Host`), beside addresses and `localhost`
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,

    /// Origin of pages that may connect beside the server's own, as a browser writes it: `https://robot.example`, `null`
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,

    /// Listen outside loopback without a token
    #[arg(long)]
    insecure: bool,

    /// What websockets speak at / and at any path but /openpi and /evo1, which have their own protocol
    #[arg(long, value_name = "PROTOCOL", default_value = "evo1")]
    protocol: Protocol,

    /// Take JSON images as RGB; the authors' server swaps the first and third channel, and their clients send BGR
    #[arg(long)]
    no_channel_swap: bool,

    /// Who scales JSON images of other sizes than the model's; by default the server, but the policy for lerobot policies
    #[arg(long, value_name = "WHO")]
    scaling: Option<Scaling>,

    /// Serve a policy without statistics: states and actions are in normalised units then
    #[arg(long)]
    normalized: bool,

    /// Cameras of openpi's and LeRobot's observations, in the order of the policy's views; when left out those of the policy, or as they
    /// come where it knows none
    #[arg(long, value_name = "NAME")]
    camera: Vec<String>,

    /// Instruction of openpi's observations that have no `prompt`, which are refused when left out, and of LeRobot's whose
    /// `task` is empty
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,

    /// File to which a line of JSON is appended for each request: who, what, how long, and what came of it
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,

    /// Send a trace of each request to the OpenTelemetry collector that the environment names (`OTEL_EXPORTER_OTLP_ENDPOINT`,
    /// http://localhost:4318 by default), by OTLP over HTTP
    #[cfg(feature = "otel")]
    #[arg(long)]
    traces: bool,

    /// Seed of the noise of a connection's first request; each further one's is larger by 1
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// Euler steps of requests that do not say; the policy's own number when left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    steps: Option<u32>,

    /// Smooth chunks along time with a Gaussian of so many steps; off when left out
    #[arg(long, value_name = "STEPS")]
    smoothing: Option<f32>,

    /// Make a gripper column two-valued: ABOVE where it exceeds THRESHOLD, else BELOW; off when left out
    #[arg(long, value_name = "COLUMN:THRESHOLD:ABOVE:BELOW", value_parser = parse_gripper, allow_hyphen_values = true)]
    gripper: Option<GripperRule>,

    /// Most requests that wait; one more is answered "overloaded" at once
    #[arg(long, value_name = "N", default_value_t = ServerOptions::default().queue)]
    queue: usize,

    /// Most requests of one connection that are under way; at the limit nothing more is read from it
    #[arg(long, value_name = "N", default_value_t = ServerOptions::default().max_in_flight)]
    max_in_flight: usize,

    /// Most requests computed together
    #[arg(long, value_name = "N", default_value_t = 1)]
    max_batch: usize,

    /// How long the device waits for company when there is room in a batch
    #[arg(long, value_name = "MS", default_value_t = 0)]
    batch_wait_ms: u64,

    /// How long a request may take that does not say so itself; no limit when left out
    #[arg(long, value_name = "MS")]
    deadline_ms: Option<u64>,

    /// Most bytes of a message
    #[arg(long, value_name = "BYTES", default_value_t = MAX_MESSAGE)]
    max_message: usize,

    /// Most bytes of all messages that arrive or wait
    #[arg(long, value_name = "BYTES", default_value_t = ServerOptions::default().max_memory)]
    max_memory: usize,

    /// Most connections
    #[arg(long, value_name = "N", default_value_t = ServerOptions::default().max_connections)]
    max_connections: usize,

    /// How long a message or a reply may be on its way
    #[arg(long, value_name = "S", default_value_t = ServerOptions::default().transfer_timeout.as_secs())]
    transfer_timeout_s: u64,

    /// How long SIGTERM waits for requests under way
    #[arg(long, value_name = "S", default_value_t = ServerOptions::default().drain_timeout.as_secs())]
    drain_timeout_s: u64,
}

/// What websockets speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Protocol {
    /// Evo-1's JSON, as the authors' clients.
    Evo1,
    /// openpi's msgpack, as `openpi_client`'s `WebsocketClientPolicy(host, port)`.
    Openpi,
}

/// Who scales frames of other sizes than the model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scaling {
    /// The server, bilinear as OpenCV does it: the authors' server.
    Opencv,
    /// The policy, in its profile's way: the same answers as `evo1 infer` for frames of any size.
    Policy,
}

impl Serve {
    pub(crate) fn run<C: Components>(self, common: &Common) -> Result<()> {
        let options = self.options()?;
        options.validate()?;
        let sources = sources(&self.policy)?;
        let device = common.open_device()?;
        let (this, common) = (Arc::new(self), Arc::new(common.clone()));
        let models = sources.into_iter().map(|Source { name, directory }| {
            let model: Arc<dyn Model> = Arc::new(this.model::<C>(&common, directory.as_deref(), &device)?);
            let (this, common, device) = (this.clone(), common.clone(), device.clone());
            let load: Load = Arc::new(move || match this.model::<C>(&common, directory.as_deref(), &device) {
                Ok(model) => Ok(Arc::new(model)),
                Err(error) => Err(format!("{error:#}")),
            });
            Ok(NamedModel { name, model, load: Some(load) })
        });
        let models = models.collect::<Result<Vec<_>>>()?;
        runtime(&options)?.block_on(async {
            let scheme = if options.tls.is_some() { "wss" } else { "ws" };
            let server = Server::bind_all(models, options).await?;
            say!("listening on {scheme}://{}", server.address())?;
            if let Some(address) = server.lerobot_address() {
                say!("listening on grpc://{address} for LeRobot's clients")?;
            }
            stop_on_signal(server.stop_handle())?;
            reload_on_signal(server.reload_handle())?;
            server.run().await?;
            info!("stopped: all requests have their answers");
            Ok(())
        })
    }

    /// The policy of a directory as it is served.
    fn model<C: Components>(
        &self,
        common: &Common,
        directory: Option<&Path>,
        device: &Device,
    ) -> Result<PolicyModel<C>> {
        let policy = self.fitted(common.policy::<C>(directory, device)?)?;
        Ok(self.served(policy.packed(), Common::policy_name(directory)))
    }

    /// A policy as the options want it.
    pub(crate) fn fitted<C: Components>(&self, mut policy: Policy<C>) -> Result<Policy<C>> {
        if policy.statistics.is_none() && !self.normalized {
            bail!(
                "the policy has no statistics, so that states and actions are in normalised units, which no robot has: add \
                 its `norm_stats.json` or LeRobot's processor files, or serve it so with `--normalized`"
            );
        }
        if let Some(gripper) = self.gripper {
            policy.config.gripper = Some(gripper);
            policy.config.validate("--gripper")?;
        }
        Ok(policy)
    }

    /// A policy as it is served.
    pub(crate) fn served<C: Components>(&self, policy: Policy<C>, name: String) -> PolicyModel<C> {
        PolicyModel {
            rollout: policy.into(),
            name,
            seed: self.seed,
            steps: self.steps.map(|steps| steps as usize),
            smoothing: self.smoothing,
        }
    }

    fn tokens(&self) -> Result<Tokens> {
        let mut tokens = self.token_file.as_deref().map(Tokens::read).transpose()?.unwrap_or_default();
        if let Some(token) = &self.token {
            tokens.add(TOKEN_NAME, token).map_err(|message| eyre!("--token: {message}"))?;
        }
        Ok(tokens)
    }

    fn options(&self) -> Result<ServerOptions> {
        Ok(ServerOptions {
            bind: self.bind,
            tokens: self.tokens()?,
            lerobot: self.lerobot,
            lerobot_fps: self.lerobot_fps,
            tls: self.tls_cert.clone().zip(self.tls_key.clone()),
            allow_hosts: self.allow_host.clone(),
            allow_origins: self.allow_origin.clone(),
            is_insecure: self.insecure,
            protocol: match self.protocol {
                Protocol::Evo1 => protocol::Protocol::Evo1,
                Protocol::Openpi => protocol::Protocol::OpenPi,
            },
            swaps_channels: !self.no_channel_swap,
            scaling: self.scaling.map(|scaling| match scaling {
                Scaling::Opencv => protocol::Scaling::OpenCv,
                Scaling::Policy => protocol::Scaling::Policy,
            }),
            cameras: self.camera.clone(),
            access_log: self.access_log.clone(),
            #[cfg(feature = "otel")]
            traces: self.traces,
            prompt: self.prompt.clone(),
            queue: self.queue,
            max_in_flight: self.max_in_flight,
            max_batch: self.max_batch,
            batch_wait: Duration::from_millis(self.batch_wait_ms),
            deadline: self.deadline_ms.map(Duration::from_millis),
            max_message: self.max_message,
            max_memory: self.max_memory,
            max_connections: self.max_connections,
            transfer_timeout: Duration::from_secs(self.transfer_timeout_s),
            drain_timeout: Duration::from_secs(self.drain_timeout_s),
            ..ServerOptions::default()
        })
    }
}

/// The threads that talk to clients.
fn runtime(options: &ServerOptions) -> Result<Runtime> {
    // Without as many files the limit on connections would be the system's.
    let files = options.max_connections as u64 + OTHER_FILES;
    if let Err(error) = rlimit::increase_nofile_limit(files) {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(1, usize::from).min(CONNECTION_THREADS))
        .enable_all()
        .build()
        .wrap_err("cannot start the threads that talk to clients")
}

/// A server at a free port of this machine, in threads of its own.
#[cfg(feature = "train")]
pub(crate) struct Background {
    /// Where it listens.
    pub(crate) url: String,
    stop: Stop,
    server: std::thread::JoinHandle<Result<(), evo1_serve::Error>>,
}

#[cfg(feature = "train")]
impl Background {
    /// Serves a model, and returns once it answers without delay.
    pub(crate) fn start(model: Arc<dyn Model>, options: &Serve) -> Result<Self> {
        let options = ServerOptions {
            bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            tokens: Tokens::default(),
            ..options.options()?
        };
        let runtime = runtime(&options)?;
        let server = runtime.block_on(async {
            let server = Server::bind(model, options).await?;
            server.ready().await?;
            Ok::<_, evo1_serve::Error>(server)
        })?;
        let (url, stop) = (format!("ws://{}", server.address()), server.stop_handle());
        Ok(Self { url, stop, server: std::thread::spawn(move || runtime.block_on(server.run())) })
    }

    /// Whether the server has stopped by itself.
    pub(crate) fn is_over(&self) -> bool {
        self.server.is_finished()
    }

    /// Ends the server.
    ///
    /// # Errors
    /// When it had stopped by itself.
    pub(crate) fn stop(self) -> Result<()> {
        self.stop.stop();
        match self.server.join() {
            Ok(ended) => Ok(ended?),
            Err(_) => bail!("the server's thread has panicked"),
        }
    }
}

/// Options of [`Serve`] by themselves.
#[cfg(feature = "train")]
#[derive(clap::Parser)]
#[command(name = "--serve", no_binary_name = true, disable_help_flag = true)]
struct Alone {
    #[command(flatten)]
    serve: Serve,
}

#[cfg(feature = "train")]
impl Serve {
    /// Options as they stand on a command line, for a server that is there for one program and policy.
    pub(crate) fn parse(text: &str, seed: u64) -> Result<Self, String> {
        let words = shlex::split(text).ok_or("expected options of `evo1 serve`, with quotes as in a shell")?;
        let unfit = [
            "--policy",
            "--bind",
            "--token",
            "--token-file",
            "--lerobot",
            "--tls-cert",
            "--tls-key",
            "--insecure",
            "--seed",
        ];
        let is_unfit = |word: &String| unfit.contains(&word.split('=').next().unwrap_or_default());
        if let Some(word) = words.iter().find(|word| is_unfit(word)) {
            return Err(format!("{word} is no option of this server, which is at a free port and for one policy"));
        }
        let alone: Alone = clap::Parser::try_parse_from(words).map_err(|error| error.to_string())?;
        Ok(Self { seed, ..alone.serve })
    }
}

/// A policy of the command line.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    name: String,
    directory: Option<PathBuf>,
}

/// What `--policy` names. A directory whose own name has a `=` is one if it is there.
fn sources(given: &[String]) -> Result<Vec<Source>> {
    let named = |text: &String| match text.split_once('=') {
        Some((name, directory)) if is_policy_name(name) && !Path::new(text).exists() => {
            (Some(name.to_owned()), PathBuf::from(directory))
        }
        _ => (None, PathBuf::from(text)),
    };
    match given {
        [] => Ok(vec![Source { name: Common::policy_name(None), directory: None }]),
        [one] => {
            let (name, directory) = named(one);
            let name = name.unwrap_or_else(|| Common::policy_name(Some(&directory)));
            Ok(vec![Source { name, directory: Some(directory) }])
        }
        several => {
            let source = |text: &String| match named(text) {
                (Some(name), directory) => Ok(Source { name, directory: Some(directory) }),
                (None, _) => Err(eyre!(
                    "--policy {text}: of several policies each needs a name of letters, digits, `.`, `-` and `_`: NAME=DIR"
                )),
            };
            several.iter().map(source).collect()
        }
    }
}

fn parse_gripper(text: &str) -> Result<GripperRule, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let number = |text: &str| text.parse::<f32>().ok().filter(|value| value.is_finite());
    let rule = || {
        let [column, threshold, above, below] = parts.as_slice() else { return None };
        let (threshold, above, below) = (number(threshold)?, number(above)?, number(below)?);
        Some(GripperRule { index: column.parse().ok()?, threshold, above, below })
    };
    rule().ok_or_else(|| "expected COLUMN:THRESHOLD:ABOVE:BELOW, for example 6:0.5:-1:1".into())
}

/// Stops the server at the first SIGTERM or interrupt, and the process at the second.
fn stop_on_signal(stop: Stop) -> Result<()> {
    let mut signals = Signals::new().wrap_err("cannot listen for signals")?;
    tokio::spawn(async move {
        signals.next().await;
        info!("stopping: requests under way are answered first");
        stop.stop();
        signals.next().await;
        std::process::exit(1);
    });
    Ok(())
}

/// Loads the policies anew at every SIGHUP.
#[cfg(unix)]
fn reload_on_signal(reload: Reload) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup()).wrap_err("cannot listen for signals")?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            // What went wrong is logged where it did.
            if let Err(error @ ReloadError::UnderWay) = reload.all().await {
                tracing::warn!("SIGHUP: {error}");
            }
        }
    });
    Ok(())
}

#[cfg(not(unix))]
fn reload_on_signal(_: Reload) -> Result<()> {
    Ok(())
}

#[cfg(unix)]
struct Signals(tokio::signal::unix::Signal, tokio::signal::unix::Signal);

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        // Without a way to listen there is nothing to wait for.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
