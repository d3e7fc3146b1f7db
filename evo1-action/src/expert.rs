//! The published action expert: a flow-matching diffusion transformer.
//!
//! ```text
//! Context ── state's token appended ──► Context ── each block's keys and values ──► Conditioning   once (condition)
//! actions, FlowTime ── encoder, blocks over Conditioning, head ──► velocity                        in each step
//! ```

use burn::{
    module::Module,
    nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig},
    tensor::{DType, Device, Int, Tensor, activation::silu},
};
use evo1_core::{
    Component, Context, Result, Trace,
    component::Flat,
    config::{ActionConfig, StateInput, TimeInput},
    constants::Constants,
    cost::{ActionWorkload, Cost, attention_flops, linear_flops},
    ops::{layer_norm, linear, repeat_samples},
    weights::{InitialValue, ParamSpec, pack},
};

use crate::{
    attention::KeyValues,
    block::{ActionBlock, LAYER_NORM_EPS},
    category::{self, CategoryMlp, CategoryMlpConfig},
    encoders::{ActionEncoder, ChosenEncoder},
    head::{Heads, VelocityHead},
    integration::{Integration, Integrations, Sources},
    model::{FIELD, FlowTime, VelocityModel},
    time::sinusoid,
};

/// The flow-matching diffusion transformer, which attends to the context and, as published, never to itself.
///
/// `I` is where its blocks' keys and values come from, `H` what makes a velocity of its last tokens.
#[derive(Module, Debug)]
pub struct ActionExpert<I: Module = Integrations, H: Module = Heads> {
    /// Makes one token of a padded state, unless the state is left out.
    state_encoder: Option<CategoryMlp>,
    /// For chunks of more than one step.
    action_encoder: Option<ActionEncoder>,
    /// For chunks of one step.
    single_action_proj: Option<Linear>,
    /// For [`TimeInput::AdaLn`].
    time_mlp: Option<TimeMlp>,
    integration: I,
    blocks: Vec<ActionBlock>,
    norm_out: LayerNorm,
    head: Flat<H>,
    #[module(skip)]
    state: StateInput,
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
pub struct Conditioning<C> {
    /// What each block takes from the context.
    of_context: Vec<Option<KeyValues>>,
    /// The state's token where it is added to the actions', `[batch, 1, embed]`.
    added_state: Option<Tensor<3>>,
    /// For chunks of more than one step.
    encoder: Option<ChosenEncoder>,
    head: C,
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

    /// What a block is given, as [`ActionBlock::forward`] takes it.
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

impl<I: Module, H: Module> Component for ActionExpert<I, H> {
    fn names() -> Vec<&'static str> {
        vec!["diffusion-transformer"]
    }
}

impl<I: Integration, H: VelocityHead> ActionExpert<I, H> {
    /// The blocks.
    pub fn blocks(&self) -> &[ActionBlock] {
        &self.blocks
    }

    /// Where the blocks' keys and values come from.
    pub fn integration(&self) -> &I {
        &self.integration
    }

    /// What makes a velocity of the last tokens.
    pub fn head(&self) -> &H {
        &self.head.0
    }

    /// Channels of a token.
    fn embed_dim(&self) -> usize {
        self.norm_out.gamma.lazy_shape()[0]
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

    /// The context in the number type of the weights, the state's token appended to its tokens and layers.
    fn with_state(&self, context: Context, token: Option<Tensor<3>>) -> Context {
        let appended = |tokens: Tensor<3>| {
            let tokens = tokens.cast(self.dtype());
            match &token {
                Some(state) => Tensor::cat(vec![tokens, state.clone()], 1),
                None => tokens,
            }
        };
        let Context { tokens, layers, hidden } = context;
        let tokens = appended(tokens);
        let [batch, ..] = tokens.dims();
        let hidden = hidden.map(|hidden| match &token {
            Some(_) => {
                let visible = Tensor::<2, Int>::zeros([batch, 1], &hidden.device()).bool();
                Tensor::cat(vec![hidden, visible], 1)
            }
            None => hidden,
        });
        Context { tokens, layers: layers.into_iter().map(appended).collect(), hidden }
    }
}

impl<I: Integration, H: VelocityHead> VelocityModel for ActionExpert<I, H> {
    type Conditioning = Conditioning<H::Chosen>;
    type Time = TimeConditioning;

