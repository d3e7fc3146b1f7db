//! An action expert written from nothing: a perceptron over the mean of the context, the state, the noisy chunk and the
//! time.

use burn::{
    module::Module,
    nn::{Linear, LinearConfig},
    tensor::{DType, Device, Int, Tensor, TensorData, activation::gelu},
};
use evo1::{
    Component, Context, CoreError, Trace, VelocityModel,
    action::{FlowTime, model::FIELD},
    config::ActionConfig,
    cost::{ActionWorkload, Cost, linear_flops},
    ops::repeat_samples,
    weights::number_type,
};
use serde::Deserialize;

/// `W₃·GELU(W₂·GELU(W_c·mean(context) + W_s·state + W_a·actions + W_t·(τ, 1 − τ)))`, for all steps of a chunk at once.
#[derive(Module, Debug)]
pub(crate) struct MlpExpert {
    context: Linear,
    state: Linear,
    actions: Linear,
    time: Linear,
    hidden: Linear,
    output: Linear,
}

/// What stands beside the name `mlp` in a configuration: `{name: mlp, width: 128}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    width: usize,
}

impl Component for MlpExpert {
    fn names() -> Vec<&'static str> {
        vec!["mlp"]
    }
}

impl VelocityModel for MlpExpert {
    /// `[batch, width]`
    type Conditioning = Tensor<2>;
    /// `[batch or 1, width]`
    type Time = Tensor<2>;

    fn init(config: &ActionConfig, device: &Device) -> Result<Self, CoreError> {
        let Settings { width } = config.expert.settings(FIELD)?;
        let chunk = config.horizon * config.max_action_dim;
        let linear = |input, output| LinearConfig::new(input, output).init(device);
        Ok(Self {
            context: linear(config.embed_dim, width),
            state: linear(config.max_state_dim, width),
            actions: linear(chunk, width),
            time: linear(2, width),
            hidden: linear(width, width),
            output: linear(width, chunk),
        })
    }

    fn condition(&self, context: Context, state: Tensor<2>, _: &Tensor<1, Int>, _: &mut Trace) -> Tensor<2> {
        let dtype = number_type(self);
        let tokens = context.tokens.cast(dtype);
        let [batch, length, _] = tokens.dims();
        let visible = match context.hidden {
            Some(hidden) => hidden.bool_not().float().cast(dtype),
            None => Tensor::ones([batch, length], (&tokens.device(), dtype)),
        };
        let visible = visible.unsqueeze_dim::<3>(2);
        let mean = (tokens * visible.clone()).sum_dim(1) / visible.sum_dim(1).clamp_min(1.0);
        self.context.forward(mean.squeeze_dim::<2>(1)) + self.state.forward(state.cast(dtype))
    }

    fn repeat(conditioning: Tensor<2>, times: usize) -> Tensor<2> {
        repeat_samples(conditioning, times)
    }

    fn time(&self, times: &[FlowTime], device: &Device) -> Tensor<2> {
        let pairs: Vec<f32> = times.iter().flat_map(|time| [time.tau as f32, 1.0 - time.tau as f32]).collect();
        let pairs = Tensor::<2>::from_data(TensorData::new(pairs, [times.len(), 2]), (device, DType::F32));
        self.time.forward(pairs.cast(number_type(self)))
    }

    fn velocity(&self, actions: Tensor<3>, time: &Tensor<2>, conditioning: &Tensor<2>, _: &mut Trace) -> Tensor<3> {
        let shape = actions.dims();
        let chunk = self.actions.forward(actions.cast(number_type(self)).flatten::<2>(1, 2));
        let x = gelu(chunk + time.clone() + conditioning.clone());
        self.output.forward(gelu(self.hidden.forward(x))).reshape(shape)
    }

    fn costs(&self, config: &ActionConfig, workload: &ActionWorkload) -> Vec<Cost> {
        let [width, _] = self.hidden.weight.dims();
        let chunk = config.horizon * config.max_action_dim;
        let once = linear_flops(1, config.embed_dim + config.max_state_dim, width);
        let each = linear_flops(1, 2 * chunk + 2 + width, width);
        let flops = workload.conditionings() * once + workload.evaluations * each;
        vec![Cost { part: "action", name: "perceptron", parameters: vec![""], flops }]
    }
}
