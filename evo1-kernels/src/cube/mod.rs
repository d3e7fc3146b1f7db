//! The operations on the devices of CubeCL: CUDA, Metal, Vulkan, WebGPU.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::{
    backend::{Cube, DispatchDevice, TensorMetadata, tensor::FloatTensor},
    tensor::{DType, Device},
};
use burn_cubecl::{
    cubecl::{client::Client, prelude::*, tf32},
    kernel::matmul::{MatmulStrategy, init_matmul_output, matmul},
};
use cubek::{
    matmul::{
        definition::{MatmulElems, MatmulGlobalElems},
        launch::launch_ref,
        multi_level::Strategy,
    },
    std::InputBinding,
};

use crate::backend::KernelOps;

static TF32: AtomicBool = AtomicBool::new(false);

pub(crate) fn set_tf32(is_allowed: bool) {
    TF32.store(is_allowed, Ordering::Relaxed);
}

pub(crate) fn has_tf32(device: &Device) -> bool {
    let device = device.clone().without_autodiff();
    match device.as_dispatch() {
        DispatchDevice::Cube(device) => multiplies_in_tf32(&device.client()),
        #[allow(unreachable_patterns, reason = "a build may have no other device")]
        _ => false,
    }
}

/// Whether CubeCL rounds the operands of `f32` products to TF32 unless it is kept from it.
fn multiplies_in_tf32(client: &Client) -> bool {
    client.properties().supports_type(tf32::elem_type_native())
}

impl KernelOps for Cube {
    fn kernel_matmul(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>, dtype: DType) -> FloatTensor<Self> {
        let is_exact = lhs.dtype() == DType::F32 && !TF32.load(Ordering::Relaxed) && multiplies_in_tf32(&lhs.client);
        let product = if is_exact { exact(lhs, rhs) } else { matmul(lhs, rhs, None, MatmulStrategy::default(), dtype) };
        product.expect("a product of any two matrices that fit can be launched")
    }
}

/// The product of `f32` matrices by the ordinary cores.
fn exact(
    lhs: FloatTensor<Cube>,
    rhs: FloatTensor<Cube>,
) -> Result<FloatTensor<Cube>, cubek::matmul::definition::MatmulSetupError> {
    let out = init_matmul_output(&lhs, &rhs, DType::F32);
    let client = lhs.client.clone();
    let single = f32::elem_type_native();
    let mut types = MatmulElems::from_globals(&MatmulGlobalElems { lhs: single, rhs: single, out: single });
    let [lhs, rhs] = [lhs, rhs].map(|operand| InputBinding::new(operand.binding(), single));
    let strategy = Strategy::SimpleUnit(Default::default()).into();
    launch_ref(&strategy, &client, lhs, rhs, out.clone().binding(), &mut types)?;
    Ok(out)
}