    fn init(config: &ActionConfig, device: &Device) -> Result<Self> {
        Self::require(&config.expert, FIELD)?;
        config.expert.require_plain(FIELD)?;
        let ActionConfig {
            embed_dim, horizon, max_action_dim, max_state_dim, state_hidden_dim, num_categories, ..
        } = *config;
        let state_encoder = CategoryMlpConfig::new(max_state_dim, state_hidden_dim, embed_dim, num_categories);
        let is_chunk = horizon > 1;
        let to_embed = |input| LinearConfig::new(input, embed_dim).init(device);
        let time_mlp = || TimeMlp { linear_1: to_embed(embed_dim), linear_2: to_embed(embed_dim) };
        let block = || ActionBlock::init(config, device);
        let state = config.design.state;
        Ok(Self {
            state_encoder: (state != StateInput::Absent).then(|| state_encoder.init(device)),
            action_encoder: is_chunk.then(|| ActionEncoder::init(config, device)),
            single_action_proj: (!is_chunk).then(|| to_embed(max_action_dim)),
            time_mlp: (config.design.time == TimeInput::AdaLn).then(time_mlp),
            integration: I::init(config, device)?,
            blocks: std::iter::repeat_with(block).take(config.num_layers).collect(),
            norm_out: LayerNormConfig::new(embed_dim).with_epsilon(LAYER_NORM_EPS).init(device),
            head: Flat(H::init(config, device)?),
            state,
            tables: Constants::default(),
            horizon,
        })
    }

    /// Appends the state's token to the context and computes every block's keys and values.
    ///
    /// # Panics
    /// When the integration is layer-wise and the context has not one layer for each block.
    fn condition(
        &self,
        context: Context,
        state: Tensor<2>,
        embodiment: &Tensor<1, Int>,
        trace: &mut Trace,
    ) -> Self::Conditioning {
        let (device, dtype) = (state.device(), self.dtype());
        let token = self.state_encoder.as_ref().map(|encoder| {
            let token = encoder.chosen(embodiment).forward(state.cast(dtype).unsqueeze_dim(1));
            trace.record("state_token", &token);
            token
        });
        let (appended, added_state) = match self.state {
            StateInput::Token => (token, None),
            StateInput::PerStep | StateInput::Absent => (None, token),
        };
        let context = self.with_state(context, appended);
        trace.record("context", &context.tokens);
        if trace.is_on() {
            let [batch, length, _] = context.tokens.dims();
            let valid: Tensor<2, Int> = match &context.hidden {
                Some(hidden) => hidden.clone().bool_not().int(),
                None => Tensor::ones([batch, length], &device),
            };
            trace.record("context_valid", &valid);
        }
        let blocks = self.blocks.iter().enumerate();
        let of_context = blocks.map(|(index, block)| self.integration.of_context(index, block.attention(), &context));
        let of_context = of_context.collect();
        let encoder = self.action_encoder.as_ref().map(|encoder| {
            let steps: Vec<usize> = (0..self.horizon).collect();
            encoder.chosen(embodiment, self.table(&steps, &device).cast(dtype).unsqueeze())
        });
        Conditioning { of_context, added_state, encoder, head: self.head.0.chosen(embodiment) }
    }

    fn repeat(conditioning: Self::Conditioning, times: usize) -> Self::Conditioning {
        let Conditioning { of_context, added_state, encoder, head } = conditioning;
        let repeated = |of_block: Option<KeyValues>| of_block.map(|keys_values| keys_values.repeated(times));
        Conditioning {
            of_context: of_context.into_iter().map(repeated).collect(),
            added_state: added_state.map(|state| repeat_samples(state, times)),
            encoder: encoder.map(|encoder| encoder.repeated(times)),
            head: H::repeat(head, times),
        }
    }

    fn time(&self, times: &[FlowTime], device: &Device) -> TimeConditioning {
        let rows: Vec<usize> = times.iter().map(|time| time.row).collect();
        self.time_conditioning(&rows, device)
    }

    fn times(&self, times: &[FlowTime], device: &Device) -> Vec<TimeConditioning> {
        let together = self.time(times, device);
        (0..times.len()).map(|index| together.at(index)).collect()
    }

    fn velocity(
        &self,
        actions: Tensor<3>,
        time: &TimeConditioning,
        conditioning: &Self::Conditioning,
        trace: &mut Trace,
    ) -> Tensor<3> {
        let Conditioning { of_context, added_state, encoder, head } = conditioning;
        let dtype = self.dtype();
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
        if trace.is_on() {
            let [batch, _, embed] = x.dims();
            trace.record("time_emb", &time.rows.clone().cast(dtype).expand([batch, embed]));
        }
        for (index, (block, of_context)) in self.blocks.iter().zip(of_context).enumerate() {
            let keys_values =
                |x: &Tensor<3>| self.integration.of_step(index, block.attention(), x, of_context.as_ref());
            let time = time.of_block(index);
            x = trace.scope(format_args!("block.{index}"), |trace| block.forward(x, time, keys_values, trace));
            trace.record(format_args!("block.{index}"), &x);
        }
        let x = layer_norm(&self.norm_out, x, LAYER_NORM_EPS);
        trace.record("norm_out", &x);
        self.head.0.velocity(x, head, trace)
    }

