//! Tensors that depend on sizes and positions alone, kept from one prediction to the next.

use std::{
    any::Any,
    cell::RefCell,
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use burn::tensor::Device;

/// How many are kept: a policy that is in use sees few lengths of prompts.
const KEPT: usize = 4;

/// The values of some keys that were used last, by device.
///
/// Clones share them. On a device that differentiates nothing is kept: a training run sees other batches all the time.
pub struct Constants<K, V>(Arc<Mutex<VecDeque<(K, Device, V)>>>);

thread_local! {
    /// What [`used`] collects on this thread while it runs.
    static USED: RefCell<Option<Used>> = const { RefCell::new(None) };
}

/// Constants that were used, which live as long as this does.
#[derive(Default)]
pub struct Used(Vec<Box<dyn Any + Send>>);

impl fmt::Debug for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} constants", self.0.len())
    }
}

/// Runs `body`, and gives the constants that it asked for on this thread with its result: what is recorded to be repeated
/// on the device reads their memory again, whether [`Constants`] still keep them or not.
pub fn used<T>(body: impl FnOnce() -> T) -> (T, Used) {
    let outer = USED.replace(Some(Used::default()));
    let result = body();
    (result, USED.replace(outer).unwrap_or_default())
}

fn note<V: Clone + Send + 'static>(value: &V) {
    USED.with_borrow_mut(|used| {
        if let Some(Used(values)) = used {
            values.push(Box::new(value.clone()));
        }
    });
}

impl<K: PartialEq, V: Clone + Send + 'static> Constants<K, V> {
    /// The value of a key on a device, computed if it is not kept.
    pub fn get(&self, key: K, device: &Device, compute: impl FnOnce() -> V) -> V {
        let value = self.kept_or(key, device, compute);
        note(&value);
        value
    }

    fn kept_or(&self, key: K, device: &Device, compute: impl FnOnce() -> V) -> V {
        if device.is_autodiff() {
            return compute();
        }
        let kept = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut kept = kept();
            let at = kept.iter().position(|(other, of, _)| *other == key && of == device);
            if let Some(found) = at.and_then(|at| kept.remove(at)) {
                let value = found.2.clone();
                kept.push_back(found);
                return value;
            }
        }
        // Without the lock: what is computed may run on a pool of threads that also ask for constants.
        let value = compute();
        let mut kept = kept();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((key, device.clone(), value.clone()));
        value
    }
}

impl<K, V> Clone for Constants<K, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, V> Default for Constants<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, V> fmt::Debug for Constants<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Constants")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::test_devices;

    #[test]
    fn the_values_that_are_used_are_computed_once() {
        let device = test_devices().remove(0);
        let constants = Constants::default();
        let mut computed = Vec::new();
        let mut get = |key: usize, device: &Device| {
            constants.clone().get(key, device, || {
                computed.push(key);
                2 * key
            })
        };
        for key in [1, 1, 2, 3, 4, 1, 5, 5, 1, 2] {
            assert_eq!(get(key, &device), 2 * key);
        }
        get(5, &device.clone().autodiff());
        assert_eq!(computed, [1, 2, 3, 4, 5, 2, 5]);
    }

    #[test]
    fn what_was_used_is_held() {
        let device = test_devices().remove(0);
        let (outer, inner) = (Constants::default(), Constants::default());
        let value = Arc::new(());
        let get = |constants: &Constants<u8, Arc<()>>| constants.get(0, &device, || Arc::clone(&value));
        let ((), used) = used(|| {
            get(&outer);
            let ((), within) = super::used(|| drop(get(&inner)));
            assert_eq!(within.0.len(), 1);
            get(&outer);
        });
        assert_eq!(used.0.len(), 2);
        drop((outer, inner));
        assert_eq!(Arc::strong_count(&value), 3);
        drop(used);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
