//! What people are shown of the requests of robots: the last one whole, the actions of some before it, and times.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use evo1::ActionChunk;
use serde_json::{Value, json};

use crate::{Answer, Request};

/// Chunks that are kept.
const CHUNKS: usize = 8;

/// Requests over which percentiles are taken.
const TIMES: usize = 1000;

/// The last request of a robot and its answer.
#[derive(Debug)]
pub(crate) struct Last {
    /// The policy's name.
    pub(crate) policy: String,
    pub(crate) request: Arc<Request>,
    pub(crate) answer: Answer,
    pub(crate) received: Instant,
}

/// What is kept of a request when it is no more the last: no frames.
#[derive(Debug)]
struct Chunk {
    number: u64,
    policy: String,
    prompt: String,
    actions: ActionChunk,
    received: Instant,
    took: Duration,
}

/// The requests of late.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Arc<Last>>,
    chunks: VecDeque<Chunk>,
    times: VecDeque<Duration>,
    count: u64,
}

impl Recent {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, last: Last) {
        let mut state = self.lock();
        let took = last.received.elapsed();
        state.count += 1;
        let chunk = Chunk {
            number: state.count,
            policy: last.policy.clone(),
            prompt: last.request.observation.instruction.clone(),
            actions: last.answer.chunk.clone(),
            received: last.received,
            took,
        };
        state.chunks.push_front(chunk);
        state.chunks.truncate(CHUNKS);
        state.times.push_back(took);
        if state.times.len() > TIMES {
            state.times.pop_front();
        }
        state.last = Some(Arc::new(last));
    }

    pub(crate) fn last(&self) -> Option<Arc<Last>> {
        self.lock().last.clone()
    }

    /// The chunks of late, the newest first, that came after request number `after`.
    pub(crate) fn chunks(&self, after: u64) -> Vec<Value> {
        let state = self.lock();
        let chunks = state.chunks.iter().filter(|chunk| chunk.number > after);
        chunks
            .map(|chunk| {
                json!({
                    "number": chunk.number,
                    "policy": chunk.policy,
                    "prompt": chunk.prompt,
                    "actions": chunk.actions.steps().collect::<Vec<_>>(),
                    "seconds_ago": chunk.received.elapsed().as_secs_f64(),
                    "milliseconds": milliseconds(chunk.took),
                })
            })
            .collect()
    }

    /// Percentiles of the time from a whole message to its answer, in milliseconds, over the last thousand requests.
    pub(crate) fn latency(&self) -> Value {
        let mut times: Vec<Duration> = self.lock().times.iter().copied().collect();
        times.sort_unstable();
        let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1)));
        let shown = |percent| at(percent).map(|&time| milliseconds(time));
        json!({ "requests": times.len(), "p50": shown(50), "p90": shown(90), "p99": shown(99) })
    }
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use evo1::Observation;

    use super::*;

    fn last(policy: &str) -> Last {
        let chunk = ActionChunk::new(1, vec![1.0, 2.0]);
        let answer =
            Answer { normalized: chunk.clone(), chunk, times: Default::default(), queued: Duration::ZERO, batch: 1 };
        Last {
            policy: policy.into(),
            request: Arc::new(Request::of(Observation::default())),
            answer,
            received: Instant::now(),
        }
    }

    #[test]
    fn a_few_chunks_are_kept_and_each_is_told_once() {
        let recent = Recent::default();
        assert_eq!(recent.chunks(0), Vec::<Value>::new());
        assert_eq!(recent.latency(), json!({ "requests": 0, "p50": null, "p90": null, "p99": null }));
        (0..12).for_each(|number| recent.push(last(&format!("policy {number}"))));
        let chunks = recent.chunks(0);
        assert_eq!(
            (chunks.len(), &chunks[0]["number"], &chunks[7]["policy"]),
            (CHUNKS, &json!(12), &json!("policy 4"))
        );
        assert_eq!(recent.chunks(10).len(), 2);
        assert_eq!(recent.chunks(12).len(), 0);
        assert_eq!(recent.latency()["requests"], 12);
        assert_eq!(recent.last().expect("one").policy, "policy 11");
    }
}
