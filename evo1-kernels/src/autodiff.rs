//! The gradients of the kernels, for burn's automatic differentiation of any backend.

use burn::{
    backend::{
        Autodiff, Backend, TensorMetadata,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        tensor::FloatTensor,
    },
    tensor::DType,
};

use crate::{
    backend::{Activation, HiddenKeys, KernelOps, Norm, OptionalTensor},
    fallback,
};

/// Registers a gradient for an input that wants one.
macro_rules! register {
    ($grads:ident, $node:expr, $grad:expr) => {
        if let Some(node) = $node {
            $grads.register::<B>(node.id, $grad);
        }
    };
}

impl<B: Backend + KernelOps, C: CheckpointStrategy> KernelOps for Autodiff<B, C> {
    fn kernel_matmul(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>, dtype: DType) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Matmul;

        impl<B: Backend + KernelOps> Backward<B, 2> for Matmul {
            type State = (FloatTensor<B>, FloatTensor<B>);

            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let ([of_lhs, of_rhs], (lhs, rhs)) = (ops.parents, ops.state);
                let dtype = lhs.dtype();
                let grad = fallback::rounded::<B>(grads.consume::<B>(&ops.node), dtype);
                let transposed = |x: FloatTensor<B>| {
                    let dims = x.shape().num_dims();
                    B::float_swap_dims(x, dims - 2, dims - 1)
                };
                register!(grads, of_lhs, B::kernel_matmul(grad.clone(), transposed(rhs), dtype));
                register!(grads, of_rhs, B::kernel_matmul(transposed(lhs), grad, dtype));
            }
        }

        let ((lhs, lhs_node), (rhs, rhs_node)) = (lhs.into_parts(), rhs.into_parts());
        match Backward::<B, 2>::prepare::<C>(Matmul, [lhs_node, rhs_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((lhs.clone(), rhs.clone()), B::kernel_matmul(lhs, rhs, dtype)),
            OpsKind::UnTracked(prep) => prep.finish(B::kernel_matmul(lhs, rhs, dtype)),
        }
    }

    fn kernel_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Gelu;

        impl<B: Backend + KernelOps> Backward<B, 1> for Gelu {
            type State = FloatTensor<B>;

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let [x] = ops.parents;
                register!(grads, x, B::kernel_gelu_backward(ops.state, grad));
            }
        }

        let (x, node) = x.into_parts();
        match Backward::<B, 1>::prepare::<C>(Gelu, [node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(x.clone(), B::kernel_gelu(x)),
            OpsKind::UnTracked(prep) => prep.finish(B::kernel_gelu(x)),
        }
    }

    fn kernel_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct SwiGlu;

        impl<B: Backend + KernelOps> Backward<B, 2> for SwiGlu {
            type State = (FloatTensor<B>, FloatTensor<B>);

            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let ([gate, up], (gate_values, up_values)) = (ops.parents, ops.state);
                let (of_gate, of_up) = B::kernel_swiglu_backward(gate_values, up_values, grad);
                register!(grads, gate, of_gate);
                register!(grads, up, of_up);
            }
        }

        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        match Backward::<B, 2>::prepare::<C>(SwiGlu, [gate_node, up_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((gate.clone(), up.clone()), B::kernel_swiglu(gate, up)),
            OpsKind::UnTracked(prep) => prep.finish(B::kernel_swiglu(gate, up)),
        }
    }

    fn kernel_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: OptionalTensor<Self>,
        norm: Norm,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct NormStep;

        fn step<B: Backend + KernelOps, const N: usize>(
            ops: Ops<(FloatTensor<B>, FloatTensor<B>, Norm, f64), N>,
            grads: &mut Gradients,
        ) {
            let grad = grads.consume::<B>(&ops.node);
            let (x, gamma, norm, epsilon) = ops.state;
            let (of_x, of_gamma, of_beta) = B::kernel_norm_backward(x, gamma, grad, norm, epsilon);
            for (node, grad) in ops.parents.into_iter().zip([of_x, of_gamma, of_beta]) {
                register!(grads, node, grad);
            }
        }

        impl<B: Backend + KernelOps> Backward<B, 2> for NormStep {
            type State = (FloatTensor<B>, FloatTensor<B>, Norm, f64);

            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                step::<B, 2>(ops, grads);
            }
        }

        impl<B: Backend + KernelOps> Backward<B, 3> for NormStep {
            type State = (FloatTensor<B>, FloatTensor<B>, Norm, f64);

            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                step::<B, 3>(ops, grads);
            }
        }

        let ((x, x_node), (gamma, gamma_node)) = (x.into_parts(), gamma.into_parts());
        let state = (x.clone(), gamma.clone(), norm, epsilon);
        match beta {
            OptionalTensor::Absent => {
                let forward = || B::kernel_norm(x, gamma, OptionalTensor::Absent, norm, epsilon);
                match Backward::<B, 2>::prepare::<C>(NormStep, [x_node, gamma_node]).compute_bound().stateful() {
                    OpsKind::Tracked(prep) => prep.finish(state, forward()),
                    OpsKind::UnTracked(prep) => prep.finish(forward()),
                }
            }
            OptionalTensor::Present(beta) => {
                let (beta, beta_node) = beta.into_parts();
                let forward = || B::kernel_norm(x, gamma, OptionalTensor::Present(beta), norm, epsilon);
                let nodes = [x_node, gamma_node, beta_node];
                match Backward::<B, 3>::prepare::<C>(NormStep, nodes).compute_bound().stateful() {
                    OpsKind::Tracked(prep) => prep.finish(state, forward()),
                    OpsKind::UnTracked(prep) => prep.finish(forward()),
                }
            }
        }
    }

    fn kernel_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: OptionalTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Linear;

        fn step<B: Backend + KernelOps, const N: usize>(
            ops: Ops<(FloatTensor<B>, FloatTensor<B>), N>,
            grads: &mut Gradients,
        ) {
            let grad = grads.consume::<B>(&ops.node);
            let (x, weight) = ops.state;
            let mut parents = ops.parents.into_iter();
            if let Some(node) = parents.next().flatten() {
                let inputs = x.shape()[x.shape().num_dims() - 1];
                let transposed = B::float_swap_dims(B::kernel_unpack(weight, inputs), 0, 1);
                let of_x = B::kernel_linear(grad.clone(), transposed, OptionalTensor::Absent, Activation::None);
                grads.register::<B>(node.id, of_x);
            }
            let parents: Vec<_> = parents.collect();
            if parents.iter().any(Option::is_some) {
                let (of_weight, of_bias) = B::kernel_linear_backward(x, grad);
                for (node, grad) in parents.into_iter().zip([of_weight, of_bias]) {
                    register!(grads, node, grad);
                }
            }
        }

        impl<B: Backend + KernelOps> Backward<B, 2> for Linear {
            type State = (FloatTensor<B>, FloatTensor<B>);

            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                step::<B, 2>(ops, grads);
            }
        }

        impl<B: Backend + KernelOps> Backward<B, 3> for Linear {
            type State = (FloatTensor<B>, FloatTensor<B>);

            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                step::<B, 3>(ops, grads);
            }
        }

        let ((x, x_node), (weight, weight_node)) = (x.into_parts(), weight.into_parts());
        let state = (x.clone(), weight.clone());
        // The activation comes by itself where gradients are wanted: its own is of what went into it.
        let out = match bias {
            OptionalTensor::Absent => {
                let forward = |activation| B::kernel_linear(x, weight, OptionalTensor::Absent, activation);
                match Backward::<B, 2>::prepare::<C>(Linear, [x_node, weight_node]).compute_bound().stateful() {
                    OpsKind::Tracked(prep) => prep.finish(state, forward(Activation::None)),
                    OpsKind::UnTracked(prep) => return prep.finish(forward(activation)),
                }
            }
            OptionalTensor::Present(bias) => {
                let (bias, bias_node) = bias.into_parts();
                let forward = |activation| B::kernel_linear(x, weight, OptionalTensor::Present(bias), activation);
                let nodes = [x_node, weight_node, bias_node];
                match Backward::<B, 3>::prepare::<C>(Linear, nodes).compute_bound().stateful() {
                    OpsKind::Tracked(prep) => prep.finish(state, forward(Activation::None)),
                    OpsKind::UnTracked(prep) => return prep.finish(forward(activation)),
                }
            }
        };
        fallback::activated::<Self>(out, activation)
    }

    fn kernel_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Softmax;

        impl<B: Backend + KernelOps> Backward<B, 1> for Softmax {
            type State = FloatTensor<B>;

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let [x] = ops.parents;
                register!(grads, x, B::kernel_softmax_backward(ops.state, grad));
            }
        }

        let (x, node) = x.into_parts();
        match Backward::<B, 1>::prepare::<C>(Softmax, [node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::kernel_softmax(x);
                prep.finish(y.clone(), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::kernel_softmax(x)),
        }
    }

    fn kernel_rotate(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Rotate;

        impl<B: Backend + KernelOps> Backward<B, 1> for Rotate {
            type State = (FloatTensor<B>, FloatTensor<B>);

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let ([x], (cos, sin)) = (ops.parents, ops.state);
                // The other way round.
                register!(grads, x, B::kernel_rotate(grad, cos, B::float_neg(sin)));
            }
        }

        let ((x, node), (cos, _), (sin, _)) = (x.into_parts(), cos.into_parts(), sin.into_parts());
        match Backward::<B, 1>::prepare::<C>(Rotate, [node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((cos.clone(), sin.clone()), B::kernel_rotate(x, cos, sin)),
            OpsKind::UnTracked(prep) => prep.finish(B::kernel_rotate(x, cos, sin)),
        }
    }

    fn kernel_linear_residual(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: OptionalTensor<Self>,
        scale: OptionalTensor<Self>,
        base: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        fallback::residual::<Self>(Self::kernel_linear(x, weight, bias, Activation::None), scale, base)
    }

    fn kernel_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        hidden: HiddenKeys<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Attention;

        #[derive(Debug, Clone)]
        struct State<B: Backend> {
            query: FloatTensor<B>,
            key: FloatTensor<B>,
            value: FloatTensor<B>,
            hidden: HiddenKeys<B>,
            scale: f64,
            out: FloatTensor<B>,
            log_sums: FloatTensor<B>,
        }

        impl<B: Backend + KernelOps> Backward<B, 3> for Attention {
            type State = State<B>;

            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let State { query, key, value, hidden, scale, out, log_sums } = ops.state;
                let (of_query, of_key, of_value) =
                    B::kernel_attention_backward(query, key, value, hidden, scale, out, log_sums, grad);
                for (node, grad) in ops.parents.into_iter().zip([of_query, of_key, of_value]) {
                    register!(grads, node, grad);
                }
            }
        }

        let hidden = match hidden {
            HiddenKeys::None => HiddenKeys::None,
            HiddenKeys::Of(mask) => HiddenKeys::Of(mask),
        };
        let ((query, query_node), (key, key_node), (value, value_node)) =
            (query.into_parts(), key.into_parts(), value.into_parts());
        let nodes = [query_node, key_node, value_node];
        match Backward::<B, 3>::prepare::<C>(Attention, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (out, log_sums) =
                    B::kernel_attention_with_sums(query.clone(), key.clone(), value.clone(), hidden.clone(), scale);
                prep.finish(State { query, key, value, hidden, scale, out: out.clone(), log_sums }, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::kernel_attention(query, key, value, hidden, scale)),
        }
    }
}
