//! Every variant of the action expert equals an independent PyTorch version: velocity, gradients, integrated actions.
//!
//! The fixtures are written by `scripts/make_variant_fixtures.py`.

use std::{collections::BTreeMap, path::PathBuf};

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{Bool, DType, Device, Int, Tensor, TensorData},
};
use evo1_action::{
    ActionExpert, Sampler, VelocityModel, embodiments,
    flow::{Heun, Midpoint},
};
use evo1_core::{
    Context, Trace,
    config::{ActionConfig, Profile},
    device::test_devices,
    test_support::{assert_within, fixture, largest},
    weights::{GradientsOf, Naming, WeightFile, checkpoint_tensors, initialize},
};

/// Largest difference, relative to the tensor's largest magnitude.
const TOLERANCE: f64 = 1e-4;

/// Rounding noise in gradients that are zero in exact arithmetic, such as those of key biases.
const NOISE: f64 = 1e-6;

fn directory() -> PathBuf {
    fixture("variants")
}

fn variants() -> BTreeMap<String, ActionConfig> {
    let text = std::fs::read_to_string(directory().join("variants.json")).expect("fixture");
    serde_json::from_str(&text).expect("configurations")
}

/// Gives every parameter the tensor of its path.
struct Loader<'a> {
    file: &'a WeightFile,
    path: Vec<String>,
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (name, shape) = (format!("param.{}", self.path.join(".")), param.lazy_shape());
        let data = self.file.read(&name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(data.shape().as_slice(), shape.as_slice(), "{name}");
        let (device, tensor) = (param.lazy_device(), Tensor::from_data(data, &param.lazy_device()));
        Param::initialized(param.id, if device.is_autodiff() { tensor.require_grad() } else { tensor })
    }
}

/// The expert, its inputs and what is expected of it.
struct Fixture {
    file: WeightFile,
    expert: ActionExpert,
    device: Device,
}

impl Fixture {
    fn open(name: &str, config: &ActionConfig, device: &Device) -> Self {
        let file = WeightFile::open(&directory().join(format!("{name}.safetensors"))).expect(name);
        let expert = <ActionExpert>::init(config, device).expect(name);
        let expert = initialize(expert, 0, |_| None, |_| DType::F32);
        let parameters = file.names().filter(|name| name.starts_with("param.")).count();
        assert_eq!(evo1_core::weights::params(&expert).len(), parameters, "{name}");
        let expert = expert.map(&mut Loader { file: &file, path: vec![] });
        Self { file, expert, device: device.clone() }
    }

    fn input<const D: usize>(&self, name: &str) -> Tensor<D> {
        Tensor::from_data(self.file.read(name).expect(name), &self.device)
    }

    fn numbers(&self, name: &str) -> Vec<usize> {
        self.file.read(name).expect(name).iter::<i64>().map(|number| number as usize).collect()
    }

    fn embodiments(&self) -> Tensor<1, Int> {
        embodiments(&self.numbers("in.embodiment"), &self.device)
    }

    fn context(&self, tokens: Tensor<3>, layers: &Tensor<4>) -> Context {
        let hidden: Tensor<2, Int> = Tensor::from_data(self.file.read("in.hidden").expect("mask"), &self.device);
        let hidden: Tensor<2, Bool> = hidden.bool();
        let layers = layers.clone().iter_dim(0).map(|layer| layer.squeeze_dim(0)).collect();
        Context { tokens, layers, hidden: Some(hidden) }
    }

    /// The layers of a context, for a variant that reads them.
    fn layers_of(&self, context: Context) -> Context {
        match self.expert.language_layers(1).expect("layers").is_empty() {
            true => Context { layers: vec![], ..context },
            false => context,
        }
    }
}

fn assert_equal(what: &str, got: &TensorData, want: &TensorData) {
    assert_within(what, got, want, TOLERANCE * largest(want) + NOISE);
}

