//! What components cost: parameters by path, and floating-point operations.
//!
//! Operations are those of matrix products, two for each multiply-add; norms, softmax and activations are left out. An
//! attention is counted in full, its masked half included, as it is computed.

/// The cost of a part of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// What of a policy it belongs to: `vision`, `language` or `action`.
    pub part: &'static str,
    /// Its name.
    pub name: &'static str,
    /// How the paths of its parameters begin within the component; an empty start means all of them.
    pub parameters: Vec<&'static str>,
    /// Floating-point operations of one prediction.
    pub flops: u64,
}

/// What an action expert computes in one prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActionWorkload {
    /// Tokens of the context.
    pub context_len: usize,
    /// Evaluations of the velocity.
    pub evaluations: u64,
    /// Whether what depends on the context alone is computed once, as here, or in every evaluation, as in the references.
    pub conditions_once: bool,
}

impl ActionWorkload {
    /// How often what depends on the context alone is computed.
    pub fn conditionings(&self) -> u64 {
        if self.conditions_once { 1 } else { self.evaluations }
    }
}

/// Operations of a linear layer on `tokens` tokens.
pub fn linear_flops(tokens: usize, input: usize, output: usize) -> u64 {
    2 * (tokens * input) as u64 * output as u64
}

/// Operations of an attention's scores and weighted values.
pub fn attention_flops(queries: usize, keys: usize, channels: usize) -> u64 {
    4 * (queries * keys) as u64 * channels as u64
}
