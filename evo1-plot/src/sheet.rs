//! A contact sheet: strips of pictures above charts, for example an episode's frames, camera by camera, above the lines of
//! its state and actions.

use image::RgbImage;

use crate::{
    canvas::{self, Align, GREY, Rect},
    chart::{self, Lines},
    error::Result,
    layout::{FRAME_FONT, FRAME_GAP, FRAME_LABEL, MARGIN, TITLE_HEIGHT, draw_title},
};

/// Width of a picture.
const TILE_WIDTH: f64 = 150.0;
/// Room above each chart.
const CHART_GAP: f64 = 24.0;

/// Pictures side by side, for example the frames of one camera.
#[derive(Debug, Clone)]
pub struct Strip {
    /// What stands above the strip.
    pub name: String,
    /// Pictures from left to right, each with what stands above it.
    pub frames: Vec<(String, RgbImage)>,
}

/// Draws strips of pictures and charts below each other.
///
/// # Errors
/// When the font cannot be read.
///
/// # Panics
/// When a chart has no dimension.
pub fn draw(title: &str, strips: &[Strip], charts: &[Lines<'_>]) -> Result<RgbImage> {
    let columns = strips.iter().map(|strip| strip.frames.len()).max().unwrap_or(1).max(6) as f64;
    let right = MARGIN + columns * TILE_WIDTH + (columns - 1.0) * FRAME_GAP;
    let mut y = MARGIN + TITLE_HEIGHT;
    let mut tiles = Vec::new();
    for strip in strips {
        y += 2.0 * FRAME_LABEL;
        let mut bottom = y;
        for (column, (label, frame)) in strip.frames.iter().enumerate() {
            let left = MARGIN + column as f64 * (TILE_WIDTH + FRAME_GAP);
            let height = (TILE_WIDTH * f64::from(frame.height()) / f64::from(frame.width())).round().max(1.0);
            let rect = Rect { left, top: y, right: left + TILE_WIDTH, bottom: y + height };
            bottom = bottom.max(rect.bottom);
            tiles.push((rect, label, frame));
        }
        y = bottom + FRAME_GAP;
    }
    let mut areas = Vec::new();
    for lines in charts {
        let top = y + CHART_GAP;
        y = top + chart::least_height(lines);
        areas.push(Rect { left: MARGIN, top, right, bottom: y });
    }
    let mut picture = canvas::render((right + MARGIN, y + MARGIN), |canvas| {
        draw_title(canvas, title, right)?;
        let mut tile = tiles.iter();
        for strip in strips {
            for (column, (rect, label, _)) in tile.by_ref().take(strip.frames.len()).enumerate() {
                if column == 0 {
                    canvas.text(&strip.name, (rect.left, rect.top - 1.5 * FRAME_LABEL), Align::Left, FRAME_FONT)?;
                }
                canvas.rect(rect.grown(1.0), GREY)?;
                canvas.text(label, (rect.left, rect.top - 0.5 * FRAME_LABEL), Align::Left, FRAME_FONT)?;
            }
        }
        areas.iter().zip(charts).try_for_each(|(area, lines)| chart::draw(canvas, *area, lines))
    })?;
    for (rect, _, frame) in &tiles {
        canvas::paste(&mut picture, frame, *rect);
    }
    Ok(picture)
}
