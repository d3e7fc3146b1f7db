//! Pictures of what only this program brings together: of one prediction, with the camera frames that went in and the
//! action chunk that came out, and of a benchmark. `evo1-plot` draws them.

#[cfg(test)]
mod tests;

use std::path::Path;

use evo1::{ActionChunk, Frame, files::write_atomically};
use evo1_bench::Report;
use evo1_plot::{
    Bar, Lines, Rect, bars,
    canvas::{self, Align, GREY},
    chart,
    layout::{FRAME_FONT, FRAME_GAP, FRAME_LABEL, MARGIN, TITLE_HEIGHT, draw_title},
    png,
};
use eyre::{WrapErr, ensure, eyre};
use image::RgbImage;

/// Width of the chart with its labels and legend; all sizes are in pixels.
const CHART_WIDTH: f64 = 1040.0;
/// Room between the frames and the chart.
const GUTTER: f64 = 36.0;
/// Widest a frame is drawn.
const FRAME_WIDTH: f64 = 320.0;
/// Height that all frames share with their labels; no frame gets more than [`TALLEST_FRAME`] of it.
const FRAMES_HEIGHT: f64 = 700.0;
const TALLEST_FRAME: f64 = 260.0;
const SHORTEST_FRAME: f64 = 48.0;

/// Draws `frames` and `chunk` (its dimensions over its steps, in the robot's units) as the PNG file `path`, below a title,
/// for example the instruction, which is shortened to one line.
///
/// # Errors
/// When the chunk has no step, or the file cannot be written; `path` is then as it was.
pub(crate) fn chunk_png(path: &Path, chunk: &ActionChunk, frames: &[Frame], title: &str) -> eyre::Result<()> {
    write_png(path, draw(chunk, frames, title))
}

/// Draws the medians of a benchmark's stages as the PNG file `path`; a thin line goes on to the 90th percentile.
///
/// # Errors
/// When the file cannot be written; `path` is then as it was.
pub(crate) fn stages_png(path: &Path, report: &Report) -> eyre::Result<()> {
    let setup = &report.setup;
    let stages = ["prepare", "vision", "projector", "language", "action", "finish", "total"];
    let bars: Vec<Bar> = stages
        .iter()
        .filter_map(|&name| {
            let summary = report.milliseconds.get(name)?;
            Some(Bar {
                name: name.into(),
                value: summary.p50,
                whisker: (summary.p50, summary.p90),
                dots: vec![],
                label: format!("{:.1} ms", summary.p50),
            })
        })
        .collect();
    let title = format!("{} · {} · {} views · {} steps", setup.preset, setup.dtype, setup.views, setup.steps);
    let foot = format!(
        "median of {} runs, line to the 90th percentile · batch {} · {} threads · {} · {}",
        setup.repeat,
        setup.batch,
        setup.threads,
        setup.device,
        report.provenance.processor.as_deref().unwrap_or("unknown processor"),
    );
    write_png(path, bars::draw(&title, &foot, &bars))
}

/// Writes a drawing as a PNG file, whole or not at all.
///
/// # Errors
/// When there is no drawing, or the file cannot be written; `path` is then as it was.
pub(crate) fn write_png(path: &Path, picture: Result<RgbImage, impl Into<eyre::Report>>) -> eyre::Result<()> {
    let is_png = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png"));
    ensure!(is_png || path.file_name().is_none(), "a plot is a PNG file, got {}", path.display());
    let bytes = picture.map_err(Into::into).and_then(|picture| Ok(png(&picture)?));
    let bytes = bytes.wrap_err_with(|| format!("cannot write the plot {}", path.display()))?;
    Ok(write_atomically(path, &bytes)?)
}

/// The whole picture in memory.
fn draw(chunk: &ActionChunk, frames: &[Frame], title: &str) -> eyre::Result<RgbImage> {
    ensure!(chunk.horizon() > 0, "the action chunk has no step");
    let lines = Lines {
        values: chunk.values(),
        names: (0..chunk.width()).map(|dimension| format!("action {dimension}")).collect(),
        x_name: "step of the chunk",
        y_name: "action value (robot units)",
    };
    let top = MARGIN + TITLE_HEIGHT;
    let tiles = place_frames(frames, top)?;
    let frames_right = tiles.iter().map(|tile| tile.column_right).fold(MARGIN, f64::max);
    let left = if tiles.is_empty() { MARGIN } else { frames_right + GUTTER };
    let frames_bottom = tiles.iter().map(|tile| tile.rect.bottom).fold(top, f64::max);
    let bottom = frames_bottom.max(top + chart::least_height(&lines));
    let area = Rect { left, top, right: left + CHART_WIDTH, bottom };

    let mut image = canvas::render((area.right + MARGIN, area.bottom + MARGIN), |canvas| {
        draw_title(canvas, title, area.right)?;
        for tile in &tiles {
            canvas.rect(tile.rect.grown(1.0), GREY)?;
            canvas.text(&tile.label, (tile.rect.left, tile.rect.top - 0.5 * FRAME_LABEL), Align::Left, FRAME_FONT)?;
        }
        chart::draw(canvas, area, &lines)
    })?;
    for (tile, frame) in tiles.iter().zip(frames) {
        canvas::paste(&mut image, &picture(frame)?, tile.rect);
    }
    Ok(image)
}

/// Where a frame is drawn.
struct Tile {
    rect: Rect,
    label: String,
    /// Right end of the frame or of its label, whichever is wider.
    column_right: f64,
}

/// Stacks the frames below `top`, each as large as fits with its aspect kept.
fn place_frames(frames: &[Frame], top: f64) -> eyre::Result<Vec<Tile>> {
    let share = FRAMES_HEIGHT / frames.len().max(1) as f64 - FRAME_LABEL - FRAME_GAP;
    let tallest = share.clamp(SHORTEST_FRAME, TALLEST_FRAME);
    let mut y = top;
    let mut tiles = Vec::with_capacity(frames.len());
    for (index, frame) in frames.iter().enumerate() {
        let (width, height) = (frame.width() as f64, frame.height() as f64);
        let scale = (FRAME_WIDTH / width).min(tallest / height);
        let (width, height) = ((scale * width).round().max(1.0), (scale * height).round().max(1.0));
        y += FRAME_LABEL;
        let rect = Rect { left: MARGIN, top: y, right: MARGIN + width, bottom: y + height };
        let label = format!("view {}  ({} × {})", index + 1, frame.width(), frame.height());
        let column_right = rect.right.max(rect.left + canvas::width_of(&label, FRAME_FONT)?);
        tiles.push(Tile { rect, label, column_right: column_right.ceil() });
        y += height + FRAME_GAP;
    }
    Ok(tiles)
}

/// A frame as a picture.
pub(crate) fn picture(frame: &Frame) -> eyre::Result<RgbImage> {
    RgbImage::from_raw(frame.width().try_into()?, frame.height().try_into()?, frame.rgb().to_vec())
        .ok_or_else(|| eyre!("a frame of {} × {} pixels is not filled", frame.width(), frame.height()))
}
