//! Heat maps over pictures.

use image::{ImageBuffer, Luma, Rgb, RgbImage, imageops};

use crate::error::{Error, Result};

/// Colours from little to much: dark violet, red, yellow.
const COLORS: [[f32; 3]; 8] = [
    [0.0, 0.0, 4.0],
    [40.0, 11.0, 84.0],
    [101.0, 21.0, 110.0],
    [159.0, 42.0, 99.0],
    [212.0, 72.0, 66.0],
    [245.0, 125.0, 21.0],
    [250.0, 193.0, 39.0],
    [252.0, 255.0, 164.0],
];

/// How much of the picture a colour covers where there is least and most.
const COVER: (f32, f32) = (0.35, 0.75);

/// `weights` over a picture whose colours are taken away; the largest weight is the brightest.
///
/// # Shapes
/// - weights: `[side, side]`, row by row, each over one patch of the picture
/// - output: as the picture
///
/// # Errors
/// When the weights are not those of a square.
pub fn heat_map(picture: &RgbImage, weights: &[f32]) -> Result<RgbImage> {
    let not_square = || Error::NotSquare { count: weights.len() };
    let side = u32::try_from(weights.len().isqrt()).map_err(|_| not_square())?;
    if (side as usize).pow(2) != weights.len() {
        return Err(not_square());
    }
    let largest = weights.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    let scaled: Vec<f32> = weights.iter().map(|weight| weight / largest).collect();
    let map: ImageBuffer<Luma<f32>, Vec<f32>> = ImageBuffer::from_raw(side, side, scaled).ok_or_else(not_square)?;
    let (width, height) = picture.dimensions();
    let map = imageops::resize(&map, width, height, imageops::FilterType::Triangle);
    Ok(RgbImage::from_fn(width, height, |x, y| {
        let [r, g, b] = picture.get_pixel(x, y).0.map(f32::from);
        let grey = 0.299 * r + 0.587 * g + 0.114 * b;
        let weight = map.get_pixel(x, y).0[0].clamp(0.0, 1.0);
        let cover = COVER.0 + (COVER.1 - COVER.0) * weight;
        Rgb(color(weight).map(|channel| (grey * (1.0 - cover) + channel * cover).round() as u8))
    }))
}

/// The colour of a weight from 0 to 1.
fn color(weight: f32) -> [f32; 3] {
    let at = weight * (COLORS.len() - 1) as f32;
    let below = (at as usize).min(COLORS.len() - 2);
    let part = at - below as f32;
    std::array::from_fn(|channel| COLORS[below][channel] * (1.0 - part) + COLORS[below + 1][channel] * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patch_with_most_is_the_brightest() {
        let mut weights = vec![0.01; 16];
        weights[6] = 0.2;
        let map = heat_map(&RgbImage::new(64, 64), &weights).expect("a map");
        let brightness = |x, y| map.get_pixel(x, y).0.iter().map(|channel| u32::from(*channel)).sum::<u32>();
        let patch = brightness(2 * 16 + 8, 16 + 8);
        assert!((0..4).all(|x| (0..4).all(|y| (x, y) == (2, 1) || brightness(x * 16 + 8, y * 16 + 8) < patch)));
        assert!(heat_map(&RgbImage::new(8, 8), &[0.1; 3]).is_err());
    }
}
