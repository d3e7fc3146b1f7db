//! The observation that is embedded in the binary: a moment of a Meta-World demonstration, as both cameras of the embedded
//! policy see it.

use evo1::{Observation, View};
use eyre::Result;

use crate::common::decode_frame;

/// The frames in the order of the embedded policy's views.
const FRAMES: [&[u8]; 2] = [include_bytes!("../assets/image.png"), include_bytes!("../assets/behind_gripper.png")];

/// Hand position (3), gripper opening, drawer position (3) and one number of its orientation.
const STATE: [f32; 8] = [-0.036_235_336, 0.665_726, 0.287_711_44, 1.0, -0.061_623_827, 0.73, 0.09, 1.0];

const INSTRUCTION: &str = "Open the drawer";

/// The whole sample.
pub(crate) fn observation() -> Result<Observation> {
    let views = FRAMES.iter().map(|png| Ok(View::Present(decode_frame(png)?)));
    Ok(Observation {
        views: views.collect::<Result<_>>()?,
        state: STATE.to_vec(),
        instruction: INSTRUCTION.to_owned(),
        ..Observation::default()
    })
}
