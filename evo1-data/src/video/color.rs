//! From luminance and chroma to red, green and blue.

use evo1_core::Frame;

use super::Picture;

/// What the numbers of a picture mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Colors {
    pub(crate) matrix: Matrix,
    /// Whether levels use the whole range instead of 16 to 235.
    pub(crate) is_full_range: bool,
}

/// How luminance is weighed of red, green and blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Matrix {
    /// BT.601, which is meant where a file says nothing.
    #[default]
    Bt601,
    /// BT.709.
    Bt709,
    /// BT.2020.
    Bt2020,
    /// The rules of the FCC, of 1953.
    Fcc,
    /// SMPTE 240M.
    Smpte240,
    /// The planes are green, blue and red.
    Identity,
}

impl Matrix {
    /// The one that H.264 and its successors number so (ITU-T H.273, 8.3); BT.601 where they say nothing.
    pub(crate) fn of_code(code: u32) -> Self {
        match code {
            0 => Self::Identity,
            1 => Self::Bt709,
            4 => Self::Fcc,
            7 => Self::Smpte240,
            9 | 10 => Self::Bt2020,
            _ => Self::Bt601,
        }
    }

    /// Weights of red and blue.
    fn weights(self) -> (f64, f64) {
        match self {
            Self::Bt601 | Self::Identity => (0.299, 0.114),
            Self::Bt709 => (0.2126, 0.0722),
            Self::Bt2020 => (0.2627, 0.0593),
            Self::Fcc => (0.30, 0.11),
            Self::Smpte240 => (0.212, 0.087),
        }
    }
}

/// Bits after the point of the fixed-point factors.
const FRACTION: u32 = 14;

/// Fixed-point factors of the conversion.
struct Factors {
    black: i32,
    luma: i32,
    red_v: i32,
    green_u: i32,
    green_v: i32,
    blue_u: i32,
}

impl Factors {
    fn new(colors: Colors) -> Self {
        let (red, blue) = colors.matrix.weights();
        let green = 1.0 - red - blue;
        let (black, luma, chroma) =
            if colors.is_full_range { (0, 1.0, 1.0) } else { (16, 255.0 / 219.0, 255.0 / 224.0) };
        let fixed = |factor: f64| (factor * f64::from(1 << FRACTION)).round() as i32;
        Self {
            black,
            luma: fixed(luma),
            red_v: fixed(2.0 * (1.0 - red) * chroma),
            green_u: fixed(-2.0 * (1.0 - blue) * blue / green * chroma),
            green_v: fixed(-2.0 * (1.0 - red) * red / green * chroma),
            blue_u: fixed(2.0 * (1.0 - blue) * chroma),
        }
    }
}

