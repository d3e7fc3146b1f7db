//! The flow-matching loss and its gradients.

use std::error::Error;

use burn::tensor::{DType, Tensor};
use evo1::{
    Context, Trace,
    action::{
        FlowSample,
        flow::{draw_times, uniform_noise},
        flow_matching_loss, init_action_expert,
    },
    config::{PolicyConfig, Profile, TimeDraw},
    device::DeviceName,
    rng::stream,
    weights::initialize,
};

fn main() -> Result<(), Box<dyn Error>> {
    let device = DeviceName::Auto.open()?.autodiff();
    let config = PolicyConfig::tiny().action;
    let expert = initialize(init_action_expert(&config, &device), 0, |_| DType::F32);
    let mut rng = stream(0, "training");

    let (batch, context_len) = (2, 10);
    let tokens = uniform_noise([batch, context_len, config.embed_dim], &mut rng, &device);
    let context = Context { tokens, layers: vec![], hidden: None };
    let state = Tensor::zeros([batch, config.max_state_dim], &device);
    let conditioning = expert.condition(context, state, &[0, 0], &mut Trace::off());
    let chunk = [batch, config.horizon, config.max_action_dim];
    let sample = FlowSample {
        actions: uniform_noise(chunk, &mut rng, &device),
        mask: Tensor::ones(chunk, &device),
        noise: uniform_noise(chunk, &mut rng, &device),
        time: draw_times(TimeDraw::default(), batch, &mut rng),
    };
    println!("τ              {:?}", sample.time);
    let semantics = Profile::LeRobot.semantics();
    let out = flow_matching_loss(&expert, &conditioning, sample, &semantics, &mut Trace::off());
    println!("loss           {:.4}", out.loss.clone().into_scalar::<f32>());

    let gradients = out.loss.backward();
    let weight = expert.pooling_weight().ok_or("a per-step head pools nothing")?;
    let norm = weight.grad(&gradients).ok_or("the pooling weight has no gradient")?.square().sum().sqrt();
    println!("‖∂loss/∂pool‖  {:.4}", norm.into_scalar::<f32>());
    Ok(())
}
