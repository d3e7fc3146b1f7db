//! Variants of the design in a whole policy.

use burn::tensor::Device;
use evo1::{
    ActionChunk, Choice, Noise, Observation, Policy, PredictOptions, Trace, VelocityModel, View, VisionLanguageModel,
    config::{Design, FlowConfig, PolicyConfig, StateInput, TimeInput},
    device::test_devices,
    test_support::frame,
};

/// A change of the published model.
type Edit = fn(&mut PolicyConfig);

fn observation() -> Observation {
    Observation {
        views: vec![View::Present(frame(1, 64, 64)), View::Present(frame(2, 64, 64))],
        state: vec![0.1, -0.7, 0.4],
        instruction: "open the drawer".into(),
        ..Observation::default()
    }
}

fn policy(edit: impl Fn(&mut PolicyConfig), device: &Device) -> Policy {
    let mut config = PolicyConfig { action_dim: Some(7), ..PolicyConfig::tiny() };
    edit(&mut config);
    Policy::random(config, 3, device).expect("valid")
}

fn predict(policy: &Policy) -> ActionChunk {
    let options = PredictOptions { steps: Some(4), noise: Noise::Seed(1), ..PredictOptions::default() };
    policy.predict(&observation(), &options).expect("a chunk")
}

fn largest_difference(a: &ActionChunk, b: &ActionChunk) -> f32 {
    assert_eq!(a.values().len(), b.values().len());
    a.values().iter().zip(b.values()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn the_published_model_is_the_default_design() {
    let paper = Design {
        integration: Choice::new("mid-layer-cross"),
        layer_pairing: vec![],
        state: StateInput::Token,
        time: TimeInput::Added,
        head: Choice::new("seq-pool"),
    };
    assert_eq!(PolicyConfig::evo1().action.design, paper);
    assert_eq!(PolicyConfig::evo1().flow, FlowConfig::default());
    assert_eq!(serde_json::from_str::<Design>("{}").expect("all defaults"), paper);
    let mut written = serde_json::to_value(PolicyConfig::evo1()).expect("JSON");
    written.as_object_mut().expect("an object").remove("flow");
    written["action"].as_object_mut().expect("an object").remove("design");
    assert_eq!(serde_json::from_value::<PolicyConfig>(written).expect("as before"), PolicyConfig::evo1());
}

#[test]
fn layer_wise_integration_of_the_last_layer_is_mid_layer_cross_attention() {
    for device in test_devices() {
        for is_pooled in [false, true] {
            let with = |integration: &str, layer_pairing: &[usize]| {
                policy(
                    |config| {
                        config.vlm.return_cls_only = is_pooled;
                        config.action.design = Design {
                            integration: Choice::new(integration),
                            layer_pairing: layer_pairing.to_vec(),
                            ..Design::default()
                        };
                    },
                    &device,
                )
            };
            let published = predict(&with("mid-layer-cross", &[]));
            let last = predict(&with("layer-wise", &[2, 2]));
            assert_eq!(published, last);
            let spread = predict(&with("layer-wise", &[]));
            assert!(largest_difference(&published, &spread) > 1e-4);
        }
    }
}

#[test]
fn a_tapped_layer_is_the_output_of_a_model_that_ends_there() {
    for device in test_devices() {
        let context = |policy: &Policy| {
            let inputs = policy.prepare(&[observation()], true).expect("inputs");
            policy.fuse(policy.visual_tokens(&inputs), &inputs).expect("context")
        };
        let short = context(&policy(|config| config.vlm.language.num_layers = 1, &device));
        let layer_wise = |config: &mut PolicyConfig| config.action.design.integration = Choice::new("layer-wise");
        let tapped = context(&policy(layer_wise, &device));
        assert_eq!(tapped.layers.len(), 2);
        assert_eq!(tapped.layers[0].to_data(), short.tokens.to_data());
        assert_eq!(tapped.layers[1].to_data(), tapped.tokens.to_data());
        assert!(short.layers.is_empty());
    }
}

#[test]
fn every_choice_changes_the_prediction_and_repeats() {
    let choices: [(&str, Edit); 12] = [
        ("published", |_| {}),
        ("interleaved", |config| config.action.design.integration = Choice::new("interleaved")),
        ("layer-wise", |config| config.action.design.integration = Choice::new("layer-wise")),
        ("joint-kv", |config| config.action.design.integration = Choice::new("joint-kv")),
        ("state per step", |config| config.action.design.state = StateInput::PerStep),
        ("no state", |config| config.action.design.state = StateInput::Absent),
        ("adaLN", |config| config.action.design.time = TimeInput::AdaLn),
        ("per-step head", |config| config.action.design.head = Choice::new("per-step")),
        ("normal noise", |config| config.flow.noise = Choice::new("normal")),
        ("shifted grid", |config| config.flow.grid = Choice::with_numbers("shifted", &[3.0])),
        ("Heun", |config| config.flow.solver = Choice::new("heun")),
        ("midpoint", |config| config.flow.solver = Choice::new("midpoint")),
    ];
    for device in test_devices() {
        let chunks = choices.map(|(name, edit)| (name, predict(&policy(edit, &device))));
        for (index, (name, chunk)) in chunks.iter().enumerate() {
            assert_eq!(*chunk, predict(&policy(choices[index].1, &device)), "{name}");
            for (other, earlier) in &chunks[..index] {
                assert!(largest_difference(chunk, earlier) > 1e-6, "{name} is {other}");
            }
        }
    }
}

#[test]
fn a_state_that_is_absent_cannot_change_the_action() {
    let device = test_devices().remove(0);
    let policy = policy(|config| config.action.design.state = StateInput::Absent, &device);
    let options = PredictOptions { steps: Some(2), ..PredictOptions::default() };
    let with = |state| policy.predict(&Observation { state, ..observation() }, &options).expect("a chunk");
    assert_eq!(with(vec![0.5; 3]), with(vec![-0.5; 3]));
}

#[test]
fn attention_weights_are_recorded_on_demand_and_sum_to_one() {
    for device in test_devices() {
        for integration in ["mid-layer-cross", "interleaved", "layer-wise", "joint-kv"] {
            let policy = policy(|config| config.action.design.integration = Choice::new(integration), &device);
            let inputs = policy.prepare(&[observation()], true).expect("inputs");
            let mut trace = Trace::of(|name| name.ends_with("attention_weights"));
            let (image_token, semantics) = (policy.tokenizer.image_context(), &policy.config.semantics);
            let vlm = &policy.network.vlm;
            let visual = policy.visual_tokens(&inputs);
            let context = vlm.forward(visual, &inputs.tokens, image_token, semantics, &mut trace).expect("context");
            let expert = &policy.network.action;
            let conditioning = expert.condition(context, inputs.state.clone(), &inputs.embodiment, &mut trace);
            let noise = policy.noise(1, &Noise::Seed(1)).expect("noise");
            let time = expert.time_conditioning(&[0], &device);
            expert.velocity(noise, &time, &conditioning, &mut trace);
            let recorded = trace.into_tensors();
            let names: Vec<&str> = recorded.keys().map(String::as_str).collect();
            assert_eq!(
                names,
                [
                    "block.0.attention_weights",
                    "block.1.attention_weights",
                    "llm.layer.0.attention_weights",
                    "llm.layer.1.attention_weights"
                ]
            );
            for (name, weights) in recorded {
                let keys = weights.shape()[3];
                for row in evo1::weights::floats(&weights).chunks(keys) {
                    assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{name}");
                }
            }
        }
    }
}
