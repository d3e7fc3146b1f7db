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
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    /// In the order of their rounds.
    jobs: VecDeque<Job>,
    next: u64,
    /// The round of the request that was last handed out.
    round: u64,
    is_closed: bool,
}

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Job {
    id: u64,
    connection: u64,
    /// A connection has one request in each round.
    round: u64,
    pub(crate) request: Arc<Request>,
    pub(crate) since: Instant,
    answer: oneshot::Sender<Result<Answer, RequestError>>,
}

/// A connection's end of a request. Dropping it frees the request's place.
#[derive(Debug)]
pub(crate) struct Ticket {
    queue: Arc<Queue>,
    id: u64,
    answer: oneshot::Receiver<Result<Answer, RequestError>>,
}

impl Job {
    /// Hands the answer to the connection; one that has left does not mind.
    pub(crate) fn finish(self, answer: Result<Answer, RequestError>) {
        let _ = self.answer.send(answer);
    }
}

impl Ticket {
    pub(crate) async fn wait(mut self) -> Result<Answer, RequestError> {
        let stopped = || RequestError::new(ErrorKind::Internal, "the model has stopped");
        (&mut self.answer).await.unwrap_or_else(|_| Err(stopped()))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.queue.lock().jobs.retain(|job| job.id != self.id);
    }
}

impl Queue {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Condvar::new(), capacity })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole at every point where a holder could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    /// Takes a place behind the connection's own requests and those of its round, or fails at once when there is none.
    pub(crate) fn push(self: &Arc<Self>, connection: u64, request: Arc<Request>) -> Result<Ticket, RequestError> {
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
        let job = Job { id, connection, round, request, since: Instant::now(), answer: sender };
        state.jobs.insert(place, job);
        drop(state);
        self.changed.notify_one();
        Ok(Ticket { queue: self.clone(), id, answer })
    }

    /// Ends the requests of a connection that wait, because a newer one takes their place.
    pub(crate) fn supersede(&self, connection: u64) {
        let mut state = self.lock();
        let (old, kept) = std::mem::take(&mut state.jobs).into_iter().partition(|job| job.connection == connection);
        state.jobs = kept;
        drop(state);
        let old: VecDeque<Job> = old;
        for job in old {
            job.finish(Err(RequestError::new(ErrorKind::Superseded, "a newer request has taken its place")));
        }
    }

    /// Waits for the next request, and for up to `wait` longer until there are `max` that can be computed together with
    /// it. Nothing once the queue is closed and empty.
    pub(crate) fn next_batch(
        &self,
        max: usize,
        wait: Duration,
        can_join: impl Fn(&Request, &Request) -> bool,
    ) -> Option<Vec<Job>> {
        let mut state = self.lock();
        let first = loop {
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
            let joins = |job: &Job| can_join(&batch[0].request, &job.request);
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
        Some(batch)
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
        let jobs = std::mem::take(&mut self.lock().jobs);
        drop(jobs);
    }
}

#[cfg(test)]
mod tests {
    use evo1::Observation;

    use super::*;

    fn request(seed: u64) -> Arc<Request> {
        Arc::new(Request { seed: Some(seed), ..Request::of(Observation::default()) })
    }

    fn seeds(batch: &[Job]) -> Vec<u64> {
        batch.iter().filter_map(|job| job.request.seed).collect()
    }

    fn take(queue: &Queue, max: usize) -> Vec<u64> {
        seeds(&queue.next_batch(max, Duration::ZERO, |_, _| true).expect("a batch"))
    }

    #[test]
    fn who_leaves_frees_a_place() {
        let queue = Queue::new(2);
        let first = queue.push(0, request(1)).expect("a place");
        let _second = queue.push(0, request(2)).expect("a place");
        assert_eq!(queue.push(0, request(3)).expect_err("full").kind, ErrorKind::Overloaded);
        drop(first);
        let _third = queue.push(0, request(3)).expect("the place of the first");
        assert_eq!(take(&queue, 4), [2, 3]);
    }

    #[tokio::test]
    async fn the_newest_request_takes_the_place_of_its_own_connections() {
        let queue = Queue::new(8);
        let old = queue.push(1, request(1)).expect("a place");
        let _other = queue.push(2, request(2)).expect("a place");
        queue.supersede(1);
        let _new = queue.push(1, request(3)).expect("a place");
        assert_eq!(old.wait().await.expect_err("superseded").kind, ErrorKind::Superseded);
        assert_eq!(take(&queue, 8), [2, 3]);
    }

    #[test]
    fn connections_take_turns() {
        let queue = Queue::new(9);
        let push = |connection, seed| queue.push(connection, request(seed)).expect("a place");
        let _greedy: Vec<Ticket> = (10..15).map(|seed| push(1, seed)).collect();
        let _other = [push(2, 20), push(2, 21)];
        assert_eq!([take(&queue, 1), take(&queue, 1), take(&queue, 1)].concat(), [10, 20, 11]);
        let _late = [push(3, 30), push(1, 15)];
        assert_eq!((0..6).flat_map(|_| take(&queue, 1)).collect::<Vec<_>>(), [21, 30, 12, 13, 14, 15]);
    }

    #[test]
    fn a_batch_holds_only_what_fits_together_and_leaves_the_rest_in_order() {
        let queue = Queue::new(8);
        let _tickets: Vec<Ticket> = (0..6).map(|seed| queue.push(0, request(seed)).expect("a place")).collect();
        let same_parity = |a: &Request, b: &Request| a.seed.map(|s| s % 2) == b.seed.map(|s| s % 2);
        let batch = queue.next_batch(2, Duration::ZERO, same_parity).expect("a batch");
        assert_eq!(seeds(&batch), [0, 2]);
        assert_eq!(take(&queue, 1), [1]);
        assert_eq!(take(&queue, 9), [3, 4, 5]);
    }

    #[test]
    fn a_batch_waits_for_late_company() {
        let queue = Queue::new(8);
        let _first = queue.push(0, request(1)).expect("a place");
        let late = queue.clone();
        let company = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            late.push(0, request(2)).expect("a place")
        });
        let batch = queue.next_batch(2, Duration::from_secs(20), |_, _| true).expect("a batch");
        assert_eq!(seeds(&batch), [1, 2]);
        drop(company.join().expect("company"));
    }

    #[tokio::test]
    async fn an_abandoned_queue_answers_everybody() {
        let queue = Queue::new(8);
        let ticket = queue.push(0, request(1)).expect("a place");
        queue.abandon();
        assert_eq!(ticket.wait().await.expect_err("stopped").kind, ErrorKind::Internal);
        assert!(queue.push(0, request(1)).is_err());
        assert!(queue.next_batch(1, Duration::ZERO, |_, _| true).is_none());
    }
}
