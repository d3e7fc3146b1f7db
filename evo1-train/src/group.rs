//! Learners that train one policy together, each on a device of its own.
//!
//! Sums are made in a fixed order, in pairs: `((g₀ + g₁) + (g₂ + g₃)) + …`, over the ranks as within one. Rank r of W has
//! the batches from `r · accumulate` on, so that a step's gradient has the same bits whether one device computed all of its
//! batches or several devices of one kind some each, where `accumulate` is 1 or a power of two.
//!
//! CUDA devices of one process are an exception where NCCL is installed: it sums there, in an order of its own.

use std::{
    any::Any,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use burn::tensor::{
    DType, Device, Tensor, TensorData,
    distributed::{ReduceOperation, all_reduce},
};
use evo1::device::{has_transport, read};

use crate::{Error, Result};

/// The learners of one run.
pub trait Group: Send + Sync {
    /// Which of them this is, counted from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// The values of every rank, in their order.
    ///
    /// # Errors
    /// When a rank is gone.
    fn gather(&self, values: Vec<f64>) -> Result<Vec<Vec<f64>>>;

    /// The sums of the values of all ranks, in pairs; every rank has as many, and gets the same bits.
    ///
    /// # Errors
    /// When a rank is gone.
    fn sum(&self, values: Vec<f32>) -> Result<Vec<f32>>;

    /// As [`Self::sum`], of values on the ranks' devices.
    ///
    /// # Errors
    /// As there, and when the device failed to compute them.
    fn sum_on_device(&self, values: Tensor<1>) -> Result<Tensor<1>> {
        through_host(values, |values| self.sum(values))
    }

    /// The text of the first rank; what the others bring does not count.
    ///
    /// # Errors
    /// When a rank is gone.
    fn shared(&self, text: String) -> Result<String> {
        let length = self.gather(vec![text.len() as f64])?[0][0] as usize;
        let mut bytes: Vec<f64> = text.into_bytes().into_iter().map(f64::from).collect();
        bytes.resize(length, 0.0);
        let first = self.gather(bytes)?.swap_remove(0);
        String::from_utf8(first.into_iter().map(|byte| byte as u8).collect())
            .map_err(|error| Error::Group(format!("the first rank's text came damaged: {error}")))
    }
}

/// What `sum` makes of the values of a tensor, on the same device.
fn through_host(values: Tensor<1>, sum: impl FnOnce(Vec<f32>) -> Result<Vec<f32>>) -> Result<Tensor<1>> {
    let device = values.device();
    let values = read(values.cast(DType::F32))?.try_into_vec();
    let sums = sum(values.map_err(|error| Error::Group(format!("gradients that are no f32: {error:?}")))?)?;
    let shape = [sums.len()];
    Ok(Tensor::from_data(TensorData::new(sums, shape), (&device, DType::F32)))
}

/// A learner by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Group for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn gather(&self, values: Vec<f64>) -> Result<Vec<Vec<f64>>> {
        Ok(vec![values])
    }

    fn sum(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }
}

/// Terms that are added in pairs as they come: the first and the second, the third and the fourth, both sums, and so on.
#[derive(Debug)]
pub(crate) struct PairwiseSum<T> {
    /// Sums of 2ⁿ terms with n, each of fewer than the one before it.
    parts: Vec<(u32, T)>,
}

impl<T> Default for PairwiseSum<T> {
    fn default() -> Self {
        Self { parts: Vec::new() }
    }
}

impl<T> PairwiseSum<T> {
    /// Adds a term.
    pub(crate) fn push(&mut self, mut term: T, mut add: impl FnMut(T, T) -> T) {
        let mut level = 0;
        while let Some((_, earlier)) = self.parts.pop_if(|(other, _)| *other == level) {
            term = add(earlier, term);
            level += 1;
        }
        self.parts.push((level, term));
    }

