//! `evo1` with an action expert of its own: every command, for policies of either.

mod expert;

use evo1::{OneOf, action::ActionExpert, vlm::InternVl};
use expert::MlpExpert;

fn main() -> std::process::ExitCode {
    evo1_cli::main::<(InternVl, OneOf<MlpExpert, ActionExpert>)>()
}
