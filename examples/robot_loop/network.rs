//! A server behind a network that delays, cuts connections and loses the server now and then.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{sleep, spawn},
    time::Duration,
};

use evo1::rng::{self, RngExt};

/// How bad it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// Each way takes so long, and up to as long again.
    latency: Duration,
    /// All connections are cut every so often,
    cut_every: Duration,
    /// and the server ends and starts again every so often,
    restart_every: Duration,
    /// being away for so long.
    away: Duration,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(15),
            cut_every: Duration::from_millis(3100),
            restart_every: Duration::from_millis(5300),
            away: Duration::from_millis(700),
        }
    }
}

/// The network, which ends with its server when it is dropped.
pub(crate) struct BadNetwork {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    server: Mutex<Option<Served>>,
    /// Both ends of every connection.
    open: Mutex<Vec<TcpStream>>,
    cuts: AtomicUsize,
    restarts: AtomicUsize,
    is_over: AtomicBool,
}

/// A server as a process of its own.
struct Served {
    process: Child,
    address: SocketAddr,
}

impl Served {
    fn start() -> std::io::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["serve", "--bind", "127.0.0.1:0", "--steps", "4", "--device", "flex"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(output) = &mut process.stdout {
            BufReader::new(output).read_line(&mut line)?;
        }
        let address = line.trim().strip_prefix("listening on ws://").and_then(|address| address.parse().ok());
        let address = address.ok_or_else(|| std::io::Error::other(format!("the server does not listen: {line}")))?;
        Ok(Self { process, address })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BadNetwork {
    pub(crate) fn start(weather: Weather) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, shared) = (listener.local_addr()?, Arc::new(Shared::default()));
        *lock(&shared.server) = Some(Served::start()?);
        let network = shared.clone();
        spawn(move || {
            for client in listener.incoming().flatten() {
                network.connect(client, weather.latency);
            }
        });
        let network = shared.clone();
        spawn(move || {
            while network.goes_on_for(weather.cut_every) {
                network.cut();
            }
        });
        let network = shared.clone();
        spawn(move || {
            while network.goes_on_for(weather.restart_every) {
                drop(lock(&network.server).take());
                network.cut();
                sleep(weather.away);
                let served = Served::start().ok();
                if !network.is_over.load(Ordering::Relaxed) {
                    network.restarts.fetch_add(1, Ordering::Relaxed);
                    *lock(&network.server) = served;
                }
            }
        });
        Ok(Self { address, shared })
    }

    /// Where the server is to be found, as far as it is.
    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    pub(crate) fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::Relaxed)
    }

    pub(crate) fn restarts(&self) -> usize {
        self.shared.restarts.load(Ordering::Relaxed)
    }
}

impl Drop for BadNetwork {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        drop(lock(&self.shared.server).take());
    }
}

impl Shared {
    /// Waits; false once the network is over.
    fn goes_on_for(&self, time: Duration) -> bool {
        sleep(time);
        !self.is_over.load(Ordering::Relaxed)
    }

    /// Cuts all connections.
    fn cut(&self) {
        for stream in lock(&self.open).drain(..) {
            // Two entries are one connection.
            self.cuts.fetch_add(usize::from(stream.peer_addr().is_ok_and(|peer| peer.port() > 0)), Ordering::Relaxed);
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Passes on what two ends say to each other, late.
    fn connect(&self, client: TcpStream, latency: Duration) {
        let address = lock(&self.server).as_ref().map(|served| served.address);
        let Some(server) = address.and_then(|address| TcpStream::connect(address).ok()) else { return };
        let both = |one: &TcpStream, other: &TcpStream| Some((one.try_clone().ok()?, other.try_clone().ok()?));
        let (Some(there), Some(back)) = (both(&client, &server), both(&server, &client)) else { return };
        for (number, (from, to)) in [there, back].into_iter().enumerate() {
            spawn(move || pass_on(from, to, latency, number as u64));
        }
        lock(&self.open).push(client);
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, latency: Duration, seed: u64) {
    let (mut buffer, mut rng) = (vec![0; 1 << 20], rng::stream(seed, "network"));
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        sleep(latency.mul_f64(rng.random_range(1.0..2.0)));
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
