//! Bicubic resampling with antialiasing, in the three ways that Evo-1 checkpoints were trained with.
//!
//! All of them are the same separable filter: Keys' cubic kernel with a = −1/2, stretched by the scale when an axis
//! shrinks, applied along one axis and then along the other. They differ in rounding, and every one is reproduced to
//! the last bit:
//!
//! | [`FramePreprocessing`] | weights | sums | result |
//! | --- | --- | --- | --- |
//! | `PilBicubic` | f64, then fixed point with 22 fractional bits | i32, clamped to 8 bit after each pass | levels |
//! | `FloatBicubic` | f32 | f32, of pixels divided by 255 | floats around [0, 1], not clamped |
//! | `TruncatedBicubic` | f32 | f32, of pixels 0–255 | clamped, rounded half to even: levels |
//!
//! Sources: Pillow `Resample.c`; PyTorch `UpSampleKernel.cpp` (`upsample_bicubic2d_aa`), which torchvision's
//! `resize(…, antialias=True)` calls for float tensors and, in its first API, for 8-bit tensors as well.

use evo1_core::Frame;
use evo1_core::config::FramePreprocessing;
use rayon::prelude::*;

use super::filter::{AxisWeights, axis_weights};

/// Values of one RGB pixel.
pub(super) const CHANNELS: usize = 3;

/// Pixels that are summed at once, of one row or of one column: few enough to stay in registers.
const LANES: usize = 8;

/// Values of that many pixels.
const BLOCK: usize = LANES * CHANNELS;

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) width: usize,
    pub(super) height: usize,
}

/// A resized frame, `[height, width, 3]`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Resized {
    /// Grey levels 0–255.
    Levels(Vec<u8>),
    /// Floats where black is 0 and white is 1; overshoot at edges leaves that range.
    Floats(Vec<f32>),
}

/// Scales `frame` to `target`, which must not be empty.
pub(super) fn resize(frame: &Frame, target: Size, how: FramePreprocessing) -> Resized {
    let source = Size { width: frame.width(), height: frame.height() };
    match how {
        _ if source == target => Resized::Levels(frame.rgb().to_vec()),
        FramePreprocessing::PilBicubic => {
            Resized::Levels(resample::<FixedPoint>(frame.rgb(), |level| level, source, target))
        }
        FramePreprocessing::FloatBicubic => {
            Resized::Floats(resample::<TorchFloat>(frame.rgb(), |level| f32::from(level) / 255.0, source, target))
        }
        FramePreprocessing::TruncatedBicubic => {
            // The truncation is of a camera's floats to 8 bit; a `Frame` has been through it.
            let resized = resample::<TorchFloat>(frame.rgb(), f32::from, source, target);
            Resized::Levels(resized.into_par_iter().map(|v| v.clamp(0.0, 255.0).round_ties_even() as u8).collect())
        }
    }
}

/// The number system of a resize: its weights and its weighted sums.
trait Arithmetic {
    /// One channel of a pixel.
    type Value: Copy + Default + Send + Sync;
    /// What a pixel is multiplied by.
    type Weight: Copy + Send + Sync;

    /// Weights of an axis that goes from `input` to `output` pixels.
    fn axis(input: usize, output: usize) -> AxisWeights<Self::Weight>;

    /// Whether the columns are scaled before the rows, which matters where the values between the passes are rounded.
    fn columns_first(source: Size, target: Size) -> bool;

    /// `Σⱼ weights[j] · taps[j·stride..][..N]`: N neighbouring values of the output.
    fn sum<const N: usize>(taps: &[Self::Value], stride: usize, weights: &[Self::Weight]) -> [Self::Value; N];
}

/// Both passes, in the order of the library, over the values that `convert` makes of grey levels.
fn resample<A: Arithmetic>(
    levels: &[u8],
    convert: impl Fn(u8) -> A::Value + Sync,
    source: Size,
    target: Size,
) -> Vec<A::Value> {
    if A::columns_first(source, target) {
        let values = levels.iter().map(|&level| convert(level)).collect();
        let columns = resample_columns::<A>(values, source.width, source.height, target.height);
        resample_rows::<A, _>(&columns, |value| value, source.width, target.width)
    } else {
        let rows = resample_rows::<A, _>(levels, convert, source.width, target.width);
        resample_columns::<A>(rows, target.width, source.height, target.height)
    }
}

