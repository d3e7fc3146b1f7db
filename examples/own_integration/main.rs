//! `evo1` with an integration of its own, beside the four of the paper's figure 6.

mod registers;

use evo1::{
    OneOf,
    action::{ActionExpert, integration::Integrations},
    vlm::InternVl,
};
use registers::Registers;

fn main() -> std::process::ExitCode {
    evo1_cli::main::<(InternVl, ActionExpert<OneOf<Registers, Integrations>>)>()
}
