//! Lines over steps, for example those of an action chunk or a recording: one chart for all dimensions, or one small chart
//! for each where their scales differ too much.

use crate::{
    axis::{self, Axis},
    canvas::{Align, BLACK, Canvas, Color, Font, GREY, Point, Rect, Stroke},
    error::Result,
    panel::{AXIS_NAME, LABEL_GAP, Panel, SINGLE_DOT, STEP_LABELS, TICK_FONT, draw_x_name, draw_y_name, widest},
};

/// Largest ratio of two dimensions' largest magnitudes for which they still share a chart.
const COMMON_SCALE: f64 = 10.0;

/// Line colours, eight hues in three shades. The first eight are those of Okabe and Ito, told apart by colour-blind
/// people, with wine in place of the yellow that white paper swallows.
#[rustfmt::skip]
pub const PALETTE: [Color; 24] = [
    Color(0x00, 0x72, 0xb2), Color(0xd5, 0x5e, 0x00), Color(0x00, 0x9e, 0x73), Color(0xcc, 0x79, 0xa7),
    Color(0x00, 0x00, 0x00), Color(0xe6, 0x9f, 0x00), Color(0x56, 0xb4, 0xe9), Color(0x88, 0x22, 0x55),
    Color(0x00, 0x3f, 0x66), Color(0x8a, 0x33, 0x00), Color(0x00, 0x5a, 0x3c), Color(0x8f, 0x3c, 0x6c),
    Color(0x5a, 0x5a, 0x5a), Color(0x96, 0x64, 0x00), Color(0x1f, 0x78, 0xb8), Color(0x4d, 0x08, 0x2c),
    Color(0x4d, 0xa8, 0xdc), Color(0xf0, 0x8c, 0x46), Color(0x46, 0xc8, 0xa0), Color(0xe6, 0xa5, 0xc8),
    Color(0x9b, 0x9b, 0x9b), Color(0xf5, 0xbe, 0x4b), Color(0x7d, 0xc8, 0xf5), Color(0xb4, 0x50, 0x82),
];
/// Each shade of the palette also has its own dashes.
const DASHES: [&[f64]; 3] = [&[], &[9.0, 5.0], &[3.0, 4.0]];
const HUES: usize = 8;

const LEGEND_FONT: Font = Font { size: 16.0, is_bold: false, color: BLACK };
const PANEL_FONT: Font = Font { is_bold: true, ..LEGEND_FONT };
const DOT_FONT: Font = Font { size: 13.0, is_bold: false, color: GREY };

/// Room for the legend and the panels, in pixels.
const LEGEND_ROW: f64 = 23.0;
const LEGEND_SWATCH: f64 = 30.0;
const MOST_LEGEND_COLUMNS: usize = 2;
const LEGEND_GAP: f64 = 20.0;
const PANEL_TITLE: f64 = 22.0;
const PANEL_GAP: f64 = 12.0;
const PANEL_HEIGHT: f64 = 140.0;
const CHART_HEIGHT: f64 = 560.0;

/// Marks wanted on the axes of values, and room for each mark of a step axis.
const CHART_TICKS: usize = 8;
const PANEL_TICKS: usize = 5;
const STEP_TICK_WIDTH: f64 = 50.0;

const LINE_WIDTH: f64 = 2.4;
const SWATCH_WIDTH: f64 = 3.0;
/// How far above a single step's dot its number stands.
const NUMBER_OFFSET: f64 = 14.0;
/// Part of the chart's width over which the dots of a single step are spread.
const SINGLE_SPREAD: f64 = 0.8;

/// Longer chunks show no dots at their steps.
const MOST_DOTTED_STEPS: usize = 24;
/// Wider chunks of one step have no numbers at their dots.
const MOST_NUMBERED_DOTS: usize = 32;

