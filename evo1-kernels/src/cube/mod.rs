//! The operations on the devices of CubeCL: CUDA, Metal, Vulkan, WebGPU.

mod attention;
mod elementwise;
mod epilogue;
mod norm;
mod product;
mod rotary;
mod tensor_core_attention;

use std::sync::atomic::{AtomicBool, Ordering};

use burn::{
    backend::{Cube, DispatchDevice, TensorMetadata, ops::BoolTensorOps, tensor::FloatTensor},
    tensor::{DType, Device, Shape},
};
use burn_cubecl::{
    cubecl::{
        self, calculate_cube_count_elemwise,
        client::Client,
        features::MmaConfig,
        ir::{ElemType, FloatKind},
        prelude::*,
        tensor_vector_size_parallel, tf32,
    },
    kernel::matmul::{MatmulStrategy, init_matmul_output, matmul},
    ops::numeric::empty_device_contiguous_dtype,
    tensor::CubeTensor,
};
use cubek::{
    matmul::{
        definition::{MatmulElems, MatmulGlobalElems, MatmulSetupError},
        launch::launch_ref,
        multi_level::Strategy,
    },
    std::InputBinding,
};

use self::{attention::Attended, epilogue::Epilogue};
use crate::{
    backend::{Activation, HiddenKeys, KernelOps, Norm, OptionalTensor},
    fallback,
};

/// Cubes along a dimension of a launch, of which WebGPU allows 65 535.
const CUBES: usize = 32_768;

#[cfg(feature = "cuda-llvm")]
pub(crate) fn keep_kernels() {
    use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig, cache::CacheConfig};

    let of_burn = CubeClRuntimeConfig::section_file_names().iter().map(|(name, _)| name);
    let names: Vec<&str> = CubeClRuntimeConfig::file_names().iter().chain(of_burn).copied().collect();
    let has_file = std::env::current_dir()
        .is_ok_and(|folder| folder.ancestors().any(|folder| names.iter().any(|name| folder.join(name).is_file())));
    if has_file {
        return;
    }
    let mut config = CubeClRuntimeConfig::default().override_from_env();
    config.compilation.cache = true;
    config.environment.path = CacheConfig::Global;
    // Whoever was first has settled it.
    CubeClRuntimeConfig::try_set(config);
}

/// Threads of a plane that multiplies on tensor cores.
const PLANE: u32 = 32;

/// Values of 16 bytes, which are copied into shared memory at once, and by which a row of a matrix is loaded from there.
const CHUNK: u32 = 8;

/// Rows, columns and inner size of a plane's product there.
const MMA: (u32, u32, u32) = (16, 8, 16);

static TF32: AtomicBool = AtomicBool::new(false);

pub(crate) fn set_tf32(is_allowed: bool) {
    TF32.store(is_allowed, Ordering::Relaxed);
}

pub(crate) fn has_tf32(device: &Device) -> bool {
    client_of(device).is_some_and(|client| multiplies_in_tf32(&client))
}

pub(crate) fn has_transport(device: &Device) -> bool {
    client_of(device).is_some_and(|client| client.has_device_transport())
}

/// CubeCL's side of a device, if it is one of CubeCL's.
fn client_of(device: &Device) -> Option<Client> {
    let device = device.clone().without_autodiff();
    match device.as_dispatch() {
        DispatchDevice::Cube(device) => Some(device.client()),
        #[allow(unreachable_patterns, reason = "a build may have no other device")]
        _ => None,
    }
}

