//! Bilinear scaling of frames as OpenCV's `resize` and torch's `interpolate` do it on 8-bit images, to the bit.
//!
//! OpenCV: fixed-point arithmetic of 11 bits for each axis, pixel centres at halves, edges clamped, no antialias. Halving both
//! sides exactly takes the mean of 2 × 2 pixels, which is what OpenCV does in place of bilinear there.
//! Source: OpenCV `modules/imgproc/src/resize.cpp`.

use evo1::Frame;

/// Fractional bits of a weight.
const BITS: u32 = 11;

const CHANNELS: usize = 3;

/// Where an output pixel takes its values from on one axis: two neighbouring input pixels and their weights.
#[derive(Debug, Clone, Copy)]
struct Tap {
    at: [usize; 2],
    weight: [i32; 2],
}

/// A frame of `width` × `height` pixels; the same one when it has that size already.
///
/// # Panics
/// When `width` or `height` is 0.
pub fn resize_bilinear(frame: Frame, width: usize, height: usize) -> Frame {
    if (frame.width(), frame.height()) == (width, height) {
        return frame;
    }
    let rgb = if (frame.width(), frame.height()) == (2 * width, 2 * height) {
        halved(&frame, width, height)
    } else {
        interpolated(&frame, width, height)
    };
    Frame::new(width, height, rgb).expect("three values were written for every pixel")
}

fn halved(frame: &Frame, width: usize, height: usize) -> Vec<u8> {
    let (source, row) = (frame.rgb(), frame.width() * CHANNELS);
    let mut out = Vec::with_capacity(width * height * CHANNELS);
    for y in 0..height {
        for x in 0..width * CHANNELS {
            let (column, channel) = (x / CHANNELS, x % CHANNELS);
            let at = 2 * y * row + 2 * column * CHANNELS + channel;
            let sum: u32 =
                [at, at + CHANNELS, at + row, at + row + CHANNELS].map(|i| u32::from(source[i])).iter().sum();
            out.push(((sum + 2) >> 2) as u8);
        }
    }
    out
}

fn interpolated(frame: &Frame, width: usize, height: usize) -> Vec<u8> {
    let (columns, rows) = (taps(frame.width(), width, true), taps(frame.height(), height, false));
    let row_length = frame.width() * CHANNELS;
    let mut out = Vec::with_capacity(width * height * CHANNELS);
    let mut lines = [vec![0; width * CHANNELS], vec![0; width * CHANNELS]];
    let mut held = [usize::MAX; 2];
    for Tap { at, weight } in rows {
        // Consecutive rows share input rows, which are interpolated once.
        if held[1] == at[0] && held[0] != at[0] {
            lines.swap(0, 1);
            held.swap(0, 1);
        }
        for side in 0..2 {
            if held[side] != at[side] {
                horizontal(&frame.rgb()[at[side] * row_length..][..row_length], &columns, &mut lines[side]);
                held[side] = at[side];
            }
        }
        let [upper, lower] = &lines;
        out.extend(upper.iter().zip(lower).map(|(&upper, &lower)| {
            // The order of the shifts is OpenCV's, which its vector units dictate.
            let sum = ((weight[0] * (upper >> 4)) >> 16) + ((weight[1] * (lower >> 4)) >> 16);
            ((sum + 2) >> 2).clamp(0, 255) as u8
        }));
    }
    out
}

fn horizontal(row: &[u8], columns: &[Tap], line: &mut [i32]) {
    for (pixel, Tap { at, weight }) in line.chunks_exact_mut(CHANNELS).zip(columns) {
        let [left, right] = at.map(|x| &row[x * CHANNELS..][..CHANNELS]);
        for ((value, &left), &right) in pixel.iter_mut().zip(left).zip(right) {
            *value = i32::from(left) * weight[0] + i32::from(right) * weight[1];
        }
    }
}

/// Taps of an axis. OpenCV clamps the position at both ends of a row, but on columns it clamps the two pixels and leaves
/// the weights: the same, because both pixels are then one.
fn taps(input: usize, output: usize, clamps_weight: bool) -> Vec<Tap> {
    let scale = 1.0 / (output as f64 / input as f64);
    let last = input as i64 - 1;
    (0..output)
        .map(|index| {
            let position = ((index as f64 + 0.5) * scale - 0.5) as f32;
            let mut at = position.floor() as i64;
            let mut fraction = position - at as f32;
            if clamps_weight && (at < 0 || at >= last) {
                (at, fraction) = (at.clamp(0, last), 0.0);
            }
            let fixed = |weight: f32| (weight * (1 << BITS) as f32).round_ties_even() as i32;
            let clamped = |pixel: i64| pixel.clamp(0, last) as usize;
            Tap { at: [clamped(at), clamped(at + 1)], weight: [fixed(1.0 - fraction), fixed(fraction)] }
        })
        .collect()
}

