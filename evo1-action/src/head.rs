//! The action expert: the velocity field of the flow.

use burn::{
    module::Module,
    nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig},
    tensor::{Bool, DType, Device, Int, Tensor, TensorData},
};
use evo1_core::{
    Context, Trace,
    config::ActionConfig,
    ops::{layer_norm, linear, repeat_samples},
};

use crate::{
    block::{CrossAttentionBlock, KeyValues, LAYER_NORM_EPS},
    category::CategoryMlp,
    encoders::{ActionEncoder, init_state_encoder, step_table},
};

/// The flow-matching diffusion transformer, which attends to the context and never to itself.
#[derive(Module, Debug)]
pub struct ActionExpert {
    state_encoder: CategoryMlp,
    /// For chunks of more than one step.
    action_encoder: Option<ActionEncoder>,
    /// For chunks of one step.
    single_action_proj: Option<Linear>,
    blocks: Vec<CrossAttentionBlock>,
    norm_out: LayerNorm,
    /// Makes one token of a whole chunk. Checkpoints have it even where the horizon is 1 and nothing uses it.
    seq_pool_proj: Linear,
    mlp_head: CategoryMlp,
}

/// What a prediction is conditioned on: it stays the same over all steps of the sampler.
#[derive(Debug, Clone)]
pub struct Conditioning {
    keys_values: Vec<KeyValues>,
    /// `[batch, 1, 1, context_len]`
    hidden: Option<Tensor<4, Bool>>,
    embodiment: Tensor<1, Int>,
    /// [`step_table`], for chunks of more than one step.
    steps: Option<Tensor<3>>,
}

impl Conditioning {
    /// Every sample `times` times in a row, for as many points on its path: what was computed of the context is shared.
    pub fn repeated(self, times: usize) -> Self {
        Self {
            keys_values: self.keys_values.into_iter().map(|context| context.repeated(times)).collect(),
            hidden: self.hidden.map(|hidden| repeat_samples(hidden, times)),
            embodiment: repeat_samples(self.embodiment, times),
            steps: self.steps,
        }
    }
}

/// An uninitialised action expert of the configuration's sizes.
pub fn init_action_expert(config: &ActionConfig, device: &Device) -> ActionExpert {
    let ActionConfig { embed_dim, hidden_dim, horizon, max_action_dim, num_categories, .. } = *config;
    let is_chunk = horizon > 1;
    let block = || CrossAttentionBlock::init(config, device);
    ActionExpert {
        state_encoder: init_state_encoder(config, device),
        action_encoder: is_chunk.then(|| ActionEncoder::init(config, device)),
        single_action_proj: (!is_chunk).then(|| LinearConfig::new(max_action_dim, embed_dim).init(device)),
        blocks: std::iter::repeat_with(block).take(config.num_layers).collect(),
        norm_out: LayerNormConfig::new(embed_dim).with_epsilon(LAYER_NORM_EPS).init(device),
        seq_pool_proj: LinearConfig::new(horizon * embed_dim, embed_dim).init(device),
        mlp_head: CategoryMlp::init(embed_dim, hidden_dim, horizon * max_action_dim, num_categories, device),
    }
}

impl ActionExpert {
    /// The same expert dropping attention weights with another probability while training.
    pub fn with_dropout(mut self, probability: f64) -> Self {
        self.blocks.iter_mut().for_each(|block| block.set_dropout(probability));
        self
    }

    /// The number type of the weights.
    pub fn dtype(&self) -> DType {
        self.seq_pool_proj.weight.val().dtype()
    }

    /// The expert as it is in use, also where it is differentiated.
    pub fn without_dropout(&self) -> Self {
        self.clone().with_dropout(0.0)
    }

    /// Channels of a token.
    pub fn embed_dim(&self) -> usize {
        self.seq_pool_proj.weight.lazy_shape()[1]
    }

    /// Steps of a chunk.
    fn horizon(&self) -> usize {
        self.seq_pool_proj.weight.lazy_shape()[0] / self.embed_dim()
    }

