//! What a device makes of numbers that name no type does not reach a prediction.
#![cfg(feature = "flex")]

use burn::tensor::{DType, Device, FloatDType};
use evo1::{Frame, LoadOptions, Noise, Observation, Policy, View, test_support::fixture, trace, weights::WeightFile};

/// In a process of its own: a device's type can be set once, before anything is computed on it.
#[test]
fn a_device_whose_own_type_is_bf16_predicts_in_the_policys_type() {
    let mut device = Device::flex();
    device.configure(FloatDType::BF16).expect("a device that is not in use yet");
    let fixture = fixture("tiny-lerobot");
    let (policy, _) = Policy::load(&fixture, &LoadOptions::new(&device)).expect("a policy");

    let file = WeightFile::open(&fixture.join("inference.safetensors")).expect("a fixture");
    let tensors = trace::inference(&policy, &file, None).expect("a trace");
    let comparison = trace::compare(&tensors, &file, policy.config.profile).expect("comparable");
    assert!(comparison.is_within(1e-4), "{comparison:?}");

    let observation = Observation {
        views: vec![View::Present(Frame::black(64, 64)), View::Absent],
        state: vec![0.123; policy.config.state_dim.unwrap_or(8)],
        instruction: "open it".into(),
        ..Observation::default()
    };
    let inputs = policy.prepare(&[observation], true).expect("inputs");
    assert_eq!(inputs.pixels.expect("a view").dtype(), DType::F32);
    assert_eq!((inputs.state.dtype(), inputs.action_mask.dtype()), (DType::F32, DType::F32));
    assert_eq!(policy.noise(1, &Noise::Seed(1)).expect("noise").dtype(), DType::F32);
}