pub(crate) use self::product::{set_tiling, tilings};

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

    fn kernel_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if has_kernel(&x, []) { elementwise::gelu(x) } else { fallback::gelu::<Self>(x) }
    }

    fn kernel_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        if has_kernel(&gate, [Some(&up)]) { elementwise::swiglu(gate, up) } else { fallback::swiglu::<Self>(gate, up) }
    }

    fn kernel_masked(x: FloatTensor<Self>, mask: FloatTensor<Self>, dtype: DType) -> FloatTensor<Self> {
        let is_float = matches!(dtype, DType::F32 | DType::BF16 | DType::F16);
        if !is_float || x.shape() != mask.shape() || !has_kernel(&x, [Some(&mask)]) {
            return fallback::masked::<Self>(x, mask, dtype);
        }
        elementwise::masked(x, mask, dtype)
    }

    fn kernel_advance(x: FloatTensor<Self>, slope: FloatTensor<Self>, divisor: f64) -> FloatTensor<Self> {
        if x.shape() != slope.shape() || !has_kernel(&x, []) || !has_kernel(&slope, []) {
            return fallback::advance::<Self>(x, slope, divisor);
        }
        elementwise::advance(x, slope, divisor)
    }

    fn kernel_rotate(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        let (shape, strides) = (x.meta.shape(), x.meta.strides());
        let is_table = |table: &CubeTensor| {
            table.dtype == DType::F32 && table.meta.shape()[1] == 1 && table.meta.shape()[2..] == shape[2..]
        };
        let is_in_rows = strides[3] == 1 && shape[3].is_multiple_of(2);
        if !(has_kernel(&x, []) && is_in_rows && is_table(&cos) && is_table(&sin)) {
            return fallback::rotate::<Self>(x, cos, sin);
        }
        rotary::rotate(x, cos, sin)
    }

    fn kernel_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        hidden: HiddenKeys<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        match attended(&query, &key, &value, &hidden, scale, false) {
            Some(attended) => attended.output,
            None => fallback::attention::<Self>(query, key, value, hidden, scale),
        }
    }

    fn kernel_attention_with_sums(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        hidden: HiddenKeys<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        match attended(&query, &key, &value, &hidden, scale, true) {
            Some(Attended { output, log_sums: Some(log_sums) }) => (output, log_sums),
            _ => fallback::attention_with_sums::<Self>(query, key, value, hidden, scale),
        }
    }

    fn kernel_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: OptionalTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let bias = bias.into_option();
        if !has_kernel(&x, [Some(&weight), bias.as_ref()]) {
            return fallback::linear::<Self>(x, weight, optional(bias), activation);
        }
        followed_product(x, weight, Epilogue { bias, activation, ..Epilogue::default() })
    }

    fn kernel_linear_residual(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: OptionalTensor<Self>,
        scale: OptionalTensor<Self>,
        base: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (bias, scale) = (bias.into_option(), scale.into_option());
        if !has_kernel(&x, [Some(&weight), bias.as_ref(), scale.as_ref(), Some(&base)]) {
            return fallback::linear_residual::<Self>(x, weight, optional(bias), optional(scale), base);
        }
        followed_product(x, weight, Epilogue { bias, scale, base: Some(base), ..Epilogue::default() })
    }

    fn kernel_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: OptionalTensor<Self>,
        norm: Norm,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let beta = beta.into_option();
        if !has_kernel(&x, [Some(&gamma), beta.as_ref()]) {
            return fallback::norm::<Self>(x, gamma, optional(beta), norm, epsilon);
        }
        norm::norm(x, gamma, beta, None, norm, epsilon)
    }

    fn kernel_norm_added(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: OptionalTensor<Self>,
        added: FloatTensor<Self>,
        norm: Norm,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let beta = beta.into_option();
        let (shape, of_added) = (x.meta.shape(), added.meta.shape());
        let is_of_samples = shape.num_dims() == 3
            && of_added.num_dims() == 3
            && (of_added[0] == 1 || of_added[0] == shape[0])
            && of_added[1] == 1
            && of_added[2] == shape[2];
        if !is_of_samples || !has_kernel(&x, [Some(&gamma), beta.as_ref(), Some(&added)]) {
            return fallback::norm_added::<Self>(x, gamma, optional(beta), added, norm, epsilon);
        }
        norm::norm(x, gamma, beta, Some(added), norm, epsilon)
    }
}

/// A product and what follows it: in one launch where there is a kernel for that, or in two.
fn followed_product(x: CubeTensor, weight: CubeTensor, epilogue: Epilogue) -> CubeTensor {
    if let Some(product) = product::product(&x, &weight, &epilogue) {
        return product;
    }
    let dtype = x.dtype;
    if epilogue.is_empty() {
        return fallback::product::<Cube>(x, weight, OptionalTensor::Absent, dtype);
    }
    let sums = fallback::product::<Cube>(x, weight, OptionalTensor::Absent, DType::F32);
    let shape = sums.shape();
    epilogue::apply(sums, shape, epilogue, dtype)
}

/// Attention by the kernel, where it takes such tensors.
fn attended(
    query: &CubeTensor,
    key: &CubeTensor,
    value: &CubeTensor,
    hidden: &HiddenKeys<Cube>,
    scale: f64,
    has_sums: bool,
) -> Option<Attended> {
    let is_in_rows = |tensor: &CubeTensor| tensor.meta.strides()[3] == 1 || tensor.meta.shape()[3] == 1;
    if !has_kernel(query, [Some(key), Some(value)]) || ![query, key, value].into_iter().all(is_in_rows) {
        return None;
    }
    let hidden = match hidden {
        HiddenKeys::None => None,
        HiddenKeys::Of(mask) => {
            let [batch, heads, queries, _] = query.meta.shape()[..] else { return None };
            Some(Cube::bool_expand(mask.clone(), Shape::from([batch, heads, queries, key.meta.shape()[2]])))
        }
    };
    tensor_core_attention::attention(query, key, value, hidden.as_ref(), scale, has_sums)
        .or_else(|| attention::attention(query, key, value, hidden.as_ref(), scale, has_sums))
}

