//! The kernels on burn's CPU device.

mod attention;
mod element;
mod elementwise;
mod gemm;
mod math;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod rotary;
mod rows;
mod scratch;
mod simd;
#[cfg(test)]
pub(crate) mod test_values;
mod threads;

pub(crate) use simd::{instructions, set_narrow};

use burn::{
    backend::{
        Flex, TensorMetadata,
        flex::FlexTensor,
        ops::FloatTensorOps,
        tensor::{BoolTensor, FloatTensor},
    },
    tensor::{DType, Shape, TensorData},
};
use half::{bf16, f16};

use crate::{
    backend::{Activation, AdamW, HiddenKeys, KernelOps, Norm, OptionalTensor},
    fallback,
};
use attention::{Heads, Hidden};
use element::Element;
use gemm::{Epilogue, Matrix, Panels, gemm};

/// Runs `$body` with `$element` as the number type of `$tensor`, or `$otherwise` for types without kernels.
macro_rules! with_element {
    ($tensor:expr, $element:ident => $body:expr, otherwise $otherwise:expr) => {
        match $tensor.dtype() {
            DType::F32 => {
                type $element = f32;
                $body
            }
            DType::BF16 => {
                type $element = bf16;
                $body
            }
            DType::F16 => {
                type $element = f16;
                $body
            }
            _ => $otherwise,
        }
    };
}

impl KernelOps for Flex {
    fn kernel_matmul(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>, dtype: DType) -> FloatTensor<Self> {
        // burn's own product of `f32` is as good; of half types it adds up rounded numbers.
        let is_half = lhs.dtype() != DType::F32 && has_kernel(lhs.dtype());
        if !is_half || rhs.dtype() != lhs.dtype() || !has_kernel(dtype) {
            return fallback::matmul::<Self>(lhs, rhs, dtype);
        }
        let mut shape = lhs.shape();
        let dims = shape.num_dims();
        let (rows, inner, columns) = (shape[dims - 2], shape[dims - 1], rhs.shape()[dims - 1]);
        shape[dims - 1] = columns;
        let (lhs, rhs, mut out) = (contiguous(lhs), contiguous(rhs), FlexTensor::empty(shape, dtype));
        if rows * inner * columns == 0 {
            return Self::float_zeros(out.shape(), &Default::default(), dtype.into());
        }
        with_element!(lhs, E => with_element!(out, O => {
            let products = out.storage_mut::<O>().chunks_exact_mut(rows * columns);
            let matrices = lhs.storage::<E>().chunks_exact(rows * inner).zip(rhs.storage::<E>().chunks_exact(inner * columns));
            for (product, (lhs, rhs)) in products.zip(matrices) {
                let (lhs, rhs) = (Matrix::row_major(lhs, rows, inner), Matrix::row_major(rhs, inner, columns));
                gemm(lhs, rhs, product, &Epilogue::NONE);
            }
        }, otherwise unreachable!("checked")), otherwise unreachable!("checked"));
        out
    }

