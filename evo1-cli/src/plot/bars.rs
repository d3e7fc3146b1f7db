//! A benchmark's stages as bars.

use eyre::ensure;
use image::RgbImage;

use super::{
    MARGIN, TITLE_FONT, TITLE_HEIGHT,
    canvas::{self, Align, BLACK, Font, GREY, Rect, Stroke},
    chart::PALETTE,
};

const WIDTH: f64 = 860.0;
const LABEL_WIDTH: f64 = 110.0;
const NUMBER_WIDTH: f64 = 150.0;
const BAR_HEIGHT: f64 = 26.0;
const BAR_GAP: f64 = 12.0;
const FOOT_HEIGHT: f64 = 30.0;
const LABEL_FONT: Font = Font { size: 17.0, is_bold: false, color: BLACK };
const FOOT_FONT: Font = Font { size: 14.0, is_bold: false, color: GREY };

/// One bar: its name, where it ends, and where the whisker of slower runs ends.
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) whisker: f64,
}

/// Horizontal bars with their values in milliseconds.
pub(super) fn draw(title: &str, foot: &str, bars: &[Bar]) -> eyre::Result<RgbImage> {
    ensure!(!bars.is_empty(), "there is no stage to draw");
    canvas::register_fonts()?;
    let longest = bars.iter().map(|bar| bar.whisker.max(bar.value)).fold(f64::MIN_POSITIVE, f64::max);
    let (left, room) = (MARGIN + LABEL_WIDTH, WIDTH - LABEL_WIDTH - NUMBER_WIDTH);
    let top = MARGIN + TITLE_HEIGHT;
    let bottom = top + bars.len() as f64 * (BAR_HEIGHT + BAR_GAP);
    canvas::render((WIDTH + 2.0 * MARGIN, bottom + FOOT_HEIGHT + MARGIN), |canvas| {
        let title = canvas::shortened(title, TITLE_FONT, WIDTH)?;
        canvas.text(&title, (MARGIN, MARGIN + 10.0), Align::Left, TITLE_FONT)?;
        for (at, bar) in bars.iter().enumerate() {
            let y = top + at as f64 * (BAR_HEIGHT + BAR_GAP);
            let middle = y + 0.5 * BAR_HEIGHT;
            let end = |value: f64| left + room * value / longest;
            canvas.text(&bar.name, (left - 12.0, middle), Align::Right, LABEL_FONT)?;
            let rect = Rect { left, top: y, right: end(bar.value).max(left + 1.0), bottom: y + BAR_HEIGHT };
            canvas.rect(rect, PALETTE[at % PALETTE.len()])?;
            let whisker = Stroke { color: BLACK, width: 2.0, dashes: &[] };
            canvas.polyline(&[(end(bar.value), middle), (end(bar.whisker), middle)], whisker)?;
            let number = format!("{:.1} ms", bar.value);
            canvas.text(&number, (end(bar.whisker.max(bar.value)) + 10.0, middle), Align::Left, LABEL_FONT)?;
        }
        let foot = canvas::shortened(foot, FOOT_FONT, WIDTH)?;
        canvas.text(&foot, (MARGIN, bottom + 0.5 * FOOT_HEIGHT), Align::Left, FOOT_FONT)
    })
}
