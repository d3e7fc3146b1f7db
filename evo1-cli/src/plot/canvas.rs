//! Text, lines and rectangles on an oversampled bitmap; coordinates are pixels of the final picture.

use eyre::eyre;
use image::{RgbImage, imageops};
use plotters::{
    coord::Shift,
    drawing::DrawingArea,
    prelude::{BitMapBackend, Circle, IntoDrawingArea, PathElement, Rectangle},
    style::{FontDesc, FontFamily, FontStyle, FontTransform, RGBColor, ShapeStyle, TextStyle, register_font},
};

pub(super) const WHITE: RGBColor = RGBColor(0xff, 0xff, 0xff);
pub(super) const BLACK: RGBColor = RGBColor(0x20, 0x20, 0x20);
pub(super) const GREY: RGBColor = RGBColor(0x60, 0x60, 0x60);

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

/// A place in the picture: right, down.
pub(super) type Point = (f64, f64);

/// A part of the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

impl Rect {
    pub(super) fn width(&self) -> f64 {
        self.right - self.left
    }

    pub(super) fn height(&self) -> f64 {
        self.bottom - self.top
    }

    pub(super) fn center(&self) -> Point {
        (0.5 * (self.left + self.right), 0.5 * (self.top + self.bottom))
    }

    pub(super) fn grown(&self, by: f64) -> Self {
        Self { left: self.left - by, top: self.top - by, right: self.right + by, bottom: self.bottom + by }
    }
}

/// How a text looks; `size` is the distance between ascender and descender.
#[derive(Debug, Clone, Copy)]
pub(super) struct Font {
    pub(super) size: f64,
    pub(super) is_bold: bool,
    pub(super) color: RGBColor,
}

impl Font {
    fn description(self) -> FontDesc<'static> {
        let style = if self.is_bold { FontStyle::Bold } else { FontStyle::Normal };
        FontDesc::new(FontFamily::Name(FONT_FAMILY), self.size * OVERSAMPLING, style)
    }
}

/// Which part of a text is put at its anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Center,
    Right,
}

/// How a line looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stroke {
    pub(super) color: RGBColor,
    pub(super) width: f64,
    /// Lengths drawn and left out in turn; solid when empty.
    pub(super) dashes: &'static [f64],
}

/// Makes the fonts known; without effect when they are.
pub(super) fn register_fonts() -> eyre::Result<()> {
    for (style, bytes) in [(FontStyle::Normal, dejavu::sans::regular()), (FontStyle::Bold, dejavu::sans::bold())] {
        register_font(FONT_FAMILY, style, bytes).map_err(|_| eyre!("the font {FONT_FAMILY} cannot be read"))?;
    }
    Ok(())
}

/// Width of a text in pixels.
pub(super) fn width_of(text: &str, font: Font) -> eyre::Result<f64> {
    let ((left, _), (right, _)) = font.description().layout_box(text)?;
    Ok(f64::from(right - left) / OVERSAMPLING)
}

/// `text` on one line, its end replaced by `…` where it is wider than `width`.
pub(super) fn shortened(text: &str, font: Font, width: f64) -> eyre::Result<String> {
    let visible: String = text.chars().filter(|letter| !letter.is_control() || letter.is_whitespace()).collect();
    let line = visible.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut kept: String = line.chars().take(LONGEST_TEXT).collect();
    if kept == line && width_of(&kept, font)? <= width {
        return Ok(kept);
    }
    while width_of(&format!("{}…", kept.trim_end()), font)? > width && kept.pop().is_some() {}
    Ok(format!("{}…", kept.trim_end()))
}

