//! `evo1 bench --matrix`: the same work on several devices and in several number types.

use std::{fmt, path::Path};

use burn::tensor::Device;
use clap::ValueEnum;
use evo1::{
    config::Precision,
    device::{DeviceName, allow_tf32, caught},
};
use evo1_bench::{Report, set_tf32};
use evo1_plot::{Bar, bars};
use eyre::{Result, bail};
use serde::Serialize;

use super::bench::{STAGES, TRAINING};
use crate::{common::Dtype, output::say, plot::write_png};

/// A device and the number type to compute in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    device: DeviceName,
    dtype: Dtype,
}

impl Place {
    /// Opens the device. Whether products may round to TF32 is a matter of the whole process, and is set anew.
    pub(super) fn open(self) -> Result<Device> {
        let device = self.device.open()?;
        set_tf32(false);
        if self.dtype == Dtype::Tf32 {
            allow_tf32(&device)?;
        }
        Ok(device)
    }

    pub(super) fn precision(self) -> Precision {
        self.dtype.precision()
    }

    pub(super) fn dtype_name(self) -> String {
        format!("{:?}", self.dtype).to_lowercase()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.device, self.dtype_name())
    }
}

/// Reads `cuda:bf16` or `cuda:1:bf16`.
pub(super) fn parse_place(text: &str) -> Result<Place, String> {
    let (device, dtype) = text.rsplit_once(':').ok_or("expected a device and a number type, as in cuda:bf16")?;
    let device = device.parse().map_err(|error: evo1::CoreError| error.to_string())?;
    Ok(Place { device, dtype: Dtype::from_str(dtype, true)? })
}

/// What was found at a place: a report, or why there is none.
#[derive(Debug, Serialize)]
pub(super) struct Cell {
    place: String,
    #[serde(flatten)]
    found: Found,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Found {
    Report(Box<Report>),
    Error(String),
}

impl Cell {
    fn report(&self) -> Option<&Report> {
        match &self.found {
            Found::Report(report) => Some(report),
            Found::Error(_) => None,
        }
    }
}

/// Measures at one place after the other. Where a device is absent or fails, the others are still measured.
///
/// # Errors
/// When there is no report at all.
pub(super) fn measured(places: &[Place], measure: impl Fn(Place) -> Result<Report>) -> Result<Vec<Cell>> {
    let cells: Vec<Cell> = places
        .iter()
        .map(|&place| {
            let found = match caught(|| measure(place)).map_err(eyre::Report::from).and_then(|report| report) {
                Ok(report) => Found::Report(Box::new(report)),
                Err(error) => Found::Error(format!("{error:#}")),
            };
            Cell { place: place.to_string(), found }
        })
        .collect();
    if let (None, Some(Cell { place, found: Found::Error(error) })) =
        (cells.iter().find_map(Cell::report), cells.first())
    {
        bail!("{place}: {error}");
    }
    Ok(cells)
}

/// Prints the medians in milliseconds, with the share of the bound behind each that has one.
pub(super) fn print_table(cells: &[Cell]) -> Result<()> {
    if let Some(Report { setup, .. }) = cells.iter().find_map(Cell::report) {
        let (views, steps, batch, repeat) = (setup.views, setup.steps, setup.batch, setup.repeat);
        say!(
            "{}, profile {}: {views} views, {steps} steps, batch {batch}, {repeat} runs",
            setup.preset,
            setup.profile
        )?;
        say!("p50 in ms, and the share of it that the device's peak asks for\n")?;
    }
    let names = || STAGES.iter().chain([&TRAINING]);
    let shown: Vec<&str> = names()
        .copied()
        .filter(|name| cells.iter().filter_map(Cell::report).any(|report| report.milliseconds.contains_key(*name)))
        .collect();
    let width = cells.iter().map(|cell| cell.place.len()).max().unwrap_or_default().max("place".len());
    let header: String = shown.iter().map(|name| format!(" {name:>17}")).collect();
    say!("{:width$}{header} {:>10} {:>9} {:>7}", "place", "per s", "TFLOP/s", "GB/s")?;
    for cell in cells {
        let report = match &cell.found {
            Found::Report(report) => report,
            Found::Error(error) => {
                say!("{:width$} {error}", cell.place)?;
                continue;
            }
        };
        let mut line = String::new();
        for &name in &shown {
            let time = report.milliseconds.get(name).map(|time| format!("{:.2}", time.p50)).unwrap_or_default();
            let share = share(report, name).map(|share| format!("{:.0} %", 100.0 * share)).unwrap_or_default();
            line += &format!(" {time:>10} {share:>6}");
        }
        let total = report.milliseconds.get("total").or_else(|| report.milliseconds.get(TRAINING));
        let per_second = total.map_or(0.0, |total| report.setup.batch as f64 * 1e3 / total.p50);
        let peak = report.bounds.as_ref().map(|bounds| bounds.peak);
        let peak = peak.map(|peak| format!("{:>9.1} {:>7.0}", peak.tflops, peak.gbs)).unwrap_or_default();
        say!("{:width$}{line} {per_second:>10.2} {peak}", cell.place)?;
    }
    Ok(())
}

/// The bound of a stage over its median.
fn share(report: &Report, stage: &str) -> Option<f64> {
    Some(report.bounds.as_ref()?.milliseconds.get(stage)? / report.milliseconds.get(stage)?.p50)
}

/// Draws the share of the bound that each place reaches in all and by stage, with the times.
///
/// # Errors
/// When the file cannot be written; `path` is then as it was.
pub(super) fn draw_png(path: &Path, cells: &[Cell]) -> Result<()> {
    let mut all = Vec::new();
    for (cell, report) in cells.iter().filter_map(|cell| Some((cell, cell.report()?))) {
        for name in STAGES.iter().rev() {
            let (Some(share), Some(time)) = (share(report, name), report.milliseconds.get(*name)) else { continue };
            let value = 100.0 * share;
            all.push(Bar {
                name: format!("{} {name}", cell.place),
                value,
                whisker: (value, value),
                dots: vec![],
                label: format!("{value:.0} % · {:.1} ms", time.p50),
            });
        }
    }
    let foot = "least time by the device's peak, of the median; more is better";
    write_png(path, bars::draw("Share of the device's bound", foot, &all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_written() {
        for text in ["flex:f32", "cuda:1:bf16", "auto:tf32"] {
            assert_eq!(parse_place(text).expect("a place").to_string(), text);
        }
        for text in ["cuda", "cuda:f64", "gpu:f32", ""] {
            assert!(parse_place(text).is_err(), "{text}");
        }
    }
}
