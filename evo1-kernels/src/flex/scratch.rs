//! Working memory that is used again, aligned for vector loads.
//!
//! Fresh memory costs a page fault for every 4 kB when it is first touched, which a matrix product of a few milliseconds
//! feels.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
};

/// Alignment in bytes: a cache line.
const ALIGNMENT: usize = 64;

/// Buffers that a thread keeps for later.
const KEPT: usize = 8;

thread_local! {
    static POOL: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of `f32` that starts at a cache line. It comes from the thread's pool and goes back to one when dropped.
/// Its contents are whatever was there.
pub(crate) struct Scratch {
    buffer: Vec<f32>,
    start: usize,
    length: usize,
}

impl Scratch {
    /// A buffer of `length` values.
    pub(crate) fn new(length: usize) -> Self {
        let needed = length + ALIGNMENT / size_of::<f32>();
        let mut buffer = POOL.with_borrow_mut(|pool| {
            // The smallest that is large enough, else the largest, which then grows.
            let at = (0..pool.len())
                .filter(|&at| pool[at].len() >= needed)
                .min_by_key(|&at| pool[at].len())
                .or_else(|| (0..pool.len()).max_by_key(|&at| pool[at].len()));
            at.map(|at| pool.swap_remove(at)).unwrap_or_default()
        });
        if buffer.len() < needed {
            buffer = vec![0.0; needed];
        }
        let start = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT / size_of::<f32>());
        Self { buffer, start, length }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer[self.start..][..self.length]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[self.start..][..self.length]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        // A thread that ends has no pool any more.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            pool.push(buffer);
            if pool.len() > KEPT
                && let Some(smallest) = (0..pool.len()).min_by_key(|&at| pool[at].len())
            {
                pool.swap_remove(smallest);
            }
        });
    }
}
