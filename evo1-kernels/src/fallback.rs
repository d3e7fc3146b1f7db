//! Every operation made of burn's own: what devices without kernels run, and what the kernels are tested against.
//!
//! Half precision is as in PyTorch: operands and results are rounded, and what is between them is computed in `f32`.

use burn::{
    backend::{Backend, TensorMetadata, tensor::FloatTensor},
    tensor::{DType, Shape, Slice},
};

use crate::backend::{Activation, AdamW, HiddenKeys, KernelOps, Norm, OptionalTensor};

/// The tensor in `f32` if it is of a half type.
pub(crate) fn widened<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    match x.dtype() {
        DType::BF16 | DType::F16 => B::float_cast(x, DType::F32.into()),
        _ => x,
    }
}

/// The tensor in a type.
pub(crate) fn rounded<B: Backend>(x: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if x.dtype() == dtype { x } else { B::float_cast(x, dtype.into()) }
}

/// A type, `f32` in place of a half type.
pub(crate) fn wide_type(dtype: DType) -> DType {
    match dtype {
        DType::BF16 | DType::F16 => DType::F32,
        other => other,
    }
}

/// `lhs·rhs`, rounded once to `dtype`.
pub(crate) fn matmul<B: Backend>(lhs: FloatTensor<B>, rhs: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if lhs.dtype() == dtype && rhs.dtype() == dtype {
        return B::float_matmul(lhs, rhs);
    }
    rounded::<B>(B::float_matmul(widened::<B>(lhs), widened::<B>(rhs)), dtype)
}

/// `x ⊙ mask`, the result in another type.
pub(crate) fn masked<B: Backend>(x: FloatTensor<B>, mask: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    rounded::<B>(B::float_mul(x, mask), dtype)
}

/// `x + slope / divisor` in the type of `x`.
pub(crate) fn advance<B: Backend>(x: FloatTensor<B>, slope: FloatTensor<B>, divisor: f64) -> FloatTensor<B> {
    let slope = rounded::<B>(slope, x.dtype());
    B::float_add(x, B::float_div_scalar(slope, divisor.into()))
}

/// A step of AdamW: the weight and its moments after it.
pub(crate) fn adamw<B: Backend>(
    weight: FloatTensor<B>,
    gradient: FloatTensor<B>,
    [moment_1, moment_2]: [FloatTensor<B>; 2],
    step: AdamW,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let scaled = |x: FloatTensor<B>, factor: f32| B::float_mul_scalar(x, factor.into());
    let square = B::float_mul(gradient.clone(), gradient.clone());
    let moment_1 = B::float_add(scaled(moment_1, step.betas[0]), scaled(gradient, 1.0 - step.betas[0]));
    let moment_2 = B::float_add(scaled(moment_2, step.betas[1]), scaled(square, 1.0 - step.betas[1]));
    let mean = B::float_div_scalar(moment_1.clone(), step.corrections[0].into());
    let deviation = B::float_sqrt(B::float_div_scalar(moment_2.clone(), step.corrections[1].into()));
    let change = B::float_div(mean, B::float_add_scalar(deviation, step.epsilon.into()));
    let weight = B::float_sub(scaled(weight, step.kept), scaled(change, step.learning_rate));
    (weight, moment_1, moment_2)
}

/// `x · Φ(x)`.
///
/// Composed of `erf`, because burn's own `gelu` differentiates the tanh approximation on most devices.
pub(crate) fn gelu<B: KernelOps>(x: FloatTensor<B>) -> FloatTensor<B> {
    let dtype = x.dtype();
    let x = widened::<B>(x);
    rounded::<B>(B::float_mul(x.clone(), normal_cdf::<B>(x)), dtype)
}

/// `grad · (Φ(x) + x · φ(x))`.
pub(crate) fn gelu_backward<B: KernelOps>(x: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    let dtype = grad.dtype();
    let (x, grad) = (widened::<B>(x), widened::<B>(grad));
    let squares = B::float_mul(x.clone(), x.clone());
    let density =
        B::float_mul_scalar(B::float_exp(B::float_mul_scalar(squares, (-0.5).into())), INVERSE_SQRT_TAU.into());
    let slope = B::float_add(normal_cdf::<B>(x.clone()), B::float_mul(x, density));
    rounded::<B>(B::float_mul(grad, slope), dtype)
}

