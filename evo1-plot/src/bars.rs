//! Horizontal bars, for example of a benchmark's stages or a study's cells.

use image::RgbImage;

use crate::{
    canvas::{self, Align, BLACK, Color, Font, GREY, Rect, Stroke, WHITE},
    chart::PALETTE,
    error::{Error, Result},
    layout::{MARGIN, TITLE_HEIGHT, draw_title},
};

const WIDTH: f64 = 860.0;
/// Least and most room for the names.
const LABEL_WIDTHS: (f64, f64) = (110.0, 300.0);
const NUMBER_WIDTH: f64 = 170.0;
const BAR_HEIGHT: f64 = 26.0;
const BAR_GAP: f64 = 12.0;
const NAME_GAP: f64 = 12.0;
const DOT: f64 = 3.5;
const FOOT_HEIGHT: f64 = 30.0;
/// What a bar would fill that is the whole.
const PALE: Color = Color(0xec, 0xec, 0xec);
const LABEL_FONT: Font = Font { size: 17.0, is_bold: false, color: BLACK };
const FOOT_FONT: Font = Font { size: 14.0, is_bold: false, color: GREY };

/// One bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// What stands before it.
    pub name: String,
    /// Where it ends.
    pub value: f64,
    /// The thin line over its end.
    pub whisker: (f64, f64),
    /// Single measurements.
    pub dots: Vec<f64>,
    /// What stands at its end.
    pub label: String,
}

impl Bar {
    /// Everything that is drawn reaches to here.
    fn end(&self) -> f64 {
        self.dots.iter().copied().fold(self.whisker.1.max(self.value), f64::max)
    }
}

/// Draws bars below each other, on a common scale that begins at 0; `foot` says how they are read.
///
/// # Errors
/// When there is no bar.
pub fn draw(title: &str, foot: &str, bars: &[Bar]) -> Result<RgbImage> {
    draw_to(0.0, title, foot, bars)
}

/// [`draw`] of parts of something whole: the scale ends at `whole`, for example 100 of percentages, or where a bar is longer.
///
/// # Errors
/// As for [`draw`].
pub fn draw_to(whole: f64, title: &str, foot: &str, bars: &[Bar]) -> Result<RgbImage> {
    if bars.is_empty() {
        return Err(Error::Empty { what: "bar" });
    }
    let longest = bars.iter().map(Bar::end).fold(whole.max(f64::MIN_POSITIVE), f64::max);
    let names = bars.iter().map(|bar| canvas::width_of(&bar.name, LABEL_FONT));
    let widest = names.collect::<Result<Vec<_>>>()?.into_iter().fold(0.0, f64::max) + NAME_GAP;
    let label_width = widest.clamp(LABEL_WIDTHS.0, LABEL_WIDTHS.1);
    let (left, room) = (MARGIN + label_width, WIDTH - label_width - NUMBER_WIDTH);
    let top = MARGIN + TITLE_HEIGHT;
    let bottom = top + bars.len() as f64 * (BAR_HEIGHT + BAR_GAP);
    canvas::render((WIDTH + 2.0 * MARGIN, bottom + FOOT_HEIGHT + MARGIN), |canvas| {
        draw_title(canvas, title, MARGIN + WIDTH)?;
        for (at, bar) in bars.iter().enumerate() {
            let y = top + at as f64 * (BAR_HEIGHT + BAR_GAP);
            let middle = y + 0.5 * BAR_HEIGHT;
            let end = |value: f64| left + room * value / longest;
            let name = canvas::shortened(&bar.name, LABEL_FONT, label_width - NAME_GAP)?;
            canvas.text(&name, (left - NAME_GAP, middle), Align::Right, LABEL_FONT)?;
            if whole > 0.0 {
                canvas.rect(Rect { left, top: y, right: end(whole), bottom: y + BAR_HEIGHT }, PALE)?;
            }
            let rect = Rect { left, top: y, right: end(bar.value).max(left + 1.0), bottom: y + BAR_HEIGHT };
            canvas.rect(rect, PALETTE[at % PALETTE.len()])?;
            // Its white edge shows it on a dark bar.
            for (color, width) in [(WHITE, 4.0), (BLACK, 2.0)] {
                let whisker = [(end(bar.whisker.0), middle), (end(bar.whisker.1), middle)];
                canvas.polyline(&whisker, Stroke { color, width, dashes: &[] })?;
            }
            bar.dots.iter().try_for_each(|&dot| canvas.dot((end(dot), middle), DOT, BLACK))?;
            canvas.text(&bar.label, (end(bar.end()) + 10.0, middle), Align::Left, LABEL_FONT)?;
        }
        let foot = canvas::shortened(foot, FOOT_FONT, WIDTH)?;
        canvas.text(&foot, (MARGIN, bottom + 0.5 * FOOT_HEIGHT), Align::Left, FOOT_FONT)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whisker_is_seen_on_every_colour_and_the_scale_ends_at_the_whole() {
        let bar = |at| Bar {
            name: format!("bar {at}"),
            value: 50.0,
            whisker: (30.0, 60.0),
            dots: vec![],
            label: String::new(),
        };
        let bars: Vec<Bar> = (0..PALETTE.len()).map(bar).collect();
        let pictures = [draw("Half", "", &bars), draw_to(100.0, "Half", "", &bars)].map(|drawn| drawn.expect("drawn"));
        let row = |picture: &RgbImage, at: usize, down: f64| -> Vec<[u8; 3]> {
            let y = MARGIN + TITLE_HEIGHT + at as f64 * (BAR_HEIGHT + BAR_GAP) + down;
            (0..picture.width()).map(|x| picture.get_pixel(x, y as u32).0).collect()
        };
        for (at, Color(red, green, blue)) in PALETTE.into_iter().enumerate() {
            let is_filled = |pixel: &[u8; 3]| pixel.iter().zip([red, green, blue]).all(|(a, b)| a.abs_diff(b) < 3);
            let filled = |picture| row(picture, at, 4.0).iter().filter(|pixel| is_filled(pixel)).count() as f64;
            let (of_longest, of_whole) = (filled(&pictures[0]), filled(&pictures[1]));
            assert!((of_longest * 0.6 - of_whole).abs() < 4.0, "{of_longest} {of_whole}");
            // In the bar, where the whisker lies on it.
            let edge = row(&pictures[0], at, 0.5 * BAR_HEIGHT - 2.0);
            let end = (MARGIN + 0.6 * WIDTH) as usize;
            assert!(edge[200..end].iter().any(|pixel| pixel.iter().all(|level| *level > 0xd0)), "bar {at}");
        }
    }
}
