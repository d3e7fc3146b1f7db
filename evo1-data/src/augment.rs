//! Random changes of frames, the authors' recipe: a crop of 95 to 100 % of the area, a rotation by up to 5°, and changes of
//! brightness, contrast, saturation and hue, together on each view with probability ½.
//!
//! What is drawn ([`Changes`]) is apart from what it does, so that both can be compared with torchvision and Pillow, which the
//! authors use: the arithmetic, with 8 bits between the steps, is theirs.

use evo1::vlm::frame::pil_bicubic;
use evo1_core::{
    Frame,
    rng::{Rng, RngExt},
};

/// Probability that a view is changed.
const PROBABILITY: f64 = 0.5;

/// Part of the area that a crop keeps.
const SCALE: (f64, f64) = (0.95, 1.0);

/// Width to height of a crop, as torchvision draws it when nothing is said.
const RATIO: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);

/// Largest rotation in degrees.
const DEGREES: f64 = 5.0;

const BRIGHTNESS: f64 = 0.3;
const CONTRAST: f64 = 0.4;
const SATURATION: f64 = 0.5;
const HUE: f64 = 0.08;

/// Crops that are tried before the whole frame is taken.
const CROP_TRIES: usize = 10;

/// What is done to one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    /// The part that is kept: left, top, width, height.
    pub crop: [usize; 4],
    /// Counter-clockwise rotation in degrees.
    pub degrees: f64,
    /// Colour changes in their order.
    pub colors: Vec<ColorChange>,
}

/// A change of all colours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ColorChange {
    /// 1 is the original, 0 black.
    Brightness(f64),
    /// 1 is the original, 0 the mean grey.
    Contrast(f64),
    /// 1 is the original, 0 grey.
    Saturation(f64),
    /// A turn of the colour circle, from −½ to ½.
    Hue(f64),
}

impl Changes {
    /// Draws the changes of one view; `None` when it stays as it is.
    pub fn draw(width: usize, height: usize, rng: &mut impl Rng) -> Option<Self> {
        if !rng.random_bool(PROBABILITY) {
            return None;
        }
        let crop = draw_crop(width, height, rng);
        let degrees = rng.random_range(-DEGREES..=DEGREES);
        let mut around_one = |by: f64| rng.random_range(1.0 - by..=1.0 + by);
        let mut colors = vec![
            ColorChange::Brightness(around_one(BRIGHTNESS)),
            ColorChange::Contrast(around_one(CONTRAST)),
            ColorChange::Saturation(around_one(SATURATION)),
            ColorChange::Hue(rng.random_range(-HUE..=HUE)),
        ];
        for last in (1..colors.len()).rev() {
            colors.swap(last, rng.random_range(0..=last));
        }
        Some(Self { crop, degrees, colors })
    }

    /// The changed frame, scaled to `width` × `height` pixels.
    ///
    /// # Panics
    /// When the crop lies outside of the frame.
    pub fn apply(&self, frame: &Frame, [width, height]: [usize; 2]) -> Frame {
        let scaled = pil_bicubic(&cropped(frame, self.crop), width, height);
        let mut rgb = rotated(&scaled, self.degrees);
        for change in &self.colors {
            change.apply(&mut rgb);
        }
        filled(width, height, rgb)
    }
}

/// A part of the frame whose area and shape are drawn, at a drawn place; the whole when none fits.
fn draw_crop(width: usize, height: usize, rng: &mut impl Rng) -> [usize; 4] {
    let area = (width * height) as f64;
    for _ in 0..CROP_TRIES {
        let kept = area * rng.random_range(SCALE.0..=SCALE.1);
        let ratio = rng.random_range(RATIO.0.ln()..=RATIO.1.ln()).exp();
        let (w, h) = ((kept * ratio).sqrt().round() as usize, (kept / ratio).sqrt().round() as usize);
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let top = rng.random_range(0..=height - h);
            return [rng.random_range(0..=width - w), top, w, h];
        }
    }
    // torchvision's way out: the largest centred part whose shape is in the range.
    let shape = width as f64 / height as f64;
    let (w, h) = match shape {
        shape if shape < RATIO.0 => (width, (width as f64 / RATIO.0).round() as usize),
        shape if shape > RATIO.1 => ((height as f64 * RATIO.1).round() as usize, height),
        _ => (width, height),
    };
    let (w, h) = (w.clamp(1, width), h.clamp(1, height));
    [(width - w) / 2, (height - h) / 2, w, h]
}

fn filled(width: usize, height: usize, rgb: Vec<u8>) -> Frame {
    Frame::new(width, height, rgb).expect("three levels for each pixel")
}

