//! How fast samples are read in random order, and whether memory stays flat.
//!
//! ```sh
//! cargo run --release -p evo1-data --example random_access -- DATASET 10000 2
//! ```
//!
//! reads 10,000 samples with 2 threads that hand them to one consumer, as PyTorch's workers do. A sample is what LeRobot's
//! reader makes of it: the frame of every camera as `[3, height, width]` from 0 to 1, the state, 16 actions and which of
//! them are past the end. `scripts/read_speed.py` runs it beside its peers.

use std::{
    path::PathBuf,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::sync_channel,
    },
    time::Instant,
};

use burn::tensor::{Device, Tensor, TensorData};
use evo1::{Frame, View};
use evo1_data::{DataConfig, DatasetConfig, Mixture, Position, Sample};

const HORIZON: usize = 16;

/// Samples before time counts, as threads and videos have to be started.
const WARM_UP: u64 = 20;

/// Samples that wait for the consumer, for each thread: as many as PyTorch's loader has.
const PREFETCH: usize = 2;

/// A sample as tensors.
struct Tensors {
    frames: Vec<Tensor<3>>,
    state: Tensor<1>,
    actions: Tensor<2>,
    is_pad: Vec<bool>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("give the folder of a dataset")?);
    let count: u64 = arguments.next().map_or(Ok(2000), |count| count.parse())?;
    let threads: usize = arguments.next().map_or(Ok(2), |threads| threads.parse())?;
    let device = "flex".parse::<evo1::device::DeviceName>()?.open()?;
    let mixture = Mixture::open(&DataConfig::single(DatasetConfig::new(folder)), HORIZON)?;
    let (next, (sender, samples)) = (AtomicU64::new(0), sync_channel(PREFETCH * threads));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, mixture, device, next) = (sender.clone(), &mixture, &device, &next);
            scope.spawn(move || {
                loop {
                    let draw = next.fetch_add(1, Ordering::Relaxed);
                    let sample = mixture.draw(Position::start(0).advanced(draw, mixture.len()));
                    let is_wanted = draw < count + WARM_UP && sender.send(sample.map(|s| tensors(s, device))).is_ok();
                    if !is_wanted {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let (mut start, mut values) = (Instant::now(), 0);
        for (number, sample) in (1..).zip(samples) {
            let Tensors { frames, state, actions, is_pad } = sample?;
            values += frames.iter().map(|frame| frame.shape().num_elements()).sum::<usize>();
            values += state.dims()[0] + actions.shape().num_elements() + is_pad.len();
            let done = u64::saturating_sub(number, WARM_UP);
            if number == WARM_UP {
                start = Instant::now();
            } else if done > 0 && done.is_multiple_of((count / 5).max(1)) {
                let rate = done as f64 / start.elapsed().as_secs_f64();
                println!("{done} samples, {rate:.0} a second, {} MB in memory", resident_megabytes());
            }
        }
        println!("{values} values");
        Ok(())
    })
}

fn tensors(sample: Sample, device: &Device) -> Tensors {
    let Sample { observation, actions, action_width, action_is_pad, .. } = sample;
    let frames = observation.views.iter().filter_map(View::frame).map(|frame| channels_first(frame, device)).collect();
    let state = Tensor::from_data(TensorData::from(observation.state.as_slice()), device);
    let actions = Tensor::from_data(TensorData::new(actions, [HORIZON, action_width]), device);
    Tensors { frames, state, actions, is_pad: action_is_pad }
}

/// A frame as `[3, height, width]` from 0 to 1.
fn channels_first(frame: &Frame, device: &Device) -> Tensor<3> {
    let (width, height) = (frame.width(), frame.height());
    let mut values = Vec::with_capacity(3 * width * height);
    for channel in 0..3 {
        values.extend(frame.rgb().chunks_exact(3).map(|pixel| f32::from(pixel[channel]) / 255.0));
    }
    Tensor::from_data(TensorData::new(values, [3, height, width]), device)
}

/// Resident memory, where the operating system tells.
fn resident_megabytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}
