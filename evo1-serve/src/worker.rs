//! The one thread that computes on the device.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    Model, Request,
    metrics::Metrics,
    queue::{Job, Queue},
};

/// How the worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// It computes its first prediction, which may compile kernels and allocate memory.
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
    model: Arc<dyn Model>,
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    batching: Batching,
) -> std::io::Result<(watch::Receiver<Health>, JoinHandle<()>)> {
    let (sender, health) = watch::channel(Health::WarmingUp);
    let thread = thread::Builder::new().name("evo1-device".into()).spawn(move || {
        let end = End { health: sender, queue: queue.clone() };
        // An error of the sample is an answer too; what matters is that the model ran.
        if let Err(error) = model.warm_up() {
            tracing::warn!("the warm-up prediction failed: {error}");
        }
        end.health.send_replace(Health::Ready);
        let can_join = |one: &Request, other: &Request| model.can_batch(one, other);
        let steps = model.description().steps;
        while let Some(batch) = queue.next_batch(batching.max, batching.wait, can_join) {
            compute(&*model, steps, batch, &metrics);
        }
    })?;
    Ok((health, thread))
}

/// Tells of the worker's end, however it comes.
struct End {
    health: watch::Sender<Health>,
    queue: Arc<Queue>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.health.send_replace(Health::Stopped);
        self.queue.abandon();
    }
}

/// Computes a batch. `steps` are the Euler steps of requests that do not say.
fn compute(model: &dyn Model, steps: usize, batch: Vec<Job>, metrics: &Metrics) {
    if batch.is_empty() {
        return;
    }
    let start = Instant::now();
    let requests: Vec<&Request> = batch.iter().map(|job| &*job.request).collect();
    let most = requests.iter().filter_map(|request| request.steps).max().unwrap_or(steps);
    let watched = metrics.watchdog.watch(most as f64 / steps.max(1) as f64);
    let predicted = model.predict(&requests);
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
        Err(_) => batch.into_iter().for_each(|job| compute(model, steps, vec![job], metrics)),
    }
}