fn cropped(frame: &Frame, [left, top, width, height]: [usize; 4]) -> Frame {
    let row = |y: usize| {
        let start = 3 * (y * frame.width() + left);
        &frame.rgb()[start..start + 3 * width]
    };
    filled(width, height, (top..top + height).flat_map(row).copied().collect())
}

/// Turns a frame about its centre; what comes in from outside is black. Bicubic, as Pillow's `rotate`.
fn rotated(frame: &Frame, degrees: f64) -> Vec<u8> {
    let (width, height, rgb) = (frame.width(), frame.height(), frame.rgb());
    if degrees == 0.0 {
        return rgb.to_vec();
    }
    let (sin, cos) = (-degrees.to_radians()).sin_cos();
    let (center_x, center_y) = (width as f64 / 2.0, height as f64 / 2.0);
    let mut out = vec![0; rgb.len()];
    for (index, pixel) in out.chunks_exact_mut(3).enumerate() {
        let (x, y) = ((index % width) as f64 + 0.5 - center_x, (index / width) as f64 + 0.5 - center_y);
        let (x, y) = (cos * x + sin * y + center_x, -sin * x + cos * y + center_y);
        if !(0.0..width as f64).contains(&x) || !(0.0..height as f64).contains(&y) {
            continue;
        }
        let (x, y) = (x - 0.5, y - 0.5);
        let (weights_x, weights_y) = (cubic(x - x.floor()), cubic(y - y.floor()));
        let at = |start: f64, tap: usize, end: usize| {
            (start as isize - 1 + tap as isize).clamp(0, end as isize - 1) as usize
        };
        for (channel, level) in pixel.iter_mut().enumerate() {
            let mut sum = 0.0;
            for (tap_y, weight_y) in weights_y.iter().enumerate() {
                let row = at(y.floor(), tap_y, height) * width;
                for (tap_x, weight_x) in weights_x.iter().enumerate() {
                    sum += weight_y * weight_x * f64::from(rgb[3 * (row + at(x.floor(), tap_x, width)) + channel]);
                }
            }
            *level = (sum + 0.5).clamp(0.0, 255.0) as u8;
        }
    }
    out
}

