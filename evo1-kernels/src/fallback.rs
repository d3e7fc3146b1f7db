//! Every operation made of burn's own: what devices without kernels run, and what the kernels are tested against.

use burn::{
    backend::{
        Backend, TensorMetadata,
        ops::AttentionModuleOptions,
        tensor::{BoolTensor, FloatTensor},
    },
    tensor::{DType, Shape, Slice},
};

use crate::backend::{Activation, HiddenKeys, KernelOps, Norm, OptionalTensor};

/// `x · Φ(x)`.
///
/// Composed of `erf`, because burn's own `gelu` differentiates the tanh approximation on most devices.
pub(crate) fn gelu<B: KernelOps>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_mul(x.clone(), normal_cdf::<B>(x))
}

/// `grad · (Φ(x) + x · φ(x))`.
pub(crate) fn gelu_backward<B: KernelOps>(x: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    let squares = B::float_mul(x.clone(), x.clone());
    let density =
        B::float_mul_scalar(B::float_exp(B::float_mul_scalar(squares, (-0.5).into())), INVERSE_SQRT_TAU.into());
    let slope = B::float_add(normal_cdf::<B>(x.clone()), B::float_mul(x, density));
    B::float_mul(grad, slope)
}

/// `SiLU(gate) · up`.
pub(crate) fn swiglu<B: KernelOps>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    let silu = B::float_mul(gate.clone(), B::sigmoid(gate));
    B::float_mul(silu, up)
}

/// The gradients of `gate` and `up`.
pub(crate) fn swiglu_backward<B: KernelOps>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let sigmoid = B::sigmoid(gate.clone());
    let silu = B::float_mul(gate, sigmoid.clone());
    // SiLU' = σ + x·σ·(1 − σ) = σ + SiLU − SiLU·σ
    let slope = B::float_sub(B::float_add(sigmoid.clone(), silu.clone()), B::float_mul(silu.clone(), sigmoid));
    let of_gate = B::float_mul(B::float_mul(grad.clone(), up), slope);
    (of_gate, B::float_mul(grad, silu))
}

/// `norm(x) ⊙ gamma + beta` over the last dimension.
pub(crate) fn norm<B: KernelOps>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: OptionalTensor<B>,
    norm: Norm,
    epsilon: f64,
) -> FloatTensor<B> {
    let (normed, _) = normalized::<B>(x, norm, epsilon);
    let scaled = B::float_mul(normed.clone(), broadcast::<B>(gamma, &normed));
    match beta.into_option() {
        Some(beta) => B::float_add(scaled, broadcast::<B>(beta, &normed)),
        None => scaled,
    }
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
    let width = gamma.shape();
    let (normed, scale) = normalized::<B>(x, norm, epsilon);
    let leading: Vec<usize> = (0..last).collect();
    let summed = |tensor| match leading.is_empty() {
        true => B::float_reshape(tensor, width.clone()),
        false => B::float_reshape(B::float_sum_dims(tensor, &leading), width.clone()),
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
    (of_x, of_gamma, of_beta)
}

/// Softmax over the last dimension.
pub(crate) fn softmax<B: KernelOps>(x: FloatTensor<B>) -> FloatTensor<B> {
    let last = x.shape().num_dims() - 1;
    B::softmax(x, last)
}

/// The gradient of x from softmax's result `y`.
pub(crate) fn softmax_backward<B: KernelOps>(y: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    let last = y.shape().num_dims() - 1;
    let along = B::float_sum_dim(B::float_mul(y.clone(), grad.clone()), last);
    B::float_mul(y, B::float_sub(grad, along))
}

/// A number of queries that those which burn's fused attention computes together divide.
const FUSED_QUERIES: usize = 64;

/// Scaled dot-product attention; heads of keys and values may serve groups of query heads.
///
/// In half precision burn's fused kernel may compute it, which multiplies in `f16` whatever the numbers are. It takes no
/// other scale than the usual one, and many queries only if their number is a multiple of its blocks: burn computes with
/// the whole matrix of scores otherwise, without a word.
pub(crate) fn attention<B: KernelOps>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    hidden: HiddenKeys<B>,
    scale: f64,
) -> FloatTensor<B> {
    let [batch, heads, queries, width] = query.shape().dims();
    let keys = key.shape()[2];
    let is_usual = (scale * (width as f64).sqrt() - 1.0).abs() < 1e-12;
    let is_fused = is_usual && matches!(query.dtype(), DType::BF16 | DType::F16);
    // The scores of few queries are small, and filling up would cost more than they.
    let padded = if is_fused && queries > width { queries.next_multiple_of(FUSED_QUERIES) } else { queries };
    let query = if padded > queries {
        let last = B::float_slice(query.clone(), &of_queries(queries - 1..queries));
        let rest = B::float_expand(last, Shape::from([batch, heads, padded - queries, width]));
        B::float_cat(vec![query, rest], 2)
    } else {
        query
    };
    let mask = match hidden {
        HiddenKeys::None => None,
        HiddenKeys::Of(mask) => {
            let mask = match mask.shape()[2] {
                1 => mask,
                _ => with_last_query_repeated::<B>(mask, padded),
            };
            Some(B::bool_expand(mask, Shape::from([batch, heads, padded, keys])))
        }
    };
    let options = AttentionModuleOptions { scale: (!is_fused).then_some(scale), ..Default::default() };
    let out = B::attention(query, shared::<B>(key, heads), shared::<B>(value, heads), mask, None, options);
    if padded == queries {
        return out;
    }
    B::float_slice(out, &of_queries(0..queries))
}

/// Some queries of `[batch, heads, queries, ..]`.
fn of_queries(queries: std::ops::Range<usize>) -> [Slice; 4] {
    [Slice::full(), Slice::full(), queries.into(), Slice::full()]
}