    /// The sum of all terms; nothing when there was none.
    pub(crate) fn total(self, mut add: impl FnMut(T, T) -> T) -> Option<T> {
        self.parts.into_iter().rev().map(|(_, part)| part).reduce(|later, earlier| add(earlier, later))
    }
}

/// Adds the values of several ranks in pairs.
pub(crate) fn pairwise(ranks: impl IntoIterator<Item = Vec<f32>>) -> Vec<f32> {
    let add = |mut sum: Vec<f32>, term: Vec<f32>| {
        sum.iter_mut().zip(term).for_each(|(sum, term)| *sum += term);
        sum
    };
    let mut sum = PairwiseSum::default();
    ranks.into_iter().for_each(|values| sum.push(values, add));
    sum.total(add).unwrap_or_default()
}

/// The learners of this process, each in a thread of its own, within the group of all processes.
pub(crate) struct Threads {
    rank: usize,
    meeting: Arc<Meeting>,
}

/// Where the threads of a process wait for each other.
struct Meeting {
    size: usize,
    /// The devices of the threads, if they sum by themselves and there is no other process.
    linked: Option<Vec<Device>>,
    /// The processes.
    outer: Arc<dyn Group>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// What each thread has brought, until all have.
    brought: Vec<Option<Box<dyn Any + Send>>>,
    /// What came of it, and how many have not taken it yet.
    outcome: Option<(Box<dyn Any + Send>, usize)>,
    /// Whether a thread is gone for good.
    is_broken: bool,
}

impl Threads {
    /// Threads for the devices of one process, the first of which speaks with the others of `outer`.
    pub(crate) fn on(devices: &[Device], outer: Arc<dyn Group>) -> Vec<Self> {
        let is_linked = devices.len() > 1 && outer.size() == 1 && devices.iter().all(has_transport);
        Self::new(devices.len(), is_linked.then(|| devices.to_vec()), outer)
    }

    fn new(size: usize, linked: Option<Vec<Device>>, outer: Arc<dyn Group>) -> Vec<Self> {
        let state = State { brought: (0..size).map(|_| None).collect(), ..State::default() };
        let meeting = Arc::new(Meeting { size, linked, outer, state: Mutex::new(state), changed: Condvar::new() });
        (0..size).map(|rank| Self { rank, meeting: Arc::clone(&meeting) }).collect()
    }

    /// What `combine` makes of what all threads bring, in their order. The first one does it.
    fn meet<V: Send + 'static, R: Clone + Send + 'static>(
        &self,
        value: V,
        combine: impl FnOnce(&dyn Group, Vec<V>) -> R,
    ) -> Result<R> {
        let gone = || Error::Group("another thread of the run has ended".into());
        let Meeting { size, outer, state, changed, .. } = &*self.meeting;
        let wait = |state| changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        let mut state = locked(state);
        // What came of the meeting before may not have been taken by all.
        while state.outcome.is_some() && !state.is_broken {
            state = wait(state);
        }
        state.brought[self.rank] = Some(Box::new(value));
        changed.notify_all();
        if self.rank == 0 {
            while !state.is_broken && state.brought.iter().any(Option::is_none) {
                state = wait(state);
            }
            if state.is_broken {
                return Err(gone());
            }
            let brought: Vec<_> = state.brought.iter_mut().filter_map(Option::take).collect();
            drop(state);
            let values = brought.into_iter().filter_map(|value| value.downcast().ok()).map(|value| *value).collect();
            let outcome = combine(&**outer, values);
            let mut state = locked(&self.meeting.state);
            state.outcome = (*size > 1).then(|| (Box::new(outcome.clone()) as Box<dyn Any + Send>, size - 1));
            changed.notify_all();
            return Ok(outcome);
        }
        while state.outcome.is_none() && !state.is_broken {
            state = wait(state);
        }
        let taken = state.outcome.as_mut().and_then(|(outcome, left)| {
            *left -= 1;
            outcome.downcast_ref::<R>().cloned()
        });
        state.outcome.take_if(|(_, left)| *left == 0);
        changed.notify_all();
        taken.ok_or_else(gone)
    }
}

