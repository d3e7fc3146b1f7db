//! Writes every sample of a dataset to standard output, for comparison with other readers.
//!
//! ```sh
//! cargo run --release -p evo1-data --example every_sample -- DATASET 16
//! ```
//!
//! A sample is a line of JSON (where it is from, its state, 16 actions and which are past the end, the cameras and the
//! size of their frames) and after it the frames of the cameras as bytes, `[height, width, 3]`.
//! `scripts/check_data_with_lerobot.py` reads it.

use std::{
    io::{BufWriter, Write},
    num::NonZeroUsize,
    path::PathBuf,
};

use evo1::View;
use evo1_data::{DataConfig, DatasetConfig, Mixture, VideoPool};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("give the folder of a dataset")?);
    let horizon = arguments.next().map_or(Ok(16), |horizon| horizon.parse())?;
    let mixture = Mixture::open(&DataConfig::single(DatasetConfig::new(folder)), horizon)?;
    let source = &mixture.sources()[0];
    let videos = VideoPool::new(NonZeroUsize::new(16).ok_or("not 0")?);
    let mut out = BufWriter::new(std::io::stdout().lock());
    for episode in source.episodes() {
        let table = source.dataset.table(episode)?;
        for frame in 0..table.rows() {
            let sample = source.sample(episode, frame, horizon, &videos)?;
            let frames: Vec<_> = sample
                .observation
                .views
                .iter()
                .filter_map(|view| if let View::Present(frame) = view { Some(frame) } else { None })
                .collect();
            let cameras: Vec<_> = source
                .cameras()
                .zip(&frames)
                .map(|(name, frame)| json!({ "name": name, "height": frame.height(), "width": frame.width() }))
                .collect();
            let described = json!({
                "episode": episode,
                "frame": frame,
                "timestamp": table.floats("timestamp", frame),
                "instruction": sample.observation.instruction,
                "state": sample.observation.state,
                "actions": sample.actions,
                "action_is_pad": sample.action_is_pad,
                "cameras": cameras,
            });
            writeln!(out, "{described}")?;
            for frame in frames {
                out.write_all(frame.rgb())?;
            }
        }
    }
    Ok(out.flush()?)
}