    fn kernel_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        with_element!(x, E => {
            let mut x = contiguous(x);
            elementwise::gelu_in_place::<E>(x.storage_mut());
            x
        }, otherwise fallback::gelu::<Self>(x))
    }

    fn kernel_gelu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        with_element!(x, E => {
            let (x, mut grad) = (contiguous(x), contiguous(grad));
            elementwise::gelu_backward::<E>(x.storage(), grad.storage_mut());
            grad
        }, otherwise fallback::gelu_backward::<Self>(x, grad))
    }

    fn kernel_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        with_element!(gate, E => {
            let (mut gate, up) = (contiguous(gate), contiguous(up));
            elementwise::swiglu::<E>(gate.storage_mut(), up.storage());
            gate
        }, otherwise fallback::swiglu::<Self>(gate, up))
    }

    fn kernel_adamw(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        moment_1: FloatTensor<Self>,
        moment_2: FloatTensor<Self>,
        step: AdamW,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        with_element!(weight, E => {
            let (mut weight, gradient) = (contiguous(weight), contiguous(gradient));
            let (mut moment_1, mut moment_2) = (contiguous(moment_1), contiguous(moment_2));
            let moments = [moment_1.storage_mut(), moment_2.storage_mut()];
            elementwise::adamw::<E>(weight.storage_mut(), gradient.storage(), moments, step);
            (weight, moment_1, moment_2)
        }, otherwise fallback::adamw::<Self>(weight, gradient, [moment_1, moment_2], step))
    }

    fn kernel_swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        with_element!(gate, E => {
            let (gate, mut up, mut grad) = (contiguous(gate), contiguous(up), contiguous(grad));
            elementwise::swiglu_backward::<E>(gate.storage(), up.storage_mut(), grad.storage_mut());
            (grad, up)
        }, otherwise fallback::swiglu_backward::<Self>(gate, up, grad))
    }

    fn kernel_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: OptionalTensor<Self>,
        norm: Norm,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        with_element!(x, E => {
            let (x, gamma) = (contiguous(x), contiguous(gamma));
            let beta = beta.into_option().map(contiguous);
            let beta = beta.as_ref().map(|beta| beta.storage::<E>());
            let mut out = FlexTensor::empty(x.shape(), x.dtype());
            rows::norm::<E>(norm, x.storage(), gamma.storage(), beta, epsilon as f32, out.storage_mut());
            out
        }, otherwise fallback::norm::<Self>(x, gamma, beta, norm, epsilon))
    }

    fn kernel_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        norm: Norm,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        with_element!(x, E => {
            let (x, gamma, mut grad) = (contiguous(x), contiguous(gamma), contiguous(grad));
            let (width, epsilon) = (gamma.shape()[0], epsilon as f32);
            let mut of_gamma =
                rows::norm_backward::<E>(norm, x.storage(), gamma.storage(), epsilon, grad.storage_mut());
            let of_beta = of_gamma.split_off(width);
            let dtype = gamma.dtype();
            (grad, narrowed(of_gamma, [width], dtype), narrowed(of_beta, [width], dtype))
        }, otherwise fallback::norm_backward::<Self>(x, gamma, grad, norm, epsilon))
    }

    fn kernel_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        with_element!(x, E => {
            let mut x = contiguous(x);
            let shape = x.shape();
            rows::softmax_in_place::<E>(x.storage_mut(), shape[shape.num_dims() - 1]);
            x
        }, otherwise fallback::softmax::<Self>(x))
    }

    fn kernel_softmax_backward(y: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        with_element!(y, E => {
            let (y, mut grad) = (contiguous(y), contiguous(grad));
            let shape = y.shape();
            rows::softmax_backward::<E>(y.storage(), shape[shape.num_dims() - 1], grad.storage_mut());
            grad
        }, otherwise fallback::softmax_backward::<Self>(y, grad))
    }

    fn kernel_rotate(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        let [_, heads, rows, width] = x.shape().dims();
        let is_table = |table: &FlexTensor| {
            let shape = table.shape();
            shape[1] == 1 && shape[2] == rows && shape[3] == width && width.is_multiple_of(2)
        };
        if !has_kernel(x.dtype()) || !is_table(&cos) || !is_table(&sin) || x.shape().num_elements() == 0 {
            return fallback::rotate::<Self>(x, cos, sin);
        }
        let (x, cos, sin) = (with_contiguous_rows(x), vector(cos), vector(sin));
        let batch = x.shape()[0];
        let out = with_element!(x, E => {
            let out = rotary::rotate::<E>(heads_of(&x), cos.storage(), sin.storage());
            tensor_of(out, [batch, rows, heads, width])
        }, otherwise unreachable!("checked"));
        Self::float_swap_dims(out, 1, 2)
    }

    fn kernel_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        hidden: HiddenKeys<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        Self::kernel_attention_with_sums(query, key, value, hidden, scale).0
    }

    fn kernel_attention_with_sums(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        hidden: HiddenKeys<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let dtype = query.dtype();
        if !has_kernel(dtype) {
            return fallback::attention_with_sums::<Self>(query, key, value, hidden, scale);
        }
        let is_one_type = key.dtype() == dtype && value.dtype() == dtype;
        let [query, key, value] = [query, key, value].map(|tensor| if is_one_type { tensor } else { widened(tensor) });
        let [query, key, value] = [query, key, value].map(with_contiguous_rows);
        let [batch, heads, queries, _] = query.shape().dims();
        let width = value.shape()[3];
        let hidden = hidden_keys(hidden);
        let (out, log_sums) = with_element!(query, E => {
            let [query, key, value] = [&query, &key, &value].map(heads_of::<E>);
            let (out, log_sums) = attention::forward(query, key, value, hidden.as_ref().map(hidden_of), scale as f32);
            (tensor_of(out, [batch, queries, heads, width]), log_sums)
        }, otherwise unreachable!("checked"));
        let out = if out.dtype() == dtype { out } else { Self::float_cast(out, dtype.into()) };
        (Self::float_swap_dims(out, 1, 2), tensor_of(log_sums, [batch, heads, queries]))
    }

    fn kernel_attention_backward(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        hidden: HiddenKeys<Self>,
        scale: f64,
        out: FloatTensor<Self>,
        log_sums: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let dtype = query.dtype();
        if !has_kernel(dtype) {
            return fallback::attention_backward::<Self>(query, key, value, hidden, scale, out, log_sums, grad);
        }
        let [query, key, value, out, grad] =
            [query, key, value, out, grad].map(|tensor| with_contiguous_rows(widened(tensor)));
        let (log_sums, hidden) = (contiguous(log_sums), hidden_keys(hidden));
        let gradients = attention::backward(
            heads_of(&query),
            heads_of(&key),
            heads_of(&value),
            hidden.as_ref().map(hidden_of),
            scale as f32,
            heads_of(&out),
            log_sums.storage(),
            heads_of(&grad),
        );
        let by_head = |values, like: &FlexTensor| {
            let [batch, heads, rows, width] = like.shape().dims();
            Self::float_swap_dims(narrowed(values, [batch, rows, heads, width], dtype), 1, 2)
        };
        (by_head(gradients.query, &query), by_head(gradients.key, &key), by_head(gradients.value, &value))
    }

    fn kernel_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: OptionalTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        if !has_kernel(x.dtype()) || !has_kernel(weight.dtype()) {
            return fallback::linear::<Self>(x, weight, bias, activation);
        }
        let mut out = FlexTensor::empty(linear_shape(&x, &weight), x.dtype());
        let bias = bias.into_option().map(vector);
        let epilogue = Epilogue { bias: bias.as_ref().map(|bias| bias.storage()), activation, ..Epilogue::NONE };
        multiply(x, &weight, &mut out, &epilogue);
        out
    }

    fn kernel_pack(weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let &[rows, columns] = &*weight.shape() else { return weight };
        with_element!(weight, E => {
            // A matrix of one row would look as if it were packed.
            if rows == 1 || !gemm::can_be_packed::<E>(rows, columns) {
                return weight;
            }
            // Exactly as large, so that the next weight of this size takes the room that this one leaves.
            let mut out = FlexTensor::empty(Shape::new([1, rows * columns]), weight.dtype());
            gemm::pack(matrix_of::<E>(&weight), out.storage_mut::<E>());
            out
        }, otherwise weight)
    }

    fn kernel_unpack(weight: FloatTensor<Self>, inputs: usize) -> FloatTensor<Self> {
        if !fallback::is_packed::<Flex>(&weight, inputs) {
            return weight;
        }
        with_element!(weight, E => {
            let panels = panels_of::<E>(&weight, inputs);
            let mut out = FlexTensor::empty(Shape::new([panels.rows, panels.columns]), weight.dtype());
            gemm::unpack(panels, out.storage_mut::<E>());
            out
        }, otherwise weight)
    }

    fn kernel_linear_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (dtype, x_shape, shape) = (x.dtype(), x.shape(), grad.shape());
        if !has_kernel(dtype) || grad.dtype() != dtype || shape.num_elements() == 0 {
            return fallback::linear_backward::<Self>(x, grad);
        }
        let [inner, width] = [x_shape, shape].map(|shape| shape[shape.num_dims() - 1]);
        let mut of_weight = FlexTensor::empty(Shape::new([inner, width]), dtype);
        let (x, grad) = (contiguous(x), contiguous(grad));
        let of_bias = with_element!(grad, E => {
            let (x, grad) = (x.storage::<E>(), grad.storage::<E>());
            let rows = grad.len() / width;
            let x = Matrix::row_major(x, rows, inner).transposed();
            gemm(x, Matrix::row_major(grad, rows, width), of_weight.storage_mut::<E>(), &Epilogue::NONE);
            rows::sum_of_all(grad, width)
        }, otherwise unreachable!("checked"));
        (of_weight, narrowed(of_bias, [width], dtype))
    }

    fn kernel_linear_residual(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: OptionalTensor<Self>,
        scale: OptionalTensor<Self>,
        base: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if ![x.dtype(), weight.dtype(), base.dtype()].into_iter().all(has_kernel) {
            return fallback::linear_residual::<Self>(x, weight, bias, scale, base);
        }
        let (bias, scale) = (bias.into_option().map(vector), scale.into_option().map(vector));
        let epilogue = Epilogue {
            bias: bias.as_ref().map(|bias| bias.storage()),
            scale: scale.as_ref().map(|scale| scale.storage()),
            accumulates: true,
            ..Epilogue::NONE
        };
        let mut out = contiguous(base);
        multiply(x, &weight, &mut out, &epilogue);
        out
    }
}

