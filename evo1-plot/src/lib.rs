//! Pictures and pages of what Evo-1 policies do.
//!
//! A picture is drawn in memory from numbers and other pictures: [`bars`], [`grid`] and [`sheet`] draw whole ones;
//! [`chart`] and [`curves`] draw into a part of a [`Canvas`]; [`heat_map`] colours a picture by weights. [`png`] makes a
//! picture the bytes of a file. [`html`] makes a report of texts, tables and pictures. What is drawn knows nothing of
//! policies, training runs or benchmarks, so that every crate can use it.
//!
//! All sizes are in pixels of the picture, and all texts are set in DejaVu Sans (its licence is in
//! `assets/DEJAVU_LICENSE`), which the program brings along: pictures are the same on every machine.
//!
//! ```
//! use evo1_plot::{Bar, bars, png};
//!
//! # fn main() -> evo1_plot::Result<()> {
//! let bar = |name: &str, value: f64| Bar {
//!     name: name.into(),
//!     value,
//!     whisker: (value, 1.2 * value),
//!     dots: vec![],
//!     label: format!("{value} ms"),
//! };
//! let picture = bars::draw("Stages", "median of 5 runs", &[bar("vision", 12.0), bar("language", 30.0)])?;
//! let bytes: Vec<u8> = png(&picture)?;
//! assert!(bytes.starts_with(b"\x89PNG"));
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod axis;
pub mod bars;
pub mod canvas;
pub mod chart;
pub mod curves;
mod error;
pub mod grid;
mod heat;
pub mod html;
pub mod layout;
mod panel;
pub mod sheet;

use std::io::Cursor;

pub use image::RgbImage;

pub use bars::Bar;
pub use canvas::{Canvas, Color, Rect};
pub use chart::Lines;
pub use error::{Error, Result};
pub use heat::heat_map;

/// A picture as the bytes of a PNG file.
///
/// # Errors
/// When the picture has no pixel.
pub fn png(picture: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_read_back_from_its_bytes() {
        let picture = RgbImage::from_fn(5, 3, |x, y| image::Rgb([x as u8, y as u8, 7]));
        let bytes = png(&picture).expect("bytes");
        assert_eq!(image::load_from_memory(&bytes).expect("a PNG").into_rgb8(), picture);
    }
}
