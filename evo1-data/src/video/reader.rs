//! One video, open for reading frames in any order.

use std::{cell::Cell, path::Path};

use evo1_core::Frame;

use super::{
    Picture, PictureDecoder,
    av1::Av1,
    demux::{Codec, Track},
    h264::H264,
};
use crate::{Error, Result, VideoClip};

/// A video that is open: its index, and a decoder that remembers where it is.
pub struct VideoReader {
    track: Track,
    decoding: Decoding,
    /// Samples in the order in which they are shown.
    shown: Vec<usize>,
    /// For each sample its place in [`Self::shown`].
    place: Vec<usize>,
}

/// When the frames of a video are shown, in seconds, ascending; of every codec.
///
/// # Errors
/// When the file is no MP4 file, or is cut off.
pub(crate) fn frame_times(path: &Path) -> Result<Vec<f64>> {
    let mut times: Vec<f64> = Track::open(path)?.samples.iter().map(|sample| sample.time).collect();
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Which frame of an episode is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted {
    /// The one at a time in the episode.
    Time {
        /// Seconds after the episode's start.
        seconds: f64,
        /// Seconds by which the frame may miss it.
        tolerance: f64,
    },
    /// The one of this number, counted from the episode's start.
    Number(usize),
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
        let built_in = |decoder: Box<dyn PictureDecoder>| {
            Ok(Self::Samples(SampleDecoder { decoder, state: State::Reset, buffer: Vec::new() }))
        };
        match &track.codec {
            Codec::H264(config) => match H264::lacks(config) {
                None => built_in(Box::new(H264::new(config, track.samples.is_sorted_by_key(|sample| sample.time))?)),
                Some(profile) => Self::elsewhere(track, &format!("H.264 in {profile}")),
            },
            Codec::Av1(headers) => built_in(Box::new(Av1::new(headers)?)),
            Codec::Other(name) => Self::elsewhere(track, name),
        }
    }

    /// For what no decoder of this build decodes.
    #[cfg(feature = "ffmpeg")]
    fn elsewhere(track: &Track, _: &str) -> Result<Self, String> {
        Ok(Self::Program(super::ffmpeg::Program::new(&track.path)))
    }

    /// For what no decoder of this build decodes.
    #[cfg(not(feature = "ffmpeg"))]
    fn elsewhere(_: &Track, codec: &str) -> Result<Self, String> {
        Err(format!(
            "its codec is {codec}; this build decodes H.264 (4:2:0, 8 bits, whole frames) and AV1, others take `--features ffmpeg`"
        ))
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
        self.track.codec.name()
    }

    /// The codec of a video, also of one that this build cannot decode.
    ///
    /// # Errors
    /// When the file is no MP4 file, or is cut off.
    pub fn codec_of(path: &Path) -> Result<&'static str> {
        Ok(Track::open(path)?.codec.name())
    }

    /// The frame nearest to a time, which must be no further from it than `tolerance` seconds.
    pub fn frame_at(&mut self, seconds: f64, tolerance: f64) -> Result<Frame> {
        let number = self.nearest(seconds);
        self.check_time(number, seconds, tolerance)?;
        self.frame(number)
    }

    /// A frame of an episode, never of another one in the same video.
    ///
    /// # Errors
    /// When the episode's start lies on no frame, or on another one than the lengths of the episodes before it say, and
    /// when the frame is not there.
    pub(crate) fn frame_of(&mut self, clip: &VideoClip, wanted: Wanted, fps: f64) -> Result<Frame> {
        let number = match wanted {
            Wanted::Number(_) if clip.frames_in_all.is_some_and(|frames| frames != self.shown.len()) => {
                let expected = format!("{}, as its episodes have", clip.frames_in_all.unwrap_or_default());
                let what = "the number of frames of a video that is read by frame";
                return Err(Error::inconsistent(&self.track.path, what, expected, self.shown.len()));
            }
            Wanted::Number(frame) => match clip.frames_before {
                Some(before) => before + frame,
                None => self.start_of(clip, 0.5 / fps, fps)? + frame,
            },
            Wanted::Time { seconds, tolerance } => {
                let first = self.start_of(clip, tolerance, fps)?;
                let seconds = self.time(first) + seconds;
                let last = self.nearest(self.time(first) + clip.frames.saturating_sub(1) as f64 / fps);
                let number = self.nearest(seconds).clamp(first, last);
                self.check_time(number, seconds, tolerance)?;
                number
            }
        };
        if number >= self.shown.len() {
            let (path, got) = (&self.track.path, self.shown.len());
            return Err(Error::inconsistent(path, "the number of frames", format!("more than {number}"), got));
        }
        self.frame(number)
    }

    /// Whether every frame of an episode is there, by the index alone, and no others than those of the video's episodes.
    ///
    /// # Errors
    /// With the first one that is not, or what is wrong with the episode's start.
    pub(crate) fn check(&self, clip: &VideoClip, tolerance: f64, fps: f64) -> Result<()> {
        self.check_frames(clip, tolerance, fps)?;
        match clip.frames_in_all {
            Some(frames) if frames != self.shown.len() => {
                Err(Error::inconsistent(&self.track.path, "the number of frames", frames, self.shown.len()))
            }
            _ => Ok(()),
        }
    }

    fn check_frames(&self, clip: &VideoClip, tolerance: f64, fps: f64) -> Result<()> {
        let first = self.time(self.start_of(clip, tolerance, fps)?);
        (0..clip.frames).try_for_each(|frame| {
            let seconds = first + frame as f64 / fps;
            self.check_time(self.nearest(seconds), seconds, tolerance)
        })
    }

    /// The frame at which an episode starts: the one nearest to its start, which must also be where the episodes before it
    /// end.
    fn start_of(&self, clip: &VideoClip, tolerance: f64, fps: f64) -> Result<usize> {
        let first = self.nearest(clip.start);
        let Some(before) = clip.frames_before else {
            // With nothing to compare it with, a start between two frames might be that of either.
            return self.check_time(first, clip.start, tolerance / 2.0).map(|()| first);
        };
        let end = self.time(0) + before as f64 / fps;
        if self.nearest(end) == first {
            return self.check_time(first, clip.start, tolerance).map(|()| first);
        }
        let what = "the start of an episode in this video (`from_timestamp`)";
        let expected = format!("{end:.4} s, after the {before} frames of the episodes before it");
        let hint = "`time: by_frame` in the dataset's configuration counts frames instead";
        let got = format!("{:.4} s, nearest to frame {first} ({hint})", clip.start);
        Err(Error::inconsistent(&self.track.path, what, expected, got))
    }

    /// The number of the frame nearest to a time.
    fn nearest(&self, seconds: f64) -> usize {
        let after = self.shown.partition_point(|&sample| self.track.samples[sample].time < seconds);
        match after {
            0 => 0,
            after if after == self.shown.len() => after - 1,
            after if seconds - self.time(after - 1) <= self.time(after) - seconds => after - 1,
            after => after,
        }
    }

    /// When a frame is shown.
    fn time(&self, number: usize) -> f64 {
        self.track.samples[self.shown[number]].time
    }

    /// Refuses a frame that is further from a time than `tolerance` seconds.
    fn check_time(&self, number: usize, seconds: f64, tolerance: f64) -> Result<()> {
        let got = self.time(number);
        // A comparison that is false for NaN, too.
        if (got - seconds).abs() <= tolerance {
            return Ok(());
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
