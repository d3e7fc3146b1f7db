//! What the fuzz targets of the server's messages do with their bytes; [`bodies`](bodies.rs) are those of files. A test of
//! the workspace runs them on the corpus.

use evo1::config::Cameras;
use evo1_serve::{
    client,
    protocol::{
        ObservationOptions, Scaling, Shape,
        json::{self, JsonOptions},
        lerobot, openpi,
    },
};

/// A target's name and body.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// Every target.
pub(crate) const TARGETS: [Target; 3] = [("messages", messages), ("openpi", openpi), ("lerobot", lerobot)];

const SHAPE: Shape = Shape { views: 2, image_size: 4, state: 24, action: 24, horizon: 4 };

/// A message of Evo-1's JSON protocol, and a reply to a client.
pub(crate) fn messages(data: &[u8]) {
    let options = JsonOptions { swaps_channels: true, scaling: Scaling::OpenCv };
    let parsed = json::parse(data, &SHAPE, options);
    // What is read is JSON, numbers apart that JSON does not have.
    if let Ok(request) = parsed.request {
        assert!(request.observation.state.iter().all(|value| value.is_finite()));
        assert_eq!(request.observation.views.len(), SHAPE.views);
        if !data.windows(3).any(|word| word == b"NaN" || word == b"Inf") {
            serde_json::from_slice::<serde::de::IgnoredAny>(data).expect("what is read is JSON");
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = client::read_reply(text);
    }
}

/// A message of openpi's protocol.
pub(crate) fn openpi(data: &[u8]) {
    for cameras in [Cameras::default(), Cameras::named(["image"])] {
        if let Ok(request) = openpi::parse(data, &SHAPE, &ObservationOptions { cameras, prompt: None }) {
            assert!(request.observation.state.iter().all(|value| value.is_finite()));
            assert!(request.observation.views.len() <= SHAPE.views);
        }
    }
}

/// Messages of LeRobot's asynchronous inference: what a client says of itself, and an observation.
pub(crate) fn lerobot(data: &[u8]) {
    const INSTRUCTIONS: &[u8] = include_bytes!("corpus/lerobot/instructions");
    let options = ObservationOptions { cameras: Cameras::default(), prompt: None };
    let own = lerobot::instructions(data).ok();
    let known = lerobot::instructions(INSTRUCTIONS).expect("a client's own");
    for instructions in own.iter().chain([&known]) {
        if let Ok(Some(timed)) = lerobot::parse(data, instructions, &SHAPE, &options, |_, _| true) {
            assert!(timed.state.iter().all(|value| value.is_finite()));
            assert!(timed.request.observation.views.len() <= SHAPE.views);
        }
    }
}