/// A frame of `width` × `height` pixels as torch's `interpolate` makes it of 8-bit images (`bilinear`, no aligned corners, no
/// antialias), to the bit: rows first, then columns, each rounded to 8 bits.
/// Source: PyTorch `aten/src/ATen/native/cpu/UpSampleKernel.cpp`.
///
/// # Panics
/// When `width` or `height` is 0.
pub fn resize_as_torch(frame: Frame, width: usize, height: usize) -> Frame {
    if (frame.width(), frame.height()) == (width, height) {
        return frame;
    }
    let (input_width, input_height) = (frame.width(), frame.height());
    let rows: Vec<u8> = match torch_taps(input_width, width) {
        None => frame.rgb().to_vec(),
        Some((taps, bits)) => {
            let mix = |row: &[u8], tap: &Tap| {
                let pixel = |side: usize| &row[tap.at[side] * CHANNELS..][..CHANNELS];
                let (left, right) = (pixel(0), pixel(1));
                [0, 1, 2].map(|channel| rounded(left[channel], right[channel], tap.weight, bits))
            };
            let rows = frame.rgb().chunks_exact(input_width * CHANNELS);
            rows.flat_map(|row| taps.iter().flat_map(move |tap| mix(row, tap))).collect()
        }
    };
    let rgb: Vec<u8> = match torch_taps(input_height, height) {
        None => rows,
        Some((taps, bits)) => {
            let row = |y: usize| &rows[y * width * CHANNELS..][..width * CHANNELS];
            let line = |tap: &Tap| {
                let weight = tap.weight;
                row(tap.at[0])
                    .iter()
                    .zip(row(tap.at[1]))
                    .map(move |(&upper, &lower)| rounded(upper, lower, weight, bits))
            };
            taps.iter().flat_map(line).collect()
        }
    };
    Frame::new(width, height, rgb).expect("three values were written for every pixel")
}

fn rounded(first: u8, second: u8, weight: [i32; 2], bits: u32) -> u8 {
    let sum = i32::from(first) * weight[0] + i32::from(second) * weight[1];
    ((sum + (1 << (bits - 1))) >> bits).clamp(0, 255) as u8
}

