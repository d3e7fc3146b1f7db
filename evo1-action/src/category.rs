//! Linear layers and MLPs that have weights of their own for each embodiment.

use burn::{
    config::Config,
    module::{Module, Param},
    nn::{Initializer, Linear, LinearConfig},
    tensor::{Device, Int, Tensor, activation::relu},
};
use evo1_core::{
    ops::{linear, linear_relu, matmul, repeat_samples},
    weights::{InitialValue, ParamSpec},
};

/// A linear layer, shared by all embodiments or chosen per sample by embodiment id.
#[derive(Module, Debug)]
pub enum CategoryLinear {
    /// One layer for all.
    Shared(Linear),
    /// `y = x · W[k] + b[k]` for embodiment `k`.
    PerCategory(CategoryWeights),
}

/// Weights `[categories, input, output]`, not transposed, and biases `[categories, output]`.
#[derive(Module, Debug)]
pub struct CategoryWeights {
    weight: Param<Tensor<3>>,
    bias: Param<Tensor<2>>,
}

/// How the weights of embodiments start: each one Xavier-uniform, as LeRobot draws them, with zero bias.
pub fn initial_value(spec: &ParamSpec) -> Option<InitialValue> {
    if !spec.path.contains("PerCategory.") {
        return None;
    }
    match spec.shape.as_slice() {
        [_, inputs, outputs] => Some(InitialValue::xavier(*inputs, *outputs)),
        _ => Some(InitialValue::Constant(0.0)),
    }
}

/// Sizes of a [`CategoryLinear`].
#[derive(Config, Debug, Copy)]
pub struct CategoryLinearConfig {
    /// Channels of its input.
    pub input: usize,
    /// Channels of its output.
    pub output: usize,
    /// Embodiments; up to one means a shared layer.
    pub categories: usize,
}

impl CategoryLinearConfig {
    /// An uninitialised layer.
    pub fn init(&self, device: &Device) -> CategoryLinear {
        let Self { input, output, categories } = *self;
        if categories <= 1 {
            return CategoryLinear::Shared(LinearConfig::new(input, output).init(device));
        }
        CategoryLinear::PerCategory(CategoryWeights {
            weight: Initializer::Zeros.init([categories, input, output], device),
            bias: Initializer::Zeros.init([categories, output], device),
        })
    }
}

impl CategoryLinear {
    /// The layer of a batch's samples, whose embodiments are `[batch]`, below the number of categories.
    pub fn chosen(&self, embodiment: &Tensor<1, Int>) -> ChosenLinear {
        match self {
            Self::Shared(layer) => ChosenLinear::Shared(layer.clone()),
            Self::PerCategory(CategoryWeights { weight, bias }) => ChosenLinear::PerSample(Box::new(SampleWeights {
                weight: weight.val().select(0, embodiment.clone()),
                bias: bias.val().select(0, embodiment.clone()).unsqueeze_dim(1),
            })),
        }
    }
}

/// A [`CategoryLinear`] for the samples of a batch.
#[derive(Debug, Clone)]
pub enum ChosenLinear {
    /// One layer for all.
    Shared(Linear),
    /// Each sample's own.
    PerSample(Box<SampleWeights>),
}

/// Weights `[batch, input, output]` and biases `[batch, 1, output]`.
#[derive(Debug, Clone)]
pub struct SampleWeights {
    weight: Tensor<3>,
    bias: Tensor<3>,
}

impl ChosenLinear {
    /// `[batch, tokens, input]` → `[batch, tokens, output]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Shared(layer) => linear(layer, x),
            Self::PerSample(own) => matmul(x, own.weight.clone()) + own.bias.clone(),
        }
    }

    /// ReLU of [`Self::forward`].
    pub fn forward_relu(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Shared(layer) => linear_relu(layer, x),
            Self::PerSample(_) => relu(self.forward(x)),
        }
    }

    /// Every sample `times` times in a row.
    pub fn repeated(self, times: usize) -> Self {
        match self {
            Self::Shared(layer) => Self::Shared(layer),
            Self::PerSample(own) => {
                let repeated = |own: Tensor<3>| repeat_samples(own, times);
                Self::PerSample(Box::new(SampleWeights { weight: repeated(own.weight), bias: repeated(own.bias) }))
            }
        }
    }
}

/// `fc2(ReLU(fc1(x)))`.
#[derive(Module, Debug)]
pub struct CategoryMlp {
    fc1: CategoryLinear,
    fc2: CategoryLinear,
}

/// Sizes of a [`CategoryMlp`].
#[derive(Config, Debug, Copy)]
pub struct CategoryMlpConfig {
    /// Channels of its input.
    pub input: usize,
    /// Channels inside.
    pub hidden: usize,
    /// Channels of its output.
    pub output: usize,
    /// Embodiments; up to one means shared layers.
    pub categories: usize,
}

impl CategoryMlpConfig {
    /// An uninitialised MLP.
    pub fn init(&self, device: &Device) -> CategoryMlp {
        let Self { input, hidden, output, categories } = *self;
        CategoryMlp {
            fc1: CategoryLinearConfig::new(input, hidden, categories).init(device),
            fc2: CategoryLinearConfig::new(hidden, output, categories).init(device),
        }
    }
}

impl CategoryMlp {
    /// The MLP of a batch's samples, whose embodiments are `[batch]`, below the number of categories.
    pub fn chosen(&self, embodiment: &Tensor<1, Int>) -> ChosenMlp {
        ChosenMlp { fc1: self.fc1.chosen(embodiment), fc2: self.fc2.chosen(embodiment) }
    }
}

/// A [`CategoryMlp`] for the samples of a batch.
#[derive(Debug, Clone)]
pub struct ChosenMlp {
    fc1: ChosenLinear,
    fc2: ChosenLinear,
}

impl ChosenMlp {
    /// `[batch, tokens, input]` → `[batch, tokens, output]`, each token by itself.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.fc2.forward(self.fc1.forward_relu(x))
    }

    /// Every sample `times` times in a row.
    pub fn repeated(self, times: usize) -> Self {
        Self { fc1: self.fc1.repeated(times), fc2: self.fc2.repeated(times) }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Distribution};
    use evo1_core::{device::test_devices, weights::initialize};

    use super::*;

    #[test]
    fn every_sample_uses_the_weights_of_its_embodiment() {
        for device in test_devices() {
            let layer = initialize(CategoryLinearConfig::new(4, 3, 5).init(&device), 1, initial_value, |_| DType::F32);
            let x = Tensor::<3>::random([3, 2, 4], Distribution::Default, &device);
            let ids = [4, 0, 2];
            let batched = layer.chosen(&Tensor::from_ints(ids, &device)).forward(x.clone());
            for (sample, id) in ids.into_iter().enumerate() {
                let one = layer.chosen(&Tensor::from_ints([id], &device)).forward(x.clone().narrow(0, sample, 1));
                let difference = (batched.clone().narrow(0, sample, 1) - one).abs().max().into_scalar::<f32>();
                assert!(difference < 1e-6, "embodiment {id}: {difference}");
            }
        }
    }
}
