//! The flow-matching loss and its gradients.

use std::error::Error;

use burn::tensor::{DType, Tensor};
use evo1::{
    Context, Evo1, OneOf, Trace, VelocityModel,
    action::{Flow, FlowSample, embodiments, flow_matching_loss},
    config::{PolicyConfig, Profile},
    device::DeviceName,
    rng::stream,
    weights::InitialScales,
};

fn main() -> Result<(), Box<dyn Error>> {
    let device = DeviceName::Auto.open()?.autodiff();
    let policy = PolicyConfig::tiny();
    let (config, flow) = (&policy.action, Flow::built_in(&policy.flow)?);
    let network = <Evo1>::init(&policy, &device)?.initialized(0, InitialScales::default(), |_| DType::F32);
    let expert = network.action;
    let mut rng = stream(0, "training");

    let (batch, context_len) = (2, 10);
    let tokens = flow.noise.tensor([batch, context_len, config.embed_dim], &mut rng, &device);
    let context = Context { tokens, layers: vec![], hidden: None };
    let state = Tensor::zeros([batch, config.max_state_dim], &device);
    let conditioning = expert.condition(context, state, &embodiments(&[0, 0], &device), &mut Trace::off());
    let chunk = [batch, config.horizon, config.max_action_dim];
    let sample = FlowSample {
        actions: flow.noise.tensor(chunk, &mut rng, &device),
        mask: Tensor::ones(chunk, &device),
        noise: flow.noise.tensor(chunk, &mut rng, &device),
        time: flow.time_draw.times(batch, &mut rng),
    };
    println!("τ              {:?}", sample.time);
    let semantics = Profile::LeRobot.semantics();
    let out = flow_matching_loss(&expert, &conditioning, sample, &semantics, &mut Trace::off());
    println!("loss           {:.4}", out.loss.clone().into_scalar::<f32>());

    let gradients = out.loss.backward();
    let OneOf::First(head) = expert.head() else { return Err("a per-step head pools nothing".into()) };
    let gradient = head.pooling_weight().grad(&gradients).ok_or("the pooling weight has no gradient")?;
    println!("‖∂loss/∂pool‖  {:.4}", gradient.square().sum().sqrt().into_scalar::<f32>());
    Ok(())
}
