//! The velocity field along a line: from noise to the actions that the policy makes of it.
//!
//! A flow that was trained well is straight: the velocity hardly changes on the way, and a few steps are enough.

use std::{error::Error, path::Path};

use evo1::{
    Frame, LoadOptions, Noise, Observation, Policy, Trace, VelocityModel, View, action::FlowTime, config::PolicyConfig,
    device::DeviceName,
};

fn main() -> Result<(), Box<dyn Error>> {
    let device = DeviceName::Auto.open()?;
    let policy = match std::env::args().nth(1) {
        Some(directory) => Policy::load(Path::new(&directory), &LoadOptions::new(&device))?.0,
        None => Policy::random(PolicyConfig::tiny(), 0, &device)?,
    };
    let observation = Observation {
        views: vec![View::Present(Frame::black(224, 224))],
        state: vec![0.0; policy.config.state_dim.unwrap_or(policy.config.action.max_state_dim)],
        instruction: "open the drawer".into(),
        ..Observation::default()
    };
    let inputs = policy.prepare(&[observation], true)?;
    let context = policy.fuse(policy.visual_tokens(&inputs), &inputs)?;
    let noise = policy.noise(1, &Noise::Seed(0))? * inputs.action_mask.clone();
    let end = policy.act(context.clone(), &inputs, noise.clone(), None)?;
    let (expert, trace) = (&policy.network.action, &mut Trace::off());
    let conditioning = expert.condition(context, inputs.state.clone(), &inputs.embodiment, trace);
    let straight = end.clone() - noise.clone();
    let norm = |x: burn::tensor::Tensor<3>| x.square().sum().sqrt().into_scalar::<f32>();
    println!("  t   ‖v‖      cosine of v and the whole way");
    for step in 0..=10 {
        let t = step as f32 / 10.0;
        let x = noise.clone() * (1.0 - t) + end.clone() * t;
        let time = expert.time(&[FlowTime::drawn(t, policy.config.semantics.time_scale)], &device);
        let v = expert.velocity(x, &time, &conditioning, trace) * inputs.action_mask.clone();
        let cosine =
            (v.clone() * straight.clone()).sum().into_scalar::<f32>() / (norm(v.clone()) * norm(straight.clone()));
        println!("{t:4.1}  {:7.3}  {cosine:6.3}", norm(v));
    }
    Ok(())
}
