//! What the vision-language model hands to the action expert.

use burn::tensor::{Bool, Tensor};

/// The fused tokens of a batch and which of them the action expert may attend to.
///
/// # Shapes
/// - tokens: `[batch, context_len, embed]`
/// - layers: each `[batch, context_len, embed]`
/// - hidden: `[batch, context_len]`, true where a token may not be attended to; `None` when every token may
#[derive(Debug, Clone)]
pub struct Context {
    /// Final-normed hidden states of the language model.
    pub tokens: Tensor<3>,
    /// Final-normed hidden states of single layers, one for each block of an action expert that reads them layer by layer;
    /// otherwise empty.
    pub layers: Vec<Tensor<3>>,
    /// Tokens that the action expert may not see.
    pub hidden: Option<Tensor<2, Bool>>,
}