fn optional(tensor: Option<CubeTensor>) -> OptionalTensor<Cube> {
    tensor.map_or(OptionalTensor::Absent, OptionalTensor::Present)
}

/// Whether the kernels take tensors: of one type that is f32 or a half, and not empty.
fn has_kernel<const N: usize>(x: &CubeTensor, others: [Option<&CubeTensor>; N]) -> bool {
    matches!(x.dtype, DType::F32 | DType::BF16 | DType::F16)
        && [Some(x)]
            .into_iter()
            .chain(others)
            .flatten()
            .all(|tensor| tensor.dtype == x.dtype && tensor.meta.num_elements() > 0)
}

/// Whether a device multiplies tiles of [`MMA`] of this half type by planes of 32 threads, loads them from shared memory by
/// rows, and copies to it beside arithmetic.
fn has_tensor_cores(x: &CubeTensor) -> bool {
    if !matches!(x.dtype, DType::F16 | DType::BF16) {
        return false;
    }
    let (features, hardware) = (x.client.features(), &x.client.properties().hardware);
    let (operand, sum, (m, n, k)) = (element_of(x.dtype), element_of(DType::F32), MMA);
    let tile = MmaConfig { a_type: operand, b_type: operand, cd_type: sum, m, n, k };
    features.matmul.mma.contains(&tile)
        && features.matmul.ldmatrix.contains(&operand)
        && features.copy_async
        && [hardware.plane_size_min, hardware.plane_size_max] == [PLANE; 2]
}

/// Ends a group of this thread's copies into shared memory.
#[cube]
fn commit_copies() {
    gpu_asm!("cp.async.commit_group;");
}

/// Waits until no more than so many groups of this thread's copies are on their way.
#[cube]
fn wait_for_copies(#[comptime] groups: u32) {
    gpu_asm!("cp.async.wait_group {groups};", groups = const groups);
}

/// A number type that has kernels, as CubeCL names it.
fn element_of(dtype: DType) -> ElemType {
    ElemType::Float(match dtype {
        DType::BF16 => FloatKind::BF16,
        DType::F16 => FloatKind::F16,
        _ => FloatKind::F32,
    })
}

/// A tensor of the same shape, not written yet.
fn empty_like(x: &CubeTensor, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), x.shape(), dtype)
}

/// As many cubes, along two dimensions where one allows too few.
fn cubes(count: usize) -> CubeCount {
    CubeCount::new_2d(count.min(CUBES) as u32, count.div_ceil(CUBES) as u32)
}

/// Threads that take so many values of a tensor each.
fn threads(x: &CubeTensor, values: usize) -> (CubeCount, CubeDim) {
    let units = x.meta.num_elements() / values;
    let dim = CubeDim::new(&x.client, units);
    (calculate_cube_count_elemwise(&x.client, units, dim), dim)
}

/// How many neighbouring values a thread reads at once.
fn vector_size(x: &CubeTensor) -> usize {
    let sizes = x.client.io_optimized_vector_sizes(x.dtype.size());
    tensor_vector_size_parallel(sizes, x.meta.shape(), x.meta.strides(), x.meta.num_dims() - 1)
}

/// How many neighbouring values of each of some tensors a thread can read at once.
fn common_vector_size<const N: usize>(tensors: [&CubeTensor; N]) -> usize {
    tensors.map(vector_size).into_iter().min().unwrap_or(1)
}

/// Addresses as wide as the largest of some tensors asks for.
fn address_type<const N: usize>(tensors: [&CubeTensor; N]) -> AddressType {
    tensors.map(CubeTensor::required_address_type).into_iter().fold(AddressType::default(), AddressType::max)
}

/// The product of `f32` matrices by the ordinary cores.
fn exact(lhs: CubeTensor, rhs: CubeTensor) -> Result<CubeTensor, MatmulSetupError> {
    let out = init_matmul_output(&lhs, &rhs, DType::F32);
    let client = lhs.client.clone();
    let single = f32::elem_type_native();
    let mut types = MatmulElems::from_globals(&MatmulGlobalElems { lhs: single, rhs: single, out: single });
    let [lhs, rhs] = [lhs, rhs].map(|operand| InputBinding::new(operand.binding(), single));
    let strategy = Strategy::SimpleUnit(Default::default()).into();
    launch_ref(&strategy, &client, lhs, rhs, out.clone().binding(), &mut types)?;
    Ok(out)
}
