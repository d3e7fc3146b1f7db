//! From a camera frame to the normalised tiles that the vision tower reads.
//!
//! A frame is scaled to a grid of square tiles ([`grid`]; a single one by default), cut row-major, optionally followed
//! by the whole frame as a thumbnail, and normalised with ImageNet's mean and standard deviation. Everything here is
//! f32 on the CPU. The results do not depend on the number of threads.

mod filter;
mod normalize;
mod pixels;
mod resize;
mod tiling;

use evo1_core::Frame;
use evo1_core::config::{FramePreprocessing, TilingConfig};

pub use normalize::{Arithmetic, IMAGENET_MEAN, IMAGENET_STD, LevelTable, normalized_black};
use normalize::{level_tiles, normalized_tiles};
pub use pixels::Pixels;
use resize::{Resized, Size, resize};
pub use tiling::grid;

/// The normalised tiles of one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Tiles {
    /// Number of tiles, the thumbnail included.
    pub count: usize,
    /// `[count, 3, size, size]`, row-major.
    pub pixels: Vec<f32>,
}

/// Tiles of `size` × `size` pixels from one frame.
///
/// The frame is scaled to (`size` · columns) × (`size` · rows), its aspect ratio not kept, and cut row-major; the
/// thumbnail, when `tiling` asks for it and there is more than one tile, comes last.
///
/// # Panics
/// When `size` is 0, or `tiling` allows no grid ([`grid`]).
pub fn tiles(
    frame: &Frame,
    size: usize,
    how: FramePreprocessing,
    tiling: &TilingConfig,
    arithmetic: Arithmetic,
) -> Tiles {
    let (count, parts) = parts(frame, size, how, tiling);
    let normalized = |(image, columns): &(Resized, usize)| normalized_tiles(image, *columns, size, arithmetic);
    let pixels = match &parts[..] {
        [whole] => normalized(whole),
        parts => parts.iter().flat_map(normalized).collect(),
    };
    Tiles { count, pixels }
}

/// [`tiles`] whose grey levels are left as they are, where the resize gives any, for a device to normalise.
///
/// # Panics
/// As [`tiles`].
pub fn level_pixels(
    frame: &Frame,
    size: usize,
    how: FramePreprocessing,
    tiling: &TilingConfig,
    arithmetic: Arithmetic,
) -> Pixels {
    let (_, parts) = parts(frame, size, how, tiling);
    let mut pixels = Pixels::Levels(Vec::new());
    for (image, columns) in parts {
        pixels.append(level_tiles(&image, columns, size, arithmetic), size, arithmetic);
    }
    pixels
}

/// The scaled frame and the thumbnail, if there is one, each with the columns that it is cut into; and the number of
/// tiles.
fn parts(frame: &Frame, size: usize, how: FramePreprocessing, tiling: &TilingConfig) -> (usize, Vec<(Resized, usize)>) {
    assert!(size > 0, "a tile has at least one pixel");
    let (columns, rows) = grid(frame.width(), frame.height(), size, tiling);
    let whole = resize(frame, Size { width: columns * size, height: rows * size }, how);
    let (mut count, mut parts) = (columns * rows, vec![(whole, columns)]);
    if tiling.thumbnail && count > 1 {
        parts.push((resize(frame, Size { width: size, height: size }, how), 1));
        count += 1;
    }
    (count, parts)
}

/// How many tiles [`tiles`] makes of a frame.
///
/// # Panics
/// When `tiling` allows no grid ([`grid`]).
pub fn tile_count(frame: &Frame, size: usize, tiling: &TilingConfig) -> usize {
    let (columns, rows) = grid(frame.width(), frame.height(), size, tiling);
    let tiles = columns * rows;
    tiles + usize::from(tiling.thumbnail && tiles > 1)
}

