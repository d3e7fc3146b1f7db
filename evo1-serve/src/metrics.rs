//! What Prometheus is told.

use std::time::Duration;

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::{Answer, ErrorKind, watchdog::Watchdog};

/// Bounds of latency buckets in seconds: from a parsed message to a full-size prediction on a CPU.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

/// The server's counters.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    errors: IntCounterVec,
    connections: IntGauge,
    connections_total: IntCounter,
    token_connections: IntGaugeVec,
    token_requests: IntCounterVec,
    policy_requests: IntCounterVec,
    reloads: IntCounterVec,
    queue: IntGauge,
    pub(crate) received_bytes: IntCounter,
    memory: IntGauge,
    stages: HistogramVec,
    pub(crate) batch_size: Histogram,
    running: Gauge,
    stalled: IntGauge,
    pub(crate) watchdog: Watchdog,
}

/// One of what a gauge counts, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted(IntGauge);

impl Counted {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// # Errors
    /// When two metrics have one name, which the tests would show.
    pub(crate) fn new() -> prometheus::Result<Self> {
        let counters = |name, help, label| IntCounterVec::new(Opts::new(name, help), &[label]);
        let batches = HistogramOpts::new("evo1_batch_size", "Requests computed together.");
        let stages = HistogramOpts::new("evo1_stage_seconds", "Time of a request by stage.").buckets(SECONDS.to_vec());
        let stalls = IntCounter::new("evo1_stalls_total", "Predictions that took ten times their usual time.")?;
        let metrics = Self {
            registry: Registry::new(),
            requests: counters("evo1_requests_total", "Requests answered, by protocol.", "protocol")?,
            errors: counters("evo1_errors_total", "Requests that failed, by kind.", "kind")?,
            connections: IntGauge::new(
                "evo1_connections",
                "Connections of robots that are open: websockets and gRPC.",
            )?,
            connections_total: IntCounter::new("evo1_connections_total", "Connections of robots accepted.")?,
            token_connections: IntGaugeVec::new(
                Opts::new(
                    "evo1_token_connections",
                    "Websocket connections that are open, by the holder of their token.",
                ),
                &["token"],
            )?,
            token_requests: counters("evo1_token_requests_total", "Requests answered, by holder of a token.", "token")?,
            policy_requests: counters("evo1_policy_requests_total", "Requests answered, by policy.", "policy")?,
            reloads: counters("evo1_reloads_total", "Times that a policy was loaded anew, by result.", "result")?,
            queue: IntGauge::new("evo1_queue_length", "Requests that wait for the device.")?,
            received_bytes: IntCounter::new("evo1_received_bytes_total", "Bytes of complete messages.")?,
            memory: IntGauge::new("evo1_request_memory_bytes", "Memory held by messages and waiting requests.")?,
            stages: HistogramVec::new(stages, &["stage"])?,
            batch_size: Histogram::with_opts(batches.buckets(vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0]))?,
            running: Gauge::new("evo1_prediction_seconds", "Time of the present prediction so far; 0 without one.")?,
            stalled: IntGauge::new("evo1_prediction_stalled", "1 if it has taken ten times its usual time, else 0.")?,
            watchdog: Watchdog::new(stalls.clone()),
        };
        for kind in ErrorKind::ALL {
            // A kind that has not happened yet is a 0, not a hole.
            metrics.errors.with_label_values(&[kind.name()]);
        }
        let all: [Box<dyn prometheus::core::Collector>; 16] = [
            Box::new(metrics.requests.clone()),
            Box::new(metrics.errors.clone()),
            Box::new(metrics.connections.clone()),
            Box::new(metrics.connections_total.clone()),
            Box::new(metrics.token_connections.clone()),
            Box::new(metrics.token_requests.clone()),
            Box::new(metrics.policy_requests.clone()),
            Box::new(metrics.reloads.clone()),
            Box::new(metrics.queue.clone()),
            Box::new(metrics.received_bytes.clone()),
            Box::new(metrics.memory.clone()),
            Box::new(metrics.stages.clone()),
            Box::new(metrics.batch_size.clone()),
            Box::new(metrics.running.clone()),
            Box::new(metrics.stalled.clone()),
            Box::new(stalls),
        ];
        for collector in all {
            metrics.registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// Counts a connection that is open until the guards are dropped, and whose token it has.
    pub(crate) fn opened(&self, holder: Option<&str>) -> (Counted, Option<Counted>) {
        self.connections_total.inc();
        let of_holder = holder.map(|holder| Counted::new(&self.token_connections.with_label_values(&[holder])));
        (Counted::new(&self.connections), of_holder)
    }

    pub(crate) fn failed(&self, kind: ErrorKind) {
        self.errors.with_label_values(&[kind.name()]).inc();
    }

    /// How often each kind of failure happened.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ErrorKind::ALL.into_iter().map(|kind| (kind.name(), self.errors.with_label_values(&[kind.name()]).get()))
    }

    pub(crate) fn connections(&self) -> i64 {
        self.connections.get()
    }

    pub(crate) fn stage(&self, stage: &str, time: Duration) {
        self.stages.with_label_values(&[stage]).observe(time.as_secs_f64());
    }

    pub(crate) fn reloaded(&self, is_done: bool) {
        self.reloads.with_label_values(&[if is_done { "done" } else { "failed" }]).inc();
    }

    pub(crate) fn answered(&self, protocol: &str, policy: &str, holder: Option<&str>, answer: &Answer) {
        self.requests.with_label_values(&[protocol]).inc();
        self.policy_requests.with_label_values(&[policy]).inc();
        if let Some(holder) = holder {
            self.token_requests.with_label_values(&[holder]).inc();
        }
        self.stage("queue", answer.queued);
        for (stage, time) in answer.times.stages() {
            self.stage(stage, time);
        }
    }

    /// All metrics in Prometheus' text format.
    pub(crate) fn text(&self, queue: usize, memory: usize) -> String {
        self.queue.set(queue as i64);
        self.memory.set(memory as i64);
        self.running.set(self.watchdog.running().map_or(0.0, |time| time.as_secs_f64()));
        self.stalled.set(self.watchdog.stall().is_some().into());
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# {error}\n"),
        }
    }
}
