//! Real-time chunking equals PyTorch, with the identity and with the Jacobian, on every device of the build.

use burn::tensor::{Device, Tensor, TensorData};
use evo1::{
    Context, LoadOptions, Policy, Trace, VelocityModel,
    action::{
        Sampler, embodiments,
        flow::{Guidance, GuidanceConfig, GuidanceMethod, PrefixSchedule},
    },
    device::test_devices,
    test_support::{assert_close, fixture},
    weights::{WeightFile, floats},
};

/// What the script that made the fixture has at its top.
const STEPS: usize = 8;
const DELAY: usize = 1;
const EXECUTION_HORIZON: usize = 4;

/// Largest difference, relative to the tensor's largest magnitude.
const TOLERANCE: f64 = 1e-4;

fn tensor<const D: usize>(file: &WeightFile, name: &str, device: &Device) -> Tensor<D> {
    let data = file.read(name).expect(name);
    let shape: [usize; D] = data.shape().dims();
    Tensor::from_data(TensorData::new(floats(&data), shape), device)
}

#[test]
fn guided_chunks_equal_pytorch() {
    let inputs = WeightFile::open(&fixture("tiny-lerobot/inference.safetensors")).expect("fixture");
    let guided = WeightFile::open(&fixture("guidance/guidance.safetensors")).expect("fixture");
    for device in test_devices() {
        let options = LoadOptions::new(&device);
        let (policy, _) = Policy::load(&fixture("tiny-lerobot"), &options).expect("a policy");
        let expert = &policy.network.action;
        let valid: Tensor<2> = tensor(&inputs, "in.attention_mask", &device);
        let context = Context {
            tokens: tensor(&inputs, "llm.final_norm", &device),
            layers: vec![],
            hidden: Some(valid.lower_elem(0.5)),
        };
        let embodiment = embodiments(&[0, 0], &device);
        let state = tensor(&inputs, "in.padded_state", &device);
        let conditioning = expert.condition(context, state, &embodiment, &mut Trace::off());
        let (noise, mask): (Tensor<3>, Tensor<3>) =
            (tensor(&inputs, "in.noise", &device), tensor(&inputs, "in.action_mask", &device));
        let sampler = Sampler::new(STEPS, &policy.config.semantics);
        for (method, method_name) in [(GuidanceMethod::Identity, "identity"), (GuidanceMethod::Jacobian, "jacobian")] {
            for (schedule, schedule_name) in [
                (PrefixSchedule::Linear, "linear"),
                (PrefixSchedule::Exp, "exp"),
                (PrefixSchedule::Ones, "ones"),
                (PrefixSchedule::Zeros, "zeros"),
            ] {
                let config =
                    GuidanceConfig { method, schedule, execution_horizon: EXECUTION_HORIZON, max_weight: 10.0 };
                let guidance = Guidance::new(config, tensor(&guided, "previous", &device), DELAY, &mask);
                let (noise, mask, mut trace) = (noise.clone(), mask.clone(), Trace::off());
                let actions = sampler.sample_guided(expert, &conditioning, noise, mask, Some(&guidance), &mut trace);
                let name = format!("{method_name}.{schedule_name}");
                let want = guided.read(&name).expect("fixture");
                assert_close(&format!("{name} on {device:?}"), &actions.expect("actions"), &want, TOLERANCE);
            }
        }
    }
}
