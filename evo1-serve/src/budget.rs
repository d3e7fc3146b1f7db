//! A limit on the memory of all requests together, and how long a message may take.
//!
//! Bytes are counted where they are read, so that a message cannot take memory before it is known to be one.

use std::{
    collections::VecDeque,
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
    pub(crate) fn none(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Takes so many bytes more, if they are left.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
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

/// What one connection has received: messages that are complete and not yet taken, and the one that arrives.
///
/// Control frames are no part of a message: they count for neither its memory nor its time, wherever they come.
#[derive(Debug)]
pub(crate) struct Meter {
    budget: Arc<Budget>,
    received: Mutex<Received>,
}

#[derive(Debug)]
struct Received {
    frames: Frames,
    complete: VecDeque<(Reservation, Duration)>,
    arriving: Reservation,
    since: Option<Instant>,
    is_over: bool,
}

impl Meter {
    pub(crate) fn new(budget: Arc<Budget>) -> Arc<Self> {
        let received = Received {
            frames: Frames::default(),
            complete: VecDeque::new(),
            arriving: Reservation::none(budget.clone()),
            since: None,
            is_over: false,
        };
        Arc::new(Self { budget, received: Mutex::new(received) })
    }

    fn lock(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn received(&self, mut bytes: &[u8]) -> io::Result<()> {
        let mut received = self.lock();
        while !bytes.is_empty() {
            let part = received.frames.next(bytes);
            bytes = &bytes[part.bytes..];
            if part.is_control {
                continue;
            }
            received.since.get_or_insert_with(Instant::now);
            if !received.arriving.grow(part.bytes) {
                received.is_over = true;
                return Err(io::Error::other("the memory for requests is taken"));
            }
            if part.ends_message {
                let message = received.take_arriving(&self.budget);
                received.complete.push_back(message);
            }
        }
        Ok(())
    }

    /// The memory of the next message that is complete, and how long it took to arrive.
    pub(crate) fn complete(&self) -> (Reservation, Duration) {
        let nothing = || (Reservation::none(self.budget.clone()), Duration::ZERO);
        self.lock().complete.pop_front().unwrap_or_else(nothing)
    }

    /// Lets go of what has arrived of a message that nobody will read to its end.
    pub(crate) fn discard(&self) {
        let mut received = self.lock();
        drop(received.take_arriving(&self.budget));
    }

    /// How long a message has been arriving.
    pub(crate) fn arriving(&self) -> Option<Duration> {
        self.lock().since.map(|since| since.elapsed())
    }

    /// A message that arrives has all its time again: it was not read.
    pub(crate) fn restart_clock(&self) {
        if let Some(since) = &mut self.lock().since {
            *since = Instant::now();
        }
    }

    /// Whether reading failed because the budget is spent.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().is_over
    }
}

impl Received {
    fn take_arriving(&mut self, budget: &Arc<Budget>) -> (Reservation, Duration) {
        let reservation = std::mem::replace(&mut self.arriving, Reservation::none(budget.clone()));
        (reservation, self.since.take().map_or(Duration::ZERO, |since| since.elapsed()))
    }
}

/// Where in a stream of a client's websocket frames it is (RFC 6455, section 5.2). Whether the frames are right is the
/// websocket's to judge.
#[derive(Debug, Default)]
struct Frames {
    /// The head of the present frame, as far as it is there.
    head: Vec<u8>,
    /// Bytes of its payload that are still to come, once the head is whole.
    left: u64,
}

/// Bytes of one frame that lie side by side.
struct Part {
    bytes: usize,
    is_control: bool,
    /// The last of them are the last of a message.
    ends_message: bool,
}

impl Frames {
    const IS_FINAL: u8 = 0x80;
    const IS_CONTROL: u8 = 0x08;
    const IS_MASKED: u8 = 0x80;

    /// Bytes of a head, as far as its first two bytes say.
    fn head_length(head: &[u8]) -> usize {
        let Some(second) = head.get(1) else { return 2 };
        let length = match second & !Self::IS_MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if second & Self::IS_MASKED > 0 { 4 } else { 0 }
    }

    fn payload_length(head: &[u8]) -> u64 {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        match head[1] & !Self::IS_MASKED {
            126 => number(&head[2..4]),
            127 => number(&head[2..10]),
            length => length.into(),
        }
    }

    /// Goes on over the first of `bytes`, of which there is at least one.
    fn next(&mut self, bytes: &[u8]) -> Part {
        let missing = Self::head_length(&self.head) - self.head.len();
        let taken = if missing > 0 {
            let taken = missing.min(bytes.len());
            self.head.extend_from_slice(&bytes[..taken]);
            if self.head.len() == Self::head_length(&self.head) {
                self.left = Self::payload_length(&self.head);
            }
            taken
        } else {
            let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            self.left -= taken as u64;
            taken
        };
        let first = self.head[0];
        let is_control = first & Self::IS_CONTROL > 0;
        let is_whole = self.head.len() == Self::head_length(&self.head) && self.left == 0;
        if is_whole {
            self.head.clear();
        }
        Part { bytes: taken, is_control, ends_message: is_whole && !is_control && first & Self::IS_FINAL > 0 }
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
        self.meter.received(&buffer.filled()[before..])?;
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

    /// A frame of a client: masked, and as long in its head as it must be.
    fn frame(first: u8, payload: usize) -> Vec<u8> {
        let length: &[u8] = match payload {
            0..126 => &[payload as u8],
            126..0x1_0000 => &[&[126], &(payload as u16).to_be_bytes()[..]].concat(),
            _ => &[&[127], &(payload as u64).to_be_bytes()[..]].concat(),
        };
        let mut frame = vec![first];
        frame.extend(length);
        frame[1] |= 0x80;
        frame.extend([1, 2, 3, 4]);
        frame.resize(frame.len() + payload, 0);
        frame
    }

    #[test]
    fn memory_is_counted_limited_and_given_back() {
        let budget = Budget::new(100);
        let (one, other) = (Meter::new(budget.clone()), Meter::new(budget.clone()));
        one.received(&frame(0x81, 54)).expect("room");
        assert!(other.received(&frame(0x81, 44)).is_err());
        assert!(other.is_over() && !one.is_over());
        let (request, _) = one.complete();
        one.received(&frame(0x81, 80)[..34]).expect("room for the next message");
        assert_eq!(budget.used(), 100, "60 that are complete, 34 that arrive, and the head of the one refused");
        drop(request);
        assert_eq!(budget.used(), 40);
        drop((one, other));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn control_frames_count_for_no_message_however_the_bytes_are_cut() {
        for payload in [0, 5, 125, 126, 70_000] {
            let (begin, ping) = (frame(0x01, payload), frame(0x89, 9));
            let end = frame(0x80, 3);
            let stream = [&begin[..], &ping, &end, &ping, &frame(0x82, 1)].concat();
            for step in [1, 7, stream.len()] {
                let budget = Budget::new(1_000_000);
                let meter = Meter::new(budget.clone());
                stream.chunks(step).for_each(|bytes| meter.received(bytes).expect("room"));
                assert!(meter.arriving().is_none(), "nothing is left over");
                assert_eq!(budget.used(), begin.len() + end.len() + 7);
                assert_eq!(meter.complete().0.bytes, begin.len() + end.len());
                assert_eq!(meter.complete().0.bytes, 7);
                assert_eq!(budget.used(), 0);
            }
        }
    }

    #[test]
    fn a_ping_leaves_the_clock_of_a_message_alone() {
        let meter = Meter::new(Budget::new(1000));
        meter.received(&frame(0x89, 2)).expect("room");
        assert!(meter.arriving().is_none(), "a ping is no message");
        meter.received(&frame(0x01, 8)).expect("room");
        std::thread::sleep(Duration::from_millis(20));
        meter.received(&frame(0x89, 2)).expect("room");
        assert!(meter.arriving().is_some_and(|time| time >= Duration::from_millis(20)));
    }
}
