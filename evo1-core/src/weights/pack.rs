//! Weights in the order in which products read them, for inference.

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{DType, Tensor},
};

use super::{Owner, Position};

/// The same module with the weights of its linear layers as [`evo1_kernels::pack`] makes them: products of few rows, such
/// as the action expert's, spend a third less time. Nothing changes on devices without kernels.
///
/// For inference: a packed weight has no gradient, and is of no use in a file.
pub fn pack<M: Module>(module: M) -> M {
    module.map(&mut Packer::default())
}

#[derive(Default)]
struct Packer {
    position: Position,
}

impl ModuleMapper for Packer {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.position.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.position.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.position.spec(&param.lazy_shape()).owner != Owner::Linear {
            return param;
        }
        param.map(|weight| match weight.dtype() {
            DType::QFloat(_) => weight,
            _ => evo1_kernels::pack(weight),
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::{
        nn::{Linear, LinearConfig},
        tensor::{Device, Distribution},
    };

    use super::*;
    use crate::{
        device::test_devices,
        ops::{linear, linear_residual},
        test_support::assert_within,
        weights::{initialize, quantize},
    };

    fn layer(input: usize, output: usize, dtype: DType, device: &Device) -> Linear {
        initialize(LinearConfig::new(input, output).init(device), 1, |_| None, |_| dtype)
    }

    fn assert_same(what: &str, got: &Tensor<3>, want: &Tensor<3>) {
        assert_eq!(got.dtype(), want.dtype(), "{what}");
        assert_within(what, got, want, 1e-5);
    }

    #[test]
    fn packed_layers_compute_the_same() {
        for device in test_devices() {
            for dtype in [DType::F32, DType::BF16] {
                if !device.supports_dtype(dtype) {
                    continue;
                }
                for [rows, input, output] in [[1, 64, 96], [5, 64, 96], [50, 300, 64], [200, 64, 32], [3, 1, 64]] {
                    let plain = layer(input, output, dtype, &device);
                    let packed = pack(plain.clone());
                    let x = Tensor::<3>::random([2, rows, input], Distribution::Uniform(-1.0, 1.0), &device);
                    let base = Tensor::<3>::ones([2, rows, output], &device).cast(dtype);
                    let what = format!("{rows} × {input} × {output} in {dtype:?}");
                    let x = x.cast(dtype);
                    assert_same(&what, &linear(&packed, x.clone()), &linear(&plain, x.clone()));
                    let of = |layer| linear_residual(layer, x.clone(), None, base.clone());
                    assert_same(&what, &of(&packed), &of(&plain));
                }
            }
        }
    }

    /// Half-size weights under full-size inputs, which only the kernels take.
    #[cfg(feature = "flex")]
    #[test]
    fn packed_layers_take_inputs_of_another_type() {
        let device = Device::flex();
        let plain = layer(64, 96, DType::BF16, &device);
        let x = Tensor::<3>::random([2, 5, 64], Distribution::Uniform(-1.0, 1.0), &device);
        assert_same("mixed types", &linear(&pack(plain.clone()), x.clone()), &linear(&plain, x));
    }

    /// Packed on the CPU, where packing does something.
    #[cfg(feature = "flex")]
    #[test]
    fn packed_layers_that_move_to_another_device_compute_the_same() {
        for device in test_devices() {
            for dtype in [DType::F32, DType::BF16].into_iter().filter(|&dtype| device.supports_dtype(dtype)) {
                let plain = layer(64, 96, dtype, &Device::flex());
                let packed = pack(plain.clone()).to_device(&device);
                let plain = plain.to_device(&device);
                let x = Tensor::<3>::random([2, 5, 64], Distribution::Uniform(-1.0, 1.0), &device).cast(dtype);
                assert_same("moved", &linear(&packed, x.clone()), &linear(&plain, x.clone()));
                let base = Tensor::<3>::ones([2, 5, 96], &device).cast(dtype);
                let of = |layer| linear_residual(layer, x.clone(), None, base.clone());
                assert_same("moved, with a residual", &of(&packed), &of(&plain));
            }
        }
    }

    #[test]
    fn inputs_of_packed_layers_have_gradients() {
        for device in test_devices() {
            let plain = layer(64, 96, DType::F32, &device);
            let packed = pack(plain.clone());
            let x = Tensor::<3>::random([2, 5, 64], Distribution::Uniform(-1.0, 1.0), &device);
            let gradient = |layer: &Linear| {
                let x = x.clone().autodiff().require_grad();
                let gradients = linear(layer, x.clone()).powi_scalar(2).sum().backward();
                x.grad(&gradients).expect("a gradient")
            };
            assert_same("gradient", &gradient(&packed), &gradient(&plain));
        }
    }

    #[test]
    fn quantised_layers_stay_as_they_are() {
        let device = test_devices().remove(0);
        let layer = pack(quantize(layer(64, 96, DType::F32, &device)));
        assert!(matches!(layer.weight.val().dtype(), DType::QFloat(_)));
    }
}
