//! What a policy looks at: attention from words of the instruction and from steps of the action chunk to the patches of
//! each view.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use evo1_action::{Sampler, VelocityModel};
use evo1_core::{Observation, Trace, weights::floats};
use evo1_vlm::{VisionLanguageModel, Word};

use crate::{Components, Error, Noise, Policy, Result};

/// Which attention is looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttentionQuery {
    /// Language layers, counted from 0; first, middle and last when empty.
    pub layers: Vec<usize>,
    /// Blocks of the action expert, counted from 0; first, middle and last of those that see the context when empty.
    pub blocks: Vec<usize>,
    /// The sampler's step, counted from 0; the last when `None`.
    pub flow_step: Option<usize>,
    /// Seed of the noise.
    pub seed: u64,
}

/// Attention weights of one prediction.
#[derive(Debug, Clone)]
pub struct AttentionMaps {
    /// Words of the instruction; their tokens are indices into the language model's tokens.
    pub words: Vec<Word>,
    /// Views that are present.
    pub views: Vec<ViewTokens>,
    /// For each language layer, all tokens to all tokens.
    pub language: BTreeMap<usize, Weights>,
    /// For each block of the action expert, steps of the chunk to the context, the state's token and, where the
    /// integration lets it, the chunk itself.
    pub action: BTreeMap<usize, Weights>,
}

/// The visual tokens of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewTokens {
    /// The view, counted from 0.
    pub view: usize,
    /// Indices of its tokens, row by row of the frame.
    pub tokens: Vec<usize>,
}

/// Weights of an attention, `[heads, queries, keys]`; those of a query add up to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// Heads.
    pub heads: usize,
    /// What attends.
    pub queries: usize,
    /// What is attended to.
    pub keys: usize,
    values: Vec<f32>,
}

/// How attention is spread over the patches of a view.
#[derive(Debug, Clone, PartialEq)]
pub struct PatchMap {
    /// The part of the attention that each patch gets, row by row of a square.
    pub weights: Vec<f32>,
}

impl PatchMap {
    /// Patches along a side.
    pub fn side(&self) -> usize {
        self.weights.len().isqrt()
    }

    /// The part of all attention that goes to the view.
    pub fn mass(&self) -> f32 {
        self.weights.iter().sum()
    }

    /// Entropy of the distribution over the patches as a part of its largest possible value: 1 when all patches get the
    /// same, 0 when one gets everything.
    pub fn entropy(&self) -> f32 {
        let count = self.weights.len() as f32;
        if count <= 1.0 {
            return 0.0;
        }
        let parts = self.distribution().into_iter().filter(|part| *part > 0.0);
        parts.map(|part| -part * part.ln()).sum::<f32>() / count.ln()
    }

    /// What the distributions over the patches of two maps have in common, `Σ min(p, q)`: 1 when they are the same, 0
    /// when no patch gets attention in both.
    ///
    /// # Panics
    /// When the maps have different numbers of patches.
    pub fn overlap(&self, other: &Self) -> f32 {
        assert_eq!(self.weights.len(), other.weights.len(), "maps of the same view");
        self.distribution().iter().zip(other.distribution()).map(|(p, q)| p.min(q)).sum()
    }

    fn distribution(&self) -> Vec<f32> {
        let mass = self.mass().max(f32::MIN_POSITIVE);
        self.weights.iter().map(|weight| weight / mass).collect()
    }
}

impl Weights {
    fn new(data: &TensorData) -> Self {
        let [_, heads, queries, keys] = data.shape().dims();
        Self { heads, queries, keys, values: floats(data) }
    }

    /// The mean over some heads (all when empty) and queries of the weight that each key gets.
    ///
    /// # Panics
    /// When a head or query does not exist, or there is no query.
    pub fn mean(&self, heads: &[usize], queries: &[usize]) -> Vec<f32> {
        let every: Vec<usize> = (0..self.heads).collect();
        let heads = if heads.is_empty() { &every } else { heads };
        assert!(!queries.is_empty(), "a mean is of at least one query");
        let share = 1.0 / (heads.len() * queries.len()) as f32;
        let mut mean = vec![0.0; self.keys];
        for &head in heads {
            assert!(head < self.heads, "head {head} of {}", self.heads);
            for &query in queries {
                assert!(query < self.queries, "query {query} of {}", self.queries);
                let row = &self.values[(head * self.queries + query) * self.keys..][..self.keys];
                mean.iter_mut().zip(row).for_each(|(mean, weight)| *mean += share * weight);
            }
        }
        mean
    }

    /// How the attention of some queries is spread over a view.
    pub fn patch_map(&self, heads: &[usize], queries: &[usize], view: &ViewTokens) -> PatchMap {
        let mean = self.mean(heads, queries);
        PatchMap { weights: view.tokens.iter().map(|&token| mean[token]).collect() }
    }

    /// All weights as data, `[heads, queries, keys]`.
    pub fn data(&self) -> TensorData {
        TensorData::new(self.values.clone(), [self.heads, self.queries, self.keys])
    }
}

