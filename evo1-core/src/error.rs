//! The error of this crate. Every variant names the file, tensor or field, what was expected and what came.

use std::path::{Path, PathBuf};

use crate::weights::Finding;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can be wrong with a device, a configuration, an observation, statistics or a weight file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {action} {}: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried: `read`, `write`, …
        action: &'static str,
        /// The operating system's answer.
        reason: std::io::Error,
    },
    /// A file is not there: Git LFS has put a pointer in its place.
    #[error("{} is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository", .0.display())]
    Pointer(PathBuf),
    /// A file is not the JSON document that it should be.
    #[error("{}: not valid JSON: {message}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser says, with line and column.
        message: String,
    },
    /// A configuration or statistics file lacks a field.
    #[error("{}: field `{field}` is missing", path.display())]
    MissingField {
        /// The file.
        path: PathBuf,
        /// Dotted path of the field.
        field: String,
    },
    /// A value is not one that the field may have.
    #[error("{origin}: `{field}` must be {expected}, got {got}")]
    InvalidField {
        /// The file, or what was given.
        origin: String,
        /// Dotted path of the field.
        field: String,
        /// What would be accepted.
        expected: String,
        /// What came.
        got: String,
    },
    /// The cameras of an observation or of data are not those of the policy.
    #[error("{problem}: the policy's cameras are {}, those given are {}", named(known), named(given))]
    Cameras {
        /// What is wrong.
        problem: String,
        /// The policy's cameras.
        known: Vec<String>,
        /// The cameras given.
        given: Vec<String>,
    },
    /// A device name that means nothing.
    #[error("unknown device `{name}`: expected one of {expected}")]
    UnknownDevice {
        /// The name given.
        name: String,
        /// The names that exist.
        expected: String,
    },
    /// A device that this build does not contain.
    #[error("device `{name}` is not in this build, which has {built}; build with `--features {feature}` to add it")]
    DeviceNotBuilt {
        /// The name given.
        name: String,
        /// The names that this build has.
        built: String,
        /// The cargo feature that adds it.
        feature: &'static str,
    },
    /// A device that this build contains and this machine lacks.
    #[error("device `{name}` is not on this machine: {reason}")]
    DeviceAbsent {
        /// The name given.
        name: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// A device that is on this machine and cannot be used.
    #[error("device `{name}` is on this machine, but cannot be used: {reason}")]
    DeviceUnusable {
        /// The name given.
        name: String,
        /// Why, and what to do about it.
        reason: String,
    },
    /// A number type that the device cannot compute with.
    #[error("device `{device}` cannot compute in {dtype}; use f32")]
    DtypeUnsupported {
        /// The device's name.
        device: String,
        /// The number type asked for.
        dtype: String,
    },
    /// A device could not do what was asked of it: its compiler, its driver or its memory failed.
    #[error("device `{device}` failed: {reason}")]
    DeviceFailed {
        /// The device's name.
        device: String,
        /// What it says.
        reason: String,
    },
    /// A file is not a safetensors file, or its header does not fit its size.
    #[error("{}: not a valid safetensors file: {message}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A file is not a PyTorch checkpoint, or holds more than tensors and plain values.
    #[error("{}: not a usable PyTorch checkpoint: {message}", path.display())]
    PyTorch {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A file is not burn's, or cannot be written as such.
    #[error("{}: not a usable burnpack: {message}", path.display())]
    Burnpack {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The names of a checkpoint's tensors have what a wrapper of PyTorch put before them.
    #[error(
        "{}: every name begins with `{prefix}`, which a wrapper of PyTorch put there: save the module inside it, or take the prefix off",
        path.display()
    )]
    WrappedNames {
        /// The file.
        path: PathBuf,
        /// What the names begin with.
        prefix: &'static str,
    },
    /// The names of a checkpoint's tensors are of no known kind.
    #[error("{}: its tensors are named like no Evo-1 or InternVL3 checkpoint: {}", path.display(), listed(names))]
    UnknownNaming {
        /// The file.
        path: PathBuf,
        /// The names.
        names: Vec<String>,
    },
    /// A tensor's bytes cannot be read.
    #[error("{}: tensor `{tensor}` cannot be read: {message}", path.display())]
    TensorUnreadable {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Why.
        message: String,
    },
    /// Tensors that the model needs are not in the file.
    #[error("{}: {} of the model's tensors are missing: {}", path.display(), names.len(), listed(names))]
    MissingTensors {
        /// The file.
        path: PathBuf,
        /// Names under which they were looked for.
        names: Vec<String>,
    },
    /// The file holds tensors that the model has no place for.
    #[error("{}: {} tensors have no place in the model that the configuration describes: {}", path.display(), names.len(), listed(names))]
    UnusedTensors {
        /// The file.
        path: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// An adapter belongs to other weights.
    #[error("{}: the adapter was trained on other weights than those of {}{}", adapter.display(), path.display(), of_base(base))]
    OtherBase {
        /// The adapter's folder.
        adapter: PathBuf,
        /// The file with the weights.
        path: PathBuf,
        /// What the adapter says that it belongs to.
        base: Option<String>,
    },
    /// A tensor has another shape than the model's.
    #[error("{}: tensor `{tensor}` must have shape {expected:?}, got {got:?}{}", path.display(), emptied(got))]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The model's shape.
        expected: Vec<usize>,
        /// The file's shape.
        got: Vec<usize>,
    },
    /// A tensor has a number type that cannot be used in its place.
    #[error("{}: tensor `{tensor}` must hold {expected}, got {got}", path.display())]
    TensorDtype {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What would be accepted.
        expected: &'static str,
        /// The file's number type.
        got: String,
    },
    /// Values of a tensor are finite in the file and too large for the number type that is wanted.
    #[error("{}: tensor `{tensor}` holds {count} values that are not finite in {dtype}; use f32", path.display())]
    TensorOverflow {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// How many of its values overflow.
        count: usize,
        /// The number type.
        dtype: String,
    },
    /// Tensors hold values that no trained network has, and loading is strict.
    #[error("{}: {} tensors hold values that no trained network has: {}", path.display(), findings.len(), listed_findings(findings))]
    ImplausibleTensors {
        /// The file.
        path: PathBuf,
        /// The tensors and what is wrong with them.
        findings: Vec<Finding>,
    },
    /// A repository cannot be downloaded.
    #[error("{repository}: cannot be downloaded: {message}; {remedy}")]
    Hub {
        /// The repository.
        repository: String,
        /// What went wrong.
        message: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A frame whose pixels do not fill its size.
    #[error("a frame of {width} × {height} RGB pixels has {expected} bytes, got {got}")]
    FrameSize {
        /// Pixels per row.
        width: usize,
        /// Rows.
        height: usize,
        /// `width · height · 3`.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// Statistics do not have the arm or data set that was asked for.
    #[error("statistics have no {what} `{key}`; they have {known}")]
    UnknownStatistics {
        /// `arm key` or `dataset key`.
        what: &'static str,
        /// The key given.
        key: String,
        /// The keys that exist.
        known: String,
    },
    /// A vector has another width than its statistics.
    #[error("{what} has {got} values, but its statistics have {expected}")]
    StatisticsWidth {
        /// `state` or `action`.
        what: &'static str,
        /// The statistics' width.
        expected: usize,
        /// The vector's width.
        got: usize,
    },
}

impl Error {
    /// An operating-system error with the path it happened at.
    pub fn io(action: &'static str, path: impl AsRef<Path>, reason: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_owned(), action, reason }
    }

    /// A value that a field may not have.
    pub fn invalid(origin: impl ToString, field: impl ToString, expected: impl ToString, got: impl ToString) -> Self {
        Self::InvalidField {
            origin: origin.to_string(),
            field: field.to_string(),
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }
}

/// What an adapter is said to belong to.
fn of_base(base: &Option<String>) -> String {
    base.as_ref().map_or_else(String::new, |base| format!(": on those of {base}"))
}

/// Where tensors are empty that are not.
fn emptied(shape: &[usize]) -> &'static str {
    match shape {
        [0] => ": DeepSpeed's ZeRO-3 leaves its tensors elsewhere; put them together with its `zero_to_fp32.py`",
        _ => "",
    }
}

/// All names, or that there is none.
fn named(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// The first names of a list, and how many follow.
fn listed(names: &[String]) -> String {
    first_of(names, |name| format!("`{name}`"))
}

fn listed_findings(findings: &[Finding]) -> String {
    first_of(findings, Finding::to_string)
}

fn first_of<T>(items: &[T], shown: impl Fn(&T) -> String) -> String {
    const SHOWN: usize = 5;
    let text = items.iter().take(SHOWN).map(shown).collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(SHOWN) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}
