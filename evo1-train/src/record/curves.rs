//! Loss, learning rate and gradient norm over the steps, as a picture.

use std::{io::Cursor, path::Path};

use evo1::files::write_atomically;
use image::{ImageFormat, RgbImage, imageops};
use plotters::{
    coord::Shift,
    prelude::*,
    style::{FontStyle, register_font},
};

use super::Metrics;
use crate::{Error, Result};

/// Size of the picture in pixels.
const SIZE: (u32, u32) = (1000, 760);
/// Bitmap pixels for each of the picture's, along each axis: what smooths lines and letters.
const OVERSAMPLING: u32 = 2;
const FONT: &str = "DejaVu Sans";
const LOSS: RGBColor = RGBColor(0x1f, 0x5a, 0xa8);
const PALE: RGBColor = RGBColor(0xb5, 0xcc, 0xe8);
const RATE: RGBColor = RGBColor(0xc2, 0x5b, 0x00);
/// The smallest number that an axis reaches.
const SMALLEST: f64 = 1e-9;
/// Logged steps of which a smoothed loss is the mean: this part of all, each way.
const SMOOTHING: usize = 40;

/// Writes the curves of a run as the PNG file `path`.
///
/// # Errors
/// When the file cannot be written.
pub fn write_curves(path: &Path, metrics: &[Metrics]) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| Error::Plot { path: path.to_owned(), message: error.to_string() };
    for (style, bytes) in [(FontStyle::Normal, dejavu::sans::regular()), (FontStyle::Bold, dejavu::sans::bold())] {
        register_font(FONT, style, bytes).map_err(|_| failed(&"its font cannot be read"))?;
    }
    let (width, height) = (SIZE.0 * OVERSAMPLING, SIZE.1 * OVERSAMPLING);
    let mut bitmap = RgbImage::new(width, height);
    draw(&mut bitmap, (width, height), metrics).map_err(|error| failed(&error))?;
    let picture = imageops::thumbnail(&bitmap, SIZE.0, SIZE.1);
    let mut png = Cursor::new(Vec::new());
    picture.write_to(&mut png, ImageFormat::Png).map_err(|error| failed(&error))?;
    Ok(write_atomically(path, png.get_ref())?)
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw(bitmap: &mut RgbImage, size: (u32, u32), metrics: &[Metrics]) -> Drawn {
    let area = BitMapBackend::with_buffer(bitmap, size).into_drawing_area();
    area.fill(&WHITE)?;
    let (upper, lower) = area.split_vertically(size.1 * 6 / 10);
    let loss: Vec<(f64, f64)> = points(metrics, |line| line.loss);
    panel(&upper, "Loss (logarithmic)", &[(&loss, PALE, 1), (&smoothed(&loss), LOSS, 2)], true)?;
    let (left, right) = lower.split_horizontally(size.0 / 2);
    panel(&left, "Learning rate", &[(&points(metrics, |line| line.learning_rate), RATE, 2)], false)?;
    let norm = points(metrics, |line| line.gradient_norm);
    panel(&right, "Gradient norm (logarithmic)", &[(&norm, PALE, 1), (&smoothed(&norm), LOSS, 2)], true)?;
    area.present()?;
    Ok(())
}

/// Values over steps.
type Curve<'a> = (&'a [(f64, f64)], RGBColor, u32);

fn panel(
    area: &DrawingArea<BitMapBackend<'_>, Shift>,
    title: &str,
    curves: &[Curve<'_>],
    is_logarithmic: bool,
) -> Drawn {
    let font = |size: u32| (FONT, size * OVERSAMPLING).into_font();
    let values = || curves.iter().flat_map(|(points, ..)| points.iter());
    let steps = values().map(|point| point.0).fold(1.0, f64::max);
    // Logarithms need something above 0, whatever the run has come to.
    let high = values().map(|point| point.1).fold(SMALLEST, f64::max);
    let mut builder = ChartBuilder::on(area);
    builder
        .caption(title, font(18))
        .margin(12 * OVERSAMPLING)
        .x_label_area_size(32 * OVERSAMPLING)
        .y_label_area_size(72 * OVERSAMPLING);
    // The two kinds of axis are different types, so that what follows stands here twice.
    macro_rules! finish {
        ($chart:expr) => {{
            let mut chart = $chart;
            chart
                .configure_mesh()
                .light_line_style(TRANSPARENT)
                .label_style(font(13))
                .x_desc("step")
                .x_labels(6)
                .y_labels(6)
                .x_label_formatter(&|step| format!("{step:.0}"))
                .y_label_formatter(&|value| label(*value))
                .draw()?;
            for &(points, color, width) in curves {
                let style = ShapeStyle::from(&color).stroke_width(width * OVERSAMPLING);
                chart.draw_series([PathElement::new(points.to_vec(), style)])?;
            }
        }};
    }
    if is_logarithmic {
        let low = values().map(|point| point.1).fold(high, f64::min).max(SMALLEST);
        finish!(builder.build_cartesian_2d(0.0..steps, (0.8 * low..1.2 * high).log_scale())?);
    } else {
        finish!(builder.build_cartesian_2d(0.0..steps, 0.0..1.05 * high)?);
    }
    Ok(())
}

/// A number in few characters.
fn label(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        0.01..1000.0 => format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').into(),
        _ => format!("{value:.1e}"),
    }
}

/// Values over steps, without those that no axis has a place for.
fn points(metrics: &[Metrics], value: impl Fn(&Metrics) -> f64) -> Vec<(f64, f64)> {
    let points = metrics.iter().map(|line| (line.step as f64, value(line)));
    points.filter(|(_, value)| value.is_finite() && *value >= 0.0).collect()
}

/// Each value's mean with its neighbours.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = points.len() / SMOOTHING;
    let window = |at: usize| &points[at.saturating_sub(reach)..(at + reach + 1).min(points.len())];
    let mean = |window: &[(f64, f64)]| window.iter().map(|point| point.1).sum::<f64>() / window.len() as f64;
    points.iter().enumerate().map(|(at, point)| (point.0, mean(window(at)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(step: u64, loss: f64) -> Metrics {
        Metrics {
            step,
            loss,
            gradient_norm: 2.0 * loss,
            learning_rate: 1e-3,
            samples: step,
            samples_per_second: 1.0,
            waiting: 0.0,
            skipped: 0,
            seconds: 1.0,
        }
    }

    #[test]
    fn curves_are_drawn_of_any_run() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("curves.png");
        let long: Vec<Metrics> = (1..200).map(|step| metrics(step, 1.0 / step as f64)).collect();
        for run in [vec![], vec![metrics(1, 0.5)], vec![metrics(1, 0.5), metrics(2, f64::NAN)], long] {
            write_curves(&path, &run).expect("a picture");
            let picture = image::open(&path).expect("a PNG").into_rgb8();
            assert_eq!(picture.dimensions(), SIZE);
            let is_drawn = picture.pixels().any(|pixel| pixel.0 == LOSS_INSIDE);
            assert_eq!(is_drawn, run.len() > 100, "{} lines", run.len());
        }
    }

    /// Where the line of the loss fills a whole pixel.
    const LOSS_INSIDE: [u8; 3] = [LOSS.0, LOSS.1, LOSS.2];

    #[test]
    fn labels_are_short() {
        let labels = [0.0, 0.25, 1e-5, 12.0, 5000.0].map(label);
        assert_eq!(labels, ["0", "0.25", "1.0e-5", "12", "5.0e3"]);
    }
}