/// `SiLU(gate) · up`.
pub(crate) fn swiglu<B: KernelOps>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    let dtype = gate.dtype();
    let (gate, up) = (widened::<B>(gate), widened::<B>(up));
    let silu = B::float_mul(gate.clone(), B::sigmoid(gate));
    rounded::<B>(B::float_mul(silu, up), dtype)
}

/// The gradients of `gate` and `up`.
pub(crate) fn swiglu_backward<B: KernelOps>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let dtype = gate.dtype();
    let [gate, up, grad] = [gate, up, grad].map(widened::<B>);
    let sigmoid = B::sigmoid(gate.clone());
    let silu = B::float_mul(gate, sigmoid.clone());
    // SiLU' = σ + x·σ·(1 − σ) = σ + SiLU − SiLU·σ
    let slope = B::float_sub(B::float_add(sigmoid.clone(), silu.clone()), B::float_mul(silu.clone(), sigmoid));
    let of_gate = B::float_mul(B::float_mul(grad.clone(), up), slope);
    (rounded::<B>(of_gate, dtype), rounded::<B>(B::float_mul(grad, silu), dtype))
}

/// `norm(x) ⊙ gamma + beta` over the last dimension.
pub(crate) fn norm<B: KernelOps>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: OptionalTensor<B>,
    norm: Norm,
    epsilon: f64,
) -> FloatTensor<B> {
    let dtype = x.dtype();
    let (normed, _) = normalized::<B>(widened::<B>(x), norm, epsilon);
    let scaled = B::float_mul(normed.clone(), broadcast::<B>(widened::<B>(gamma), &normed));
    let out = match beta.into_option() {
        Some(beta) => B::float_add(scaled, broadcast::<B>(widened::<B>(beta), &normed)),
        None => scaled,
    };
    rounded::<B>(out, dtype)
}

/// [`norm`] by the device's kernel, and what is added to it.
pub(crate) fn norm_added<B: KernelOps>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: OptionalTensor<B>,
    added: FloatTensor<B>,
    norm: Norm,
    epsilon: f64,
) -> FloatTensor<B> {
    B::float_add(B::kernel_norm(x, gamma, beta, norm, epsilon), added)
}

/// The gradients of x, gamma and beta.
pub(crate) fn norm_backward<B: KernelOps>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    grad: FloatTensor<B>,
    norm: Norm,
    epsilon: f64,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let last = x.shape().num_dims() - 1;
    let (dtype, gamma_dtype, width) = (x.dtype(), gamma.dtype(), gamma.shape());
    let [x, gamma, grad] = [x, gamma, grad].map(widened::<B>);
    let (normed, scale) = normalized::<B>(x, norm, epsilon);
    let leading: Vec<usize> = (0..last).collect();
    let summed = |tensor| {
        let sums = match leading.is_empty() {
            true => tensor,
            false => B::float_sum_dims(tensor, &leading),
        };
        rounded::<B>(B::float_reshape(sums, width.clone()), gamma_dtype)
    };
    let of_gamma = summed(B::float_mul(grad.clone(), normed.clone()));
    let of_beta = summed(grad.clone());
    let grad = B::float_mul(grad, broadcast::<B>(gamma, &normed));
    let along = B::float_mean_dim(B::float_mul(grad.clone(), normed.clone()), last);
    let centered = match norm {
        Norm::Layer => B::float_sub(grad.clone(), B::float_mean_dim(grad, last)),
        Norm::Rms => grad,
    };
    let of_x = B::float_mul(B::float_sub(centered, B::float_mul(normed, along)), scale);
    (rounded::<B>(of_x, dtype), of_gamma, of_beta)
}

/// Softmax over the last dimension.
pub(crate) fn softmax<B: KernelOps>(x: FloatTensor<B>) -> FloatTensor<B> {
    let (dtype, last) = (x.dtype(), x.shape().num_dims() - 1);
    rounded::<B>(B::softmax(widened::<B>(x), last), dtype)
}

