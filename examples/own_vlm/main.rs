//! `evo1` with a vision-language model of its own in InternVL3's place.

mod encoder;

use encoder::ConvWords;
use evo1::{OneOf, action::ActionExpert, vlm::InternVl};

fn main() -> std::process::ExitCode {
    evo1_cli::main::<(OneOf<ConvWords, InternVl>, ActionExpert)>()
}
