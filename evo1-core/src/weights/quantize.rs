//! Weights in eight bits, for inference.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{
        DType, Device, Tensor,
        quantization::{QuantScheme, QuantValue, ScaleDtype},
    },
};

use super::{Owner, Position};
use crate::{Error, Result, device::without_panic};

/// Inputs of a linear layer that share a scale.
const BLOCK: u8 = 32;

/// The same module with the weights of its linear layers as 8-bit integers: symmetric, with one f32 scale for each 32
/// inputs of an output, 1.125 bytes for each weight. Everything else, and layers whose number of inputs is no multiple of
/// 32, stays as it is.
///
/// For inference: a quantised weight has no gradient, and not every device has them ([`require_quantization`]). burn 0.22
/// dequantises a weight whenever it is used on the CPU, so that there it saves memory and costs time.
pub fn quantize<M: Module>(module: M) -> M {
    module.map(&mut Quantizer::default())
}

/// Fails unless a device has 8-bit weights.
pub fn require_quantization(device: &Device) -> Result<()> {
    let quantized = || {
        let weight = Tensor::<2>::ones([BLOCK.into(), 1], (device, DType::F32));
        weight.quantize_dynamic(&scheme()).dequantize().try_into_data().is_ok()
    };
    match without_panic(quantized) {
        Some(true) => Ok(()),
        _ => Err(Error::DtypeUnsupported { device: format!("{device:?}"), dtype: "8-bit weights".into() }),
    }
}

fn scheme() -> QuantScheme {
    QuantScheme::default().with_value(QuantValue::Q8S).per_block([BLOCK, 1], ScaleDtype::F32)
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
        param.map(|weight| weight.quantize_dynamic(&scheme()))
    }
}

#[cfg(test)]
mod tests {
    use burn::{
        nn::{Linear, LinearConfig},
        tensor::Distribution,
    };

    use super::*;
    use crate::{device::test_devices, ops, weights::initialize};

    /// Eight bits of a block's largest weight: half a step of 1/127.
    const HALF_STEP: f32 = 0.5 / 127.0;

    fn linear(input: usize, device: &Device) -> Linear {
        initialize(LinearConfig::new(input, 48).init(device), 1, |_| None, |_| DType::F32)
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

    /// Whatever the device's own type is, in which burn dequantises.
    #[test]
    fn outputs_of_half_precision_are_those_of_f32_to_rounding() {
        for device in test_devices().into_iter().filter(|device| require_quantization(device).is_ok()) {
            let quantized = quantize(linear(64, &device));
            let x = Tensor::<3>::random([2, 5, 64], Distribution::Uniform(-1.0, 1.0), &device);
            for (dtype, rounding) in [(DType::BF16, 1.0 / 256.0), (DType::F16, 1.0 / 2048.0)] {
                if !device.supports_dtype(dtype) {
                    continue;
                }
                let x = x.clone().cast(dtype);
                let want = ops::linear(&quantized, x.clone().cast(DType::F32));
                let half = Linear {
                    bias: quantized.bias.clone().map(|bias| bias.map(|bias| bias.cast(dtype))),
                    ..quantized.clone()
                };
                let got = ops::linear(&half, x);
                assert_eq!(got.dtype(), dtype);
                let largest = want.clone().abs().max().into_scalar::<f32>();
                let difference = (got.cast(DType::F32) - want).abs().max().into_scalar::<f32>();
                assert!(difference <= 3.0 * rounding * largest, "{dtype:?} on {device:?}: {difference}");
            }
        }
    }

    #[test]
    fn layers_that_do_not_divide_into_blocks_stay_as_they_are() {
        let device = test_devices().remove(0);
        assert_eq!(quantize(linear(24, &device)).weight.val().dtype(), DType::F32);
    }
}