/// The gradient of x from softmax's result `y`.
pub(crate) fn softmax_backward<B: KernelOps>(y: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    let (dtype, last) = (y.dtype(), y.shape().num_dims() - 1);
    let (y, grad) = (widened::<B>(y), widened::<B>(grad));
    let along = B::float_sum_dim(B::float_mul(y.clone(), grad.clone()), last);
    rounded::<B>(B::float_mul(y, B::float_sub(grad, along)), dtype)
}

/// `x ⊙ cos + rotate_half(x) ⊙ sin`.
pub(crate) fn rotate<B: KernelOps>(x: FloatTensor<B>, cos: FloatTensor<B>, sin: FloatTensor<B>) -> FloatTensor<B> {
    let dtype = x.dtype();
    let [x, cos, sin] = [x, cos, sin].map(widened::<B>);
    let half = x.shape()[3] / 2;
    let part = |range: std::ops::Range<usize>| {
        B::float_slice(x.clone(), &[Slice::full(), Slice::full(), Slice::full(), range.into()])
    };
    let rotated = B::float_cat(vec![B::float_neg(part(half..2 * half)), part(0..half)], 3);
    rounded::<B>(B::float_add(B::float_mul(x, cos), B::float_mul(rotated, sin)), dtype)
}

/// A score that stands for the largest of a row in which all keys are hidden: unlike −∞, its difference with −∞ is a
/// number, so that such a query gets zeros.
const LOWEST: f32 = -1e30;

/// Scaled dot-product attention; heads of keys and values may serve groups of query heads.
pub(crate) fn attention<B: KernelOps>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    hidden: HiddenKeys<B>,
    scale: f64,
) -> FloatTensor<B> {
    let (out, ..) = attended::<B>(query, key, value, hidden, scale);
    out
}

/// [`attention`], and the logarithms of the sums of the rows' exponentials, `[batch, heads, queries]`, not in half
/// precision: whole rows of weights are made of them again.
pub(crate) fn attention_with_sums<B: KernelOps>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    hidden: HiddenKeys<B>,
    scale: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let shape = query.shape();
    let (out, largest, sums) = attended::<B>(query, key, value, hidden, scale);
    let log_sums = B::float_add(B::float_log(sums), largest);
    (out, B::float_reshape(log_sums, Shape::from([shape[0], shape[1], shape[2]])))
}

/// The result, and of each row the largest score and the sum of the exponentials of what the others are below it.
fn attended<B: KernelOps>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    hidden: HiddenKeys<B>,
    scale: f64,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (dtype, heads) = (query.dtype(), query.shape()[1]);
    let scores = scores::<B>(query, shared::<B>(key, heads), hidden, scale);
    let largest = B::float_clamp_min(B::float_max_dim(scores.clone(), 3), LOWEST.into());
    let exponentials = B::float_exp(B::float_sub(scores, largest.clone()));
    let sums = B::float_clamp_min(B::float_sum_dim(exponentials.clone(), 3), f32::MIN_POSITIVE.into());
    let exponentials = rounded::<B>(exponentials, value.dtype());
    let out = B::kernel_matmul(exponentials, shared::<B>(value, heads), wide_type(dtype));
    (rounded::<B>(B::float_div(out, sums.clone()), dtype), largest, sums)
}

/// The gradients of query, key and value.
#[allow(clippy::too_many_arguments, reason = "what the forward pass had, and what it made")]
pub(crate) fn attention_backward<B: KernelOps>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    hidden: HiddenKeys<B>,
    scale: f64,
    out: FloatTensor<B>,
    log_sums: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (shape, heads, kv_shape) = (query.shape(), query.shape()[1], key.shape());
    let (dtype, value_shape) = (query.dtype(), value.shape());
    let wide = wide_type(dtype);
    let (keys, values) = (shared::<B>(key, heads), shared::<B>(value, heads));
    let scores = scores::<B>(query.clone(), keys.clone(), hidden, scale);
    let log_sums = B::float_reshape(log_sums, Shape::from([shape[0], heads, shape[2], 1]));
    let weights = B::float_exp(B::float_sub(scores, log_sums));
    let transposed = |tensor| B::float_swap_dims(tensor, 2, 3);
    let of_value = B::kernel_matmul(transposed(rounded::<B>(weights.clone(), dtype)), grad.clone(), wide);
    let of_weights = B::kernel_matmul(grad.clone(), transposed(values), wide);
    let along = B::float_sum_dim(B::float_mul(widened::<B>(grad), widened::<B>(out)), 3);
    let of_scores = B::float_mul(weights, B::float_sub(of_weights, along));
    let of_scores = rounded::<B>(B::float_mul_scalar(of_scores, scale.into()), dtype);
    let of_query = B::kernel_matmul(of_scores.clone(), keys, dtype);
    let of_key = B::kernel_matmul(transposed(of_scores), query, wide);
    let grouped = |of_heads, shape| rounded::<B>(grouped::<B>(of_heads, shape), dtype);
    (of_query, grouped(of_key, &kv_shape), grouped(of_value, &value_shape))
}

