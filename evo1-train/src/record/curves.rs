//! Loss, learning rate and gradient norm over the steps, as a picture.

use std::path::Path;

use evo1::files::write_atomically;
use evo1_plot::{
    Color, Rect,
    canvas::{Point, render},
    curves::{Curve, Curves, Scale, draw},
    png,
};

use super::Metrics;
use crate::{Error, Errors, Result};

/// Width and height of the picture in pixels.
const SIZE: (f64, f64) = (1000.0, 760.0);
/// The part of the height that the loss has for itself.
const LOSS_HEIGHT: f64 = 0.6;
const LOSS: Color = Color(0x1f, 0x5a, 0xa8);
const PALE: Color = Color(0xb5, 0xcc, 0xe8);
const HELD_OUT: Color = Color(0xc2, 0x5b, 0x00);
const HELD_OUT_EMA: Color = Color(0x2e, 0x7d, 0x32);
const RATE: Color = Color(0xc2, 0x5b, 0x00);
/// Logged steps of which a smoothed loss is the mean: this part of all, each way.
const SMOOTHING: usize = 40;

/// Writes the curves of a run as the PNG file `path`.
///
/// # Errors
/// When the file cannot be written.
pub fn write_curves(path: &Path, metrics: &[Metrics]) -> Result<()> {
    let (width, height) = SIZE;
    let (middle, split) = (0.5 * width, LOSS_HEIGHT * height);
    let mut loss = smoothed_chart("Loss (logarithmic)", points(metrics, |line| line.loss));
    for (errors, color) in [
        ((|line: &Metrics| line.held_out) as fn(&Metrics) -> Option<Errors>, HELD_OUT),
        (|line: &Metrics| line.held_out_ema, HELD_OUT_EMA),
    ] {
        let points = points(metrics, |line| errors(line).map_or(f64::NAN, |errors| errors.loss));
        if !points.is_empty() {
            loss.title = if color == HELD_OUT_EMA {
                "Loss (logarithmic): blue in training, orange held out, green by the averaged weights"
            } else {
                "Loss (logarithmic): blue in training, orange held out"
            };
            loss.curves.push(Curve { points, color, width: 2.0 });
        }
    }
    let norm = smoothed_chart("Gradient norm (logarithmic)", points(metrics, |line| line.gradient_norm));
    let rate = Curve { points: points(metrics, |line| line.learning_rate), color: RATE, width: 2.0 };
    let rate = Curves { title: "Learning rate", x_name: "step", scale: Scale::FromZero, curves: vec![rate] };
    let picture = render(SIZE, |canvas| {
        draw(canvas, Rect { left: 0.0, top: 0.0, right: width, bottom: split }, &loss)?;
        draw(canvas, Rect { left: 0.0, top: split, right: middle, bottom: height }, &rate)?;
        draw(canvas, Rect { left: middle, top: split, right: width, bottom: height }, &norm)
    });
    let failed = |error: evo1_plot::Error| Error::Plot { path: path.to_owned(), message: error.to_string() };
    let bytes = picture.and_then(|picture| png(&picture)).map_err(failed)?;
    Ok(write_atomically(path, &bytes)?)
}

/// Values over steps, pale, and their means over some steps above them.
fn smoothed_chart(title: &'static str, points: Vec<Point>) -> Curves<'static> {
    let smoothed = Curve { points: smoothed(&points), color: LOSS, width: 2.0 };
    let curves = vec![Curve { points, color: PALE, width: 1.0 }, smoothed];
    Curves { title, x_name: "step", scale: Scale::Logarithmic, curves }
}

/// Values over steps, without those that no axis has a place for.
fn points(metrics: &[Metrics], value: impl Fn(&Metrics) -> f64) -> Vec<Point> {
    let points = metrics.iter().map(|line| (line.step as f64, value(line)));
    points.filter(|(_, value)| value.is_finite() && *value >= 0.0).collect()
}

/// Each value's mean with its neighbours.
fn smoothed(points: &[Point]) -> Vec<Point> {
    let reach = points.len() / SMOOTHING;
    let window = |at: usize| &points[at.saturating_sub(reach)..(at + reach + 1).min(points.len())];
    let mean = |window: &[Point]| window.iter().map(|point| point.1).sum::<f64>() / window.len() as f64;
    points.iter().enumerate().map(|(at, point)| (point.0, mean(window(at)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(step: u64, loss: f64) -> Metrics {
        Metrics { step, loss, gradient_norm: 2.0 * loss, learning_rate: 1e-3, ..Metrics::default() }
    }

    #[test]
    fn curves_are_drawn_of_any_run() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("curves.png");
        let long: Vec<Metrics> = (1..200).map(|step| metrics(step, 1.0 / step as f64)).collect();
        for run in [vec![], vec![metrics(1, 0.5)], vec![metrics(1, 0.5), metrics(2, f64::NAN)], long] {
            write_curves(&path, &run).expect("a picture");
            let picture = image::open(&path).expect("a PNG").into_rgb8();
            assert_eq!(picture.dimensions(), (SIZE.0 as u32, SIZE.1 as u32));
            // Where the line of the loss fills a whole pixel.
            let is_drawn = picture.pixels().any(|pixel| *pixel == LOSS.into());
            assert_eq!(is_drawn, run.len() > 100, "{} lines", run.len());
        }
    }
}
