//! What a policy is, for people and for programs that use it.

use evo1_core::{
    config::{Cameras, GripperRule},
    normalize::Statistics,
};
use serde::{Deserialize, Serialize};

use crate::{Components, Policy};

/// What a policy is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    /// Its name: the policy's directory.
    pub policy: String,
    /// The reference whose semantics it has.
    pub profile: String,
    /// The device that it runs on.
    pub device: String,
    /// Euler steps.
    pub steps: usize,
    /// Steps of a chunk.
    pub horizon: usize,
    /// Padded width of an action.
    pub max_action_dim: usize,
    /// Widest state.
    pub max_state_dim: usize,
    /// Width of the robot's action, where it is known: columns of an action mask that are to be 1.
    pub action_dim: Option<usize>,
    /// Width of the robot's state, where it is known.
    pub state_dim: Option<usize>,
    /// Actions of a chunk that are meant to be executed before the next one is asked for.
    pub n_action_steps: usize,
    /// The column of the action that is made two-valued, and how.
    pub gripper: Option<GripperRule>,
    /// Camera views.
    pub views: usize,
    /// The cameras of the views, as far as they are known by name.
    pub cameras: Cameras,
    /// Side length of the frames that it sees.
    pub image_size: usize,
    /// Robots whose statistics it has.
    pub robots: Vec<Robot>,
}

/// A robot whose statistics a policy has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Robot {
    /// `arm` or `arm/dataset`.
    pub key: String,
    /// Values of its state.
    pub state_dim: usize,
    /// Values of its action.
    pub action_dim: usize,
}

impl<C: Components> Policy<C> {
    /// What the policy is, under a name.
    pub fn description(&self, name: &str) -> Description {
        let Self { config, statistics, .. } = self;
        let robots = statistics.iter().flat_map(|statistics| statistics.robots());
        let only = statistics.as_ref().and_then(Statistics::only);
        Description {
            policy: name.to_owned(),
            profile: config.profile.to_string(),
            device: format!("{:?}", self.device()),
            steps: config.num_inference_steps,
            horizon: config.action.horizon,
            max_action_dim: config.action.max_action_dim,
            max_state_dim: config.action.max_state_dim,
            action_dim: config.action_width(only),
            state_dim: config.state_width(only),
            n_action_steps: config.n_action_steps.unwrap_or(config.action.horizon),
            gripper: config.gripper,
            views: config.max_views,
            cameras: config.cameras.clone(),
            image_size: config.vlm.image_size,
            robots: robots
                .map(|(key, robot)| Robot { key, state_dim: robot.state.width(), action_dim: robot.action.width() })
                .collect(),
        }
    }
}
