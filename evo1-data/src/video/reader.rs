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
    decoding: Decoding,
    /// Samples in the order in which they are shown.
    shown: Vec<usize>,
    /// For each sample its place in [`Self::shown`].
    place: Vec<usize>,
}

/// Who decodes.
enum Decoding {
    Samples(SampleDecoder),
    /// The program `ffmpeg`, which reads the file itself.
    #[cfg(feature = "ffmpeg")]
    Program(super::ffmpeg::Program),
}

/// A decoder that is given the samples of the file one by one.
struct SampleDecoder {
    decoder: Box<dyn PictureDecoder>,
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

/// What is needed for a frame.
struct Plan {
    /// The key frame from which it can be decoded.
    key: usize,
    /// The sample after which it can come out: everything shown before it has gone in.
    last: usize,
    /// Its place among the pictures that come out after the key frame.
    rank: usize,
}

impl Decoding {
    fn new(track: &Track) -> Result<Self, String> {
        let decoder: Box<dyn PictureDecoder> = match &track.codec {
            Codec::H264(config) => Box::new(H264::new(config)?),
            Codec::Av1(headers) => Box::new(Av1::new(headers)?),
            #[cfg(feature = "ffmpeg")]
            Codec::Other(_) => return Ok(Self::Program(super::ffmpeg::Program::new(&track.path))),
            #[cfg(not(feature = "ffmpeg"))]
            Codec::Other(name) => {
                return Err(format!(
                    "its codec is {name}; this build decodes H.264 and AV1, others take `--features ffmpeg`"
                ));
            }
        };
        Ok(Self::Samples(SampleDecoder { decoder, state: State::Reset, buffer: Vec::new() }))
    }
}

impl VideoReader {
    /// Opens a video and reads its index.
    ///
    /// # Errors
    /// When the file is no MP4 file, is cut off, or this build has no decoder for it.
    pub fn open(path: &Path) -> Result<Self> {
        let track = Track::open(path)?;
        let decoding = Decoding::new(&track).map_err(|message| Error::format(path, "mp4", message))?;
        let mut shown: Vec<usize> = (0..track.samples.len()).collect();
        shown.sort_by(|&a, &b| track.samples[a].time.total_cmp(&track.samples[b].time));
        let mut place = vec![0; shown.len()];
        for (at, &sample) in shown.iter().enumerate() {
            place[sample] = at;
        }
        Ok(Self { track, decoding, shown, place })
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
            Codec::Other(name) => name,
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
        let plan = self.plan(number);
        let frame = match &mut self.decoding {
            Decoding::Samples(decoder) => decoder.frame(&mut self.track, &plan),
            #[cfg(feature = "ffmpeg")]
            Decoding::Program(program) => {
                let times: Vec<f64> = self.shown.iter().map(|&sample| self.track.samples[sample].time).collect();
                program.frame(number, &times)
            }
        };
        frame.map_err(|message| {
            Error::format(&self.track.path, "mp4", format!("frame {number} cannot be decoded: {message}"))
        })
    }

    fn plan(&self, number: usize) -> Plan {
        let key = self.key_before(number);
        let end = self.next_key(key);
        let last = (key..end).filter(|&sample| self.place[sample] <= number).max().unwrap_or(key);
        let rank = (key..end).filter(|&sample| self.place[sample] < number).count();
        Plan { key, last, rank }
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

impl SampleDecoder {
    fn frame(&mut self, track: &mut Track, plan: &Plan) -> Result<Frame, String> {
        // An error leaves a decoder that nobody knows the state of.
        let state = std::mem::replace(&mut self.state, State::Reset);
        let &Plan { key, last, rank } = plan;
        let (mut next, emitted) = match state {
            State::Running { key: at, next, emitted } if at == key && emitted <= rank => (next, emitted),
            _ => {
                self.decoder.reset()?;
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
            track.read(track.samples[next], &mut self.buffer).map_err(|error| error.to_string())?;
            self.decoder.decode(&self.buffer, &mut emit)?;
            next += 1;
        }
        if emitted.get() > rank {
            self.state = State::Running { key, next, emitted: emitted.get() };
        } else {
            // All that is needed went in; what is still inside comes out in order.
            self.decoder.finish(&mut emit)?;
        }
        found.into_inner().unwrap_or_else(|| Err("the decoder gave no picture".into()))
    }
}
