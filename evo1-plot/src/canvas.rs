//! Text, lines and rectangles on an oversampled bitmap; coordinates are pixels of the final picture.

use std::sync::OnceLock;

use image::{RgbImage, imageops};
use plotters::{
    coord::Shift,
    drawing::DrawingArea,
    prelude::{BitMapBackend, Circle, IntoDrawingArea, PathElement, Rectangle},
    style::{FontDesc, FontFamily, FontStyle, FontTransform, RGBColor, ShapeStyle, TextStyle, register_font},
};

use crate::error::{Error, Result};

/// A colour: the parts of red, green and blue, each from 0 to 255.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Color(pub u8, pub u8, pub u8);

impl Color {
    /// The colour in words of the drawing library.
    fn rgb(self) -> RGBColor {
        RGBColor(self.0, self.1, self.2)
    }
}

impl From<Color> for image::Rgb<u8> {
    fn from(Color(red, green, blue): Color) -> Self {
        Self([red, green, blue])
    }
}

/// The colour of paper.
pub const WHITE: Color = Color(0xff, 0xff, 0xff);
/// The colour of lines and most texts.
pub const BLACK: Color = Color(0x20, 0x20, 0x20);
/// The colour of less important texts, and of the edges of pictures.
pub const GREY: Color = Color(0x60, 0x60, 0x60);

/// Bitmap pixels for each pixel of the picture, along each axis: what smooths lines and letters.
const OVERSAMPLING: f64 = 3.0;
const FONT_FAMILY: &str = "DejaVu Sans";
/// plotters sets the baseline this far below a text's anchor, in font sizes.
const BASELINE: f64 = 0.5;
/// Half the height of a DejaVu capital letter, in font sizes.
const HALF_CAPITAL: f64 = 0.313;
/// A join's radius is this much less than half its line's width: a circle covers its rim, a line does not.
const JOIN_INSET: f64 = 0.2;
/// Letters of a text that are looked at when it is shortened: far more than any picture has room for.
const LONGEST_TEXT: usize = 1000;

/// A place in the picture: pixels from the left, pixels from the top.
pub type Point = (f64, f64);

/// A part of the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rect {
    /// Pixels from the picture's left to the part's left.
    pub left: f64,
    /// Pixels from the picture's top to the part's top.
    pub top: f64,
    /// Pixels from the picture's left to the part's right.
    pub right: f64,
    /// Pixels from the picture's top to the part's bottom.
    pub bottom: f64,
}

impl Rect {
    /// Pixels from left to right.
    pub fn width(&self) -> f64 {
        self.right - self.left
    }

    /// Pixels from top to bottom.
    pub fn height(&self) -> f64 {
        self.bottom - self.top
    }

    /// The middle of the part.
    pub fn center(&self) -> Point {
        (0.5 * (self.left + self.right), 0.5 * (self.top + self.bottom))
    }

    /// The part with `by` more pixels on every side.
    pub fn grown(&self, by: f64) -> Self {
        Self { left: self.left - by, top: self.top - by, right: self.right + by, bottom: self.bottom + by }
    }
}

/// How a text looks.
#[derive(Debug, Clone, Copy)]
pub struct Font {
    /// The distance between ascender and descender, in pixels.
    pub size: f64,
    /// Whether the letters are thick.
    pub is_bold: bool,
    /// The colour of the letters.
    pub color: Color,
}

impl Font {
    /// The font in words of the drawing library, which learns of it here.
    fn description(self) -> Result<FontDesc<'static>> {
        static IS_REGISTERED: OnceLock<bool> = OnceLock::new();
        if !IS_REGISTERED.get_or_init(register) {
            return Err(Error::Font { family: FONT_FAMILY });
        }
        let style = if self.is_bold { FontStyle::Bold } else { FontStyle::Normal };
        Ok(FontDesc::new(FontFamily::Name(FONT_FAMILY), self.size * OVERSAMPLING, style))
    }
}

/// Makes the fonts known; whether they can be read.
fn register() -> bool {
    [(FontStyle::Normal, dejavu::sans::regular()), (FontStyle::Bold, dejavu::sans::bold())]
        .into_iter()
        .all(|(style, bytes)| register_font(FONT_FAMILY, style, bytes).is_ok())
}

/// Which part of a text is put at its anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// The text begins at its anchor.
    Left,
    /// The text stands around its anchor.
    Center,
    /// The text ends at its anchor.
    Right,
}

/// How a line looks.
#[derive(Debug, Clone, Copy)]
pub struct Stroke {
    /// The colour of the line.
    pub color: Color,
    /// Pixels across the line.
    pub width: f64,
    /// Lengths drawn and left out in turn; solid when empty.
    pub dashes: &'static [f64],
}

