//! One layer of the language model by itself.

use std::{error::Error, path::Path};

use burn::tensor::{Distribution, Tensor};
use evo1::{
    LoadOptions, Policy, Trace,
    config::{MaskedRows, PolicyConfig},
    device::DeviceName,
    vlm::{TokenBatch, language::AttentionMask},
};

fn main() -> Result<(), Box<dyn Error>> {
    let device = DeviceName::Auto.open()?;
    let policy = match std::env::args().nth(1) {
        Some(directory) => Policy::load(Path::new(&directory), &LoadOptions::new(&device))?.0,
        None => Policy::random(PolicyConfig::tiny(), 0, &device)?,
    };
    let decoder = policy.network.vlm.language_model();
    // Six tokens, the fourth of which nothing may attend to.
    let tokens = TokenBatch::new(vec![vec![0; 6]], vec![vec![true, true, true, false, true, true]]);
    let (rope, mask) = (decoder.rope(&tokens, &device), AttentionMask::new(&tokens, MaskedRows::Attend, &device));
    let x = Tensor::<3>::random([1, 6, policy.config.vlm.language.hidden_size], Distribution::Default, &device);
    for (index, layer) in decoder.layers().iter().enumerate() {
        let y = layer.forward(x.clone(), &rope, &mask, &mut Trace::off());
        let change = (y - x.clone()).square().mean().sqrt().into_scalar::<f32>();
        println!("layer {index:2}: root mean square of what it adds {change:.4}");
    }
    Ok(())
}
