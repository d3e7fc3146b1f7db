//! Weights in eight bits, for inference.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{
        Tensor,
        quantization::{QuantScheme, QuantValue, ScaleDtype},
    },
};

use super::{Owner, Position};

/// Inputs of a linear layer that share a scale.
const BLOCK: u8 = 32;

/// The same module with the weights of its linear layers as 8-bit integers: symmetric, with one f32 scale for each 32
/// inputs of an output, 1.125 bytes for each weight. Everything else, and layers whose number of inputs is no multiple of
/// 32, stays as it is.
///
/// For inference: a quantised weight has no gradient. burn 0.22 dequantises a weight whenever it is used on the CPU, so
/// that there it saves memory and costs time.
pub fn quantize<M: Module>(module: M) -> M {
    module.map(&mut Quantizer::default())
}

#[derive(Default)]
struct Quantizer {
    position: Position,
}

impl ModuleMapper for Quantizer {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.position.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.position.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let spec = self.position.spec(&param.lazy_shape());
        let is_matrix = spec.owner == Owner::Linear && D == 2;
        if !is_matrix || !spec.shape[0].is_multiple_of(BLOCK.into()) {
            return param;
        }
        let scheme = QuantScheme::default().with_value(QuantValue::Q8S).per_block([BLOCK, 1], ScaleDtype::F32);
        param.map(|weight| weight.quantize_dynamic(&scheme))
    }
}

#[cfg(test)]
mod tests {
    use burn::{
        nn::{Linear, LinearConfig},
        tensor::{DType, Device},
    };

    use super::*;
    use crate::{device::test_devices, weights::initialize};

    /// Eight bits of a block's largest weight: half a step of 1/127.
    const HALF_STEP: f32 = 0.5 / 127.0;

    fn linear(input: usize, device: &Device) -> Linear {
        initialize(LinearConfig::new(input, 48).init(device), 1, |_| DType::F32)
    }

    #[test]
    fn weights_lose_at_most_half_a_step_and_outputs_little() {
        let device = test_devices().remove(0);
        let exact = linear(64, &device);
        let quantized = quantize(exact.clone());
        assert!(matches!(quantized.weight.val().dtype(), DType::QFloat(_)));
        assert_eq!(quantized.bias.as_ref().map(|bias| bias.val().dtype()), Some(DType::F32));
        let difference = (quantized.weight.val().dequantize() - exact.weight.val()).abs().max().into_scalar::<f32>();
        // Weights are uniform in ±1/√64.
        assert!(difference <= HALF_STEP / 8.0 * 1.01, "{difference}");
        for rows in [1, 5] {
            let x = Tensor::<3>::ones([2, rows, 64], &device);
            let difference = (quantized.forward(x.clone()) - exact.forward(x)).abs().max().into_scalar::<f32>();
            assert!(difference > 0.0 && difference < 0.02, "{difference}");
        }
    }

    #[test]
    fn layers_that_do_not_divide_into_blocks_stay_as_they_are() {
        let device = test_devices().remove(0);
        assert_eq!(quantize(linear(24, &device)).weight.val().dtype(), DType::F32);
    }
}