/// Weights of the four neighbours of a point that is `t` past the second.
fn cubic(t: f64) -> [f64; 4] {
    // Pillow's transforms take −1 where its scaling takes −½.
    const SHARPNESS: f64 = -1.0;
    let near = |t: f64| ((SHARPNESS + 2.0) * t - (SHARPNESS + 3.0)) * t * t + 1.0;
    let far = |t: f64| ((SHARPNESS * t - 5.0 * SHARPNESS) * t + 8.0 * SHARPNESS) * t - 4.0 * SHARPNESS;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

impl ColorChange {
    fn apply(self, rgb: &mut [u8]) {
        match self {
            Self::Brightness(factor) => rgb.iter_mut().for_each(|level| *level = blended(0, *level, factor)),
            Self::Contrast(factor) => {
                let pixels = (rgb.len() / 3).max(1) as f64;
                let mean = rgb.chunks_exact(3).map(|pixel| f64::from(grey(pixel))).sum::<f64>() / pixels;
                let mean = (mean + 0.5) as u8;
                rgb.iter_mut().for_each(|level| *level = blended(mean, *level, factor));
            }
            Self::Saturation(factor) => {
                for pixel in rgb.chunks_exact_mut(3) {
                    let grey = grey(pixel);
                    pixel.iter_mut().for_each(|level| *level = blended(grey, *level, factor));
                }
            }
            Self::Hue(turn) => {
                // In 8 bits, wrapping around the circle.
                let turn = (turn * 255.0) as i32 as u8;
                for pixel in rgb.chunks_exact_mut(3) {
                    let [hue, saturation, value] = hsv([pixel[0], pixel[1], pixel[2]]);
                    pixel.copy_from_slice(&rgb_of([hue.wrapping_add(turn), saturation, value]));
                }
            }
        }
    }
}

/// `from` at the factor 0, `to` at 1, and on beyond it.
fn blended(from: u8, to: u8, factor: f64) -> u8 {
    let from = f32::from(from);
    (from + factor as f32 * (f32::from(to) - from)).clamp(0.0, 255.0) as u8
}

/// Luminance in 8 bits.
fn grey(pixel: &[u8]) -> u8 {
    let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8
}

/// Hue, saturation and value in 8 bits.
fn hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (max, min) = (r.max(g).max(b), r.min(g).min(b));
    if max == min {
        return [0, 0, max];
    }
    let range = f32::from(max - min);
    let [to_r, to_g, to_b] = [r, g, b].map(|level| f32::from(max - level) / range);
    // Pillow computes this in doubles and stores it as a float.
    let [to_r, to_g, to_b] = [to_r, to_g, to_b].map(f64::from);
    let sixths = match max {
        max if max == r => to_b - to_g,
        max if max == g => 2.0 + to_r - to_b,
        _ => 4.0 + to_g - to_r,
    };
    let hue = (f64::from(sixths as f32) / 6.0 + 1.0).fract() as f32;
    let saturation = range / f32::from(max);
    [(f64::from(hue) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, max]
}

/// Red, green and blue of hue, saturation and value.
fn rgb_of([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    if saturation == 0 {
        return [value; 3];
    }
    let sixths = f32::from(hue) * 6.0 / 255.0;
    let (sector, past) = (sixths.floor(), sixths.fract());
    let (saturation, level) = (f32::from(saturation) / 255.0, f32::from(value));
    let at = |part: f32| (level * (1.0 - saturation * part)).round() as u8;
    let (low, falling, rising) = (at(1.0), at(past), at(1.0 - past));
    match sector as u8 % 6 {
        0 => [value, rising, low],
        1 => [falling, value, low],
        2 => [low, value, rising],
        3 => [low, falling, value],
        4 => [rising, low, value],
        _ => [value, low, falling],
    }
}

#[cfg(test)]
mod tests {
    use evo1_core::rng::stream;

    use super::*;

    #[test]
    fn crops_lie_in_the_frame_and_keep_95_percent() {
        let mut rng = stream(0, "crop");
        for (width, height) in [(224, 224), (640, 480), (3, 200), (1, 1)] {
            for _ in 0..200 {
                let [left, top, w, h] = draw_crop(width, height, &mut rng);
                assert!(w > 0 && h > 0 && left + w <= width && top + h <= height);
                if (width, height) == (640, 480) {
                    assert!((w * h) as f64 >= 0.94 * 640.0 * 480.0, "{w} × {h}");
                }
            }
        }
    }

    #[test]
    fn half_of_all_views_are_changed_and_a_seed_repeats() {
        let draw = |seed| Changes::draw(64, 64, &mut stream(seed, "augmentation"));
        let changed = (0..1000).filter(|&seed| draw(seed).is_some()).count();
        assert!((450..550).contains(&changed), "{changed} of 1000");
        assert_eq!(draw(7), draw(7));
    }

    /// A picture `[height, width, 3]` of the reference.
    fn reference(name: &str) -> Frame {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/lerobot-datasets/reference.safetensors");
        let bytes = std::fs::read(path).expect("fixture");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        let tensor = file.tensor(&format!("augment.{name}")).expect("tensor");
        filled(tensor.shape()[1], tensor.shape()[0], tensor.data().to_vec())
    }

    #[test]
    fn every_change_is_torchvisions() {
        let assert_close = |what: &str, got: &[u8], allowed: u8| {
            let expected = reference(what);
            let worst = got.iter().zip(expected.rgb()).map(|(a, b)| a.abs_diff(*b)).max().expect("pixels");
            assert!(worst <= allowed, "{what}: {worst} levels");
        };
        let crop = Changes { crop: [2, 1, 57, 42], degrees: 0.0, colors: vec![] };
        assert_close("crop", crop.apply(&reference("original"), [40; 2]).rgb(), 0);
        assert_close("rotate", &rotated(&reference("crop"), 3.7), 1);
        for (before, what, change, allowed) in [
            ("rotate", "saturation", ColorChange::Saturation(1.35), 0),
            ("saturation", "hue", ColorChange::Hue(-0.06), 1),
            ("hue", "contrast", ColorChange::Contrast(0.7), 0),
            ("contrast", "brightness", ColorChange::Brightness(1.2), 0),
        ] {
            let mut rgb = reference(before).rgb().to_vec();
            change.apply(&mut rgb);
            assert_close(what, &rgb, allowed);
        }
    }

    #[test]
    fn changes_of_nothing_change_nothing() {
        let rgb: Vec<u8> = (0..16 * 16 * 3).map(|index| (index * 7 % 256) as u8).collect();
        let frame = filled(16, 16, rgb);
        let colors = vec![ColorChange::Brightness(1.0), ColorChange::Contrast(1.0), ColorChange::Saturation(1.0)];
        let nothing = Changes { crop: [0, 0, 16, 16], degrees: 0.0, colors };
        assert_eq!(nothing.apply(&frame, [16; 2]), frame);
    }
}
