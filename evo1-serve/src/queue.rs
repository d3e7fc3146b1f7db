//! The bounded queue between connections and the device.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::{Answer, ErrorKind, Request, RequestError};

/// Requests that wait for the device. Connections take turns: each one's first request comes before any one's second, and
/// those of one connection come in their order.
///
/// Each request is one to a model `M`; those of different models are not computed together.
#[derive(Debug)]
pub(crate) struct Queue<M> {
    state: Mutex<State<M>>,
    changed: Condvar,
    capacity: usize,
}

#[derive(Debug)]
struct State<M> {
    /// In the order of their rounds.
    jobs: VecDeque<Job<M>>,
    /// Models that are to be warmed up, before any request.
    warm_ups: VecDeque<WarmUp<M>>,
    next: u64,
    /// The round of the request that was last handed out.
    round: u64,
    is_closed: bool,
}

/// What there is to do.
#[derive(Debug)]
pub(crate) enum Work<M> {
    /// Requests to one model, which fit together.
    Batch(Vec<Job<M>>),
    WarmUp(WarmUp<M>),
}

/// A model that is to be warmed up, and who waits for that.
#[derive(Debug)]
pub(crate) struct WarmUp<M> {
    pub(crate) model: M,
    pub(crate) done: oneshot::Sender<Result<(), RequestError>>,
}

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Job<M> {
    id: u64,
    connection: u64,
    /// A connection has one request in each round.
    round: u64,
    pub(crate) model: M,
    pub(crate) request: Arc<Request>,
    pub(crate) since: Instant,
    answer: oneshot::Sender<Result<Answer, RequestError>>,
}

/// A connection's end of a request. Dropping it frees the request's place.
#[derive(Debug)]
pub(crate) struct Ticket<M> {
    queue: Arc<Queue<M>>,
    id: u64,
    answer: oneshot::Receiver<Result<Answer, RequestError>>,
}

impl<M> Job<M> {
    /// Hands the answer to the connection; one that has left does not mind.
    pub(crate) fn finish(self, answer: Result<Answer, RequestError>) {
        let _ = self.answer.send(answer);
    }
}

impl<M> Ticket<M> {
    pub(crate) async fn wait(mut self) -> Result<Answer, RequestError> {
        let stopped = || RequestError::new(ErrorKind::Internal, "the model has stopped");
        (&mut self.answer).await.unwrap_or_else(|_| Err(stopped()))
    }
}

impl<M> Drop for Ticket<M> {
    fn drop(&mut self) {
        lock(&self.queue.state).jobs.retain(|job| job.id != self.id);
    }
}