impl Group for Threads {
    fn rank(&self) -> usize {
        self.meeting.outer.rank() * self.meeting.size + self.rank
    }

    fn size(&self) -> usize {
        self.meeting.outer.size() * self.meeting.size
    }

    fn gather(&self, values: Vec<f64>) -> Result<Vec<Vec<f64>>> {
        let gathered = self.meet(values, |outer, ours: Vec<Vec<f64>>| {
            // Every rank brings as many values.
            let (ranks, each) = (ours.len(), ours.first().map_or(0, Vec::len));
            let all = outer.gather(ours.concat()).map_err(|error| error.to_string())?;
            let rows = |process: Vec<f64>| (0..ranks).map(move |rank| process[rank * each..][..each].to_vec());
            Ok(all.into_iter().flat_map(rows).collect::<Vec<_>>())
        });
        gathered?.map_err(|message: String| Error::Group(message))
    }

    fn sum(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        let sum = self.meet(values, |outer, ours| outer.sum(pairwise(ours)).map_err(|error| error.to_string()));
        sum?.map_err(Error::Group)
    }

    fn sum_on_device(&self, values: Tensor<1>) -> Result<Tensor<1>> {
        match &self.meeting.linked {
            Some(devices) => Ok(all_reduce(values.cast(DType::F32), ReduceOperation::Sum, devices.clone()).resolve()),
            None => through_host(values, |values| self.sum(values)),
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        locked(&self.meeting.state).is_broken = true;
        self.meeting.changed.notify_all();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order of additions, in words.
    fn words(terms: usize) -> String {
        let add = |a: String, b: String| format!("({a}+{b})");
        let mut sum = PairwiseSum::default();
        (0..terms).for_each(|term| sum.push(term.to_string(), add));
        sum.total(add).unwrap_or_default()
    }

    #[test]
    fn sums_are_made_in_pairs() {
        assert_eq!(words(0), "");
        assert_eq!(words(1), "0");
        assert_eq!(words(3), "((0+1)+2)");
        assert_eq!(words(4), "((0+1)+(2+3))");
        assert_eq!(words(7), "(((0+1)+(2+3))+((4+5)+6))");
    }

    #[test]
    fn ranks_that_sum_have_the_bits_of_one() {
        let terms: Vec<Vec<f32>> =
            (0..12).map(|term| vec![0.1 + 1e-3 * term as f32, -3.7 / (1 + term) as f32]).collect();
        let whole = pairwise(terms.clone());
        for accumulate in [1, 2, 4] {
            let ranks: Vec<Vec<f32>> = terms.chunks(accumulate).map(|own| pairwise(own.to_vec())).collect();
            let members = Threads::new(ranks.len(), None, Arc::new(Alone));
            std::thread::scope(|scope| {
                for (member, own) in members.into_iter().zip(ranks) {
                    let (whole, size) = (&whole, terms.len() / accumulate);
                    scope.spawn(move || {
                        for _ in 0..50 {
                            assert_eq!(&member.sum(own.clone()).expect("a sum"), whole);
                            let text = ["the first", "another, longer one"][member.rank().min(1)];
                            assert_eq!(member.shared(text.into()).expect("a text"), "the first");
                            let gathered = member.gather(vec![member.rank() as f64]).expect("values");
                            assert_eq!(gathered, (0..size).map(|rank| vec![rank as f64]).collect::<Vec<_>>());
                        }
                    });
                }
            });
        }
    }

    #[test]
    fn nobody_waits_for_a_thread_that_is_gone() {
        let mut members = Threads::new(3, None, Arc::new(Alone));
        let last = members.pop().expect("three");
        std::thread::scope(|scope| {
            let waiting: Vec<_> = members.iter().map(|member| scope.spawn(|| member.sum(vec![1.0]))).collect();
            drop(last);
            for thread in waiting {
                assert!(thread.join().expect("no panic").is_err());
            }
        });
    }
}
