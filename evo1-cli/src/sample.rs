//! The observation that is embedded in the binary: a moment of a Meta-World demonstration.

use evo1::{Observation, View};
use eyre::Result;

use crate::common::decode_frame;

const FRONT: &[u8] = include_bytes!("../assets/image.png");

/// Hand position (3), gripper opening, drawer position (3) and one number of its orientation.
const STATE: [f32; 8] = [0.001_889_564, 0.666_399_5, 0.287_608_56, 1.0, 0.008_976_636, 0.73, 0.09, 1.0];

const INSTRUCTION: &str = "Open the drawer";

/// The whole sample.
pub(crate) fn observation() -> Result<Observation> {
    Ok(Observation {
        views: vec![View::Present(decode_frame(FRONT)?)],
        state: STATE.to_vec(),
        instruction: INSTRUCTION.to_owned(),
        ..Observation::default()
    })
}