fn lock<M>(state: &Mutex<State<M>>) -> MutexGuard<'_, State<M>> {
    // The state is whole at every point where a holder could panic.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M: Clone> Queue<M> {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        let state = State { jobs: VecDeque::new(), warm_ups: VecDeque::new(), next: 0, round: 0, is_closed: false };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new(), capacity })
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        lock(&self.state)
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    /// Takes a place behind the connection's own requests and those of its round, or fails at once when there is none.
    pub(crate) fn push(
        self: &Arc<Self>,
        connection: u64,
        model: M,
        request: Arc<Request>,
    ) -> Result<Ticket<M>, RequestError> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(RequestError::new(ErrorKind::Internal, "the model has stopped"));
        }
        if state.jobs.len() >= self.capacity {
            let message = format!("overloaded: {} requests are waiting, which is the limit", self.capacity);
            return Err(RequestError::new(ErrorKind::Overloaded, message));
        }
        let (sender, answer) = oneshot::channel();
        let id = state.next;
        state.next += 1;
        let own = state.jobs.iter().rev().find(|job| job.connection == connection);
        let round = own.map_or(state.round, |job| job.round + 1);
        let place = state.jobs.partition_point(|job| job.round <= round);
        let job = Job { id, connection, round, model, request, since: Instant::now(), answer: sender };
        state.jobs.insert(place, job);
        drop(state);
        self.changed.notify_one();
        Ok(Ticket { queue: self.clone(), id, answer })
    }

    /// Has a model warmed up before the next request; whoever waits hears of it. Nothing comes of it where the queue is closed.
    pub(crate) fn warm_up(&self, model: M) -> oneshot::Receiver<Result<(), RequestError>> {
        let (done, waits) = oneshot::channel();
        let mut state = self.lock();
        if !state.is_closed {
            state.warm_ups.push_back(WarmUp { model, done });
        }
        drop(state);
        self.changed.notify_one();
        waits
    }

    /// Ends the requests of a connection that wait, because a newer one takes their place.
    pub(crate) fn supersede(&self, connection: u64) {
        let mut state = self.lock();
        let (old, kept) = std::mem::take(&mut state.jobs).into_iter().partition(|job| job.connection == connection);
        state.jobs = kept;
        drop(state);
        let old: VecDeque<Job<M>> = old;
        for job in old {
            job.finish(Err(RequestError::new(ErrorKind::Superseded, "a newer request has taken its place")));
        }
    }

    /// Waits for the next request, and for up to `wait` longer until there are `max` that can be computed together with
    /// it; or for a model to warm up. Nothing once the queue is closed and empty.
    pub(crate) fn next(
        &self,
        max: usize,
        wait: Duration,
        can_join: impl Fn(&Job<M>, &Job<M>) -> bool,
    ) -> Option<Work<M>> {
        let mut state = self.lock();
        let first = loop {
            if let Some(warm_up) = state.warm_ups.pop_front() {
                return Some(Work::WarmUp(warm_up));
            }
            if let Some(job) = state.jobs.pop_front() {
                state.round = job.round;
                break job;
            }
            if state.is_closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        let (mut batch, until) = (vec![first], Instant::now() + wait);
        while batch.len() < max {
            let joins = |job: &Job<M>| can_join(&batch[0], job);
            if let Some(job) = state.jobs.iter().position(joins).and_then(|place| state.jobs.remove(place)) {
                batch.push(job);
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.is_closed {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        // Who left while the batch was gathered needs no answer.
        batch.retain(|job| !job.answer.is_closed());
        Some(Work::Batch(batch))
    }

    /// Takes no more requests; those that wait are still handed out.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Takes no more requests and drops those that wait: nobody will compute them.
    pub(crate) fn abandon(&self) {
        self.close();
        // Dropped outside the lock: their tickets take it.
        let mut state = self.lock();
        let waiting = (std::mem::take(&mut state.jobs), std::mem::take(&mut state.warm_ups));
        drop(state);
        drop(waiting);
    }
}

#[cfg(test)]
mod tests {
    use evo1::Observation;

    use super::*;

    fn request(seed: u64) -> Arc<Request> {
        Arc::new(Request { seed: Some(seed), ..Request::of(Observation::default()) })
    }

    fn seeds(work: Option<Work<()>>) -> Vec<u64> {
        match work {
            Some(Work::Batch(batch)) => batch.iter().filter_map(|job| job.request.seed).collect(),
            other => panic!("a batch was expected, got {other:?}"),
        }
    }

    fn take(queue: &Queue<()>, max: usize) -> Vec<u64> {
        seeds(queue.next(max, Duration::ZERO, |_, _| true))
    }

    #[test]
    fn who_leaves_frees_a_place() {
        let queue = Queue::new(2);
        let first = queue.push(0, (), request(1)).expect("a place");
        let _second = queue.push(0, (), request(2)).expect("a place");
        assert_eq!(queue.push(0, (), request(3)).expect_err("full").kind, ErrorKind::Overloaded);
        drop(first);
        let _third = queue.push(0, (), request(3)).expect("the place of the first");
        assert_eq!(take(&queue, 4), [2, 3]);
    }

    #[tokio::test]
    async fn the_newest_request_takes_the_place_of_its_own_connections() {
        let queue = Queue::new(8);
        let old = queue.push(1, (), request(1)).expect("a place");
        let _other = queue.push(2, (), request(2)).expect("a place");
        queue.supersede(1);
        let _new = queue.push(1, (), request(3)).expect("a place");
        assert_eq!(old.wait().await.expect_err("superseded").kind, ErrorKind::Superseded);
        assert_eq!(take(&queue, 8), [2, 3]);
    }

    #[test]
    fn connections_take_turns() {
        let queue = Queue::new(9);
        let push = |connection, seed| queue.push(connection, (), request(seed)).expect("a place");
        let _greedy: Vec<Ticket<()>> = (10..15).map(|seed| push(1, seed)).collect();
        let _other = [push(2, 20), push(2, 21)];
        assert_eq!([take(&queue, 1), take(&queue, 1), take(&queue, 1)].concat(), [10, 20, 11]);
        let _late = [push(3, 30), push(1, 15)];
        assert_eq!((0..6).flat_map(|_| take(&queue, 1)).collect::<Vec<_>>(), [21, 30, 12, 13, 14, 15]);
    }

    #[test]
    fn a_batch_holds_only_what_fits_together_and_leaves_the_rest_in_order() {
        let queue = Queue::new(8);
        let _tickets: Vec<Ticket<()>> = (0..6).map(|seed| queue.push(0, (), request(seed)).expect("a place")).collect();
        let parity = |job: &Job<()>| job.request.seed.map(|seed| seed % 2);
        assert_eq!(seeds(queue.next(2, Duration::ZERO, |a, b| parity(a) == parity(b))), [0, 2]);
        assert_eq!(take(&queue, 1), [1]);
        assert_eq!(take(&queue, 9), [3, 4, 5]);
    }

    #[test]
    fn a_batch_waits_for_late_company() {
        let queue = Queue::new(8);
        let _first = queue.push(0, (), request(1)).expect("a place");
        let late = queue.clone();
        let company = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            late.push(0, (), request(2)).expect("a place")
        });
        assert_eq!(seeds(queue.next(2, Duration::from_secs(20), |_, _| true)), [1, 2]);
        drop(company.join().expect("company"));
    }

    #[tokio::test]
    async fn a_model_is_warmed_up_before_the_next_request() {
        let queue = Queue::new(8);
        let _ticket = queue.push(0, (), request(1)).expect("a place");
        let waits = queue.warm_up(());
        match queue.next(1, Duration::ZERO, |_, _| true) {
            Some(Work::WarmUp(warm_up)) => warm_up.done.send(Ok(())).expect("somebody waits"),
            other => panic!("a warm-up was expected, got {other:?}"),
        }
        assert_eq!(waits.await, Ok(Ok(())));
        assert_eq!(take(&queue, 1), [1]);
        queue.abandon();
        assert!(queue.warm_up(()).await.is_err(), "nobody will do it");
    }

    #[tokio::test]
    async fn an_abandoned_queue_answers_everybody() {
        let queue = Queue::new(8);
        let ticket = queue.push(0, (), request(1)).expect("a place");
        queue.abandon();
        assert_eq!(ticket.wait().await.expect_err("stopped").kind, ErrorKind::Internal);
        assert!(queue.push(0, (), request(1)).is_err());
        assert!(queue.next(1, Duration::ZERO, |_, _| true).is_none());
    }
}
