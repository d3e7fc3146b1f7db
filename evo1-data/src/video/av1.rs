//! AV1 through rav1d, the Rust port of dav1d.

use re_rav1d::dav1d::{
    Decoder, Error, Picture as Decoded, PixelLayout, PlanarImageComponent, Settings,
    pixel::{MatrixCoefficients, YUVRange},
};

use super::{
    Picture, PictureDecoder,
    color::{Colors, Matrix},
};

/// Decodes AV1.
pub(super) struct Av1 {
    decoder: Decoder,
    /// Header units of the `av1C` box, which need not be repeated in the stream.
    headers: Vec<u8>,
    needs_headers: bool,
}

impl Av1 {
    /// A decoder for a track with these header units.
    pub(super) fn new(headers: &[u8]) -> Result<Self, String> {
        let mut settings = Settings::new();
        // A picture comes out as soon as its sample went in; parallelism is over videos.
        settings.set_n_threads(1);
        settings.set_max_frame_delay(1);
        let decoder = Decoder::with_settings(&settings).map_err(|error| error.to_string())?;
        Ok(Self { decoder, headers: headers.to_owned(), needs_headers: true })
    }

    fn pictures(&mut self, emit: &mut dyn FnMut(&Picture<'_>)) -> Result<(), String> {
        loop {
            match self.decoder.get_picture() {
                Ok(picture) => emit_borrowed(&picture, emit),
                Err(Error::Again) => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

impl PictureDecoder for Av1 {
    fn decode(&mut self, sample: &[u8], emit: &mut dyn FnMut(&Picture<'_>)) -> Result<(), String> {
        let mut data = Vec::with_capacity(self.headers.len() + sample.len());
        if std::mem::take(&mut self.needs_headers) {
            data.extend(&self.headers);
        }
        data.extend(sample);
        let mut sent = self.decoder.send_data(data, None, None, None);
        while let Err(Error::Again) = sent {
            self.pictures(emit)?;
            sent = self.decoder.send_pending_data();
        }
        sent.map_err(|error| error.to_string())?;
        self.pictures(emit)
    }

    fn finish(&mut self, emit: &mut dyn FnMut(&Picture<'_>)) -> Result<(), String> {
        self.pictures(emit)?;
        self.reset()
    }

    fn reset(&mut self) -> Result<(), String> {
        self.decoder.flush();
        self.needs_headers = true;
        Ok(())
    }
}

fn emit_borrowed(picture: &Decoded, emit: &mut dyn FnMut(&Picture<'_>)) {
    let components = [PlanarImageComponent::Y, PlanarImageComponent::U, PlanarImageComponent::V];
    let is_grey = picture.pixel_layout() == PixelLayout::I400;
    let planes = components
        .map(|component| (!is_grey || component == PlanarImageComponent::Y).then(|| picture.plane(component)));
    emit(&Picture {
        width: picture.width() as usize,
        height: picture.height() as usize,
        planes: planes.each_ref().map(|plane| plane.as_deref().unwrap_or_default()),
        strides: components.map(|component| picture.stride(component) as usize),
        bits: picture.bit_depth(),
        subsampling: match picture.pixel_layout() {
            PixelLayout::I400 | PixelLayout::I420 => (1, 1),
            PixelLayout::I422 => (1, 0),
            PixelLayout::I444 => (0, 0),
        },
        colors: Colors {
            matrix: match picture.matrix_coefficients() {
                MatrixCoefficients::BT709 => Matrix::Bt709,
                MatrixCoefficients::BT2020NonConstantLuminance => Matrix::Bt2020,
                MatrixCoefficients::BT470M => Matrix::Fcc,
                MatrixCoefficients::ST240M => Matrix::Smpte240,
                MatrixCoefficients::Identity => Matrix::Identity,
                _ => Matrix::Bt601,
            },
            is_full_range: picture.color_range() == YUVRange::Full,
        },
    });
}
