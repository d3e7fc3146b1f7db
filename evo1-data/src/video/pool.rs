//! Videos kept open.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use evo1_core::Frame;
use lru::LruCache;

use super::VideoReader;
use crate::Result;

/// Open videos, of which those not used for longest are closed. Threads may share it: a reader belongs to one thread at a
/// time, and two threads that read one video have a reader each.
pub struct VideoPool {
    open: Mutex<LruCache<PathBuf, Vec<VideoReader>>>,
    limit: usize,
}

impl VideoPool {
    /// A pool of at most `limit` open videos.
    pub fn new(limit: NonZeroUsize) -> Self {
        Self { open: Mutex::new(LruCache::unbounded()), limit: limit.get() }
    }

    /// The frame of a video nearest to a time, which must be no further from it than `tolerance` seconds.
    pub fn frame_at(&self, path: &Path, seconds: f64, tolerance: f64) -> Result<Frame> {
        self.with(path, |reader| reader.frame_at(seconds, tolerance))
    }

    /// Reads from a video.
    pub(crate) fn with<T>(&self, path: &Path, read: impl FnOnce(&mut VideoReader) -> Result<T>) -> Result<T> {
        let mut reader = match self.taken(path) {
            Some(reader) => reader,
            None => VideoReader::open(path)?,
        };
        let found = read(&mut reader);
        self.put_back(path, reader);
        found
    }

    fn taken(&self, path: &Path) -> Option<VideoReader> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get_mut(path)?.pop()
    }

    fn put_back(&self, path: &Path, reader: VideoReader) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(path) {
            Some(readers) => readers.push(reader),
            None => {
                open.put(path.to_owned(), vec![reader]);
            }
        }
        let mut count: usize = open.iter().map(|(_, readers)| readers.len()).sum();
        while count > self.limit {
            match open.pop_lru() {
                Some((_, readers)) => count -= readers.len(),
                None => break,
            }
        }
    }
}
