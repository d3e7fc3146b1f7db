//! Linear layers and MLPs that have weights of their own for each embodiment.

use burn::{
    module::{Module, Param},
    nn::{Initializer, Linear, LinearConfig},
    tensor::{Device, Int, Tensor, activation::relu},
};
use evo1_core::ops::{linear, linear_relu, matmul};

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

impl CategoryLinear {
    /// An uninitialised layer; up to one category means a shared one.
    pub fn init(input: usize, output: usize, categories: usize, device: &Device) -> Self {
        if categories <= 1 {
            return Self::Shared(LinearConfig::new(input, output).init(device));
        }
        Self::PerCategory(CategoryWeights {
            weight: Initializer::Zeros.init([categories, input, output], device),
            bias: Initializer::Zeros.init([categories, output], device),
        })
    }

    /// Applies the layer.
    ///
    /// # Shapes
    /// - x: `[batch, tokens, input]`
    /// - embodiment: `[batch]`, below the number of categories
    /// - output: `[batch, tokens, output]`
    pub fn forward(&self, x: Tensor<3>, embodiment: &Tensor<1, Int>) -> Tensor<3> {
        match self {
            Self::Shared(layer) => linear(layer, x),
            Self::PerCategory(CategoryWeights { weight, bias }) => {
                let weight = weight.val().select(0, embodiment.clone());
                let bias = bias.val().select(0, embodiment.clone()).unsqueeze_dim(1);
                matmul(x, weight) + bias
            }
        }
    }

    /// ReLU of [`Self::forward`].
    pub fn forward_relu(&self, x: Tensor<3>, embodiment: &Tensor<1, Int>) -> Tensor<3> {
        match self {
            Self::Shared(layer) => linear_relu(layer, x),
            Self::PerCategory(_) => relu(self.forward(x, embodiment)),
        }
    }
}

/// `fc2(ReLU(fc1(x)))`.
#[derive(Module, Debug)]
pub struct CategoryMlp {
    fc1: CategoryLinear,
    fc2: CategoryLinear,
}

impl CategoryMlp {
    /// An uninitialised MLP.
    pub fn init(input: usize, hidden: usize, output: usize, categories: usize, device: &Device) -> Self {
        Self {
            fc1: CategoryLinear::init(input, hidden, categories, device),
            fc2: CategoryLinear::init(hidden, output, categories, device),
        }
    }

    /// `[batch, input]` → `[batch, output]`.
    pub fn forward(&self, x: Tensor<2>, embodiment: &Tensor<1, Int>) -> Tensor<2> {
        self.forward_tokens(x.unsqueeze_dim(1), embodiment).squeeze_dim(1)
    }

    /// `[batch, tokens, input]` → `[batch, tokens, output]`, each token by itself.
    pub fn forward_tokens(&self, x: Tensor<3>, embodiment: &Tensor<1, Int>) -> Tensor<3> {
        self.fc2.forward(self.fc1.forward_relu(x, embodiment), embodiment)
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
            let layer = initialize(CategoryLinear::init(4, 3, 5, &device), 1, |_| DType::F32);
            let x = Tensor::<3>::random([3, 2, 4], Distribution::Default, &device);
            let ids = [4, 0, 2];
            let batched = layer.forward(x.clone(), &Tensor::from_ints(ids, &device));
            for (sample, id) in ids.into_iter().enumerate() {
                let one = layer.forward(x.clone().narrow(0, sample, 1), &Tensor::from_ints([id], &device));
                let difference = (batched.clone().narrow(0, sample, 1) - one).abs().max().into_scalar::<f32>();
                assert!(difference < 1e-6, "embodiment {id}: {difference}");
            }
        }
    }
}