/// What a chart shows: some dimensions over some steps; at least one dimension.
#[derive(Debug, Clone)]
pub struct Lines<'a> {
    /// `[steps, dimensions]`, row-major.
    pub values: &'a [f32],
    /// Names of the dimensions.
    pub names: Vec<String>,
    /// What the steps are.
    pub x_name: &'a str,
    /// What the values are.
    pub y_name: &'a str,
}

impl Lines<'_> {
    fn width(&self) -> usize {
        self.names.len()
    }

    fn horizon(&self) -> usize {
        self.values.len() / self.width()
    }

    fn steps(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width())
    }
}

/// Height in pixels that the chart of `lines` needs to be readable.
///
/// # Panics
/// When there is no dimension.
pub fn least_height(lines: &Lines<'_>) -> f64 {
    if !is_mixed_scale(lines) {
        return CHART_HEIGHT.max(lines.width().div_ceil(MOST_LEGEND_COLUMNS) as f64 * LEGEND_ROW);
    }
    let rows = lines.width().div_ceil(panel_columns(lines.width())) as f64;
    CHART_HEIGHT.max(rows * PANEL_HEIGHT + STEP_LABELS + AXIS_NAME)
}

/// Draws the chart of `lines` into `area`, which is at least [`least_height`] high. Dimensions share one chart unless the
/// largest magnitude of one is more than ten times that of another; then each has its own.
///
/// # Errors
/// When the font cannot be read.
///
/// # Panics
/// When there is no dimension.
pub fn draw(canvas: &Canvas<'_>, area: Rect, lines: &Lines<'_>) -> Result<()> {
    if is_mixed_scale(lines) { draw_panels(canvas, area, lines) } else { draw_common(canvas, area, lines) }
}

/// Whether the dimensions' scales are too different for one chart. Dimensions that are zero throughout fit any, and
/// so does a single step, whose values are written in the legend.
fn is_mixed_scale(lines: &Lines<'_>) -> bool {
    if lines.horizon() == 1 {
        return false;
    }
    let scale = |dimension| values(lines, dimension).map(f64::abs).fold(0.0, f64::max);
    let scales = (0..lines.width()).map(scale).filter(|&scale| scale > 0.0);
    let (least, most) = scales.fold((f64::INFINITY, 0.0f64), |(least, most), s| (least.min(s), most.max(s)));
    most > COMMON_SCALE * least
}

fn values(lines: &Lines<'_>, dimension: usize) -> impl Iterator<Item = f64> {
    lines.steps().map(move |action| f64::from(action[dimension]))
}

/// All dimensions in one chart, the legend at its right.
fn draw_common(canvas: &Canvas<'_>, area: Rect, lines: &Lines<'_>) -> Result<()> {
    let columns = lines.width().div_ceil((area.height() / LEGEND_ROW) as usize);
    let rows = lines.width().div_ceil(columns);
    let names: Vec<String> = (0..lines.width()).map(|dimension| legend_text(lines, dimension)).collect();
    let entry = LEGEND_SWATCH + LABEL_GAP + widest(&names, LEGEND_FONT)?;
    let legend = columns as f64 * (entry + LEGEND_GAP);

    let y_axis = Axis::covering(lines.values.iter().map(|&value| f64::from(value)), CHART_TICKS);
    let plot = plot_area(Rect { right: area.right - legend, ..area }, &y_axis)?;
    let panel = panel(plot, lines.horizon(), y_axis);
    panel.draw_grid(canvas, true)?;
    draw_axis_names(canvas, area, plot, lines)?;
    let has_dots = lines.horizon() <= MOST_DOTTED_STEPS && lines.width() <= HUES;
    let is_single = lines.horizon() == 1;
    for (dimension, name) in names.iter().enumerate() {
        // The dots of a single step stand side by side, else they would hide each other.
        let place = (dimension as f64 + 0.5) / lines.width() as f64 - 0.5;
        let points = steps(lines, dimension, if is_single { SINGLE_SPREAD * place } else { 0.0 });
        panel.draw_line(canvas, &points, stroke(dimension), has_dots)?;
        if is_single && lines.width() <= MOST_NUMBERED_DOTS {
            let (x, y) = panel.point(points[0].0, points[0].1);
            canvas.text(&dimension.to_string(), (x, y - NUMBER_OFFSET), Align::Center, DOT_FONT)?;
        }
        let left = plot.right + LEGEND_GAP + (dimension / rows) as f64 * (entry + LEGEND_GAP);
        let (right, y) = (left + LEGEND_SWATCH, plot.top + (0.5 + (dimension % rows) as f64) * LEGEND_ROW);
        if is_single {
            canvas.dot((0.5 * (left + right), y), SINGLE_DOT, stroke(dimension).color)?;
        } else {
            canvas.polyline(&[(left, y), (right, y)], Stroke { width: SWATCH_WIDTH, ..stroke(dimension) })?;
        }
        canvas.text(name, (right + LABEL_GAP, y), Align::Left, LEGEND_FONT)?;
    }
    Ok(())
}