/// Whether a weight of a layer with so many inputs is packed: then it has one row.
pub(crate) fn is_packed<B: Backend>(weight: &FloatTensor<B>, inputs: usize) -> bool {
    inputs > 1 && weight.shape()[0] == 1
}

/// A weight as it was before the CPU's kernels packed it.
///
/// # Panics
/// When it is packed and its values cannot be read, or this build has no kernels that know their order.
pub(crate) fn unpack<B: Backend>(weight: FloatTensor<B>, inputs: usize) -> FloatTensor<B> {
    if !is_packed::<B>(&weight, inputs) {
        return weight;
    }
    #[cfg(feature = "flex")]
    {
        use burn::{
            backend::{Flex, flex::FlexTensor},
            tensor::read_sync,
        };
        let device = weight.device();
        let data = read_sync(B::float_into_data(weight)).expect("a weight that can be read");
        let unpacked = Flex::kernel_unpack(FlexTensor::from_data(data), inputs);
        B::float_from_data(unpacked.into_data(), &device)
    }
    #[cfg(not(feature = "flex"))]
    panic!("a weight of {inputs} inputs is packed in the order of the device `flex`, which this build does not have")
}

/// `activation(x·weight + bias)`.
pub(crate) fn linear<B: KernelOps>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: OptionalTensor<B>,
    activation: Activation,
) -> FloatTensor<B> {
    let dtype = x.dtype();
    let has_more = matches!(bias, OptionalTensor::Present(_)) || activation != Activation::None;
    let out = product::<B>(x, weight, bias, if has_more { wide_type(dtype) } else { dtype });
    rounded::<B>(activated::<B>(out, activation), dtype)
}

/// `x·weight + bias` in `dtype`, `f32` at least if there is a bias.
pub(crate) fn product<B: KernelOps>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: OptionalTensor<B>,
    dtype: DType,
) -> FloatTensor<B> {
    let mut shape = x.shape();
    let last = shape.num_dims() - 1;
    let weight = rounded::<B>(B::kernel_unpack(weight, shape[last]), x.dtype());
    let rows = Shape::new([shape.num_elements().checked_div(shape[last]).unwrap_or(0), shape[last]]);
    shape[last] = weight.shape()[1];
    let out = B::kernel_matmul(B::float_reshape(x, rows), weight, dtype);
    let out = match bias.into_option() {
        Some(bias) => {
            let bias = broadcast::<B>(rounded::<B>(bias, dtype), &out);
            B::float_add(out, bias)
        }
        None => out,
    };
    B::float_reshape(out, shape)
}

/// The activation of every value.
pub(crate) fn activated<B: KernelOps>(x: FloatTensor<B>, activation: Activation) -> FloatTensor<B> {
    match activation {
        Activation::None => x,
        Activation::Gelu => B::kernel_gelu(x),
        Activation::Relu => B::relu(x),
    }
}

/// The gradients of a linear layer's weight and bias.
pub(crate) fn linear_backward<B: KernelOps>(
    x: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let rows = |tensor: FloatTensor<B>| {
        let shape = tensor.shape();
        let width = shape[shape.num_dims() - 1];
        B::float_reshape(tensor, Shape::new([shape.num_elements() / width, width]))
    };
    let (x, grad, dtype) = (rows(x), rows(grad.clone()), grad.dtype());
    let width = grad.shape()[1];
    let of_weight = B::kernel_matmul(B::float_swap_dims(x, 0, 1), grad.clone(), dtype);
    let of_bias = B::float_reshape(B::float_sum_dim(widened::<B>(grad), 0), Shape::new([width]));
    (of_weight, rounded::<B>(of_bias, dtype))
}

