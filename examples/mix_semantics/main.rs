//! Change one choice of a reference and measure what it does.

use std::error::Error;

use evo1::{
    Frame, Observation, Policy, PredictOptions, View,
    config::{ContextScope, FramePreprocessing, MaskedRows, PromptLength, Semantics, StateClamp},
    device::DeviceName,
};

fn main() -> Result<(), Box<dyn Error>> {
    let device = DeviceName::Auto.open()?;
    let policy = Policy::tiny(0, &device)?;
    let checkerboard: Vec<u8> =
        (0..100 * 100).flat_map(|pixel| [if pixel / 7 % 2 == 0 { 30 } else { 220 }; 3]).collect();
    let observation = Observation {
        views: vec![View::Present(Frame::new(100, 100, checkerboard)?), View::Absent],
        state: vec![0.3, 0.6, 0.15, 1.0, 0.0, 0.7, 0.02, 0.0],
        instruction: "Press the button".into(),
        ..Observation::default()
    };
    let predict = |semantics: Semantics| -> Result<Vec<f32>, evo1::Error> {
        let mut changed = policy.clone();
        changed.config.semantics = semantics;
        Ok(changed.predict(&observation, &PredictOptions::default())?.values().to_vec())
    };
    let base = policy.config.semantics;
    let reference = predict(base)?;
    let all_tokens = Semantics { context_scope: ContextScope::AllTokens, ..base };
    for (choice, semantics) in [
        ("time scale 1000", Semantics { time_scale: 1000.0, ..base }),
        ("prompt padded to its maximum", Semantics { prompt_length: PromptLength::Fixed, ..base }),
        ("masked tokens seen by the action expert", all_tokens),
        ("… and left without attention", Semantics { masked_rows: MaskedRows::ZeroAttention, ..all_tokens }),
        ("frames scaled in float", Semantics { frames: FramePreprocessing::FloatBicubic, ..base }),
        ("state clamped", Semantics { state_clamp: StateClamp::Unit, ..base }),
    ] {
        let actions = predict(semantics)?;
        let moved = actions.iter().zip(&reference).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{choice:40} moves an action by at most {moved:.2e}");
    }
    Ok(())
}
