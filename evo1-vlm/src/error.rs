//! The error of this crate.

use std::path::PathBuf;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can be wrong with a tokenizer, a prompt or the tokens of a batch.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration or a file.
    #[error(transparent)]
    Core(#[from] evo1_core::Error),
    /// A tokenizer file cannot be used.
    #[error("{}: not a usable tokenizer: {message}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The tokenizer failed on a prompt.
    #[error("the prompt cannot be tokenised: {0}")]
    Tokenize(String),
    /// The prompt's image tokens alone exceed the longest prompt.
    #[error(
        "the prompt needs {needed} tokens for its images, but at most {max} tokens are allowed: use fewer views or tiles, or raise max_text_length"
    )]
    PromptTooLong {
        /// Tokens up to and including the last image.
        needed: usize,
        /// The longest prompt.
        max: usize,
    },
    /// The prompts hold another number of image tokens than there are visual tokens.
    #[error(
        "the prompts hold {got} image tokens for {expected} visual tokens; an instruction may not contain `<IMG_CONTEXT>`"
    )]
    ImageTokens {
        /// Visual tokens.
        expected: usize,
        /// Image tokens of the prompts.
        got: usize,
    },
    /// A token id has no row in the embedding table.
    #[error("token id {id} is past the embedding table's {rows} rows: the tokenizer belongs to another model")]
    TokenId {
        /// The id.
        id: u32,
        /// Rows of the table.
        rows: usize,
    },
}