    fn costs(&self, config: &ActionConfig, workload: &ActionWorkload) -> Vec<Cost> {
        let ActionConfig { embed_dim, state_hidden_dim, horizon, max_action_dim, max_state_dim, .. } = *config;
        let evaluations = workload.evaluations;
        let state_token = usize::from(self.state == StateInput::Token);
        let context_len = workload.context_len + state_token;
        let state_encoder = match self.state {
            StateInput::Absent => 0,
            _ => linear_flops(1, max_state_dim, state_hidden_dim) + linear_flops(1, state_hidden_dim, embed_dim),
        };
        let action_encoder = match horizon {
            1 => linear_flops(1, max_action_dim, embed_dim),
            _ => linear_flops(horizon, max_action_dim + 2 * embed_dim, embed_dim),
        };
        let (of_time, modulation) = match &self.time_mlp {
            None => (0, 0),
            Some(_) => (linear_flops(1, embed_dim, 2 * embed_dim), linear_flops(1, embed_dim, 6 * embed_dim)),
        };
        let blocks: u64 = (0..self.blocks.len())
            .map(|block| {
                let Sources { context, actions } = self.integration.sources(block);
                let of_context = if context { context_len } else { 0 };
                let of_actions = if actions { horizon } else { 0 };
                let step = linear_flops(horizon, embed_dim, 2 * embed_dim)
                    + linear_flops(of_actions, embed_dim, 2 * embed_dim)
                    + attention_flops(horizon, of_context + of_actions, embed_dim)
                    + linear_flops(horizon, embed_dim, 8 * embed_dim);
                let once = linear_flops(of_context, embed_dim, 2 * embed_dim);
                workload.conditionings() * once + evaluations * (step + modulation)
            })
            .sum();
        let [once, each_step] = self.integration.own_flops(config, context_len);
        let integration = workload.conditionings() * once + evaluations * each_step;
        let cost = |name, parameters, flops| Cost { part: "action", name, parameters, flops };
        let mut costs = vec![
            cost("state encoder", vec!["state_encoder."], state_encoder),
            cost("action encoder", vec!["action_encoder.", "single_action_proj."], evaluations * action_encoder),
            cost("blocks", vec!["blocks.", "time_mlp.", "integration."], blocks + evaluations * of_time + integration),
        ];
        let of_head = self.head.0.costs(config).into_iter();
        costs.extend(of_head.map(|cost| Cost { flops: evaluations * cost.flops, ..cost }));
        if let Some(last) = costs.last_mut() {
            last.parameters.push("norm_out.");
        }
        costs
    }

    fn with_dropout(mut self, probability: f64) -> Self {
        self.blocks.iter_mut().for_each(|block| block.set_dropout(probability));
        self
    }

    fn packed(self) -> Self {
        Self {
            state_encoder: pack(self.state_encoder),
            action_encoder: pack(self.action_encoder),
            single_action_proj: pack(self.single_action_proj),
            time_mlp: pack(self.time_mlp),
            integration: self.integration.packed(),
            blocks: pack(self.blocks),
            norm_out: self.norm_out,
            head: Flat(self.head.0.packed()),
            ..self
        }
    }

    fn dtype(&self) -> DType {
        self.norm_out.gamma.val().dtype()
    }

    fn language_layers(&self, layers: usize) -> Result<Vec<usize>> {
        self.integration.language_layers(self.blocks.len(), layers)
    }

    fn attention_blocks(&self) -> Vec<usize> {
        (0..self.blocks.len()).filter(|&block| self.integration.sources(block).context).collect()
    }

    /// Attention projections are Xavier-uniform with zero bias, and so are each embodiment's weights, which LeRobot draws
    /// one by one. Modulations start at zero, as in DiT.
    fn initial_value(&self, spec: &ParamSpec) -> Option<InitialValue> {
        let is_in = |part: &str| spec.path.contains(part);
        if is_in("cross_attention.") && spec.path.ends_with("bias") || is_in(".modulation.") {
            return Some(InitialValue::Constant(0.0));
        }
        if is_in("cross_attention.q_proj") || is_in("cross_attention.kv_proj") {
            // PyTorch draws q, k and v as one matrix of three times as many outputs as inputs.
            let inputs = spec.shape[0];
            return Some(InitialValue::xavier(inputs, 3 * inputs));
        }
        let of_own =
            if is_in("integration.") { self.integration.initial_value(spec) } else { self.head.0.initial_value(spec) };
        of_own.or_else(|| category::initial_value(spec))
    }
}

impl TimeMlp {
    fn forward(&self, time: Tensor<3>) -> Tensor<3> {
        silu(linear(&self.linear_2, silu(linear(&self.linear_1, time))))
    }
}