/// The attention weights of a prediction for `observation`.
///
/// # Errors
/// When a layer, block or step does not exist, a frame becomes more than one tile, or the model pools its tokens.
pub fn attention<C: Components>(
    policy: &Policy<C>,
    observation: &Observation,
    query: &AttentionQuery,
) -> Result<AttentionMaps> {
    let config = &policy.config;
    let AttentionQuery { layers, blocks, .. } = query.resolved(policy)?;
    let steps = config.num_inference_steps;
    let flow_step = query.flow_step.unwrap_or(steps - 1);
    check("flow step", &[flow_step], steps)?;
    if config.vlm.return_cls_only || config.tiling.max_tiles > 1 {
        return Err(Error::NoPatches);
    }
    let inputs = policy.prepare(std::slice::from_ref(observation), true)?;
    let image_tokens = vec![config.vlm.tokens_per_tile(); config.max_views];
    let prompt = policy.tokenizer.encode(&image_tokens, &observation.instruction)?;
    // Tokens that nothing sees were left out: those that stay know their places in the prompt.
    let index: BTreeMap<usize, usize> = inputs
        .tokens
        .attention_mask()
        .flatten()
        .zip(inputs.tokens.positions().iter().flatten())
        .enumerate()
        .filter(|(_, (is_valid, _))| **is_valid)
        .map(|(token, (_, &position))| (position, token))
        .collect();
    let kept =
        |positions: &[usize]| -> Vec<usize> { positions.iter().filter_map(|at| index.get(at).copied()).collect() };
    let order = config.semantics.prompt_order(&observation.views);
    let views = order.into_iter().zip(&prompt.views).map(|(view, tokens)| ViewTokens { view, tokens: kept(tokens) });
    let views = views.filter(|view| !view.tokens.is_empty());
    let words = policy.tokenizer.words(&image_tokens, &observation.instruction)?;
    let words = words.into_iter().map(|word| Word { tokens: kept(&word.tokens), ..word });

    let layer_name = |layer: usize| format!("llm.layer.{layer}.attention_weights");
    let block_name = |block: usize| format!("step.{flow_step:02}.block.{block}.attention_weights");
    let wanted: Vec<String> =
        layers.iter().map(|&layer| layer_name(layer)).chain(blocks.iter().map(|&block| block_name(block))).collect();
    let mut trace = Trace::of(move |name| wanted.iter().any(|wanted| wanted == name));
    let (image_token, semantics) = (policy.tokenizer.image_context(), &config.semantics);
    let visual = policy.visual_tokens(&inputs);
    let context = policy.network.vlm.forward(visual, &inputs.tokens, image_token, semantics, &mut trace)?;
    let expert = &policy.network.action;
    let conditioning = expert.condition(context, inputs.state.clone(), &inputs.embodiment, &mut trace);
    let sampler = Sampler::new(steps, semantics).with_flow(&policy.flow()?);
    let noise = policy.noise(1, &Noise::Seed(query.seed))?;
    sampler.sample(expert, &conditioning, noise, inputs.action_mask.clone(), &mut trace)?;

    let recorded = trace.into_tensors();
    let weights = |names: Vec<(usize, String)>| {
        names.into_iter().map(|(index, name)| (index, Weights::new(&recorded[&name]))).collect()
    };
    Ok(AttentionMaps {
        words: words.collect(),
        views: views.collect(),
        language: weights(layers.iter().map(|&layer| (layer, layer_name(layer))).collect()),
        action: weights(blocks.iter().map(|&block| (block, block_name(block))).collect()),
    })
}

impl AttentionQuery {
    /// The same with layers and blocks chosen.
    fn resolved<C: Components>(&self, policy: &Policy<C>) -> Result<Self> {
        let (layers, blocks) = (policy.network.vlm.attention_layers(), policy.network.action.attention_blocks());
        if layers == 0 || blocks.is_empty() {
            return Err(Error::NoAttention);
        }
        check("language layer", &self.layers, layers)?;
        check("block", &self.blocks, policy.config.action.num_layers)?;
        if let Some(&block) = self.blocks.iter().find(|block| !blocks.contains(block)) {
            return Err(Error::BlindBlock { block });
        }
        let chosen = |given: &[usize], all: Vec<usize>| if given.is_empty() { spread(&all) } else { given.to_vec() };
        Ok(Self {
            layers: chosen(&self.layers, (0..layers).collect()),
            blocks: chosen(&self.blocks, blocks),
            ..self.clone()
        })
    }
}

/// First, middle and last of a list.
fn spread(all: &[usize]) -> Vec<usize> {
    let last = all.len().saturating_sub(1);
    let mut chosen: Vec<usize> = [0, last / 2, last].iter().filter_map(|&at| all.get(at).copied()).collect();
    chosen.dedup();
    chosen
}

/// Fails unless every index is below `count`.
fn check(what: &'static str, indices: &[usize], count: usize) -> Result<()> {
    match indices.iter().find(|index| **index >= count) {
        Some(&got) => Err(Error::NoSuch { what, got, count }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_and_overlap_are_what_they_are_called() {
        let map = |weights: &[f32]| PatchMap { weights: weights.to_vec() };
        assert_eq!(map(&[0.1; 4]).entropy(), 1.0);
        assert_eq!(map(&[0.0, 0.3, 0.0, 0.0]).entropy(), 0.0);
        assert!((map(&[0.1, 0.3, 0.0, 0.0]).overlap(&map(&[0.2, 0.2, 0.0, 0.0])) - 0.75).abs() < 1e-6);
        assert_eq!(map(&[0.5, 0.0]).overlap(&map(&[0.0, 0.5])), 0.0);
        assert_eq!(map(&[0.1; 9]).side(), 3);
    }

    #[test]
    fn a_mean_is_of_the_chosen_heads_and_queries() {
        let values: Vec<f32> = (0..12).map(|value| value as f32).collect();
        let weights = Weights { heads: 2, queries: 3, keys: 2, values };
        assert_eq!(weights.mean(&[1], &[0]), [6.0, 7.0]);
        assert_eq!(weights.mean(&[], &[0, 1]), [4.0, 5.0]);
    }

    #[test]
    fn first_middle_and_last_are_chosen() {
        assert_eq!(spread(&[0, 1, 2, 3, 4]), [0, 2, 4]);
        assert_eq!(spread(&[0, 1]), [0, 1]);
        assert_eq!(spread(&[3]), [3]);
    }
}