/// Scales every row from `input` to `output` pixels.
fn resample_rows<A: Arithmetic, V: Copy + Sync>(
    pixels: &[V],
    convert: impl Fn(V) -> A::Value + Sync,
    input: usize,
    output: usize,
) -> Vec<A::Value> {
    if input == output {
        return pixels.iter().map(|&value| convert(value)).collect();
    }
    let axis = A::axis(input, output);
    let (input, output) = (input * CHANNELS, output * CHANNELS);
    let mut resized = vec![A::Value::default(); pixels.len() / input * output];
    let pairs = resized.par_chunks_mut(LANES * output).zip(pixels.par_chunks(LANES * input));
    pairs.for_each(|(out, rows)| {
        // The rows stand side by side, value by value, and are summed together.
        let mut taps = vec![A::Value::default(); LANES * input];
        for (lane, row) in rows.chunks_exact(input).enumerate() {
            taps[lane..].iter_mut().step_by(LANES).zip(row).for_each(|(tap, &value)| *tap = convert(value));
        }
        for (pixel, (window, weights)) in axis.iter().enumerate() {
            let sums = A::sum::<BLOCK>(&taps[window.start * BLOCK..window.end * BLOCK], BLOCK, weights);
            for (lane, row) in out.chunks_exact_mut(output).enumerate() {
                for (channel, value) in row[pixel * CHANNELS..][..CHANNELS].iter_mut().enumerate() {
                    *value = sums[channel * LANES + lane];
                }
            }
        }
    });
    resized
}

/// Scales every column of an image of `width` from `input` to `output` pixels.
fn resample_columns<A: Arithmetic>(pixels: Vec<A::Value>, width: usize, input: usize, output: usize) -> Vec<A::Value> {
    if input == output {
        return pixels;
    }
    let axis = A::axis(input, output);
    let stride = width * CHANNELS;
    let mut resized = vec![A::Value::default(); output * stride];
    resized.par_chunks_mut(stride).enumerate().for_each(|(y, row)| {
        let (window, weights) = axis.at(y);
        let taps = &pixels[window.start * stride..window.end * stride];
        let mut blocks = row.chunks_exact_mut(BLOCK);
        let mut x = 0;
        for block in &mut blocks {
            block.copy_from_slice(&A::sum::<BLOCK>(&taps[x..], stride, weights));
            x += BLOCK;
        }
        for pixel in blocks.into_remainder().chunks_exact_mut(CHANNELS) {
            pixel.copy_from_slice(&A::sum::<CHANNELS>(&taps[x..], stride, weights));
            x += CHANNELS;
        }
    });
    resized
}

/// Pillow's arithmetic on 8-bit images.
struct FixedPoint;

impl FixedPoint {
    /// Fractional bits of a weight: 32, less 8 for the pixel and 2 for overshoot and sign.
    const PRECISION_BITS: u32 = 32 - 8 - 2;

    /// κ(x) for a = −½, with Pillow's order of operations.
    fn keys_cubic(x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        if x < 1.0 {
            ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
        } else if x < 2.0 {
            (((x - 5.0) * x + 8.0) * x - 4.0) * A
        } else {
            0.0
        }
    }
}

impl Arithmetic for FixedPoint {
    type Value = u8;
    type Weight = i32;

    fn axis(input: usize, output: usize) -> AxisWeights<i32> {
        let one = f64::from(1 << Self::PRECISION_BITS);
        axis_weights(input, output, |x| x, Self::keys_cubic)
            .map(|weight| (weight * one + 0.5_f64.copysign(weight)) as i32)
    }

    /// Pillow scales the columns first when they lose more than twice the pixels that the rows lose.
    ///
    /// This is Pillow 13's rule, to save work; up to version 12 the rows always came first. A frame at least as wide as
    /// high that becomes a square is not affected; in others some values move by a level or more.
    fn columns_first(source: Size, target: Size) -> bool {
        let lost_columns = source.width.saturating_sub(target.width);
        let lost_rows = source.height.saturating_sub(target.height);
        lost_rows > 2 * lost_columns
    }

    #[inline]
    fn sum<const N: usize>(taps: &[u8], stride: usize, weights: &[i32]) -> [u8; N] {
        let half = 1 << (Self::PRECISION_BITS - 1);
        let mut sums = [half; N];
        for (tap, &weight) in taps.chunks(stride).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(&tap[..N]) {
                *sum += i32::from(value) * weight;
            }
        }
        sums.map(|sum| (sum >> Self::PRECISION_BITS).clamp(0, 255) as u8)
    }
}

/// PyTorch's arithmetic on float tensors, as its x86-64 CPU build computes it.
///
/// The C++ source leaves open which products are fused with the addition that follows them; it decides the last bit,
/// and with it the level of about one value in 10⁵ after rounding. Here are that build's choices, found by comparing
/// bits; other builds of PyTorch (ARM, CUDA) make others.
struct TorchFloat;

impl TorchFloat {
    /// After the first tap, whole blocks of this many taps are multiplied on their own and added in order; the taps
    /// left over are fused.
    const UNFUSED_BLOCK: usize = 4;

    /// κ(x) for a = −½ in f32, every product fused with its sum.
    fn keys_cubic(x: f64) -> f64 {
        const A: f32 = -0.5;
        let x = (x as f32).abs();
        f64::from(if x < 1.0 {
            ((A + 2.0).mul_add(x, -(A + 3.0)) * x).mul_add(x, 1.0)
        } else if x < 2.0 {
            A.mul_add(x, -5.0 * A).mul_add(x, 8.0 * A).mul_add(x, -4.0 * A)
        } else {
            0.0
        })
    }
}

