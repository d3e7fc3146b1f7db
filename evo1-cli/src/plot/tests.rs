//! The picture of a prediction as a whole.

use std::fs;

use image::Rgb;

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

/// How many pixels are red.
fn count_red(picture: &RgbImage) -> usize {
    picture.pixels().filter(|pixel| **pixel == Rgb([255, 0, 0])).count()
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
    assert_eq!(count_red(&picture), 320 * 240);
    let without = draw(&chunk, &[], TITLE).expect("picture");
    assert_eq!(f64::from(without.width()), MARGIN + CHART_WIDTH + MARGIN);
    assert_eq!(count_red(&without), 0);
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
    assert_eq!(message(Path::new("chunk.svg")), "a plot is a PNG file, got chunk.svg");
    let taken = folder.path().join("taken");
    fs::create_dir(&taken).expect("folder");
    assert!(message(&taken).contains("taken"), "{}", message(&taken));
    assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 1, "no temporary file is left");
}