    /// The weight that pools a chunk into one token, `[horizon · embed, embed]`: a third of all parameters.
    pub fn pooling_weight(&self) -> Tensor<2> {
        self.seq_pool_proj.weight.val()
    }

    /// Appends the state's token to the context and computes every block's keys and values.
    ///
    /// # Shapes
    /// - context: `[batch, context_len, embed]`
    /// - state: `[batch, max_state_dim]`, normalised and padded
    /// - embodiment: one id for each sample, below the number of categories
    pub fn condition(
        &self,
        context: Context,
        state: Tensor<2>,
        embodiment: &[usize],
        trace: &mut Trace,
    ) -> Conditioning {
        let (device, dtype) = (state.device(), self.dtype());
        let ids: Vec<i32> = embodiment.iter().map(|&id| id as i32).collect();
        let embodiment = Tensor::<1, Int>::from_data(TensorData::new(ids, [embodiment.len()]), &device);
        let state = self.state_encoder.forward(state.cast(dtype), &embodiment).unsqueeze_dim::<3>(1);
        trace.record("state_token", &state);
        let tokens = Tensor::cat(vec![context.tokens.cast(dtype), state], 1);
        trace.record("context", &tokens);
        let [batch, length, _] = tokens.dims();
        let hidden = context.hidden.map(|hidden| {
            let state_is_seen = Tensor::<2, Int>::zeros([batch, 1], &device).bool();
            Tensor::cat(vec![hidden, state_is_seen], 1).reshape([batch, 1, 1, length])
        });
        if trace.is_on() {
            let valid = match &hidden {
                Some(hidden) => hidden.clone().bool_not().int().reshape([batch, length]),
                None => Tensor::ones([batch, length], &device),
            };
            trace.record("context_valid", &valid);
        }
        let keys_values = self.blocks.iter().map(|block| block.keys_values(tokens.clone())).collect();
        let steps =
            self.action_encoder.is_some().then(|| step_table(self.horizon(), self.embed_dim(), &device).cast(dtype));
        Conditioning { keys_values, hidden, embodiment, steps }
    }

    /// The velocity at noisy actions and a time.
    ///
    /// # Shapes
    /// - actions: `[batch, horizon, max_action_dim]`
    /// - time: `[batch or 1, embed]`, rows of the time table
    /// - output: `[batch, horizon, max_action_dim]`
    pub fn velocity(
        &self,
        actions: Tensor<3>,
        time: Tensor<2>,
        conditioning: &Conditioning,
        trace: &mut Trace,
    ) -> Tensor<3> {
        let Conditioning { keys_values, hidden, embodiment, steps } = conditioning;
        let (shape, dtype) = (actions.dims(), self.dtype());
        let actions = actions.cast(dtype);
        let mut x = match (&self.action_encoder, steps, &self.single_action_proj) {
            (Some(encoder), Some(steps), _) => encoder.forward(actions, steps.clone(), embodiment),
            (_, _, Some(projection)) => linear(projection, actions),
            _ => unreachable!("an action expert is built with one of its two encoders"),
        };
        trace.record("action_tokens", &x);
        let [batch, horizon, embed] = x.dims();
        if trace.is_on() {
            trace.record("time_emb", &time.clone().expand([batch, embed]));
        }
        let time = time.cast(dtype).unsqueeze_dim::<3>(1);
        for (index, (block, context)) in self.blocks.iter().zip(keys_values).enumerate() {
            x = block.forward(x, time.clone(), context, hidden.as_ref());
            trace.record(format_args!("block.{index}"), &x);
        }
        let x = layer_norm(&self.norm_out, x, LAYER_NORM_EPS);
        trace.record("norm_out", &x);
        let flat = x.reshape([batch, horizon * embed]);
        let pooled = if self.action_encoder.is_some() { linear(&self.seq_pool_proj, flat) } else { flat };
        trace.record("pooled", &pooled);
        self.mlp_head.forward(pooled, embodiment).reshape(shape)
    }
}
