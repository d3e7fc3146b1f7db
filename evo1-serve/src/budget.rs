//! A limit on the memory of all requests together, and how long a message may take.
//!
//! Bytes are counted where they are read, so that a message cannot take memory before it is known to be one.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Memory for messages that arrive and for requests that wait.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    limit: usize,
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit })
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Reservation {
    fn none(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    fn grow(&mut self, bytes: usize) -> bool {
        let within = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.budget.limit);
        let fits = self.budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok();
        self.bytes += if fits { bytes } else { 0 };
        fits
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What one connection has received of its present message.
#[derive(Debug)]
pub(crate) struct Meter {
    budget: Arc<Budget>,
    message: Mutex<Received>,
}

#[derive(Debug)]
struct Received {
    reservation: Reservation,
    since: Option<Instant>,
    is_over: bool,
}

impl Meter {
    pub(crate) fn new(budget: Arc<Budget>) -> Arc<Self> {
        let message = Received { reservation: Reservation::none(budget.clone()), since: None, is_over: false };
        Arc::new(Self { budget, message: Mutex::new(message) })
    }

    fn lock(&self) -> MutexGuard<'_, Received> {
        self.message.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn received(&self, bytes: usize) -> io::Result<()> {
        let mut message = self.lock();
        message.since.get_or_insert_with(Instant::now);
        if message.reservation.grow(bytes) {
            return Ok(());
        }
        message.is_over = true;
        Err(io::Error::other("the memory for requests is taken"))
    }

    /// The memory of the message that is now complete, and how long it took to arrive.
    pub(crate) fn complete(&self) -> (Reservation, Duration) {
        let mut message = self.lock();
        let reservation = std::mem::replace(&mut message.reservation, Reservation::none(self.budget.clone()));
        (reservation, message.since.take().map_or(Duration::ZERO, |since| since.elapsed()))
    }

    /// How long a message has been arriving.
    pub(crate) fn arriving(&self) -> Duration {
        self.lock().since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether reading failed because the budget is spent.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().is_over
    }
}

/// A stream whose received bytes are counted.
#[derive(Debug)]
pub(crate) struct Metered<S> {
    inner: S,
    meter: Arc<Meter>,
}

impl<S> Metered<S> {
    pub(crate) fn new(inner: S, meter: Arc<Meter>) -> Self {
        Self { inner, meter }
    }

    /// The stream, for bytes that are not kept.
    pub(crate) fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let received = buffer.filled().len() - before;
        if received > 0 {
            self.meter.received(received)?;
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_limited_and_given_back() {
        let budget = Budget::new(100);
        let (one, other) = (Meter::new(budget.clone()), Meter::new(budget.clone()));
        one.received(60).expect("room");
        assert!(other.received(50).is_err());
        assert!(other.is_over() && !one.is_over());
        let (request, _) = one.complete();
        one.received(40).expect("room for the next message");
        assert_eq!(budget.used(), 100);
        drop(request);
        assert_eq!(budget.used(), 40);
        drop(one);
        assert_eq!(budget.used(), 0);
    }
}
