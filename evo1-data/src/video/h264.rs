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
    /// A decoder for a track with this `avcC` box.
    pub(super) fn new(config: &[u8]) -> Result<Self, String> {
        let (length_bytes, parameters) = parameters(config).ok_or("its `avcC` box is damaged")?;
        let sequence = sequence(config);
        Ok(Self {
            decoder: decoder()?,
            length_bytes,
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
fn parameters(config: &[u8]) -> Option<(usize, Vec<u8>)> {
    let length_bytes = usize::from(config.get(4)? & 3) + 1;
    let mut stream = Vec::new();
    let mut rest = config.get(5..)?;
    for mask in [0x1f, 0xff] {
        let (&count, after) = rest.split_first()?;
        rest = after;
        for _ in 0..count & mask {
            let length = usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]));
            stream.extend(START_CODE);
            stream.extend(rest.get(2..2 + length)?);
            rest = &rest[2 + length..];
        }
    }
    Some((length_bytes, stream))
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
            self.stream.extend(START_CODE);
            self.stream.extend(unit);
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