/// `base + scale ⊙ (x·weight + bias)`.
pub(crate) fn linear_residual<B: KernelOps>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: OptionalTensor<B>,
    scale: OptionalTensor<B>,
    base: FloatTensor<B>,
) -> FloatTensor<B> {
    let dtype = x.dtype();
    let out = product::<B>(x, weight, bias, wide_type(dtype));
    rounded::<B>(residual::<B>(out, scale, widened::<B>(base)), dtype)
}

/// `base + scale ⊙ x`.
pub(crate) fn residual<B: KernelOps>(
    x: FloatTensor<B>,
    scale: OptionalTensor<B>,
    base: FloatTensor<B>,
) -> FloatTensor<B> {
    let scaled = match scale.into_option() {
        Some(scale) => {
            let scale = broadcast::<B>(rounded::<B>(scale, x.dtype()), &x);
            B::float_mul(x, scale)
        }
        None => x,
    };
    B::float_add(base, scaled)
}

const INVERSE_SQRT_TAU: f64 = 0.398_942_280_401_432_7;

fn normal_cdf<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let erf = B::float_erf(B::float_mul_scalar(x, std::f64::consts::FRAC_1_SQRT_2.into()));
    B::float_add_scalar(B::float_mul_scalar(erf, 0.5.into()), 0.5.into())
}

/// The normalised rows, and what they were multiplied with.
fn normalized<B: Backend>(x: FloatTensor<B>, norm: Norm, epsilon: f64) -> (FloatTensor<B>, FloatTensor<B>) {
    let last = x.shape().num_dims() - 1;
    let centered = match norm {
        Norm::Layer => B::float_sub(x.clone(), B::float_mean_dim(x, last)),
        Norm::Rms => x,
    };
    let variance = B::float_mean_dim(B::float_mul(centered.clone(), centered.clone()), last);
    let scale = B::float_recip(B::float_sqrt(B::float_add_scalar(variance, epsilon.into())));
    (B::float_mul(centered, scale.clone()), scale)
}

/// A vector in as many dimensions as another tensor has.
fn broadcast<B: Backend>(vector: FloatTensor<B>, like: &FloatTensor<B>) -> FloatTensor<B> {
    let dims = like.shape().num_dims();
    let mut shape = vec![1; dims];
    shape[dims - 1] = vector.shape()[0];
    B::float_reshape(vector, Shape::from(shape))
}

/// Heads of keys or values, each repeated for the queries of its group.
fn shared<B: Backend>(x: FloatTensor<B>, heads: usize) -> FloatTensor<B> {
    let shape = x.shape();
    let [batch, kv_heads, rows, width] = shape.dims();
    if kv_heads == heads {
        return x;
    }
    let group = heads / kv_heads;
    let x = B::float_reshape(x, Shape::from([batch, kv_heads, 1, rows, width]));
    let x = B::float_expand(x, Shape::from([batch, kv_heads, group, rows, width]));
    B::float_reshape(x, Shape::from([batch, heads, rows, width]))
}

/// The inverse of [`shared`] for gradients: the sums over each group.
fn grouped<B: Backend>(x: FloatTensor<B>, shape: &Shape) -> FloatTensor<B> {
    let [batch, heads, rows, width] = x.shape().dims();
    let kv_heads = shape[1];
    if kv_heads == heads {
        return x;
    }
    let x = B::float_reshape(x, Shape::from([batch, kv_heads, heads / kv_heads, rows, width]));
    B::float_reshape(B::float_sum_dim(x, 2), shape.clone())
}

/// `q·kᵀ · scale` with −∞ where hidden, not in half precision.
fn scores<B: KernelOps>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    hidden: HiddenKeys<B>,
    scale: f64,
) -> FloatTensor<B> {
    let wide = wide_type(query.dtype());
    let products = B::kernel_matmul(query, B::float_swap_dims(key, 2, 3), wide);
    let scores = B::float_mul_scalar(products, scale.into());
    match hidden {
        HiddenKeys::None => scores,
        HiddenKeys::Of(mask) => {
            let shape = scores.shape();
            B::float_mask_fill(scores, B::bool_expand(mask, shape), f32::NEG_INFINITY.into())
        }
    }
}
