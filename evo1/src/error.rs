//! The error of this crate.

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong when a policy is loaded, given an observation or traced.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A device, configuration, statistics or weight file cannot be used.
    #[error(transparent)]
    Core(#[from] evo1_core::Error),
    /// A tokenizer or prompt cannot be used.
    #[error(transparent)]
    Vlm(#[from] evo1_vlm::Error),
    /// A policy directory is none.
    #[error("{}: not a policy directory: {message}", path.display())]
    NotAPolicy {
        /// The path.
        path: std::path::PathBuf,
        /// What is missing.
        message: String,
    },
    /// A reference's format is asked for a policy that the reference cannot have.
    #[error(
        "a policy with components of its own ({components}) can be written in burn's format only: no other program knows their parameters"
    )]
    OwnComponents {
        /// The components, as `field: name`.
        components: String,
    },
    /// A checkpoint carries a constant table that is not the one that is computed here.
    #[error("{}: `{tensor}` is another table than the sinusoids that this model is built with", path.display())]
    OtherTable {
        /// The file.
        path: std::path::PathBuf,
        /// The table.
        tensor: String,
    },
    /// The gripper is none of the robot's columns.
    #[error("the gripper is column {index}, counted from 0, of actions that have {width}")]
    NoGripper {
        /// The gripper's column.
        index: usize,
        /// Columns of an action.
        width: usize,
    },
    /// Nothing says how wide the robot's actions are.
    #[error(
        "how wide the robot's actions are is known nowhere: give the policy statistics (`norm_stats.json`), `action_dim` in \
         its `evo1.json`, or each observation an action mask"
    )]
    UnknownActionWidth,
    /// There are no attention weights to look at.
    #[error("the policy's components record no attention to frames: there is nothing to look at")]
    NoAttention,
    /// A base model is none.
    #[error("{}: not a base model: {message}", path.display())]
    NotABase {
        /// The path.
        path: std::path::PathBuf,
        /// What is missing.
        message: String,
    },
    /// Configuration files have keys that nothing reads, and loading is strict.
    #[error("keys that nothing reads: {}", keys.join(", "))]
    UnknownKeys {
        /// The keys, as `file: key`.
        keys: Vec<String>,
    },
    /// A network has other tensors than its configuration describes, as a packed one has.
    #[error(
        "the network's `{tensor}` has shape {got:?} instead of {want:?}: save a policy before its weights are packed"
    )]
    OtherNetwork {
        /// Path of the parameter.
        tensor: String,
        /// The shape that the configuration describes.
        want: Vec<usize>,
        /// The parameter's shape.
        got: Vec<usize>,
    },
    /// There is nothing to predict.
    #[error("a batch needs at least one observation")]
    EmptyBatch,
    /// An observation has more views than the model.
    #[error("the observation has {got} views, but the model takes at most {max}")]
    TooManyViews {
        /// The model's views.
        max: usize,
        /// The observation's views.
        got: usize,
    },
    /// An observation has no view that is present.
    #[error("no view of the observation is present: the model needs at least one camera frame")]
    NoView,
    /// A vector is wider than the model's.
    #[error("the {what} has {got} values, but the model takes at most {max}")]
    TooWide {
        /// `state`, `action` or `action mask`.
        what: &'static str,
        /// The model's width.
        max: usize,
        /// The observation's width.
        got: usize,
    },
    /// A state holds NaN or infinity.
    #[error("state value {index} is {value}: every value must be finite")]
    NonFiniteState {
        /// Index of the value.
        index: usize,
        /// The value.
        value: f32,
    },
    /// An embodiment that the model does not have.
    #[error("embodiment {got} does not exist: the model has {count}, counted from 0")]
    UnknownEmbodiment {
        /// The embodiment asked for.
        got: usize,
        /// The model's number of embodiments.
        count: usize,
    },
    /// A prediction in no steps.
    #[error("a prediction needs at least 1 Euler step, got 0")]
    NoSteps,
    /// Given noise does not fill the chunk.
    #[error("the given noise has {got} values, but a batch of {batch} chunks of {horizon} × {width} needs {expected}", expected = batch * horizon * width)]
    NoiseSize {
        /// Observations.
        batch: usize,
        /// Steps of a chunk.
        horizon: usize,
        /// Padded width of an action.
        width: usize,
        /// Values given.
        got: usize,
    },
    /// A prediction cannot be guided to the chunk given.
    #[error("guidance is for one observation and actions of {width} values, got {batch} and {got}")]
    Guidance {
        /// Observations.
        batch: usize,
        /// Padded width of an action.
        width: usize,
        /// Width of the chunk's actions.
        got: usize,
    },
    /// A smoothing of no width.
    #[error("smoothing must be a number of steps above 0, got {got}")]
    Smoothing {
        /// The number given.
        got: f32,
    },
    /// The network computed NaN or infinity.
    #[error(
        "the prediction is not finite: the weights or the observation are broken, or {dtype} is too narrow for them"
    )]
    NonFinitePrediction {
        /// The number type of the computation.
        dtype: String,
    },
    /// A layer, block or step that does not exist.
    #[error("{what} {got} does not exist: there are {count}, counted from 0")]
    NoSuch {
        /// What was asked for.
        what: &'static str,
        /// Its index.
        got: usize,
        /// How many there are.
        count: usize,
    },
    /// A block that attends to nothing but the actions.
    #[error("block {block} attends to the actions alone: in interleaved integration the even ones see the context")]
    BlindBlock {
        /// The block.
        block: usize,
    },
    /// There is no grid of patches to show attention on.
    #[error("attention has no patches to be shown on where frames become several tiles or tokens are pooled into one")]
    NoPatches,
    /// A trace input is missing or has another shape.
    #[error("{}: tensor `{tensor}`: {message}", path.display())]
    TraceInput {
        /// The file.
        path: std::path::PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        message: String,
    },
}