/// A frame scaled to `width` × `height` pixels by Pillow's bicubic filter, which augmentation in training uses.
///
/// # Panics
/// When `width` or `height` is 0.
pub fn pil_bicubic(frame: &Frame, width: usize, height: usize) -> Frame {
    assert!(width > 0 && height > 0, "a frame has at least one pixel, got {width} × {height}");
    match resize(frame, Size { width, height }, FramePreprocessing::PilBicubic) {
        Resized::Levels(levels) => Frame::new(width, height, levels).expect("three levels for each pixel"),
        Resized::Floats(_) => unreachable!("Pillow scales to levels"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::{SafeTensors, tensor::TensorView};

    /// Side of a tile in the fixture.
    const SIZE: usize = 56;
    const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/tiny-lerobot/preprocess.safetensors");

    fn floats(view: &TensorView<'_>) -> Vec<f32> {
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    /// `[3, height, width]` → `[height, width, 3]`
    fn interleaved<V: Copy>(planes: &[V]) -> Vec<V> {
        let area = planes.len() / 3;
        (0..area).flat_map(|i| [planes[i], planes[area + i], planes[2 * area + i]]).collect()
    }

    /// Runs `check` on every image of the fixture: its number, its frame, the file.
    fn for_every_image(check: impl Fn(usize, &Frame, &SafeTensors<'_>)) {
        let bytes = std::fs::read(FIXTURE).expect("fixture");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        for i in 0..4 {
            let image = file.tensor(&format!("image{i}.u8")).expect("image");
            let [_, height, width] = *image.shape() else { panic!("image{i} has three dimensions") };
            check(i, &Frame::new(width, height, interleaved(image.data())).expect("full"), &file);
        }
    }

    fn assert_same_levels(how: FramePreprocessing, name: &str) {
        for_every_image(|i, frame, file| {
            let expected = file.tensor(&format!("image{i}.{name}.resized_u8")).expect("resized");
            let resized = resize(frame, Size { width: SIZE, height: SIZE }, how);
            assert!(resized == Resized::Levels(interleaved(expected.data())), "image{i}");
        });
    }

    #[test]
    fn pil_bicubic_has_the_levels_of_pillow() {
        assert_same_levels(FramePreprocessing::PilBicubic, "pil");
    }

    #[test]
    fn truncated_bicubic_has_the_levels_of_lerobot() {
        assert_same_levels(FramePreprocessing::TruncatedBicubic, "lerobot");
    }

    #[test]
    fn float_bicubic_has_the_bits_of_torchvision() {
        for_every_image(|i, frame, file| {
            let expected = interleaved(&floats(&file.tensor(&format!("image{i}.official.resized")).expect("resized")));
            let resized = match resize(frame, Size { width: SIZE, height: SIZE }, FramePreprocessing::FloatBicubic) {
                Resized::Floats(floats) => floats,
                Resized::Levels(levels) => levels.into_iter().map(|level| f32::from(level) / 255.0).collect(),
            };
            assert!(resized == expected, "image{i}");
        });
    }

    #[test]
    fn pixel_values_are_those_of_the_references() {
        let ways = [(FramePreprocessing::TruncatedBicubic, "lerobot"), (FramePreprocessing::FloatBicubic, "official")];
        for_every_image(|i, frame, file| {
            for (how, name) in ways {
                let expected = floats(&file.tensor(&format!("image{i}.{name}.pixel_values")).expect("values"));
                let tiles = tiles(frame, SIZE, how, &TilingConfig::default(), Arithmetic::F32);
                assert_eq!((tiles.count, tiles.pixels.len()), (1, expected.len()));
                let worst = tiles.pixels.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                let largest = expected.iter().map(|v| v.abs()).fold(0.0, f32::max);
                assert!(worst <= 1e-6 * largest, "image{i}.{name}: {worst} of {largest}");
            }
        });
    }

    #[test]
    fn a_bf16_model_normalizes_in_bf16() {
        let ways = [(FramePreprocessing::TruncatedBicubic, "lerobot"), (FramePreprocessing::FloatBicubic, "official")];
        for_every_image(|i, frame, file| {
            for (how, name) in ways {
                let view = file.tensor(&format!("image{i}.{name}.pixel_values_bf16")).expect("values");
                let expected = view.data().chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32());
                let tiles = tiles(frame, SIZE, how, &TilingConfig::default(), Arithmetic::Bf16);
                assert!(tiles.pixels.iter().copied().eq(expected), "image{i}.{name}");
            }
        });
    }

    /// A frame of waves, steps and a fine grain, the same as the script that computed the sums below.
    fn synthetic(width: usize, height: usize) -> Frame {
        let mut rgb = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            for x in 0..width {
                rgb.extend((0..3).map(|c| (x * x / 97 + y * y / 61 + 37 * c + (x * y % 23) * 3) as u8));
            }
        }
        Frame::new(width, height, rgb).expect("full")
    }

    #[test]
    fn full_size_frames_have_the_levels_of_pillow_and_lerobot() {
        use FramePreprocessing::{PilBicubic, TruncatedBicubic};
        // Frame, way, sum of all levels, sum of i · level with i from 1, pixel (x = 200, y = 100), last pixel.
        let cases = [
            ((640, 480), PilBicubic, 76_836_207, 23_137_960_365_669, [49, 86, 123], [70, 107, 144]),
            ((640, 480), TruncatedBicubic, 76_838_199, 23_138_579_177_072, [49, 86, 123], [70, 107, 144]),
            ((480, 640), PilBicubic, 76_801_712, 23_122_548_711_601, [79, 116, 153], [132, 169, 206]),
            ((480, 640), TruncatedBicubic, 76_808_008, 23_124_128_802_566, [79, 116, 153], [132, 169, 206]),
            ((91, 37), PilBicubic, 61_587_553, 19_312_066_434_653, [67, 104, 141], [169, 206, 243]),
            ((91, 37), TruncatedBicubic, 61_586_508, 19_311_799_570_832, [67, 104, 141], [168, 205, 242]),
        ];
        for ((width, height), how, sum, weighted, inner, last) in cases {
            let Resized::Levels(levels) = resize(&synthetic(width, height), Size { width: 448, height: 448 }, how)
            else {
                panic!("{how:?} gives levels")
            };
            let case = format!("{how:?} of {width} × {height}");
            assert_eq!(levels[(100 * 448 + 200) * 3..][..3], inner, "{case}");
            assert_eq!(levels[(448 * 448 - 1) * 3..], last, "{case}");
            assert_eq!(levels.iter().map(|&v| u64::from(v)).sum::<u64>(), sum, "{case}");
            assert_eq!((1..).zip(&levels).map(|(i, &v)| i * u64::from(v)).sum::<u64>(), weighted, "{case}");
        }
    }

    #[test]
    fn tiles_are_the_parts_of_the_resized_frame_and_the_thumbnail_is_last() {
        let (size, how) = (16, FramePreprocessing::PilBicubic);
        let frame = synthetic(90, 60);
        let tiling = TilingConfig { min_tiles: 6, max_tiles: 6, thumbnail: true };
        assert_eq!(grid(90, 60, size, &tiling), (3, 2));

        let tiles = tiles(&frame, size, how, &tiling, Arithmetic::F32);
        let tile_length = 3 * size * size;
        assert_eq!((tiles.count, tiles.pixels.len()), (7, 7 * tile_length));

        let whole = resize(&frame, Size { width: 3 * size, height: 2 * size }, how);
        let thumbnail = resize(&frame, Size { width: size, height: size }, how);
        let (parts, last) = tiles.pixels.split_at(6 * tile_length);
        assert_eq!(parts, normalized_tiles(&whole, 3, size, Arithmetic::F32));
        assert_eq!(last, normalized_tiles(&thumbnail, 1, size, Arithmetic::F32));
    }

    #[test]
    fn a_single_tile_has_no_thumbnail() {
        let tiling = TilingConfig { min_tiles: 1, max_tiles: 1, thumbnail: true };
        assert_eq!(tiles(&synthetic(20, 30), 8, FramePreprocessing::FloatBicubic, &tiling, Arithmetic::F32).count, 1);
    }

    #[test]
    fn a_black_frame_is_normalized_black() {
        for how in [FramePreprocessing::PilBicubic, FramePreprocessing::FloatBicubic] {
            assert_eq!(
                tiles(&Frame::black(20, 30), 8, how, &TilingConfig::default(), Arithmetic::F32).pixels,
                normalized_black(8, Arithmetic::F32)
            );
        }
    }
}