impl Arithmetic for TorchFloat {
    type Value = f32;
    type Weight = f32;

    fn axis(input: usize, output: usize) -> AxisWeights<f32> {
        axis_weights(input, output, |x| f64::from(x as f32), Self::keys_cubic).map(|weight| weight as f32)
    }

    fn columns_first(_: Size, _: Size) -> bool {
        false
    }

    #[inline]
    fn sum<const N: usize>(taps: &[f32], stride: usize, weights: &[f32]) -> [f32; N] {
        let unfused = 1 + (weights.len() - 1) / Self::UNFUSED_BLOCK * Self::UNFUSED_BLOCK;
        let mut sums = [0.0; N];
        for (tap, &weight) in taps.chunks(stride).zip(&weights[..unfused]) {
            for (sum, &value) in sums.iter_mut().zip(&tap[..N]) {
                *sum += value * weight;
            }
        }
        for (tap, &weight) in taps.chunks(stride).zip(weights).skip(unfused) {
            for (sum, &value) in sums.iter_mut().zip(&tap[..N]) {
                // The product is exact in f64. `mul_add` would do, but is a library call on a plain x86-64 target.
                *sum = (f64::from(*sum) + f64::from(value) * f64::from(weight)) as f32;
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAYS: [FramePreprocessing; 3] =
        [FramePreprocessing::PilBicubic, FramePreprocessing::FloatBicubic, FramePreprocessing::TruncatedBicubic];

    fn floats(resized: Resized) -> Vec<f32> {
        match resized {
            Resized::Levels(levels) => levels.into_iter().map(|level| f32::from(level) / 255.0).collect(),
            Resized::Floats(floats) => floats,
        }
    }

    fn frame(width: usize, height: usize) -> Frame {
        let level = |i: usize| (i * i / 7 + i * 31) as u8;
        Frame::new(width, height, (0..width * height * CHANNELS).map(level).collect()).expect("full")
    }

    #[test]
    fn a_frame_of_the_right_size_keeps_its_levels() {
        let frame = frame(13, 9);
        for how in WAYS {
            assert_eq!(resize(&frame, Size { width: 13, height: 9 }, how), Resized::Levels(frame.rgb().to_vec()));
        }
    }

    #[test]
    fn one_colour_stays_that_colour() {
        for (width, height) in [(1, 1), (3, 50), (50, 3), (61, 97)] {
            let frame = Frame::new(width, height, [7, 128, 255].repeat(width * height)).expect("full");
            for how in WAYS {
                for pixel in floats(resize(&frame, Size { width: 20, height: 24 }, how)).chunks_exact(CHANNELS) {
                    for (value, level) in pixel.iter().zip([7.0, 128.0, 255.0]) {
                        assert!((value * 255.0 - level).abs() < 1e-3, "{how:?} of {width} × {height}");
                    }
                }
            }
        }
    }

    #[test]
    fn channels_do_not_mix() {
        let mut rgb = frame(30, 40).rgb().to_vec();
        rgb.iter_mut().skip(1).step_by(CHANNELS).for_each(|green| *green = 0);
        let frame = Frame::new(30, 40, rgb).expect("full");
        for how in WAYS {
            let resized = floats(resize(&frame, Size { width: 16, height: 16 }, how));
            assert!(resized.iter().skip(1).step_by(CHANNELS).all(|&green| green == 0.0), "{how:?}");
        }
    }

    #[test]
    fn the_unclamped_resize_overshoots_at_an_edge() {
        let rgb = [[0; 3 * 8], [255; 3 * 8]].concat().repeat(16);
        let frame = Frame::new(16, 16, rgb).expect("full");
        let target = Size { width: 40, height: 16 };
        let free = floats(resize(&frame, target, FramePreprocessing::FloatBicubic));
        assert!(free.iter().any(|&v| v < -0.01) && free.iter().any(|&v| v > 1.01));
        let clamped = resize(&frame, target, FramePreprocessing::TruncatedBicubic);
        assert!(floats(clamped).iter().zip(free).all(|(c, f)| (c - f.clamp(0.0, 1.0)).abs() < 0.51 / 255.0));
    }

    #[test]
    fn pillow_scales_columns_first_when_they_lose_more_than_twice_as_much() {
        let columns_first =
            |width, height, side| FixedPoint::columns_first(Size { width, height }, Size { width: side, height: side });
        assert!(!columns_first(1280, 720, 448));
        assert!(!columns_first(29, 34, 24));
        assert!(columns_first(29, 35, 24));
        assert!(!columns_first(11, 24, 24));
        assert!(columns_first(11, 25, 24));
    }
}
