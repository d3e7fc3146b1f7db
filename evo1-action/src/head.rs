//! The action expert: the velocity field of the flow.

use burn::{
    module::Module,
    nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig},
    tensor::{DType, Device, Int, Tensor, TensorData, activation::silu},
};
use evo1_core::{
    Context, Trace,
    config::{ActionConfig, Design, StateInput, TimeInput, VelocityHead},
    constants::Constants,
    ops::{layer_norm, linear, repeat_samples},
};

use crate::{
    block::{Attended, CrossAttentionBlock, LAYER_NORM_EPS},
    category::{CategoryMlp, ChosenMlp},
    encoders::{ActionEncoder, ChosenEncoder, init_state_encoder},
    integration::{self, Memory},
    time::sinusoid,
};

/// The flow-matching diffusion transformer, which attends to the context and, as published, never to itself.
#[derive(Module, Debug)]
pub struct ActionExpert {
    /// Unless the state is left out.
    state_encoder: Option<CategoryMlp>,
    /// For chunks of more than one step.
    action_encoder: Option<ActionEncoder>,
    /// For chunks of one step.
    single_action_proj: Option<Linear>,
    /// For [`TimeInput::AdaLn`].
    time_mlp: Option<TimeMlp>,
    blocks: Vec<CrossAttentionBlock>,
    norm_out: LayerNorm,
    /// Makes one token of a whole chunk. Checkpoints have it even where the horizon is 1 and nothing uses it.
    seq_pool_proj: Option<Linear>,
    mlp_head: CategoryMlp,
    #[module(skip)]
    design: Design,
    /// Rows of sinusoidal tables, of times and of steps, in f32.
    #[module(skip)]
    tables: Constants<Vec<usize>, Tensor<2>>,
    /// Steps of a chunk.
    horizon: usize,
}

/// `SiLU(Linear₂(SiLU(Linear₁(time))))`: what the blocks' modulations are a linear function of.
#[derive(Module, Debug)]
struct TimeMlp {
    linear_1: Linear,
    linear_2: Linear,
}

/// What a prediction is conditioned on: it stays the same over all steps of the sampler.
#[derive(Debug, Clone)]
pub struct Conditioning {
    attended: Vec<Attended>,
    /// The state's token where it is added to the actions', `[batch, 1, embed]`.
    added_state: Option<Tensor<3>>,
    /// For chunks of more than one step.
    encoder: Option<ChosenEncoder>,
    head: ChosenMlp,
}

/// What the network makes of times alone, for any number of them.
#[derive(Debug, Clone)]
pub struct TimeConditioning {
    /// Rows of the time table, `[times, embed]`.
    rows: Tensor<2>,
    /// What the blocks are given: one for all, `[times, 1, embed]`, or each its modulation, `[times, 1, 6 · embed]`.
    of_blocks: Vec<Tensor<3>>,
}

impl TimeConditioning {
    /// That of one of the times.
    pub fn at(&self, index: usize) -> Self {
        let of_blocks = self.of_blocks.iter().map(|time| time.clone().narrow(0, index, 1)).collect();
        Self { rows: self.rows.clone().narrow(0, index, 1), of_blocks }
    }

    /// What a block is given, as [`CrossAttentionBlock::forward`] takes it.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn of_block(&self, block: usize) -> Tensor<3> {
        match &self.of_blocks[..] {
            [of_all] => of_all.clone(),
            of_each => of_each[block].clone(),
        }
    }
}

impl Conditioning {
    /// Every sample `times` times in a row, for as many points on its path: what was computed of the context is shared.
    pub fn repeated(self, times: usize) -> Self {
        Self {
            attended: self.attended.into_iter().map(|attended| attended.repeated(times)).collect(),
            added_state: self.added_state.map(|state| repeat_samples(state, times)),
            encoder: self.encoder.map(|encoder| encoder.repeated(times)),
            head: self.head.repeated(times),
        }
    }
}

