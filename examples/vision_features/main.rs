//! The vision tower and projector by themselves.

use std::error::Error;

use burn::tensor::{DType, Tensor, TensorData};
use evo1::{
    Frame, Trace,
    config::{FramePreprocessing, PolicyConfig, TilingConfig},
    device::DeviceName,
    vlm::{
        frame,
        projector::Projector,
        unshuffle::pixel_unshuffle,
        vision::{VisionTower, initial_value},
    },
    weights::{InitialScales, initialize},
};

fn main() -> Result<(), Box<dyn Error>> {
    let device = DeviceName::Auto.open()?;
    let config = PolicyConfig::tiny().vlm;
    let scales = InitialScales::default();
    let tower = VisionTower::init(&config, &device);
    let tower = initialize(tower, 0, |spec| initial_value(spec, &scales), |_| DType::F32);
    let projector = initialize(Projector::init(&config, &device), 0, |_| None, |_| DType::F32);

    let gradient: Vec<u8> = (0..120 * 160 * 3).map(|byte| (byte / 3 % 160) as u8).collect();
    let frame = Frame::new(160, 120, gradient)?;
    let (size, how) = (config.image_size, FramePreprocessing::PilBicubic);
    let tiles = frame::tiles(&frame, size, how, &TilingConfig::default(), frame::Arithmetic::F32);
    let pixels = Tensor::<4>::from_data(TensorData::new(tiles.pixels, [tiles.count, 3, size, size]), &device);

    let mut trace = Trace::off();
    let patches = tower.forward(pixels, &mut trace);
    println!("patch tokens   {:?}", patches.dims());
    let unshuffled = pixel_unshuffle(patches, config.unshuffle_factor());
    println!("unshuffled     {:?}", unshuffled.dims());
    let visual = projector.forward(unshuffled, &mut trace);
    println!("visual tokens  {:?}", visual.dims());
    println!("mean           {:.4}", visual.clone().mean().into_scalar::<f32>());
    println!("deviation      {:.4}", visual.flatten::<1>(0, 2).var(0).sqrt().into_scalar::<f32>());
    Ok(())
}