/// Runs `draw` on a white canvas of `size` and returns the smoothed picture.
pub(super) fn render(
    (width, height): (f64, f64),
    draw: impl FnOnce(&Canvas<'_>) -> eyre::Result<()>,
) -> eyre::Result<RgbImage> {
    let (width, height, factor) = (width as u32, height as u32, OVERSAMPLING as u32);
    let mut bitmap = RgbImage::new(width * factor, height * factor);
    let size = bitmap.dimensions();
    let canvas = Canvas { area: BitMapBackend::with_buffer(&mut bitmap, size).into_drawing_area() };
    canvas.area.fill(&WHITE)?;
    draw(&canvas)?;
    drop(canvas);
    Ok(imageops::thumbnail(&bitmap, width, height))
}

/// What is drawn upon.
pub(super) struct Canvas<'a> {
    area: DrawingArea<BitMapBackend<'a>, Shift>,
}

impl Canvas<'_> {
    /// A filled rectangle.
    pub(super) fn rect(&self, rect: Rect, color: RGBColor) -> eyre::Result<()> {
        let corners = [bitmap_point((rect.left, rect.top)), bitmap_point((rect.right, rect.bottom))];
        Ok(self.area.draw(&Rectangle::new(corners, ShapeStyle::from(&color).filled()))?)
    }

    /// A filled circle.
    pub(super) fn dot(&self, center: Point, radius: f64, color: RGBColor) -> eyre::Result<()> {
        let radius = (radius * OVERSAMPLING).round() as i32;
        Ok(self.area.draw(&Circle::new(bitmap_point(center), radius, ShapeStyle::from(&color).filled()))?)
    }

    /// One line of text; `at` is half a capital letter above its baseline.
    pub(super) fn text(&self, text: &str, at: Point, align: Align, font: Font) -> eyre::Result<()> {
        let shift = width_of(text, font)? * share_before(align);
        let anchor = (at.0 - shift, at.1 + (HALF_CAPITAL - BASELINE) * font.size);
        let style = TextStyle::from(font.description()).color(&font.color);
        Ok(self.area.draw_text(text, &style, bitmap_point(anchor))?)
    }

    /// One line of text that is read from below, centred on `at`.
    pub(super) fn text_upwards(&self, text: &str, at: Point, font: Font) -> eyre::Result<()> {
        let shift = width_of(text, font)? * share_before(Align::Center);
        let anchor = (at.0 + (HALF_CAPITAL - BASELINE) * font.size, at.1 + shift);
        let style = TextStyle::from(font.description()).color(&font.color).transform(FontTransform::Rotate270);
        Ok(self.area.draw_text(text, &style, bitmap_point(anchor))?)
    }

    /// A line through `points`, with round joins.
    pub(super) fn polyline(&self, points: &[Point], stroke: Stroke) -> eyre::Result<()> {
        for dash in dashed(points, stroke.dashes) {
            for ends in dash.windows(2) {
                self.segment(ends[0], ends[1], stroke)?;
            }
            if let Some(joins) = dash.get(1..dash.len() - 1) {
                joins.iter().try_for_each(|&join| self.dot(join, 0.5 * stroke.width - JOIN_INSET, stroke.color))?;
            }
        }
        Ok(())
    }

    fn segment(&self, from: Point, to: Point, stroke: Stroke) -> eyre::Result<()> {
        let style = ShapeStyle::from(&stroke.color).stroke_width((stroke.width * OVERSAMPLING).round() as u32);
        Ok(self.area.draw(&PathElement::new([bitmap_point(from), bitmap_point(to)], style))?)
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
    fn long_texts_are_shortened_to_fit() {
        register_fonts().expect("fonts");
        let font = Font { size: 20.0, is_bold: false, color: BLACK };
        assert_eq!(shortened("two\n  lines\u{7}", font, 500.0).expect("text"), "two lines");
        let long = shortened(&"word ".repeat(10_000), font, 200.0).expect("text");
        assert!(long.ends_with('…'), "{long}");
        let width = width_of(&long, font).expect("width");
        assert!((150.0..=200.0).contains(&width), "{width}");
        assert_eq!(shortened("word", font, 0.0).expect("text"), "…");
    }
}