/// An uninitialised action expert of the configuration's sizes.
pub fn init_action_expert(config: &ActionConfig, device: &Device) -> ActionExpert {
    let ActionConfig { embed_dim, hidden_dim, horizon, max_action_dim, num_categories, .. } = *config;
    let design = config.design.clone();
    let is_chunk = horizon > 1;
    let to_embed = |input| LinearConfig::new(input, embed_dim).init(device);
    let time_mlp = || TimeMlp { linear_1: to_embed(embed_dim), linear_2: to_embed(embed_dim) };
    let block = || CrossAttentionBlock::init(config, device);
    let (seq_pool_proj, output) = match design.head {
        VelocityHead::SeqPool => (Some(to_embed(horizon * embed_dim)), horizon * max_action_dim),
        VelocityHead::PerStep => (None, max_action_dim),
    };
    ActionExpert {
        state_encoder: (design.state != StateInput::Absent).then(|| init_state_encoder(config, device)),
        action_encoder: is_chunk.then(|| ActionEncoder::init(config, device)),
        single_action_proj: (!is_chunk).then(|| to_embed(max_action_dim)),
        time_mlp: (design.time == TimeInput::AdaLn).then(time_mlp),
        blocks: std::iter::repeat_with(block).take(config.num_layers).collect(),
        norm_out: LayerNormConfig::new(embed_dim).with_epsilon(LAYER_NORM_EPS).init(device),
        seq_pool_proj,
        mlp_head: CategoryMlp::init(embed_dim, hidden_dim, output, num_categories, device),
        design,
        tables: Constants::default(),
        horizon,
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
        self.norm_out.gamma.val().dtype()
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.norm_out.gamma.lazy_device()
    }

    /// The expert as it is in use, also where it is differentiated.
    pub fn without_dropout(&self) -> Self {
        self.clone().with_dropout(0.0)
    }

    /// Channels of a token.
    pub fn embed_dim(&self) -> usize {
        self.norm_out.gamma.lazy_shape()[0]
    }

    /// The blocks.
    pub fn blocks(&self) -> &[CrossAttentionBlock] {
        &self.blocks
    }

    /// The weight that pools a chunk into one token, `[horizon · embed, embed]`, a third of all parameters; a per-step
    /// head has none.
    pub fn pooling_weight(&self) -> Option<Tensor<2>> {
        self.seq_pool_proj.as_ref().map(|pool| pool.weight.val())
    }

    /// What the network makes of rows of the time table: one for each sample of a batch, or one for each step of a
    /// sampler, of which [`TimeConditioning::at`] takes one for all samples.
    pub fn time_conditioning(&self, rows: &[usize], device: &Device) -> TimeConditioning {
        let rows = self.table(rows, device);
        let input = rows.clone().cast(self.dtype()).unsqueeze_dim::<3>(1);
        let of_blocks = match &self.time_mlp {
            None => vec![input],
            Some(mlp) => {
                let time = mlp.forward(input);
                self.blocks.iter().map(|block| block.time_input(time.clone())).collect()
            }
        };
        TimeConditioning { rows, of_blocks }
    }

    /// Rows of the sinusoidal table, `[rows, embed]`.
    fn table(&self, rows: &[usize], device: &Device) -> Tensor<2> {
        self.tables.get(rows.to_vec(), device, || sinusoid(rows, self.embed_dim(), device))
    }

    /// Appends the state's token to the context and computes every block's keys and values.
    ///
    /// # Shapes
    /// - context: `[batch, context_len, embed]`
    /// - state: `[batch, max_state_dim]`, normalised and padded
    /// - embodiment: one id for each sample, below the number of categories
    ///
    /// # Panics
    /// When the integration is layer-wise and the context has not one layer for each block.
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
        let token = self.state_encoder.as_ref().map(|encoder| {
            let token = encoder.chosen(&embodiment).forward(state.cast(dtype).unsqueeze_dim(1));
            trace.record("state_token", &token);
            token
        });
        let (appended, added_state) = match self.design.state {
            StateInput::Token => (token, None),
            StateInput::PerStep | StateInput::Absent => (None, token),
        };
        let with_state = |tokens: Tensor<3>| {
            let tokens = tokens.cast(dtype);
            match &appended {
                Some(state) => Tensor::cat(vec![tokens, state.clone()], 1),
                None => tokens,
            }
        };
        let tokens = with_state(context.tokens);
        trace.record("context", &tokens);
        let [batch, length, _] = tokens.dims();
        let hidden = context.hidden.map(|hidden| {
            let state_is_seen = || Tensor::<2, Int>::zeros([batch, 1], &device).bool();
            let hidden = if appended.is_some() { Tensor::cat(vec![hidden, state_is_seen()], 1) } else { hidden };
            hidden.reshape([batch, 1, 1, length])
        });
        if trace.is_on() {
            let valid: Tensor<2, Int> = match &hidden {
                Some(hidden) => hidden.clone().bool_not().int().reshape([batch, length]),
                None => Tensor::ones([batch, length], &device),
            };
            trace.record("context_valid", &valid);
        }
        let layers = context.layers.into_iter().map(with_state).collect();
        let attended = integration::attended(self.design.integration, &self.blocks, Memory { tokens, layers, hidden });
        let encoder = self.action_encoder.as_ref().map(|encoder| {
            let steps: Vec<usize> = (0..self.horizon).collect();
            encoder.chosen(&embodiment, self.table(&steps, &device).cast(dtype).unsqueeze())
        });
        Conditioning { attended, added_state, encoder, head: self.mlp_head.chosen(&embodiment) }
    }

    /// The velocity at noisy actions and a time.
    ///
    /// # Shapes
    /// - actions: `[batch, horizon, max_action_dim]`
    /// - time: one for each sample, or one for all
    /// - output: `[batch, horizon, max_action_dim]`
    pub fn velocity(
        &self,
        actions: Tensor<3>,
        time: &TimeConditioning,
        conditioning: &Conditioning,
        trace: &mut Trace,
    ) -> Tensor<3> {
        let Conditioning { attended, added_state, encoder, head } = conditioning;
        let (shape, dtype) = (actions.dims(), self.dtype());
        let actions = actions.cast(dtype);
        let mut x = match (encoder, &self.single_action_proj) {
            (Some(encoder), _) => encoder.forward(actions),
            (_, Some(projection)) => linear(projection, actions),
            _ => unreachable!("an action expert is built with one of its two encoders"),
        };
        if let Some(state) = added_state {
            x = x + state.clone();
        }
        trace.record("action_tokens", &x);
        let [batch, horizon, embed] = x.dims();
        if trace.is_on() {
            trace.record("time_emb", &time.rows.clone().cast(dtype).expand([batch, embed]));
        }
        for (index, (block, attended)) in self.blocks.iter().zip(attended).enumerate() {
            let time = time.of_block(index);
            x = trace.scope(format_args!("block.{index}"), |trace| block.forward(x, time, attended, trace));
            trace.record(format_args!("block.{index}"), &x);
        }
        let x = layer_norm(&self.norm_out, x, LAYER_NORM_EPS);
        trace.record("norm_out", &x);
        let Some(pool) = &self.seq_pool_proj else {
            return head.forward(x);
        };
        let flat = x.reshape([batch, horizon * embed]);
        let pooled = if self.action_encoder.is_some() { linear(pool, flat) } else { flat };
        trace.record("pooled", &pooled);
        head.forward(pooled.unsqueeze_dim(1)).reshape(shape)
    }
}

impl TimeMlp {
    fn forward(&self, time: Tensor<3>) -> Tensor<3> {
        silu(linear(&self.linear_2, silu(linear(&self.linear_1, time))))
    }
}
