//! Curves through measured points, for example of a training run's loss over its steps.

use crate::{
    axis::Axis,
    canvas::{Align, BLACK, Canvas, Color, Font, Point, Rect, Stroke, shortened},
    error::Result,
    panel::{AXIS_NAME, LABEL_GAP, Panel, STEP_LABELS, TICK_FONT, draw_x_name, widest},
};

const TITLE_FONT: Font = Font { size: 18.0, is_bold: false, color: BLACK };
/// Room for the title, in pixels.
const TITLE_HEIGHT: f64 = 30.0;
/// Room around a chart, in pixels.
const MARGIN: f64 = 12.0;
/// Marks wanted on each axis.
const TICKS: usize = 6;
/// The smallest number that an axis reaches: logarithms need something above 0.
const SMALLEST: f64 = 1e-9;

/// How values stand on the vertical axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From 0 up.
    FromZero,
    /// Equal distances are equal factors; a value that is not above 0 stands at the low end.
    Logarithmic,
}

/// A curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Steps, counted from 0, and the values at them: finite and not negative.
    pub points: Vec<Point>,
    /// The colour of the curve.
    pub color: Color,
    /// Pixels across the curve.
    pub width: f64,
}

/// What a chart shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Curves<'a> {
    /// What the values are.
    pub title: &'a str,
    /// What the steps are.
    pub x_name: &'a str,
    /// How the values stand on their axis.
    pub scale: Scale,
    /// The curves, each drawn over those before it.
    pub curves: Vec<Curve>,
}

/// Draws the chart of `curves` into `area`; a curve through fewer than two points cannot be seen.
///
/// # Errors
/// When the font cannot be read.
pub fn draw(canvas: &Canvas<'_>, area: Rect, curves: &Curves<'_>) -> Result<()> {
    let area = area.grown(-MARGIN);
    let values = || curves.curves.iter().flat_map(|curve| curve.points.iter());
    let last = values().map(|point| point.0).fold(1.0, f64::max);
    let high = values().map(|point| point.1).fold(SMALLEST, f64::max);
    let low = values().map(|point| point.1).fold(high, f64::min).max(SMALLEST);
    let x_axis = Axis::counted(last, TICKS);
    let y_axis = match curves.scale {
        Scale::FromZero => Axis::from_zero(1.05 * high, TICKS),
        Scale::Logarithmic => Axis::logarithmic(0.8 * low, 1.2 * high, TICKS),
    };
    let plot = Rect {
        left: (area.left + widest(&y_axis.labels(), TICK_FONT)? + LABEL_GAP).round(),
        top: (area.top + TITLE_HEIGHT).round(),
        // The last mark's text is centred below it.
        right: (area.right - 0.5 * widest(&x_axis.labels(), TICK_FONT)?).round(),
        bottom: (area.bottom - AXIS_NAME - STEP_LABELS).round(),
    };
    let title = shortened(curves.title, TITLE_FONT, area.width())?;
    canvas.text(&title, (area.center().0, area.top + 0.3 * TITLE_HEIGHT), Align::Center, TITLE_FONT)?;
    let panel = Panel { plot, x_axis, y_axis };
    panel.draw_grid(canvas, true)?;
    draw_x_name(canvas, area, plot, curves.x_name)?;
    for Curve { points, color, width } in &curves.curves {
        let points: Vec<Point> = points.iter().map(|&(step, value)| panel.point(step, value)).collect();
        canvas.polyline(&points, Stroke { color: *color, width: *width, dashes: &[] })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canvas::render;

    const BLUE: Color = Color(0x1f, 0x5a, 0xa8);

    /// The rows of the picture in which the curve through `points` shows.
    fn rows(points: Vec<Point>, scale: Scale) -> Vec<u32> {
        let picture = render((400.0, 300.0), |canvas| {
            let area = Rect { left: 0.0, top: 0.0, right: 400.0, bottom: 300.0 };
            let curves = vec![Curve { points, color: BLUE, width: 2.0 }];
            draw(canvas, area, &Curves { title: "Loss", x_name: "step", scale, curves })
        });
        let picture = picture.expect("a picture");
        let blue = image::Rgb::from(BLUE);
        (0..300).filter(|&y| (0..400).any(|x| *picture.get_pixel(x, y) == blue)).collect()
    }

    #[test]
    fn a_logarithmic_curve_falls_by_equal_factors_in_equal_steps() {
        let halved: Vec<Point> = (0..=10).map(|step| (f64::from(step), 0.5f64.powi(step))).collect();
        let middle = |rows: &[u32]| f64::from(rows[0] + rows[rows.len() - 1]) / 2.0;
        let (all, half) = (rows(halved.clone(), Scale::Logarithmic), rows(halved[..=5].to_vec(), Scale::Logarithmic));
        assert!(all.len() > 150 && half.len() > 150, "{} and {} rows", all.len(), half.len());
        assert!((middle(&all) - middle(&half)).abs() < 5.0);
    }

    #[test]
    fn anything_that_was_measured_can_be_drawn() {
        let odd: [Vec<Point>; 6] = [
            vec![],
            vec![(1.0, 0.5)],
            vec![(1.0, 0.0), (2.0, 0.0)],
            vec![(1.0, 0.0), (2.0, 1e30)],
            vec![(1.0, 3.0), (1e7, 3.0)],
            vec![(1.0, 1e-300), (2.0, f64::MAX / 2.0)],
        ];
        for points in odd {
            for scale in [Scale::FromZero, Scale::Logarithmic] {
                let is_seen = !rows(points.clone(), scale).is_empty();
                assert_eq!(is_seen, points.len() > 1, "{points:?} {scale:?}");
            }
        }
    }
}
