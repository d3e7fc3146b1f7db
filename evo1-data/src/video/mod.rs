//! Frames of videos by their time.
//!
//! A [`VideoReader`] knows the time of every frame from the file's index, seeks to the last key frame from which the
//! wanted one can be decoded, and decodes no further than it must.

mod av1;
mod color;
mod demux;
#[cfg(feature = "ffmpeg")]
mod ffmpeg;
mod h264;
mod pool;
mod reader;
mod sps;

pub use pool::VideoPool;
pub use reader::VideoReader;
pub(crate) use reader::{Wanted, frame_times};

/// A decoded picture: planes of luminance and chroma in the decoder's memory.
pub(crate) struct Picture<'a> {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// Y, U, V; the latter two are empty for grey pictures.
    pub(crate) planes: [&'a [u8]; 3],
    /// Bytes from row to row.
    pub(crate) strides: [usize; 3],
    /// Bits of a sample; those of more than 8 take two bytes, little-endian.
    pub(crate) bits: usize,
    /// By how many bits chroma has fewer columns and rows.
    pub(crate) subsampling: (usize, usize),
    pub(crate) colors: color::Colors,
}

/// A video codec.
pub(crate) trait PictureDecoder: Send {
    /// Decodes one sample of the file, and gives `emit` every picture that is ready, in the order in which they are shown.
    fn decode(&mut self, sample: &[u8], emit: &mut dyn FnMut(&Picture<'_>)) -> Result<(), String>;

    /// Gives `emit` the pictures that are left. The next sample must be a key frame.
    fn finish(&mut self, emit: &mut dyn FnMut(&Picture<'_>)) -> Result<(), String>;

    /// Forgets everything; the next sample is a key frame.
    fn reset(&mut self) -> Result<(), String>;
}
