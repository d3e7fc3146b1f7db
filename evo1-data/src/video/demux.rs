//! The index of an MP4 file: where each encoded frame is, when it is shown, and whether it is a key frame.

use std::{
    fs::File,
    io::{Cursor, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use evo1_core::files;
use mp4parse::{CodecType, SampleEntry, TrackType, VideoCodecSpecific, unstable::create_sample_table};

use crate::{Error, Result};

/// Most bytes of a file's header, which holds some tens of bytes for each frame.
const MAX_HEADER: u64 = 256 << 20;

/// The video track of a file.
pub(crate) struct Track {
    pub(crate) path: PathBuf,
    file: File,
    pub(crate) codec: Codec,
    /// Encoded frames in the order of the file, which is that of decoding.
    pub(crate) samples: Vec<Sample>,
}

/// How a track is encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Codec {
    /// H.264, with the contents of its `avcC` box.
    H264(Vec<u8>),
    /// AV1, with the header units of its `av1C` box.
    Av1(Vec<u8>),
    /// Another codec.
    Other(&'static str),
}

impl Codec {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::H264(_) => "H.264",
            Self::Av1(_) => "AV1",
            Self::Other(name) => name,
        }
    }
}

/// An encoded frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    pub(crate) offset: u64,
    pub(crate) bytes: usize,
    /// When it is shown, in seconds.
    pub(crate) time: f64,
    pub(crate) is_key: bool,
}

impl Track {
    /// Reads the index of a file's first video track.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (mut file, _) = files::open(path)?;
        let bad = |message: &str| Error::format(path, "mp4", message);
        let (header, bytes) = header(&mut file, path)?;
        let context = mp4parse::read_mp4(&mut Cursor::new(&header)).map_err(|error| bad(&error.to_string()))?;
        let track = context.tracks.iter().find(|track| track.track_type == TrackType::Video);
        let track = track.ok_or_else(|| bad("it has no video track"))?;
        let timescale = track.timescale.map_or(0, |scale| scale.0);
        if timescale == 0 {
            return Err(bad("its video track has no time scale"));
        }
        check_count(track, bytes).ok_or_else(|| bad("its index lists more frames than the file has bytes"))?;
        let table = create_sample_table(track, 0.into()).ok_or_else(|| bad("the index of its frames is damaged"))?;
        if table.is_empty() {
            return Err(bad("its video track has no frames"));
        }
        // An edit list moves the start: frames before it are not shown, and an empty edit delays it.
        let first = track.media_time.map_or(0, |time| time.0) as f64 / timescale as f64;
        let delay = match (track.empty_duration, context.timescale) {
            (Some(empty), Some(scale)) if scale.0 > 0 => empty.0 as f64 / scale.0 as f64,
            _ => 0.0,
        };
        let mut samples = Vec::with_capacity(table.len());
        for sample in table.iter() {
            let (start, end) = (sample.start_offset.0, sample.end_offset.0);
            if end < start || end > bytes {
                return Err(bad(&format!("frame {} of its index lies past the file's end", samples.len())));
            }
            samples.push(Sample {
                offset: start,
                bytes: (end - start) as usize,
                time: sample.start_composition.0 as f64 / timescale as f64 - first + delay,
                is_key: sample.sync,
            });
        }
        if !samples[0].is_key {
            return Err(bad("its first frame is no key frame"));
        }
        Ok(Self { path: path.to_owned(), file, codec: codec(track, &header), samples })
    }

    /// Reads an encoded frame.
    pub(crate) fn read(&mut self, sample: Sample, into: &mut Vec<u8>) -> Result<()> {
        into.resize(sample.bytes, 0);
        self.file
            .seek(SeekFrom::Start(sample.offset))
            .and_then(|_| self.file.read_exact(into))
            .map_err(|reason| Error::io("read", &self.path, reason))
    }
}

/// The boxes `ftyp` and `moov` of a file, and its size. What stands between them, the frames, is not read.
fn header(file: &mut File, path: &Path) -> Result<(Vec<u8>, u64)> {
    let io = |reason| Error::io("read", path, reason);
    let bad = |message: &str| Error::format(path, "mp4", message);
    let size = file.metadata().map_err(io)?.len();
    let (mut at, mut kept, mut is_complete) = (0, Vec::new(), false);
    while at + 8 <= size {
        file.seek(SeekFrom::Start(at)).map_err(io)?;
        let mut head = [0; 16];
        let known = file.read(&mut head).map_err(io)?;
        let (short, name) = head[..8].split_at(4);
        let bytes = match u32::from_be_bytes([short[0], short[1], short[2], short[3]]) {
            0 => size - at,
            1 if known == 16 => {
                let mut long = [0; 8];
                long.copy_from_slice(&head[8..]);
                u64::from_be_bytes(long)
            }
            bytes => u64::from(bytes),
        };
        if bytes < 8 || bytes > size - at {
            return Err(bad("the file is cut off, or its boxes are damaged"));
        }
        if name == b"ftyp" || name == b"moov" {
            if bytes > MAX_HEADER {
                return Err(bad("its header is larger than 256 MiB"));
            }
            file.seek(SeekFrom::Start(at)).map_err(io)?;
            file.take(bytes).read_to_end(&mut kept).map_err(io)?;
            is_complete |= name == b"moov";
        }
        at += bytes;
    }
    if is_complete { Ok((kept, size)) } else { Err(bad("it has no index (`moov`): it is cut off, or no mp4 file")) }
}

/// Nothing when the chunks of the index hold more frames than `most`.
fn check_count(track: &mp4parse::Track, most: u64) -> Option<()> {
    let (runs, chunks) = (&track.stsc.as_ref()?.samples, track.stco.as_ref()?.offsets.len() as u64);
    let mut total = 0_u64;
    for (index, run) in runs.iter().enumerate() {
        let end = runs.get(index + 1).map_or(chunks + 1, |next| u64::from(next.first_chunk));
        let chunks = end.saturating_sub(u64::from(run.first_chunk));
        total = total.checked_add(chunks.checked_mul(u64::from(run.samples_per_chunk))?)?;
    }
    (total <= most).then_some(())
}

/// The codec of a track; `header` is where it is looked for when the parser does not know it.
fn codec(track: &mp4parse::Track, header: &[u8]) -> Codec {
    let entries = track.stsd.as_ref().map_or(&[][..], |stsd| &stsd.descriptions);
    let entry = entries.iter().find_map(|entry| match entry {
        SampleEntry::Video(video) => Some(video),
        _ => None,
    });
    match entry.map(|entry| (entry.codec_type, &entry.codec_specific)) {
        Some((CodecType::H264, VideoCodecSpecific::AVCConfig(config))) => Codec::H264(config.to_vec()),
        Some((CodecType::AV1, VideoCodecSpecific::AV1Config(config))) => Codec::Av1(config.config_obus().to_vec()),
        Some((CodecType::VP8, _)) => Codec::Other("VP8"),
        Some((CodecType::VP9, _)) => Codec::Other("VP9"),
        Some((CodecType::MP4V, _)) => Codec::Other("MPEG-4 Part 2"),
        _ => {
            let is_hevc = header.windows(4).any(|name| name == b"hvc1" || name == b"hev1");
            Codec::Other(if is_hevc { "HEVC" } else { "unknown" })
        }
    }
}
