//! One video, open for reading frames in any order.

use std::{cell::Cell, path::Path};

use evo1_core::Frame;

use super::{
    Picture, PictureDecoder,
    av1::Av1,
    demux::{Codec, Track},
    h264::H264,
};
use crate::{Error, Result};

/// A video that is open: its index, and a decoder that remembers where it is.
pub struct VideoReader {
    track: Track,
    decoder: Box<dyn PictureDecoder>,
    /// Samples in the order in which they are shown.
    shown: Vec<usize>,
    /// For each sample its place in [`Self::shown`].
    place: Vec<usize>,
    state: State,
    buffer: Vec<u8>,
}

/// Where the decoder stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The next sample must be a key frame.
    Reset,
    /// Samples from a key frame up to `next` went in, and `emitted` pictures came out.
    Running { key: usize, next: usize, emitted: usize },
}

impl VideoReader {
    /// Opens a video and reads its index.
    ///
    /// # Errors
    /// When the file is no MP4 file, is cut off, or is encoded in something else than H.264 and AV1.
    pub fn open(path: &Path) -> Result<Self> {
        let track = Track::open(path)?;
        let decoder: Result<Box<dyn PictureDecoder>, String> = match &track.codec {
            Codec::H264(config) => H264::new(config).map(|decoder| Box::new(decoder) as _),
            Codec::Av1(headers) => Av1::new(headers).map(|decoder| Box::new(decoder) as _),
        };
        let decoder = decoder.map_err(|message| Error::format(path, "mp4", message))?;
        let mut shown: Vec<usize> = (0..track.samples.len()).collect();
        shown.sort_by(|&a, &b| track.samples[a].time.total_cmp(&track.samples[b].time));
        let mut place = vec![0; shown.len()];
        for (at, &sample) in shown.iter().enumerate() {
            place[sample] = at;
        }
        Ok(Self { track, decoder, shown, place, state: State::Reset, buffer: Vec::new() })
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.shown.len()
    }

    /// Times of the frames in seconds, ascending.
    pub fn times(&self) -> impl ExactSizeIterator<Item = f64> {
        self.shown.iter().map(|&sample| self.track.samples[sample].time)
    }

    /// The name of the codec.
    pub fn codec(&self) -> &'static str {
        match self.track.codec {
            Codec::H264(_) => "H.264",
            Codec::Av1(_) => "AV1",
        }
    }

    /// The frame nearest to a time, which must be no further from it than `tolerance` seconds.
    pub fn frame_at(&mut self, seconds: f64, tolerance: f64) -> Result<Frame> {
        let time = |place: usize| self.track.samples[self.shown[place]].time;
        let after = self.shown.partition_point(|&sample| self.track.samples[sample].time < seconds);
        let nearest = match after {
            0 => 0,
            after if after == self.shown.len() => after - 1,
            after if seconds - time(after - 1) <= time(after) - seconds => after - 1,
            after => after,
        };
        let got = time(nearest);
        // A comparison that is false for NaN, too.
        if (got - seconds).abs() <= tolerance {
            return self.frame(nearest);
        }
        Err(Error::Timestamp { path: self.track.path.clone(), asked: seconds, got, tolerance })
    }

    /// A frame by its number, in the order in which they are shown.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn frame(&mut self, number: usize) -> Result<Frame> {
        let result = self.decode(number);
        if result.is_err() {
            self.state = State::Reset;
        }
        result
    }

    fn decode(&mut self, number: usize) -> Result<Frame> {
        let path = self.track.path.clone();
        let bad = |message: String| Error::format(&path, "mp4", format!("frame {number} cannot be decoded: {message}"));
        let key = self.key_before(number);
        let end = self.next_key(key);
        // Everything shown up to the wanted frame must have gone in before it comes out.
        let last = (key..end).filter(|&sample| self.place[sample] <= number).max().unwrap_or(key);
        let rank = (key..end).filter(|&sample| self.place[sample] < number).count();
        let (mut next, emitted) = match self.state {
            State::Running { key: at, next, emitted } if at == key && emitted <= rank => (next, emitted),
            _ => {
                self.decoder.reset().map_err(&bad)?;
                (key, 0)
            }
        };
        let (emitted, found) = (Cell::new(emitted), Cell::new(None));
        let mut emit = |picture: &Picture<'_>| {
            if emitted.get() == rank {
                found.set(Some(picture.to_frame()));
            }
            emitted.set(emitted.get() + 1);
        };
        while next <= last {
            self.track.read(self.track.samples[next], &mut self.buffer)?;
            self.decoder.decode(&self.buffer, &mut emit).map_err(&bad)?;
            next += 1;
        }
        self.state = if emitted.get() > rank {
            State::Running { key, next, emitted: emitted.get() }
        } else {
            // All that is needed went in; what is still inside comes out in order.
            self.decoder.finish(&mut emit).map_err(&bad)?;
            State::Reset
        };
        match found.into_inner() {
            Some(frame) => frame.map_err(bad),
            None => Err(bad("the decoder gave no picture".into())),
        }
    }

    /// The last key frame from which a frame can be decoded: frames shown before a key frame may need the one before.
    fn key_before(&self, number: usize) -> usize {
        let sample = self.shown[number];
        (0..=sample).rev().find(|&at| self.track.samples[at].is_key && self.place[at] <= number).unwrap_or(0)
    }

    /// The next key frame after one, or the number of samples.
    fn next_key(&self, key: usize) -> usize {
        let samples = &self.track.samples;
        (key + 1..samples.len()).find(|&at| samples[at].is_key).unwrap_or(samples.len())
    }
}
