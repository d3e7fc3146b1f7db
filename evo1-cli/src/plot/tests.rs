//! The pictures as a whole.

use std::fs;

use image::Rgb;
use plotters::style::RGBColor;

use super::*;

const TITLE: &str = "Press the button";

/// A chunk whose values are `value(step, dimension)`.
fn chunk(width: usize, horizon: usize, value: impl Fn(usize, usize) -> f32) -> ActionChunk {
    let value = &value;
    ActionChunk::new(width, (0..horizon).flat_map(|step| (0..width).map(move |d| value(step, d))).collect())
}

fn red_frame(width: usize, height: usize) -> Frame {
    Frame::new(width, height, [255, 0, 0].repeat(width * height)).expect("a filled frame")
}

/// How many pixels left of `right` have exactly this colour.
fn count(picture: &RgbImage, right: f64, color: RGBColor) -> usize {
    let rgb = Rgb([color.0, color.1, color.2]);
    picture.enumerate_pixels().filter(|&(x, _, pixel)| f64::from(x) < right && *pixel == rgb).count()
}

#[test]
fn the_file_holds_the_picture() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("chunk.png");
    fs::write(&path, "older").expect("file");
    let chunk = chunk(4, 16, |step, d| (step as f32 * 0.3 + d as f32).sin());
    chunk_png(&path, &chunk, &[red_frame(64, 48)], TITLE).expect("plot");
    let read = image::open(&path).expect("a PNG").to_rgb8();
    assert_eq!(read, draw(&chunk, &[red_frame(64, 48)], TITLE).expect("picture"));
    assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 1, "no temporary file is left");
}

#[test]
fn frames_are_scaled_with_their_aspect_kept() {
    let chunk = chunk(2, 3, |step, _| step as f32);
    let picture = draw(&chunk, &[red_frame(64, 48)], TITLE).expect("picture");
    assert_eq!(f64::from(picture.width()), MARGIN + FRAME_WIDTH + GUTTER + CHART_WIDTH + MARGIN);
    assert_eq!(count(&picture, 2000.0, RGBColor(255, 0, 0)), 320 * 240);
    let without = draw(&chunk, &[], TITLE).expect("picture");
    assert_eq!(f64::from(without.width()), MARGIN + CHART_WIDTH + MARGIN);
    assert_eq!(count(&without, 2000.0, RGBColor(255, 0, 0)), 0);
}

#[test]
fn every_line_is_drawn_in_its_colour() {
    let picture = draw(&chunk(24, 50, |_, d| 100.0 + d as f32), &[], TITLE).expect("picture");
    let legend_left = MARGIN + CHART_WIDTH - 160.0;
    for color in chart::PALETTE {
        let pixels = count(&picture, legend_left, color);
        assert!(pixels > 300, "{color:?}: {pixels} pixels");
    }
    let distinct: std::collections::BTreeSet<_> = chart::PALETTE.iter().map(|c| (c.0, c.1, c.2)).collect();
    assert_eq!(distinct.len(), chart::PALETTE.len());
}

#[test]
fn a_single_step_is_drawn_as_dots() {
    let picture = draw(&chunk(24, 1, |_, d| d as f32), &[], TITLE).expect("picture");
    for color in chart::PALETTE {
        let pixels = count(&picture, 840.0, color);
        assert!((40..200).contains(&pixels), "{color:?}: {pixels} pixels");
    }
}

#[test]
fn a_line_of_another_scale_has_a_panel_of_its_own() {
    let wave = |step: usize| (step as f32 * 0.4).sin();
    let of_scale =
        |scale: f32| draw(&chunk(2, 30, |step, d| [1.0, scale][d] * wave(step)), &[], TITLE).expect("picture");
    // Rows of pixels in which the second line shows: few where it is flattened, many where its scale is its own.
    let rows = |picture: &RgbImage| {
        let color = Rgb([chart::PALETTE[1].0, chart::PALETTE[1].1, chart::PALETTE[1].2]);
        picture.rows().filter(|row| row.clone().take(800).any(|&pixel| pixel == color)).count()
    };
    assert!(rows(&of_scale(0.11)) < 80, "{}", rows(&of_scale(0.11)));
    assert!(rows(&of_scale(0.01)) > 120, "{}", rows(&of_scale(0.01)));
    assert!(rows(&of_scale(1e30)) > 120, "{}", rows(&of_scale(1e30)));
    assert_eq!(of_scale(0.0).dimensions(), of_scale(1.0).dimensions());
}

#[test]
fn odd_chunks_and_frames_can_be_drawn() {
    let frames = [red_frame(1, 1), red_frame(2000, 1), red_frame(1, 2000)];
    let title = "a very long instruction ".repeat(100);
    for (width, horizon, low, high) in [
        (1, 1, 0.0, 0.0),
        (1, 2, f32::MIN, f32::MAX),
        (24, 1, -1e-40, f32::MAX),
        (24, 50, f32::MIN_POSITIVE, 1.0),
        (7, 3, -2.5, -2.5),
        (30, 2, 16_777_216.0, 16_777_218.0),
        (100, 1, -1.0, 1.0),
    ] {
        let chunk = chunk(width, horizon, |step, d| if (step + d) % 2 == 0 { low } else { high });
        let picture = draw(&chunk, &frames[..width % 4], &title);
        assert!(picture.is_ok(), "{width} × {horizon}, {low} to {high}: {picture:?}");
    }
}

#[test]
fn a_chunk_without_steps_is_an_error() {
    let error = draw(&chunk(3, 0, |_, _| 0.0), &[], TITLE).expect_err("nothing to draw");
    assert_eq!(error.to_string(), "the action chunk has no step");
}

#[test]
fn a_path_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().expect("folder");
    let chunk = chunk(1, 1, |_, _| 1.0);
    let message = |path: &Path| format!("{:#}", chunk_png(path, &chunk, &[], TITLE).expect_err("no such place"));
    let missing = folder.path().join("missing");
    let path = missing.join("chunk.png");
    let expected = format!("cannot write {}: there is no folder {}", path.display(), missing.display());
    assert_eq!(message(&path), expected);
    assert_eq!(message(Path::new("..")), "cannot write ..: the path names no file");
    assert_eq!(message(Path::new("")), "cannot write : the path names no file");
    let taken = folder.path().join("taken");
    fs::create_dir(&taken).expect("folder");
    assert!(message(&taken).contains("taken"), "{}", message(&taken));
    assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 1, "no temporary file is left");
}
