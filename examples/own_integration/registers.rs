//! Where a block's keys and values come from, with weights of its own: the context with learnt tokens behind it, and the
//! block's action tokens through a layer.

use burn::{
    module::{Module, Param},
    nn::{Initializer, Linear, LinearConfig},
    tensor::{Bool, Device, Int, Tensor},
};
use evo1::{
    Component, Context, CoreError,
    action::{
        attention::{KeyValues, MultiHeadAttention},
        integration::{Integration, Sources},
    },
    config::ActionConfig,
    cost::linear_flops,
    ops::linear,
    weights::{InitialValue, ParamSpec},
};
use serde::Deserialize;

/// E: every block attends to the context, to `count` learnt tokens, and to its own action tokens as a layer of its own
/// sees them.
#[derive(Module, Debug)]
pub(crate) struct Registers {
    /// `[count, embed]`
    tokens: Param<Tensor<2>>,
    mix: Linear,
}

/// What stands beside the name `registers` in a configuration: `{name: registers, count: 4}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    count: usize,
}

impl Component for Registers {
    fn names() -> Vec<&'static str> {
        vec!["registers"]
    }
}

impl Integration for Registers {
    fn init(config: &ActionConfig, device: &Device) -> Result<Self, CoreError> {
        let Settings { count } = config.design.integration.settings("action.design.integration")?;
        let embed = config.embed_dim;
        Ok(Self {
            tokens: Initializer::Zeros.init([count, embed], device),
            mix: LinearConfig::new(embed, embed).init(device),
        })
    }

    fn of_context(&self, _: usize, attention: &MultiHeadAttention, context: &Context) -> Option<KeyValues> {
        let [batch, _, embed] = context.tokens.dims();
        let [count, _] = self.tokens.dims();
        let learnt = self.tokens.val().unsqueeze::<3>().expand([batch, count, embed]);
        let tokens = Tensor::cat(vec![context.tokens.clone(), learnt], 1);
        let hidden = context.hidden.clone().map(|hidden| {
            let visible: Tensor<2, Bool> = Tensor::<2, Int>::zeros([batch, count], &hidden.device()).bool();
            Tensor::cat(vec![hidden, visible], 1)
        });
        Some(attention.keys_values(tokens, hidden))
    }

    fn of_step(
        &self,
        _: usize,
        attention: &MultiHeadAttention,
        x: &Tensor<3>,
        of_context: Option<&KeyValues>,
    ) -> KeyValues {
        let of_actions = attention.keys_values(linear(&self.mix, x.clone()), None);
        of_context.expect("every block has a context").clone().followed_by(of_actions)
    }

    fn sources(&self, _: usize) -> Sources {
        Sources { context: true, actions: true }
    }

    /// Keys and values of the learnt tokens once for each block; the layer and their scores in every step.
    fn own_flops(&self, config: &ActionConfig, _: usize) -> [u64; 2] {
        let (embed, blocks) = (config.embed_dim, config.num_layers as u64);
        let [count, _] = self.tokens.dims();
        let scores = 4 * (config.horizon * count * embed) as u64;
        let once = linear_flops(count, embed, 2 * embed);
        [blocks * once, blocks * (linear_flops(config.horizon, embed, embed) + scores)]
    }

    fn initial_value(&self, spec: &ParamSpec) -> Option<InitialValue> {
        spec.path.ends_with("integration.tokens").then(|| InitialValue::of_std(0.02))
    }
}
