//! The one thread that computes on the device.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    Request,
    metrics::Metrics,
    policies::Served,
    queue::{Job, Queue, WarmUp, Work},
};

/// How the worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// It computes each policy's first prediction, which may compile kernels and allocate memory.
    WarmingUp,
    /// It answers.
    Ready,
    /// It has ended, as it was told to or because it panicked.
    Stopped,
}

/// How requests are computed together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batching {
    pub(crate) max: usize,
    pub(crate) wait: Duration,
}

/// Starts the worker. It ends when the queue is closed and empty, or when the model panics: what the model is like then is
/// unknown, and a robot must not be moved by it.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn spawn(
    policies: Vec<Arc<Served>>,
    queue: Arc<Queue<Arc<Served>>>,
    metrics: Arc<Metrics>,
    batching: Batching,
) -> std::io::Result<(watch::Receiver<Health>, JoinHandle<()>)> {
    let (sender, health) = watch::channel(Health::WarmingUp);
    let thread = thread::Builder::new().name("evo1-device".into()).spawn(move || {
        let end = End { health: sender, queue: queue.clone() };
        // An error of the sample is an answer too; what matters is that the model ran.
        for served in policies {
            if let Err(error) = served.model.warm_up() {
                tracing::warn!("the warm-up prediction failed: {error}");
            }
        }
        end.health.send_replace(Health::Ready);
        let can_join = |one: &Job<Arc<Served>>, other: &Job<Arc<Served>>| {
            Arc::ptr_eq(&one.model, &other.model) && one.model.model.can_batch(&one.request, &other.request)
        };
        while let Some(work) = queue.next(batching.max, batching.wait, can_join) {
            match work {
                Work::Batch(batch) => compute(batch, &metrics),
                Work::WarmUp(WarmUp { model, done }) => drop(done.send(model.model.warm_up())),
            }
        }
    })?;
    Ok((health, thread))
}

/// Tells of the worker's end, however it comes.
struct End {
    health: watch::Sender<Health>,
    queue: Arc<Queue<Arc<Served>>>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.health.send_replace(Health::Stopped);
        self.queue.abandon();
    }
}

/// Computes a batch.
fn compute(batch: Vec<Job<Arc<Served>>>, metrics: &Metrics) {
    let Some(first) = batch.first() else { return };
    let served = first.model.clone();
    let steps = served.description.steps;
    let start = Instant::now();
    let requests: Vec<&Request> = batch.iter().map(|job| &*job.request).collect();
    let most = requests.iter().filter_map(|request| request.steps).max().unwrap_or(steps);
    let watched = metrics.watchdog.watch(&served.pace, most as f64 / steps.max(1) as f64);
    let predicted = served.model.predict(&requests);
    drop(watched);
    match predicted {
        Ok(answers) => {
            metrics.batch_size.observe(batch.len() as f64);
            for (job, mut answer) in batch.into_iter().zip(answers) {
                answer.queued = start - job.since;
                job.finish(Ok(answer));
            }
        }
        Err(error) if batch.len() == 1 => batch.into_iter().for_each(|job| job.finish(Err(error.clone()))),
        // One request must not fail the others.
        Err(_) => batch.into_iter().for_each(|job| compute(vec![job], metrics)),
    }
}
