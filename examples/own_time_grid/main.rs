//! `evo1` with a noise schedule of its own.

mod schedule;

use std::sync::Arc;

use evo1::{
    Choice, Components, CoreError,
    action::{
        ActionExpert,
        flow::{self, NoiseDraw, TimeDraw, TimeGrid},
    },
    vlm::InternVl,
};
use schedule::{Early, Power, Triangular};

#[derive(Debug, Clone)]
struct WithSchedule;

impl Components for WithSchedule {
    type Vlm = InternVl;
    type Action = ActionExpert;

    fn time_grid(choice: &Choice) -> Result<Arc<dyn TimeGrid>, CoreError> {
        match choice.name() {
            "power" => Ok(Arc::new(choice.settings::<Power>("flow.grid")?)),
            _ => flow::time_grid(choice),
        }
    }

    fn time_draw(choice: &Choice) -> Result<Arc<dyn TimeDraw>, CoreError> {
        match choice.name() {
            "early" => choice.require_plain("flow.time_draw").map(|()| Arc::new(Early) as _),
            _ => flow::time_draw(choice),
        }
    }

    fn noise_draw(choice: &Choice) -> Result<Arc<dyn NoiseDraw>, CoreError> {
        match choice.name() {
            "triangular" => choice.require_plain("flow.noise").map(|()| Arc::new(Triangular) as _),
            _ => flow::noise_draw(choice),
        }
    }
}

fn main() -> std::process::ExitCode {
    evo1_cli::main::<WithSchedule>()
}