/// One panel for each dimension, each with its own range of values.
fn draw_panels(canvas: &Canvas<'_>, area: Rect, lines: &Lines<'_>) -> Result<()> {
    let columns = panel_columns(lines.width());
    let rows = lines.width().div_ceil(columns);
    let inner = Rect { left: area.left + AXIS_NAME, bottom: area.bottom - AXIS_NAME - STEP_LABELS, ..area };
    let (width, height) = (inner.width() / columns as f64, inner.height() / rows as f64);
    let y_axes: Vec<Axis> = (0..lines.width()).map(|d| Axis::covering(values(lines, d), PANEL_TICKS)).collect();
    let labels: Vec<String> = y_axes.iter().flat_map(Axis::labels).collect();
    let label_width = widest(&labels, TICK_FONT)? + LABEL_GAP;
    let has_dots = lines.horizon() <= MOST_DOTTED_STEPS;
    for (dimension, y_axis) in y_axes.into_iter().enumerate() {
        let (row, column) = ((dimension / columns) as f64, (dimension % columns) as f64);
        let plot = Rect {
            left: (inner.left + column * width + label_width).round(),
            top: (inner.top + row * height + PANEL_TITLE).round(),
            right: (inner.left + (column + 1.0) * width - PANEL_GAP).round(),
            bottom: (inner.top + (row + 1.0) * height - PANEL_GAP).round(),
        };
        let panel = panel(plot, lines.horizon(), y_axis);
        panel.draw_grid(canvas, dimension + columns >= lines.width())?;
        canvas.text(&lines.names[dimension], (plot.left, plot.top - 0.5 * PANEL_TITLE), Align::Left, PANEL_FONT)?;
        panel.draw_line(canvas, &steps(lines, dimension, 0.0), stroke(dimension % HUES), has_dots)?;
    }
    draw_axis_names(canvas, area, inner, lines)
}

fn panel_columns(panels: usize) -> usize {
    match panels {
        0..=3 => 1,
        4..=8 => 2,
        9..=15 => 3,
        _ => 4,
    }
}

/// A plot over the steps of a chunk.
fn panel(plot: Rect, horizon: usize, y_axis: Axis) -> Panel {
    Panel { plot, x_axis: Axis::steps(horizon, (plot.width() / STEP_TICK_WIDTH) as usize), y_axis }
}

/// What is left of `area` for the plot when the axes' texts have their place.
fn plot_area(area: Rect, y_axis: &Axis) -> Result<Rect> {
    let left = (area.left + AXIS_NAME + widest(&y_axis.labels(), TICK_FONT)? + LABEL_GAP).round();
    Ok(Rect { left, right: area.right.round(), bottom: area.bottom - AXIS_NAME - STEP_LABELS, ..area })
}

