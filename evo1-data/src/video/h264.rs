//! H.264 through Cisco's OpenH264.

use openh264::{
    OpenH264API,
    decoder::{DecodedYUV, Decoder, DecoderConfig, Flush},
    formats::YUVSource,
};

use super::{Picture, PictureDecoder, color::Colors, sps::SequenceParameters};

/// Decodes H.264 in the form that MP4 files have it: units with their lengths, parameters apart.
pub(super) struct H264 {
    decoder: Decoder,
    /// Bytes of the length before each unit.
    length_bytes: usize,
    /// Whether pictures are shown in the order in which they are decoded.
    is_in_order: bool,
    /// Sequence and picture parameters, each behind a start code.
    parameters: Vec<u8>,
    /// The sample being decoded, with start codes.
    stream: Vec<u8>,
    needs_parameters: bool,
    is_grey: bool,
    colors: Colors,
}

const START_CODE: [u8; 4] = [0, 0, 0, 1];

impl H264 {
    /// A decoder for a track with this `avcC` box, whose frames are shown in the order in which they are decoded or not.
    pub(super) fn new(config: &[u8], is_in_order: bool) -> Result<Self, String> {
        let (length_bytes, parameters) = parameters(config, is_in_order).ok_or("its `avcC` box is damaged")?;
        let sequence = sequence(config);
        Ok(Self {
            decoder: decoder()?,
            length_bytes,
            is_in_order,
            parameters,
            stream: Vec::new(),
            needs_parameters: true,
            is_grey: sequence.is_some_and(|sequence| sequence.is_grey()),
            colors: sequence.map_or_else(Colors::default, |sequence| sequence.colors),
        })
    }

    /// The profile of a track with this `avcC` box and what of it is not decoded here; nothing where all is.
    pub(super) fn lacks(config: &[u8]) -> Option<String> {
        sequence(config)?.beyond_openh264()
    }
}

fn decoder() -> Result<Decoder, String> {
    let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
    Decoder::with_api_config(OpenH264API::from_source(), config).map_err(|error| error.to_string())
}

/// The first sequence parameter set of an `avcC` box, which has one for nearly all writers.
fn sequence(config: &[u8]) -> Option<SequenceParameters> {
    let length = usize::from(u16::from_be_bytes([*config.get(6)?, *config.get(7)?]));
    SequenceParameters::parse(config.get(8..8 + length)?)
}

/// Length of the length fields, and the parameter sets, of an `avcC` box.
fn parameters(config: &[u8], is_in_order: bool) -> Option<(usize, Vec<u8>)> {
    let length_bytes = usize::from(config.get(4)? & 3) + 1;
    let mut stream = Vec::new();
    let mut rest = config.get(5..)?;
    for mask in [0x1f, 0xff] {
        let (&count, after) = rest.split_first()?;
        rest = after;
        for _ in 0..count & mask {
            let length = usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]));
            append(&mut stream, rest.get(2..2 + length)?, is_in_order);
            rest = &rest[2 + length..];
        }
    }
    Some((length_bytes, stream))
}

/// Puts a unit behind a start code.
///
/// OpenH264 holds every picture back until the next one, in case that is shown before it, and gives up its last one only at
/// the cost of a new decoder; but not in Scalable Baseline, whose sequence parameters are written like those of High. As it
/// decodes what the stream contains, whatever the profile, a stream whose pictures are in order is given to it as that.
fn append(stream: &mut Vec<u8>, unit: &[u8], is_in_order: bool) {
    const SEQUENCE_PARAMETERS: u8 = 7;
    const HIGH: u8 = 100;
    const SCALABLE_BASELINE: u8 = 83;
    stream.extend(START_CODE);
    match unit {
        &[header, HIGH, ref rest @ ..] if is_in_order && header & 0x1f == SEQUENCE_PARAMETERS => {
            stream.extend([header, SCALABLE_BASELINE]);
            stream.extend(rest);
        }
        _ => stream.extend(unit),
    }
}

impl PictureDecoder for H264 {
    fn decode(&mut self, sample: &[u8], emit: &mut dyn FnMut(&Picture<'_>)) -> Result<(), String> {
        self.stream.clear();
        if std::mem::take(&mut self.needs_parameters) {
            self.stream.extend(&self.parameters);
        }
        let mut rest = sample;
        while !rest.is_empty() {
            let cut = "a frame's units do not fill it";
            let (length, after) = rest.split_at_checked(self.length_bytes).ok_or(cut)?;
            let length = length.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
            let (unit, after) = after.split_at_checked(length).ok_or(cut)?;
            append(&mut self.stream, unit, self.is_in_order);
            rest = after;
        }
        if let Some(picture) = self.decoder.decode(&self.stream).map_err(|error| error.to_string())? {
            emit(&borrowed(&picture, self.is_grey, self.colors));
        }
        Ok(())
    }

    fn finish(&mut self, emit: &mut dyn FnMut(&Picture<'_>)) -> Result<(), String> {
        let pictures = self.decoder.flush_remaining().map_err(|error| error.to_string())?;
        pictures.iter().for_each(|picture| emit(&borrowed(picture, self.is_grey, self.colors)));
        self.needs_parameters = true;
        if !pictures.is_empty() {
            // OpenH264 does not take back the memory of pictures that are flushed, and soon has none left.
            drop(pictures);
            self.decoder = decoder()?;
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<(), String> {
        self.finish(&mut |_| ())
    }
}

fn borrowed<'a>(picture: &'a DecodedYUV<'_>, is_grey: bool, colors: Colors) -> Picture<'a> {
    let (width, height) = picture.dimensions();
    let (y, u, v) = picture.strides();
    Picture {
        width,
        height,
        // What OpenH264 has in the chroma of grey pictures is left over from others.
        planes: if is_grey { [picture.y(), &[], &[]] } else { [picture.y(), picture.u(), picture.v()] },
        strides: [y, u, v],
        bits: 8,
        subsampling: (1, 1),
        colors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::demux::{Codec, Track};

    /// How many pictures come out with each sample of a video.
    fn pictures(name: &str, is_in_order: bool) -> Vec<usize> {
        let path = evo1_core::test_support::fixture("videos").join(name);
        let mut track = Track::open(&path).expect("a video");
        let Codec::H264(config) = &track.codec else { panic!("{name} is no H.264") };
        let (mut decoder, mut bytes) = (H264::new(config, is_in_order).expect("a decoder"), Vec::new());
        let mut counts = Vec::new();
        for sample in track.samples.clone() {
            track.read(sample, &mut bytes).expect("a sample");
            let mut count = 0;
            decoder.decode(&bytes, &mut |_| count += 1).expect("decoded");
            counts.push(count);
        }
        counts
    }

    #[test]
    fn pictures_in_order_are_not_held_back() {
        for name in ["plain.mp4", "slices.mp4"] {
            assert_eq!(pictures(name, true), [1, 1, 1]);
            assert_eq!(pictures(name, false), [0, 1, 1]);
        }
    }
}
