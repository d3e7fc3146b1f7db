//! The lines of an action chunk or a recording: one chart for all dimensions, or one small chart for each.

use plotters::style::RGBColor;

use super::{
    axis::{self, Axis},
    canvas::{self, Align, BLACK, Canvas, Font, GREY, Point, Rect, Stroke},
};

/// Largest ratio of two dimensions' largest magnitudes for which they still share a chart.
pub(super) const COMMON_SCALE: f64 = 10.0;

/// Line colours, eight hues in three shades. The first eight are those of Okabe and Ito, told apart by colour-blind
/// people, with wine in place of the yellow that white paper swallows.
#[rustfmt::skip]
pub(super) const PALETTE: [RGBColor; 24] = [
    RGBColor(0x00, 0x72, 0xb2), RGBColor(0xd5, 0x5e, 0x00), RGBColor(0x00, 0x9e, 0x73), RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x00, 0x00, 0x00), RGBColor(0xe6, 0x9f, 0x00), RGBColor(0x56, 0xb4, 0xe9), RGBColor(0x88, 0x22, 0x55),
    RGBColor(0x00, 0x3f, 0x66), RGBColor(0x8a, 0x33, 0x00), RGBColor(0x00, 0x5a, 0x3c), RGBColor(0x8f, 0x3c, 0x6c),
    RGBColor(0x5a, 0x5a, 0x5a), RGBColor(0x96, 0x64, 0x00), RGBColor(0x1f, 0x78, 0xb8), RGBColor(0x4d, 0x08, 0x2c),
    RGBColor(0x4d, 0xa8, 0xdc), RGBColor(0xf0, 0x8c, 0x46), RGBColor(0x46, 0xc8, 0xa0), RGBColor(0xe6, 0xa5, 0xc8),
    RGBColor(0x9b, 0x9b, 0x9b), RGBColor(0xf5, 0xbe, 0x4b), RGBColor(0x7d, 0xc8, 0xf5), RGBColor(0xb4, 0x50, 0x82),
];
/// Each shade of the palette also has its own dashes.
const DASHES: [&[f64]; 3] = [&[], &[9.0, 5.0], &[3.0, 4.0]];
const HUES: usize = 8;

const FRAME_COLOR: RGBColor = RGBColor(0xa0, 0xa0, 0xa0);
const GRID_COLOR: RGBColor = RGBColor(0xe6, 0xe6, 0xe6);
const ZERO_COLOR: RGBColor = RGBColor(0xb4, 0xb4, 0xb4);
const TICK_FONT: Font = Font { size: 15.0, is_bold: false, color: GREY };
const AXIS_FONT: Font = Font { size: 17.0, is_bold: false, color: BLACK };
const LEGEND_FONT: Font = Font { size: 16.0, is_bold: false, color: BLACK };
const PANEL_FONT: Font = Font { is_bold: true, ..LEGEND_FONT };
const DOT_FONT: Font = Font { size: 13.0, is_bold: false, color: GREY };

/// Pixels; the names of the axes stand outside of the marks' texts.
const AXIS_NAME: f64 = 26.0;
const STEP_LABELS: f64 = 24.0;
const LABEL_GAP: f64 = 8.0;
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
const DOT: f64 = 3.0;
const SINGLE_DOT: f64 = 5.0;
/// How far above a single step's dot its number stands.
const NUMBER_OFFSET: f64 = 14.0;
/// Part of the chart's width over which the dots of a single step are spread.
const SINGLE_SPREAD: f64 = 0.8;

/// Longer chunks show no dots at their steps.
const MOST_DOTTED_STEPS: usize = 24;
/// Wider chunks of one step have no numbers at their dots.
const MOST_NUMBERED_DOTS: usize = 32;

/// What a chart shows: some dimensions over some steps.
#[derive(Debug, Clone)]
pub(crate) struct Lines<'a> {
    /// `[steps, dimensions]`, row-major.
    pub(crate) values: &'a [f32],
    /// Names of the dimensions.
    pub(crate) names: Vec<String>,
    /// What the steps are.
    pub(crate) x_name: &'a str,
    /// What the values are.
    pub(crate) y_name: &'a str,
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

/// Height that the chart of `lines` needs to be readable.
pub(super) fn least_height(lines: &Lines<'_>) -> f64 {
    if !is_mixed_scale(lines) {
        return CHART_HEIGHT.max(lines.width().div_ceil(MOST_LEGEND_COLUMNS) as f64 * LEGEND_ROW);
    }
    let rows = lines.width().div_ceil(panel_columns(lines.width())) as f64;
    CHART_HEIGHT.max(rows * PANEL_HEIGHT + STEP_LABELS + AXIS_NAME)
}