/// A mask `[batch, heads, queries, keys]` with the last query's row again for as many as are missing.
fn with_last_query_repeated<B: Backend>(mask: BoolTensor<B>, queries: usize) -> BoolTensor<B> {
    let [batch, heads, rows, keys] = mask.shape().dims();
    if rows == queries {
        return mask;
    }
    let last = B::bool_slice(mask.clone(), &of_queries(rows - 1..rows));
    let rest = B::bool_expand(last, Shape::from([batch, heads, queries - rows, keys]));
    B::bool_cat(vec![mask, rest], 2)
}

/// [`attention`], and the logarithms of the sums of the rows' exponentials, `[batch, heads, queries]`.
pub(crate) fn attention_with_sums<B: KernelOps>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    hidden: HiddenKeys<B>,
    scale: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (shape, heads) = (query.shape(), query.shape()[1]);
    let scores = scores::<B>(query, shared::<B>(key, heads), hidden, scale);
    let largest = B::float_max_dim(scores.clone(), 3);
    let exponentials = B::float_exp(B::float_sub(scores, largest.clone()));
    let sums = B::float_sum_dim(exponentials.clone(), 3);
    let log_sums = B::float_add(B::float_log(sums.clone()), largest);
    let weights = B::float_div(exponentials, sums);
    let out = B::float_matmul(weights, shared::<B>(value, heads));
    (out, B::float_reshape(log_sums, Shape::from([shape[0], heads, shape[2]])))
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
    let value_shape = value.shape();
    let (keys, values) = (shared::<B>(key, heads), shared::<B>(value, heads));
    let scores = scores::<B>(query.clone(), keys.clone(), hidden, scale);
    let log_sums = B::float_reshape(log_sums, Shape::from([shape[0], heads, shape[2], 1]));
    let weights = B::float_exp(B::float_sub(scores, log_sums));
    let transposed = |tensor| B::float_swap_dims(tensor, 2, 3);
    let of_value = B::float_matmul(transposed(weights.clone()), grad.clone());
    let of_weights = B::float_matmul(grad.clone(), transposed(values));
    let along = B::float_sum_dim(B::float_mul(grad, out), 3);
    let of_scores = B::float_mul(weights, B::float_sub(of_weights, along));
    let of_scores = B::float_mul_scalar(of_scores, scale.into());
    let of_query = B::float_matmul(of_scores.clone(), keys);
    let of_key = B::float_matmul(transposed(of_scores), query);
    (of_query, grouped::<B>(of_key, &kv_shape), grouped::<B>(of_value, &value_shape))
}

/// `activation(x·weight + bias)`.
pub(crate) fn linear<B: KernelOps>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: OptionalTensor<B>,
    activation: Activation,
) -> FloatTensor<B> {
    activated::<B>(B::linear(x, weight, bias.into_option()), activation)
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
    let (x, grad) = (rows(x), rows(grad));
    let width = grad.shape()[1];
    let of_weight = B::float_matmul(B::float_swap_dims(x, 0, 1), grad.clone());
    (of_weight, B::float_reshape(B::float_sum_dim(grad, 0), Shape::new([width])))
}

/// `base + scale ⊙ (x·weight + bias)`.
pub(crate) fn linear_residual<B: KernelOps>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: OptionalTensor<B>,
    scale: OptionalTensor<B>,
    base: FloatTensor<B>,
) -> FloatTensor<B> {
    let out = B::kernel_linear(x, weight, bias, Activation::None);
    let out = match scale.into_option() {
        Some(scale) => {
            let scale = broadcast::<B>(scale, &out);
            B::float_mul(out, scale)
        }
        None => out,
    };
    B::float_add(base, out)
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

/// `q·kᵀ · scale` with −∞ where hidden.
fn scores<B: Backend>(query: FloatTensor<B>, key: FloatTensor<B>, hidden: HiddenKeys<B>, scale: f64) -> FloatTensor<B> {
    let products = B::float_matmul(query, B::float_swap_dims(key, 2, 3));
    let scores = B::float_mul_scalar(products, scale.into());
    match hidden {
        HiddenKeys::None => scores,
        HiddenKeys::Of(mask) => {
            let shape = scores.shape();
            B::float_mask_fill(scores, B::bool_expand(mask, shape), f32::NEG_INFINITY.into())
        }
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::{
        backend::{Flex, flex::FlexTensor},
        tensor::TensorData,
    };

    use super::*;
    use crate::flex::test_values::values;

    /// Here the queries are filled up without need.
    #[test]
    fn attention_filled_up_to_whole_blocks_is_attention() {
        let [queries, keys, width] = [75, 40, 8];
        let half = |seed, rows: usize| {
            let values: Vec<_> = values(seed, 2 * rows * width).into_iter().map(half::bf16::from_f32).collect();
            FlexTensor::from_data(TensorData::new(values, [1, 2, rows, width]))
        };
        let [query, key, value] = [half(1, queries), half(2, keys), half(3, keys)];
        let mask: Vec<bool> = (0..queries * keys).map(|at| (at / keys + at % keys) % 3 == 0).collect();
        let masks =
            [HiddenKeys::None, HiddenKeys::Of(FlexTensor::from_data(TensorData::new(mask, [1, 1, queries, keys])))];
        for hidden in masks {
            let scale = 1.0 / (width as f64).sqrt();
            let of = |attention: fn(_, _, _, _, _) -> FlexTensor| {
                let out = attention(query.clone(), key.clone(), value.clone(), hidden.clone(), scale);
                out.into_data().iter::<f32>().collect::<Vec<_>>()
            };
            let (got, want) = (of(attention::<Flex>), of(Flex::kernel_attention));
            assert_eq!(got.len(), want.len());
            assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 0.02));
        }
    }
}