/// Whether a type has kernels.
fn has_kernel(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::BF16 | DType::F16)
}

/// The tensor with its values one after the other from the start of its storage.
fn contiguous(tensor: FlexTensor) -> FlexTensor {
    tensor.to_contiguous()
}

/// The tensor in `f32`: as it is, or contiguous if it had to be converted.
fn widened(tensor: FlexTensor) -> FlexTensor {
    if tensor.dtype() == DType::F32 {
        return tensor;
    }
    with_element!(tensor, E => {
        let tensor = contiguous(tensor);
        let mut out = FlexTensor::empty(tensor.shape(), DType::F32);
        elementwise::convert::<E, f32>(tensor.storage(), out.storage_mut());
        out
    }, otherwise Flex::float_cast(tensor, DType::F32.into()))
}

/// The tensor in `f32`, one value after the other.
fn vector(tensor: FlexTensor) -> FlexTensor {
    contiguous(widened(tensor))
}

/// A tensor from its values.
fn tensor_of<E: Element>(values: Vec<E>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}

/// A tensor of a number type that has kernels, from its values.
fn narrowed(values: Vec<f32>, shape: impl Into<Shape>, dtype: DType) -> FlexTensor {
    if dtype == DType::F32 {
        return tensor_of(values, shape);
    }
    let mut out = FlexTensor::empty(shape.into(), dtype);
    with_element!(out, E => elementwise::convert(&values, out.storage_mut::<E>()), otherwise unreachable!("checked"));
    out
}