impl Picture<'_> {
    /// The picture in 8-bit red, green and blue. Chroma is repeated, not interpolated, as FFmpeg's fast conversion does.
    pub(crate) fn to_frame(&self) -> Result<Frame, String> {
        let (width, height) = (self.width, self.height);
        let chroma_width = (width + (1 << self.subsampling.0) - 1) >> self.subsampling.0;
        let chroma_height = (height + (1 << self.subsampling.1) - 1) >> self.subsampling.1;
        let is_grey = self.planes[1].is_empty() || self.planes[2].is_empty();
        let sizes = [(width, height), (chroma_width, chroma_height), (chroma_width, chroma_height)];
        let sample = if self.bits > 8 { 2 } else { 1 };
        for (plane, (width, height)) in sizes.into_iter().enumerate().take(if is_grey { 1 } else { 3 }) {
            let needed = height.saturating_sub(1) * self.strides[plane] + width * sample;
            if width == 0 || height == 0 || self.planes[plane].len() < needed || self.strides[plane] < width * sample {
                return Err("the decoder gave a picture that does not fill its size".into());
            }
        }
        let factors = Factors::new(self.colors);
        let mut rgb = vec![0; width * height * 3];
        let (mut luma, mut blue, mut red) = (vec![0; width], vec![128; chroma_width], vec![128; chroma_width]);
        for (y, out) in rgb.chunks_exact_mut(3 * width).enumerate() {
            self.row(0, y, &mut luma);
            if !is_grey {
                self.row(1, y >> self.subsampling.1, &mut blue);
                self.row(2, y >> self.subsampling.1, &mut red);
            }
            if self.colors.matrix == Matrix::Identity {
                for (x, pixel) in out.chunks_exact_mut(3).enumerate() {
                    pixel.copy_from_slice(&[red[x], luma[x], blue[x]]);
                }
                continue;
            }
            convert_row(&factors, &luma, &blue, &red, self.subsampling.0, out);
        }
        Frame::new(width, height, rgb).map_err(|error| error.to_string())
    }

    /// One row of a plane in 8 bits.
    fn row(&self, plane: usize, y: usize, out: &mut [u8]) {
        let row = &self.planes[plane][y * self.strides[plane]..];
        if self.bits > 8 {
            let shift = self.bits - 8;
            for (out, sample) in out.iter_mut().zip(row.chunks_exact(2)) {
                *out = (u16::from_le_bytes([sample[0], sample[1]]) >> shift).min(255) as u8;
            }
        } else {
            out.copy_from_slice(&row[..out.len()]);
        }
    }
}

fn convert_row(factors: &Factors, luma: &[u8], blue: &[u8], red: &[u8], subsampling: usize, out: &mut [u8]) {
    const HALF: i32 = 1 << (FRACTION - 1);
    let level = |value: i32| (value >> FRACTION).clamp(0, 255) as u8;
    for (x, (pixel, &y)) in out.chunks_exact_mut(3).zip(luma).enumerate() {
        let (u, v) = (i32::from(blue[x >> subsampling]) - 128, i32::from(red[x >> subsampling]) - 128);
        let y = (i32::from(y) - factors.black) * factors.luma + HALF;
        pixel[0] = level(y + factors.red_v * v);
        pixel[1] = level(y + factors.green_u * u + factors.green_v * v);
        pixel[2] = level(y + factors.blue_u * u);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixel(y: u8, u: u8, v: u8, colors: Colors) -> [u8; 3] {
        let (y, u, v) = ([y], [u], [v]);
        let picture = Picture {
            width: 1,
            height: 1,
            planes: [&y, &u, &v],
            strides: [1; 3],
            bits: 8,
            subsampling: (1, 1),
            colors,
        };
        picture.to_frame().expect("a frame").rgb().try_into().expect("three levels")
    }

    #[test]
    fn the_range_ends_in_black_and_white() {
        let limited = Colors::default();
        assert_eq!(pixel(16, 128, 128, limited), [0, 0, 0]);
        assert_eq!(pixel(235, 128, 128, limited), [255, 255, 255]);
        let full = Colors { is_full_range: true, ..limited };
        assert_eq!(pixel(0, 128, 128, full), [0, 0, 0]);
        assert_eq!(pixel(255, 128, 128, full), [255, 255, 255]);
    }

    #[test]
    fn primaries_come_back() {
        // Red of BT.601 and of BT.709 in the limited range.
        assert_eq!(pixel(81, 90, 240, Colors::default()), [254, 0, 0]);
        assert_eq!(pixel(63, 102, 240, Colors { matrix: Matrix::Bt709, ..Colors::default() }), [255, 1, 0]);
        assert_eq!(pixel(1, 2, 3, Colors { matrix: Matrix::Identity, ..Colors::default() }), [3, 1, 2]);
    }

    #[test]
    fn a_picture_that_does_not_fill_its_size_is_refused() {
        let plane = [0; 3];
        let picture = Picture {
            width: 2,
            height: 2,
            planes: [&plane; 3],
            strides: [2; 3],
            bits: 8,
            subsampling: (1, 1),
            colors: Colors::default(),
        };
        assert!(picture.to_frame().is_err());
    }
}