#[test]
fn velocities_and_gradients_equal_pytorch() {
    for device in test_devices() {
        for (name, config) in variants() {
            let fixture = Fixture::open(&name, &config, &device.clone().autodiff());
            let tokens: Tensor<3> = fixture.input("in.tokens").require_grad();
            let layers: Tensor<4> = fixture.input("in.layers").require_grad();
            let state: Tensor<2> = fixture.input("in.state").require_grad();
            let actions: Tensor<3> = fixture.input("in.actions").require_grad();
            let context = fixture.layers_of(fixture.context(tokens.clone(), &layers));
            let (expert, trace) = (&fixture.expert, &mut Trace::off());
            let conditioning = expert.condition(context, state.clone(), &fixture.embodiments(), trace);
            let times = expert.time_conditioning(&fixture.numbers("in.time_rows"), &fixture.device);
            let velocity = expert.velocity(actions.clone(), &times, &conditioning, trace);
            let wanted = |tensor: &str| fixture.file.read(tensor).expect("fixture");
            assert_equal(&format!("{name}: velocity"), &velocity.to_data(), &wanted("out.velocity"));

            let gradients = (velocity * fixture.input("in.loss_weight")).sum().backward();
            let mut found = checkpoint_tensors(expert, Naming::BURN, GradientsOf(&gradients));
            for (input, gradient) in [
                ("in.tokens", tokens.grad(&gradients).map(Tensor::into_data)),
                ("in.layers", layers.grad(&gradients).map(Tensor::into_data)),
                ("in.state", state.grad(&gradients).map(Tensor::into_data)),
                ("in.actions", actions.grad(&gradients).map(Tensor::into_data)),
            ] {
                found.extend(gradient.map(|gradient| (input.to_owned(), gradient)));
            }
            let names = fixture.file.names().filter(|name| name.starts_with("grad."));
            let mut compared = 0;
            for tensor in names {
                let got = &found[tensor.trim_start_matches("grad.")];
                assert_equal(&format!("{name}: {tensor}"), got, &wanted(tensor));
                compared += 1;
            }
            assert!(compared > 30, "{name}: {compared} gradients");
        }
    }
}

#[test]
fn every_solver_equals_pytorch() {
    for device in test_devices() {
        for (name, config) in variants() {
            let fixture = Fixture::open(&name, &config, &device);
            let context = fixture.context(fixture.input("in.tokens"), &fixture.input("in.layers"));
            let context = fixture.layers_of(context);
            let (expert, trace) = (&fixture.expert, &mut Trace::off());
            let embodiment = fixture.embodiments();
            let conditioning = expert.condition(context, fixture.input("in.state"), &embodiment, trace);
            let euler = Sampler::new(3, &Profile::Official.semantics());
            for (tensor, sampler) in [
                ("out.euler", euler.clone()),
                ("out.heun", euler.clone().with_solver(Heun)),
                ("out.midpoint", euler.with_solver(Midpoint)),
            ] {
                let (noise, mask) = (fixture.input("in.actions"), fixture.input("in.mask"));
                let actions = sampler.sample(expert, &conditioning, noise, mask, trace).expect(tensor).into_data();
                assert_equal(&format!("{name}: {tensor}"), &actions, &fixture.file.read(tensor).expect(tensor));
            }
        }
    }
}

#[test]
fn draws_share_a_context_and_give_what_each_gives_alone() {
    let device = test_devices().remove(0);
    for (name, config) in variants() {
        let fixture = Fixture::open(&name, &config, &device);
        let (expert, trace) = (&fixture.expert, &mut Trace::off());
        let context = fixture.context(fixture.input("in.tokens"), &fixture.input("in.layers"));
        let context = fixture.layers_of(context);
        let embodiment = fixture.embodiments();
        let once = expert.condition(context, fixture.input("in.state"), &embodiment, trace);
        let twice = <ActionExpert>::repeat(once.clone(), 2);
        let actions: Tensor<3> = fixture.input("in.actions");
        let [batch, horizon, width] = actions.dims();
        let repeated = actions.clone().unsqueeze_dim::<4>(1).expand([batch, 2, horizon, width]);
        let time = expert.time_conditioning(&[300], &device);
        let alone = expert.velocity(actions, &time, &once, trace);
        let together = expert.velocity(repeated.reshape([batch * 2, horizon, width]), &time, &twice, trace);
        let expected = alone.unsqueeze_dim::<4>(1).expand([batch, 2, horizon, width]);
        assert_equal(&name, &together.into_data(), &expected.reshape([batch * 2, horizon, width]).into_data());
    }
}