/// Draws the chart of `lines` into `area`.
pub(super) fn draw(canvas: &Canvas<'_>, area: Rect, lines: &Lines<'_>) -> eyre::Result<()> {
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
fn draw_common(canvas: &Canvas<'_>, area: Rect, lines: &Lines<'_>) -> eyre::Result<()> {
    let columns = lines.width().div_ceil((area.height() / LEGEND_ROW) as usize);
    let rows = lines.width().div_ceil(columns);
    let names: Vec<String> = (0..lines.width()).map(|dimension| legend_text(lines, dimension)).collect();
    let entry = LEGEND_SWATCH + LABEL_GAP + widest(&names, LEGEND_FONT)?;
    let legend = columns as f64 * (entry + LEGEND_GAP);

    let y_axis = Axis::covering(lines.values.iter().map(|&value| f64::from(value)), CHART_TICKS);
    let plot = plot_area(Rect { right: area.right - legend, ..area }, &y_axis)?;
    let panel = Panel::new(plot, lines.horizon(), y_axis);
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
fn draw_panels(canvas: &Canvas<'_>, area: Rect, lines: &Lines<'_>) -> eyre::Result<()> {
    let columns = panel_columns(lines.width());
    let rows = lines.width().div_ceil(columns);
    let inner = Rect { left: area.left + AXIS_NAME, bottom: area.bottom - AXIS_NAME - STEP_LABELS, ..area };
    let (width, height) = (inner.width() / columns as f64, inner.height() / rows as f64);
    let y_axes: Vec<Axis> = (0..lines.width()).map(|d| Axis::covering(values(lines, d), PANEL_TICKS)).collect();
    let labels: Vec<String> = y_axes.iter().flat_map(|axis| axis.ticks().map(|tick| axis.label(tick))).collect();
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
        let panel = Panel::new(plot, lines.horizon(), y_axis);
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

/// What is left of `area` for the plot when the axes' texts have their place.
fn plot_area(area: Rect, y_axis: &Axis) -> eyre::Result<Rect> {
    let labels: Vec<String> = y_axis.ticks().map(|tick| y_axis.label(tick)).collect();
    let left = (area.left + AXIS_NAME + widest(&labels, TICK_FONT)? + LABEL_GAP).round();
    Ok(Rect { left, right: area.right.round(), bottom: area.bottom - AXIS_NAME - STEP_LABELS, ..area })
}

fn draw_axis_names(canvas: &Canvas<'_>, area: Rect, plot: Rect, lines: &Lines<'_>) -> eyre::Result<()> {
    let (x, y) = plot.center();
    canvas.text(lines.x_name, (x, area.bottom - 0.3 * AXIS_NAME), Align::Center, AXIS_FONT)?;
    canvas.text_upwards(lines.y_name, (area.left + 0.3 * AXIS_NAME, y), AXIS_FONT)
}

/// A plot with its two axes.
struct Panel {
    plot: Rect,
    x_axis: Axis,
    y_axis: Axis,
}

impl Panel {
    fn new(plot: Rect, horizon: usize, y_axis: Axis) -> Self {
        Self { plot, x_axis: Axis::steps(horizon, (plot.width() / STEP_TICK_WIDTH) as usize), y_axis }
    }

    fn point(&self, step: f64, value: f64) -> Point {
        let x = self.x_axis.position(step, self.plot.left, self.plot.right);
        (x, self.y_axis.position(value, self.plot.bottom, self.plot.top))
    }

    /// The grid, its frame and the marks' texts.
    fn draw_grid(&self, canvas: &Canvas<'_>, has_step_labels: bool) -> eyre::Result<()> {
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
    fn draw_line(&self, canvas: &Canvas<'_>, steps: &[Point], stroke: Stroke, has_dots: bool) -> eyre::Result<()> {
        let points: Vec<Point> = steps.iter().map(|&(step, value)| self.point(step, value)).collect();
        canvas.polyline(&points, stroke)?;
        match points[..] {
            [point] => canvas.dot(point, SINGLE_DOT, stroke.color),
            _ if has_dots => points.iter().try_for_each(|&point| canvas.dot(point, DOT, stroke.color)),
            _ => Ok(()),
        }
    }
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

fn widest(texts: &[String], font: Font) -> eyre::Result<f64> {
    texts.iter().try_fold(0.0, |widest: f64, text| Ok(widest.max(canvas::width_of(text, font)?)))
}