/// Width of a text in pixels.
///
/// # Errors
/// When the font cannot be read.
pub fn width_of(text: &str, font: Font) -> Result<f64> {
    let ((left, _), (right, _)) = font.description()?.layout_box(text).map_err(Error::drawing)?;
    Ok(f64::from(right - left) / OVERSAMPLING)
}

/// `text` on one line, its end replaced by `…` where it is wider than `width` pixels.
///
/// # Errors
/// When the font cannot be read.
pub fn shortened(text: &str, font: Font, width: f64) -> Result<String> {
    let visible: String = text.chars().filter(|letter| !letter.is_control() || letter.is_whitespace()).collect();
    let line = visible.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut kept: String = line.chars().take(LONGEST_TEXT).collect();
    if kept == line && width_of(&kept, font)? <= width {
        return Ok(kept);
    }
    while width_of(&format!("{}…", kept.trim_end()), font)? > width && kept.pop().is_some() {}
    Ok(format!("{}…", kept.trim_end()))
}

/// Runs `draw` on a white canvas of `width` by `height` pixels; the smoothed picture.
///
/// # Errors
/// When `draw` fails.
pub fn render((width, height): (f64, f64), draw: impl FnOnce(&Canvas<'_>) -> Result<()>) -> Result<RgbImage> {
    let (width, height, factor) = (width as u32, height as u32, OVERSAMPLING as u32);
    let mut bitmap = RgbImage::new(width * factor, height * factor);
    let size = bitmap.dimensions();
    let canvas = Canvas { area: BitMapBackend::with_buffer(&mut bitmap, size).into_drawing_area() };
    canvas.area.fill(&WHITE.rgb()).map_err(Error::drawing)?;
    draw(&canvas)?;
    drop(canvas);
    Ok(imageops::thumbnail(&bitmap, width, height))
}

/// Puts `inset` onto `picture`, scaled to fill `place`; what is outside of the picture is left out.
pub fn paste(picture: &mut RgbImage, inset: &RgbImage, place: Rect) {
    let (width, height) = (place.width().round() as u32, place.height().round() as u32);
    let scaled = imageops::resize(inset, width, height, imageops::FilterType::CatmullRom);
    imageops::replace(picture, &scaled, place.left.round() as i64, place.top.round() as i64);
}

/// What is drawn upon.
pub struct Canvas<'a> {
    area: DrawingArea<BitMapBackend<'a>, Shift>,
}

impl Canvas<'_> {
    /// A filled rectangle.
    ///
    /// # Errors
    /// When the bitmap cannot be drawn upon, as for all that is drawn.
    pub fn rect(&self, rect: Rect, color: Color) -> Result<()> {
        let corners = [bitmap_point((rect.left, rect.top)), bitmap_point((rect.right, rect.bottom))];
        let style = ShapeStyle::from(&color.rgb()).filled();
        self.area.draw(&Rectangle::new(corners, style)).map_err(Error::drawing)
    }

    /// A filled circle of `radius` pixels.
    ///
    /// # Errors
    /// As for [`rect`](Self::rect).
    pub fn dot(&self, center: Point, radius: f64, color: Color) -> Result<()> {
        let radius = (radius * OVERSAMPLING).round() as i32;
        let style = ShapeStyle::from(&color.rgb()).filled();
        self.area.draw(&Circle::new(bitmap_point(center), radius, style)).map_err(Error::drawing)
    }

    /// One line of text; `at` is half a capital letter above its baseline.
    ///
    /// # Errors
    /// As for [`rect`](Self::rect), and when the font cannot be read.
    pub fn text(&self, text: &str, at: Point, align: Align, font: Font) -> Result<()> {
        let shift = width_of(text, font)? * share_before(align);
        let anchor = (at.0 - shift, at.1 + (HALF_CAPITAL - BASELINE) * font.size);
        let (font, color) = (font.description()?, font.color.rgb());
        let style = TextStyle::from(font).color(&color);
        self.area.draw_text(text, &style, bitmap_point(anchor)).map_err(Error::drawing)
    }

    /// One line of text that is read from below, centred on `at`.
    ///
    /// # Errors
    /// As for [`text`](Self::text).
    pub fn text_upwards(&self, text: &str, at: Point, font: Font) -> Result<()> {
        let shift = width_of(text, font)? * share_before(Align::Center);
        let anchor = (at.0 + (HALF_CAPITAL - BASELINE) * font.size, at.1 + shift);
        let (font, color) = (font.description()?, font.color.rgb());
        let style = TextStyle::from(font).color(&color).transform(FontTransform::Rotate270);
        self.area.draw_text(text, &style, bitmap_point(anchor)).map_err(Error::drawing)
    }

    /// A line through `points`, with round joins; nothing where there are fewer than two.
    ///
    /// # Errors
    /// As for [`rect`](Self::rect).
    pub fn polyline(&self, points: &[Point], stroke: Stroke) -> Result<()> {
        for dash in dashed(points, stroke.dashes) {
            for ends in dash.windows(2) {
                self.segment(ends[0], ends[1], stroke)?;
            }
            if let Some(joins) = dash.get(1..dash.len().saturating_sub(1)) {
                joins.iter().try_for_each(|&join| self.dot(join, 0.5 * stroke.width - JOIN_INSET, stroke.color))?;
            }
        }
        Ok(())
    }

    fn segment(&self, from: Point, to: Point, stroke: Stroke) -> Result<()> {
        let width = (stroke.width * OVERSAMPLING).round() as u32;
        let style = ShapeStyle::from(&stroke.color.rgb()).stroke_width(width);
        let line = PathElement::new([bitmap_point(from), bitmap_point(to)], style);
        self.area.draw(&line).map_err(Error::drawing)
    }
}