fn draw_axis_names(canvas: &Canvas<'_>, area: Rect, plot: Rect, lines: &Lines<'_>) -> Result<()> {
    draw_x_name(canvas, area, plot, lines.x_name)?;
    draw_y_name(canvas, area, plot, lines.y_name)
}

/// The `(step, value)` points of a dimension, moved by `shift` steps.
fn steps(lines: &Lines<'_>, dimension: usize, shift: f64) -> Vec<Point> {
    values(lines, dimension).enumerate().map(|(step, value)| (step as f64 + shift, value)).collect()
}

/// The look of a dimension's line.
fn stroke(dimension: usize) -> Stroke {
    let index = dimension % PALETTE.len();
    Stroke { color: PALETTE[index], width: LINE_WIDTH, dashes: DASHES[index / HUES] }
}

fn legend_text(lines: &Lines<'_>, dimension: usize) -> String {
    match lines.values {
        values if lines.horizon() == 1 => {
            format!("{}:  {}", lines.names[dimension], axis::value_label(f64::from(values[dimension])))
        }
        _ => lines.names[dimension].clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use image::{Rgb, RgbImage};

    use super::*;
    use crate::canvas::render;

    const WIDTH: f64 = 1040.0;

    /// The chart of a chunk whose values are `value(step, dimension)`.
    fn drawn(width: usize, horizon: usize, value: impl Fn(usize, usize) -> f32) -> RgbImage {
        let value = &value;
        let values: Vec<f32> = (0..horizon).flat_map(|step| (0..width).map(move |d| value(step, d))).collect();
        let names = (0..width).map(|dimension| format!("action {dimension}")).collect();
        let lines = Lines { values: &values, names, x_name: "step of the chunk", y_name: "action value" };
        let area = Rect { left: 0.0, top: 0.0, right: WIDTH, bottom: least_height(&lines) };
        render((area.right, area.bottom), |canvas| draw(canvas, area, &lines)).expect("a picture")
    }

    /// How many pixels left of `right` have exactly this colour.
    fn count(picture: &RgbImage, right: f64, color: Color) -> usize {
        picture.enumerate_pixels().filter(|&(x, _, pixel)| f64::from(x) < right && *pixel == Rgb::from(color)).count()
    }

    #[test]
    fn every_line_is_drawn_in_its_colour() {
        let picture = drawn(24, 50, |_, d| 100.0 + d as f32);
        let legend_left = WIDTH - 160.0;
        for color in PALETTE {
            let pixels = count(&picture, legend_left, color);
            assert!(pixels > 300, "{color:?}: {pixels} pixels");
        }
        assert_eq!(BTreeSet::from(PALETTE).len(), PALETTE.len());
    }

    #[test]
    fn a_single_step_is_drawn_as_dots() {
        let picture = drawn(24, 1, |_, d| d as f32);
        for color in PALETTE {
            let pixels = count(&picture, 812.0, color);
            assert!((40..200).contains(&pixels), "{color:?}: {pixels} pixels");
        }
    }

    #[test]
    fn a_line_of_another_scale_has_a_panel_of_its_own() {
        let wave = |step: usize| (step as f32 * 0.4).sin();
        let of_scale = |scale: f32| drawn(2, 30, |step, d| [1.0, scale][d] * wave(step));
        // Rows of pixels in which the second line shows: few where it is flattened, many where its scale is its own.
        let rows = |picture: &RgbImage| {
            let color = Rgb::from(PALETTE[1]);
            picture.rows().filter(|row| row.clone().take(772).any(|&pixel| pixel == color)).count()
        };
        assert!(rows(&of_scale(0.11)) < 80, "{}", rows(&of_scale(0.11)));
        assert!(rows(&of_scale(0.01)) > 120, "{}", rows(&of_scale(0.01)));
        assert!(rows(&of_scale(1e30)) > 120, "{}", rows(&of_scale(1e30)));
        assert_eq!(of_scale(0.0).dimensions(), of_scale(1.0).dimensions());
    }
}
