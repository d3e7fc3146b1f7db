//! The observation that is embedded in the binary: a moment of a Meta-World demonstration.

use evo1::{Frame, Observation, View};
use eyre::Result;

use crate::common::decode_frame;

const FRONT: &[u8] = include_bytes!("../assets/image.png");
const WRIST: &[u8] = include_bytes!("../assets/wrist_image.png");

/// Hand position (3), gripper opening, drawer position (3) and one number of its orientation.
const STATE: [f32; 8] = [0.001_889_564, 0.666_399_5, 0.287_608_56, 1.0, 0.008_976_636, 0.73, 0.09, 1.0];

const INSTRUCTION: &str = "Open the drawer";

/// The sample's camera frames.
pub(crate) fn frames() -> Result<Vec<Frame>> {
    [FRONT, WRIST].into_iter().map(decode_frame).collect()
}

/// The whole sample.
pub(crate) fn observation() -> Result<Observation> {
    Ok(Observation {
        views: frames()?.into_iter().map(View::Present).collect(),
        state: STATE.to_vec(),
        instruction: INSTRUCTION.to_owned(),
        ..Observation::default()
    })
}