/// The tensor with contiguous channels.
fn with_contiguous_rows(tensor: FlexTensor) -> FlexTensor {
    let strides = tensor.layout().strides();
    let is_fine = strides.last() == Some(&1) && strides.iter().all(|&stride| stride >= 0);
    if is_fine { tensor } else { contiguous(tensor) }
}

/// The number of a linear layer's inputs.
fn inputs_of(x: &FlexTensor) -> usize {
    let shape = x.shape();
    shape[shape.num_dims() - 1]
}

/// The shape of a linear layer's output.
fn linear_shape(x: &FlexTensor, weight: &FlexTensor) -> Shape {
    let (mut shape, inputs) = (x.shape(), inputs_of(x));
    let last = shape.num_dims() - 1;
    let columns = weight.shape()[1];
    shape[last] = if fallback::is_packed::<Flex>(weight, inputs) { columns / inputs } else { columns };
    shape
}

/// `out = epilogue(x·weight)` over the last dimension of x; all have kernels.
fn multiply(x: FlexTensor, weight: &FlexTensor, out: &mut FlexTensor, epilogue: &Epilogue) {
    let (inputs, x) = (inputs_of(&x), contiguous(x));
    if fallback::is_packed::<Flex>(weight, inputs) && x.dtype() != weight.dtype() {
        return multiply(x, &Flex::kernel_unpack(weight.clone(), inputs), out, epilogue);
    }
    with_element!(x, X => with_element!(out, O => {
        let values = x.storage::<X>();
        let x = Matrix::row_major(values, values.len().checked_div(inputs).unwrap_or(0), inputs);
        let out = out.storage_mut::<O>();
        if fallback::is_packed::<Flex>(weight, inputs) {
            return gemm::gemm_packed(x, panels_of::<X>(weight, inputs), out, epilogue);
        }
        with_element!(weight, W => gemm(x, matrix_of::<W>(weight), out, epilogue), otherwise unreachable!("checked"));
    }, otherwise unreachable!("checked")), otherwise unreachable!("checked"));
}

/// The panels of a packed weight.
fn panels_of<E: Element>(weight: &FlexTensor, inputs: usize) -> Panels<'_, E> {
    let (start, length) = (weight.layout().start_offset(), weight.shape().num_elements());
    Panels { data: &weight.storage()[start..][..length], rows: inputs, columns: length / inputs }
}

/// A matrix where it lies.
fn matrix_of<E: Element>(tensor: &FlexTensor) -> Matrix<'_, E> {
    let ([rows, columns], layout) = (tensor.shape().dims(), tensor.layout());
    Matrix {
        data: &tensor.storage()[layout.start_offset()..],
        rows,
        columns,
        row_stride: layout.strides()[0] as usize,
        column_stride: layout.strides()[1] as usize,
    }
}

/// Heads `[batch, heads, rows, width]` where they lie.
fn heads_of<E: Element>(tensor: &FlexTensor) -> Heads<'_, E> {
    let ([batch, heads, rows, width], layout) = (tensor.shape().dims(), tensor.layout());
    let stride = |dim: usize| layout.strides()[dim] as usize;
    Heads {
        data: &tensor.storage()[layout.start_offset()..],
        batch,
        heads,
        rows,
        width,
        strides: [stride(0), stride(1), stride(2)],
    }
}

fn hidden_keys(hidden: HiddenKeys<Flex>) -> Option<BoolTensor<Flex>> {
    match hidden {
        HiddenKeys::None => None,
        HiddenKeys::Of(mask) => Some(contiguous(mask)),
    }
}

/// A contiguous mask `[batch or 1, heads or 1, queries or 1, keys]`.
fn hidden_of(mask: &BoolTensor<Flex>) -> Hidden<'_> {
    let [batch, heads, queries, keys] = mask.shape().dims();
    let stride = |size: usize, stride: usize| if size == 1 { 0 } else { stride };
    let strides = [stride(batch, heads * queries * keys), stride(heads, queries * keys), stride(queries, keys)];
    Hidden { data: mask.bytes(), strides, keys }
}