/// Torch's taps of an axis and the fractional bits of their weights, as many as the largest leaves room for in 16 bits.
/// Nothing where the axis keeps its size.
fn torch_taps(input: usize, output: usize) -> Option<(Vec<Tap>, u32)> {
    if input == output {
        return None;
    }
    let scale = input as f64 / output as f64;
    let last = input - 1;
    let exact: Vec<([usize; 2], [f64; 2])> = (0..output)
        .map(|index| {
            let position = (scale * (index as f64 + 0.5) - 0.5).max(0.0);
            let at = (position.floor() as usize).min(last);
            let fraction = (position - at as f64).clamp(0.0, 1.0);
            if at == last { ([last; 2], [1.0, 0.0]) } else { ([at, at + 1], [1.0 - fraction, fraction]) }
        })
        .collect();
    let largest = exact.iter().flat_map(|(_, weight)| *weight).fold(0.0, f64::max);
    let fixed = |weight: f64, bits: u32| (0.5 + weight * f64::from(1 << bits)) as i32;
    let bits = (0..22).find(|&bits| fixed(largest, bits + 1) >= 1 << 15).unwrap_or(22);
    let taps = exact.into_iter().map(|(at, weight)| Tap { at, weight: weight.map(|weight| fixed(weight, bits)) });
    Some((taps.collect(), bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of waves, steps and a fine grain, the same as the script that computed the sums below.
    fn synthetic(width: usize, height: usize) -> Frame {
        let mut rgb = Vec::with_capacity(width * height * CHANNELS);
        for y in 0..height {
            for x in 0..width {
                rgb.extend((0..3).map(|c| (x * x / 97 + y * y / 61 + 37 * c + (x * y % 23) * 3) as u8));
            }
        }
        Frame::new(width, height, rgb).expect("full")
    }

    #[test]
    fn levels_are_those_of_opencv() {
        // Frame, then of `cv2.resize(frame, (448, 448))`: sum of all levels, sum of i · level with i from 1, pixel
        // (x = 200, y = 100), last pixel. OpenCV 4.14 and 5.0 agree.
        let cases = [
            ((640, 480), 76_747_916, 23_111_637_786_423, [48, 85, 122], [77, 114, 151]),
            ((480, 640), 76_726_781, 23_101_372_537_747, [81, 118, 155], [139, 176, 213]),
            ((91, 37), 61_518_949, 19_288_461_734_016, [63, 99, 137], [164, 201, 238]),
            ((896, 896), 76_835_938, 23_129_956_059_233, [47, 84, 121], [135, 172, 209]),
            ((1280, 720), 76_708_283, 23_091_746_455_331, [214, 161, 36], [169, 35, 72]),
            ((449, 447), 76_744_442, 23_124_219_815_231, [111, 148, 185], [230, 11, 48]),
            ((1, 1), 22_278_144, 6_706_994_911_232, [0, 37, 74], [0, 37, 74]),
            ((2, 3), 23_138_430, 7_080_618_292_975, [0, 37, 74], [6, 43, 80]),
            ((224, 224), 76_469_959, 23_070_714_743_357, [165, 202, 223], [56, 93, 130]),
            ((448, 300), 76_719_747, 23_122_784_860_698, [19, 56, 93], [196, 233, 14]),
        ];
        for ((width, height), sum, weighted, inner, last) in cases {
            let scaled = resize_bilinear(synthetic(width, height), 448, 448);
            let (levels, case) = (scaled.rgb(), format!("{width} × {height}"));
            assert_eq!(levels[(100 * 448 + 200) * 3..][..3], inner, "{case}");
            assert_eq!(levels[(448 * 448 - 1) * 3..], last, "{case}");
            assert_eq!(levels.iter().map(|&v| u64::from(v)).sum::<u64>(), sum, "{case}");
            assert_eq!((1..).zip(levels).map(|(i, &v)| i * u64::from(v)).sum::<u64>(), weighted, "{case}");
        }
    }

    #[test]
    fn levels_are_those_of_torch() {
        // As above, of `torch.nn.functional.interpolate` on uint8 to 640 × 480 (torch 2.11).
        let cases = [
            ((640, 400), 117_644_908, 54_230_117_959_855, [59, 96, 133], [180, 217, 254]),
            ((320, 480), 117_688_209, 54_307_289_986_093, [58, 95, 132], [238, 19, 56]),
            ((1280, 720), 117_858_118, 54_305_744_075_246, [133, 42, 79], [138, 47, 84]),
            ((91, 37), 94_278_777, 45_241_784_934_390, [48, 85, 122], [164, 201, 238]),
            ((1, 1), 34_099_200, 15_712_951_142_400, [0, 37, 74], [0, 37, 74]),
            ((2, 3), 35_481_600, 16_624_816_801_440, [0, 37, 74], [6, 43, 80]),
            ((641, 479), 117_618_972, 54_213_955_125_672, [110, 147, 184], [91, 128, 165]),
            ((1920, 1080), 117_602_838, 54_186_701_875_864, [235, 16, 53], [196, 233, 14]),
        ];
        for ((width, height), sum, weighted, inner, last) in cases {
            let scaled = resize_as_torch(synthetic(width, height), 640, 480);
            let (levels, case) = (scaled.rgb(), format!("{width} × {height}"));
            assert_eq!(levels[(100 * 640 + 200) * 3..][..3], inner, "{case}");
            assert_eq!(levels[(640 * 480 - 1) * 3..], last, "{case}");
            assert_eq!(levels.iter().map(|&v| u64::from(v)).sum::<u64>(), sum, "{case}");
            assert_eq!((1..).zip(levels).map(|(i, &v)| i * u64::from(v)).sum::<u64>(), weighted, "{case}");
        }
        assert_eq!(resize_as_torch(synthetic(30, 20), 30, 20), synthetic(30, 20));
    }

    #[test]
    fn a_frame_of_the_right_size_stays_as_it_is() {
        assert_eq!(resize_bilinear(synthetic(30, 20), 30, 20), synthetic(30, 20));
    }
}
