//! One block of the action expert by itself: what it adds to the action tokens at different times of the flow.

use std::{error::Error, path::Path};

use burn::tensor::{Distribution, Tensor};
use evo1::{LoadOptions, Policy, Trace, config::PolicyConfig, device::DeviceName};

fn main() -> Result<(), Box<dyn Error>> {
    let device = DeviceName::Auto.open()?;
    let policy = match std::env::args().nth(1) {
        Some(directory) => Policy::load(Path::new(&directory), &LoadOptions::new(&device))?.0,
        None => Policy::random(PolicyConfig::tiny(), 0, &device)?,
    };
    let (expert, config) = (&policy.network.action, &policy.config.action);
    let random = |tokens| Tensor::<3>::random([1, tokens, config.embed_dim], Distribution::Default, &device);
    let (actions, context) = (random(config.horizon), random(20));
    for (index, block) in expert.blocks().iter().enumerate() {
        // The context's keys and values are computed once, whatever the time.
        let keys_values = block.attention().keys_values(context.clone(), None);
        for row in [0, 500, 999] {
            let time = expert.time_conditioning(&[row], &device).of_block(index);
            let out = block.forward(actions.clone(), time, |_| keys_values.clone(), &mut Trace::off());
            let change = (out - actions.clone()).square().mean().sqrt().into_scalar::<f32>();
            println!("block {index}, row {row:3} of the time table: root mean square of what it adds {change:.4}");
        }
    }
    Ok(())
}
