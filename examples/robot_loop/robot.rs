//! A robot that is none: joints that go where they are told to, and a camera.

use evo1::{Frame, Observation, View};

/// Joints of the robot.
const JOINTS: usize = 8;

/// Side length of its frames in pixels.
const SIDE: usize = 64;

pub(crate) struct Robot {
    joints: [f32; JOINTS],
    frames: u64,
}

impl Robot {
    pub(crate) fn new() -> Self {
        Self { joints: [0.0; JOINTS], frames: 0 }
    }

    /// What it sees and knows of itself.
    pub(crate) fn observe(&mut self) -> Observation {
        self.frames += 1;
        let level = |at: usize| (at as u64 * 7 + self.frames) as u8;
        let frame = Frame::new(SIDE, SIDE, (0..SIDE * SIDE * 3).map(level).collect());
        Observation {
            views: frame.map(View::Present).into_iter().collect(),
            state: self.joints.to_vec(),
            instruction: "open the drawer".into(),
            ..Observation::default()
        }
    }

    /// Does one action; columns past the joints are others'.
    pub(crate) fn act(&mut self, action: &[f32]) {
        for (joint, value) in self.joints.iter_mut().zip(action) {
            *joint = value.clamp(-1.0, 1.0);
        }
    }
}
