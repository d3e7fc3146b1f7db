//! A plot with two axes: its grid, the texts of its marks and the lines in it.

use crate::{
    axis::Axis,
    canvas::{Align, BLACK, Canvas, Color, Font, GREY, Point, Rect, Stroke, width_of},
    error::Result,
};

const FRAME_COLOR: Color = Color(0xa0, 0xa0, 0xa0);
const GRID_COLOR: Color = Color(0xe6, 0xe6, 0xe6);
const ZERO_COLOR: Color = Color(0xb4, 0xb4, 0xb4);
pub(crate) const TICK_FONT: Font = Font { size: 15.0, is_bold: false, color: GREY };
const AXIS_FONT: Font = Font { size: 17.0, is_bold: false, color: BLACK };

/// Room for the name of an axis, in pixels; it stands outside of the marks' texts.
pub(crate) const AXIS_NAME: f64 = 26.0;
/// Height of the line of the horizontal axis' marks, in pixels.
pub(crate) const STEP_LABELS: f64 = 24.0;
/// Pixels between a mark and its text, and between a line of the legend and its name.
pub(crate) const LABEL_GAP: f64 = 8.0;

/// Radius of a dot on a line, and of one that stands for itself, in pixels.
const DOT: f64 = 3.0;
pub(crate) const SINGLE_DOT: f64 = 5.0;

/// A plot with its two axes.
pub(crate) struct Panel {
    pub(crate) plot: Rect,
    pub(crate) x_axis: Axis,
    pub(crate) y_axis: Axis,
}

impl Panel {
    /// Where a value at a step is.
    pub(crate) fn point(&self, step: f64, value: f64) -> Point {
        let x = self.x_axis.position(step, self.plot.left, self.plot.right);
        (x, self.y_axis.position(value, self.plot.bottom, self.plot.top))
    }

    /// The grid, its frame and the marks' texts.
    pub(crate) fn draw_grid(&self, canvas: &Canvas<'_>, has_step_labels: bool) -> Result<()> {
        let plot = self.plot;
        for tick in self.x_axis.ticks() {
            let x = self.point(tick, 0.0).0.round();
            canvas.rect(Rect { left: x, right: x + 1.0, ..plot }, GRID_COLOR)?;
            if has_step_labels {
                let at = (x + 0.5, plot.bottom + 0.6 * STEP_LABELS);
                canvas.text(&self.x_axis.label(tick), at, Align::Center, TICK_FONT)?;
            }
        }
        for tick in self.y_axis.ticks() {
            let y = self.point(0.0, tick).1.round();
            let color = if tick == 0.0 { ZERO_COLOR } else { GRID_COLOR };
            canvas.rect(Rect { top: y, bottom: y + 1.0, ..plot }, color)?;
            canvas.text(&self.y_axis.label(tick), (plot.left - LABEL_GAP, y + 0.5), Align::Right, TICK_FONT)?;
        }
        canvas.rect(Rect { right: plot.left + 1.0, ..plot }, FRAME_COLOR)?;
        canvas.rect(Rect { top: plot.bottom - 1.0, ..plot }, FRAME_COLOR)
    }

    /// A line through `(step, value)` points, with a dot at each on demand; a single point is always a dot.
    pub(crate) fn draw_line(&self, canvas: &Canvas<'_>, steps: &[Point], stroke: Stroke, has_dots: bool) -> Result<()> {
        let points: Vec<Point> = steps.iter().map(|&(step, value)| self.point(step, value)).collect();
        canvas.polyline(&points, stroke)?;
        match points[..] {
            [point] => canvas.dot(point, SINGLE_DOT, stroke.color),
            _ if has_dots => points.iter().try_for_each(|&point| canvas.dot(point, DOT, stroke.color)),
            _ => Ok(()),
        }
    }
}

/// Writes the name of the horizontal axis at the bottom of `area`, centred below `plot`.
pub(crate) fn draw_x_name(canvas: &Canvas<'_>, area: Rect, plot: Rect, name: &str) -> Result<()> {
    canvas.text(name, (plot.center().0, area.bottom - 0.3 * AXIS_NAME), Align::Center, AXIS_FONT)
}

/// Writes the name of the vertical axis at the left of `area`, upwards, centred beside `plot`.
pub(crate) fn draw_y_name(canvas: &Canvas<'_>, area: Rect, plot: Rect, name: &str) -> Result<()> {
    canvas.text_upwards(name, (area.left + 0.3 * AXIS_NAME, plot.center().1), AXIS_FONT)
}

/// Width of the widest text, in pixels.
pub(crate) fn widest(texts: &[String], font: Font) -> Result<f64> {
    texts.iter().try_fold(0.0, |widest: f64, text| Ok(widest.max(width_of(text, font)?)))
}
