//! A contact sheet: frames of an episode, camera by camera, above the curves of its state and actions.

use std::path::Path;

use evo1::Frame;
use image::{RgbImage, imageops};

use super::{
    FRAME_FONT, FRAME_GAP, FRAME_LABEL, GREY, MARGIN, TITLE_HEIGHT,
    canvas::{self, Align, Rect},
    chart::{self, Lines},
    draw_title, scaled, write_png,
};

/// Width of a frame.
const TILE_WIDTH: f64 = 150.0;
/// Room above each chart.
const CHART_GAP: f64 = 24.0;

/// Frames of one camera.
pub(crate) struct Strip {
    /// The camera.
    pub(crate) name: String,
    /// Frames from left to right, each with what stands above it.
    pub(crate) frames: Vec<(String, Frame)>,
}

/// Draws strips of frames and charts below each other as the PNG file `path`.
///
/// # Errors
/// When the file cannot be written; `path` is then as it was.
pub(crate) fn sheet_png(path: &Path, title: &str, strips: &[Strip], charts: &[Lines<'_>]) -> eyre::Result<()> {
    write_png(path, draw(title, strips, charts))
}

fn draw(title: &str, strips: &[Strip], charts: &[Lines<'_>]) -> eyre::Result<RgbImage> {
    canvas::register_fonts()?;
    let columns = strips.iter().map(|strip| strip.frames.len()).max().unwrap_or(1).max(6) as f64;
    let right = MARGIN + columns * TILE_WIDTH + (columns - 1.0) * FRAME_GAP;
    let mut y = MARGIN + TITLE_HEIGHT;
    let mut tiles = Vec::new();
    for strip in strips {
        y += 2.0 * FRAME_LABEL;
        let mut bottom = y;
        for (column, (label, frame)) in strip.frames.iter().enumerate() {
            let left = MARGIN + column as f64 * (TILE_WIDTH + FRAME_GAP);
            let height = (TILE_WIDTH * frame.height() as f64 / frame.width() as f64).round().max(1.0);
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
        let scaled = scaled(frame, rect.width() as u32, rect.height() as u32)?;
        imageops::replace(&mut picture, &scaled, rect.left as i64, rect.top as i64);
    }
    Ok(picture)
}
