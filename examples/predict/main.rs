//! Load a policy, predict an action chunk.

use std::{error::Error, path::Path};

use evo1::{Frame, LoadOptions, Observation, Policy, PredictOptions, View, device::DeviceName};

fn main() -> Result<(), Box<dyn Error>> {
    let device = DeviceName::Auto.open()?;
    let policy = match std::env::args().nth(1) {
        Some(directory) => Policy::load(Path::new(&directory), &LoadOptions::new(&device))?.0,
        None => Policy::embedded(&LoadOptions::new(&device))?,
    };
    let (width, height) = (224, 224);
    let state_width = policy.statistics.iter().flat_map(|known| known.robots()).map(|(_, robot)| robot.state.width());
    let observation = Observation {
        views: vec![View::Present(Frame::new(width, height, vec![128; width * height * 3])?)],
        state: vec![0.0; state_width.min().unwrap_or(policy.config.action.max_state_dim)],
        instruction: "Open the drawer".into(),
        ..Observation::default()
    };
    let chunk = policy.predict(&observation, &PredictOptions::default())?;
    for (step, action) in chunk.steps().enumerate() {
        println!("{step:3} {action:?}");
    }
    Ok(())
}
