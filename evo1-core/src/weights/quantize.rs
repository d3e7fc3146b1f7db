//! Weights in eight or four bits: for inference, and below adapters that are trained.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{
        DType, Device, Tensor,
        quantization::{QuantScheme, QuantValue, QuantizationParameters, ScaleDtype},
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
    module.map(&mut Quantizer { position: Position::default(), scheme: scheme(), is_meant: |_: &str| true })
}

/// The same module with some weights of its linear layers in `bits` bits, 8 or 4, as [`quantize_weight`] makes them. Layers
/// whose number of inputs is no multiple of 32 stay as they are.
///
/// # Errors
/// When there is no such number of bits, or the device has no such weights.
pub fn quantize_bases<M: Module>(module: M, bits: u8, device: &Device, is_meant: impl Fn(&str) -> bool) -> Result<M> {
    let value = match bits {
        8 => QuantValue::Q8S,
        4 => QuantValue::Q4S,
        other => return Err(Error::invalid("the adapters", "bits", "8 or 4", other)),
    };
    let scheme = QuantScheme::default().with_value(value).per_block([BLOCK, 1], ScaleDtype::F32);
    require_scheme(device, &scheme, &format!("{bits}-bit weights"))?;
    Ok(module.map(&mut Quantizer { position: Position::default(), scheme, is_meant }))
}

/// A weight `[in, out]` by a scheme of [`quantize_bases`]: symmetric, with a scale for each 32 inputs of an output.
///
/// A scale has the eight digits of bfloat16, so that its products with the integers are exact: the values that a quantised
/// weight has do not change where they are quantised once more.
///
/// # Panics
/// When the number of inputs is no multiple of 32.
pub fn quantize_weight<const D: usize>(weight: Tensor<D>, scheme: &QuantScheme) -> Tensor<D> {
    let (inputs, outputs) = (weight.dims()[0], weight.dims()[D - 1]);
    let (_, largest) = scheme.value.range();
    let blocks = inputs / usize::from(BLOCK);
    let magnitudes = weight.clone().abs().reshape([blocks, BLOCK.into(), outputs]).max_dim(1);
    let scales = (magnitudes / largest).cast(DType::BF16).cast(DType::F32).reshape([blocks * outputs]);
    weight.quantize(scheme, QuantizationParameters { scales, global: None })
}

/// The same module with every quantised weight as numbers in f32.
pub fn dequantize<M: Module>(module: M) -> M {
    struct Dequantizer;

    impl ModuleMapper for Dequantizer {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            match param.val().dtype() {
                DType::QFloat(_) => param.map(|weight| weight.dequantize().cast(DType::F32)),
                _ => param,
            }
        }
    }

    module.map(&mut Dequantizer)
}

/// Fails unless a device has 8-bit weights.
pub fn require_quantization(device: &Device) -> Result<()> {
    require_scheme(device, &scheme(), "8-bit weights")
}

fn require_scheme(device: &Device, scheme: &QuantScheme, name: &str) -> Result<()> {
    let quantized = || {
        let weight = Tensor::<2>::ones([BLOCK.into(), 1], (device, DType::F32));
        weight.quantize_dynamic(scheme).dequantize().try_into_data().is_ok()
    };
    match without_panic(quantized) {
        Some(true) => Ok(()),
        _ => Err(Error::DtypeUnsupported { device: format!("{device:?}"), dtype: name.into() }),
    }
}

fn scheme() -> QuantScheme {
    QuantScheme::default().with_value(QuantValue::Q8S).per_block([BLOCK, 1], ScaleDtype::F32)
}

struct Quantizer<F> {
    position: Position,
    scheme: QuantScheme,
    is_meant: F,
}

impl<F: Fn(&str) -> bool> ModuleMapper for Quantizer<F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.position.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.position.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let spec = self.position.spec(&param.lazy_shape());
        let is_matrix = spec.owner == Owner::Linear && D == 2;
        if !is_matrix || !spec.shape[0].is_multiple_of(BLOCK.into()) || !(self.is_meant)(&spec.path) {
            return param;
        }
        param.map(|weight| quantize_weight(weight, &self.scheme))
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
    fn what_is_quantised_again_does_not_change() {
        let device = test_devices().remove(0);
        for bits in [8, 4] {
            let quantize = |linear| quantize_bases(linear, bits, &device, |path| path == "weight").expect("bits");
            let once = dequantize(quantize(linear(64, &device))).weight.val();
            let twice = Linear { weight: Param::from_tensor(once.clone()), bias: None };
            let twice = dequantize(quantize(twice)).weight.val();
            assert_eq!(once.into_data(), twice.into_data(), "{bits} bits");
        }
        let message = quantize_bases(linear(64, &device), 5, &device, |_| true).expect_err("5 bits").to_string();
        assert!(message.contains("8 or 4"), "{message}");
        let none = quantize_bases(linear(64, &device), 8, &device, |_| false).expect("bits");
        assert_eq!(none.weight.val().dtype(), DType::F32);
    }

    #[test]
    fn layers_that_do_not_divide_into_blocks_stay_as_they_are() {
        let device = test_devices().remove(0);
        assert_eq!(quantize(linear(24, &device)).weight.val().dtype(), DType::F32);
    }
}
