//! Dimensions and choices of every component, presets, and upstream configuration files.
//!
//! [`PolicyConfig`] describes a whole policy. [`PolicyConfig::evo1`] has the published dimensions,
//! [`PolicyConfig::tiny`] small ones for tests, and [`upstream`] reads the configuration files of the references.

mod action;
mod cameras;
mod crop;
mod design;
mod policy;
mod profile;
mod stored;
pub mod upstream;
mod vlm;

pub use action::ActionConfig;
pub use cameras::Cameras;
pub use crop::FrameCrop;
pub use design::{Design, FlowConfig, StateInput, TimeInput};
pub use policy::{GripperRule, PolicyConfig, Precision};
pub use profile::{
    AbsentViews, ContextScope, FramePreprocessing, LossKind, MaskedRows, PooledToken, Profile, PromptLength,
    RangeEpsilon, ResultMask, Semantics, StateClamp, StatePadding, TargetMask,
};
pub use stored::CONFIG_FILE;
pub use vlm::{LanguageConfig, TilingConfig, VisionConfig, VlmConfig};

/// What a field must be and what came, for the checks of the configuration structs.
type FieldCheck = (&'static str, &'static str, String);

/// More layers than any model has: a file that claims more is refused before anything is built.
const MAX_LAYERS: usize = 1000;

/// Fails with the first check that does not hold.
fn check_fields(origin: &str, checks: impl IntoIterator<Item = (bool, FieldCheck)>) -> crate::Result<()> {
    for (holds, (field, expected, got)) in checks {
        if !holds {
            return Err(crate::Error::invalid(origin, field, expected, got));
        }
    }
    Ok(())
}