fn share_before(align: Align) -> f64 {
    match align {
        Align::Left => 0.0,
        Align::Center => 0.5,
        Align::Right => 1.0,
    }
}

fn bitmap_point((x, y): Point) -> (i32, i32) {
    ((x * OVERSAMPLING).round() as i32, (y * OVERSAMPLING).round() as i32)
}

/// The drawn parts of a line, each with the corners it passes.
fn dashed(points: &[Point], dashes: &'static [f64]) -> Vec<Vec<Point>> {
    if dashes.is_empty() {
        return vec![points.to_vec()];
    }
    let mut lengths = dashes.iter().copied().cycle();
    let mut left = lengths.next().unwrap_or(f64::INFINITY);
    let mut is_drawn = true;
    let mut parts = vec![points.iter().take(1).copied().collect::<Vec<_>>()];
    for ends in points.windows(2) {
        let (mut from, to) = (ends[0], ends[1]);
        let mut length = (to.0 - from.0).hypot(to.1 - from.1);
        while length > left {
            let share = left / length;
            from = (from.0 + share * (to.0 - from.0), from.1 + share * (to.1 - from.1));
            length -= left;
            left = lengths.next().unwrap_or(f64::INFINITY);
            if is_drawn {
                parts.last_mut().into_iter().for_each(|part| part.push(from));
            } else {
                parts.push(vec![from]);
            }
            is_drawn = !is_drawn;
        }
        left -= length;
        if is_drawn {
            parts.last_mut().into_iter().for_each(|part| part.push(to));
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(line: &[Point]) -> f64 {
        line.windows(2).map(|ends| (ends[1].0 - ends[0].0).hypot(ends[1].1 - ends[0].1)).sum()
    }

    #[test]
    fn dashes_follow_the_line_around_corners() {
        let parts = dashed(&[(0.0, 0.0), (7.0, 0.0), (7.0, 9.0)], &[3.0, 2.0]);
        let lengths: Vec<f64> = parts.iter().map(|part| length(part)).collect();
        assert_eq!(lengths, [3.0, 3.0, 3.0, 1.0]);
        assert_eq!(parts[1], [(5.0, 0.0), (7.0, 0.0), (7.0, 1.0)]);
    }

    #[test]
    fn a_line_without_dashes_stays_whole() {
        let line = [(0.0, 0.0), (7.0, 0.0)];
        assert_eq!(dashed(&line, &[]), [line.to_vec()]);
        assert_eq!(dashed(&[], &[1.0, 1.0]), [vec![]]);
    }

    #[test]
    fn a_line_through_one_point_or_none_is_nothing() {
        let stroke = Stroke { color: BLACK, width: 2.0, dashes: &[] };
        let picture = render((8.0, 8.0), |canvas| {
            canvas.polyline(&[(4.0, 4.0)], stroke)?;
            canvas.polyline(&[], stroke)
        });
        assert!(picture.expect("a picture").pixels().all(|pixel| pixel.0 == [255; 3]));
    }

    #[test]
    fn a_pasted_picture_fills_its_place() {
        let mut picture = RgbImage::new(10, 10);
        paste(
            &mut picture,
            &RgbImage::from_pixel(2, 2, WHITE.into()),
            Rect { left: 4.0, top: 6.0, right: 8.0, bottom: 9.0 },
        );
        assert_eq!(picture.pixels().filter(|pixel| pixel.0 == [255; 3]).count(), 4 * 3);
        assert_eq!(picture.get_pixel(4, 6).0, [255; 3]);
        assert_eq!(picture.get_pixel(3, 6).0, [0; 3]);
    }

    #[test]
    fn long_texts_are_shortened_to_fit() {
        let font = Font { size: 20.0, is_bold: false, color: BLACK };
        assert_eq!(shortened("two\n  lines\u{7}", font, 500.0).expect("text"), "two lines");
        let long = shortened(&"word ".repeat(10_000), font, 200.0).expect("text");
        assert!(long.ends_with('…'), "{long}");
        let width = width_of(&long, font).expect("width");
        assert!((150.0..=200.0).contains(&width), "{width}");
        assert_eq!(shortened("word", font, 0.0).expect("text"), "…");
    }
}
