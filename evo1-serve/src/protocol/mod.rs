//! The protocols, from bytes to requests and from answers to bytes.

mod array;
pub mod json;
pub mod lerobot;
mod msgpack;
pub mod openpi;
mod pickle;
mod pixel;
mod scan;

use evo1::{Frame, View, config::Cameras};

use crate::{RequestError, scale::resize_bilinear};

/// Longest instruction in bytes. A prompt holds a thousand tokens; what is longer only costs time.
pub(crate) const MAX_INSTRUCTION: usize = 16 * 1024;

/// What a websocket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Evo-1's JSON, as the authors' clients.
    Evo1,
    /// openpi's msgpack.
    OpenPi,
}

/// The sizes of the policy, which requests are held against, and how the server treats frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Camera views.
    pub views: usize,
    /// Side length of the frames that the model sees, in pixels.
    pub image_size: usize,
    /// Widest state.
    pub state: usize,
    /// Padded width of an action.
    pub action: usize,
    /// Steps of a chunk.
    pub horizon: usize,
}

/// How frames of other sizes than the model's are brought to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scaling {
    /// By the server, bilinear as OpenCV does it, before the policy sees them: what the authors' server does.
    OpenCv,
    /// By the policy, in the way of its profile: what `evo1 infer` does.
    Policy,
}

/// Scales a frame to the model's size if the server is the one to do it.
fn scaled(frame: Frame, shape: &Shape, scaling: Scaling) -> Frame {
    match scaling {
        Scaling::OpenCv => resize_bilinear(frame, shape.image_size, shape.image_size),
        Scaling::Policy => frame,
    }
}

/// How observations are read whose images have names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservationOptions {
    /// The cameras, in the order of the policy's views.
    pub cameras: Cameras,
    /// The instruction of an observation that has none.
    pub prompt: Option<String>,
}

/// Views in the policy's order.
fn ordered(views: Vec<(String, View)>, shape: &Shape, options: &ObservationOptions) -> Result<Vec<View>, RequestError> {
    const REMEDY: &str = "`evo1 serve --camera` says what clients call them, in the order of the policy's views";
    let names: Vec<String> = views.iter().map(|(name, _)| format!("`{name}`")).collect();
    let refused = |problem: String| RequestError::invalid(format!("{problem}; {REMEDY}"));
    let views = options.cameras.arrange(views).map_err(|error| refused(error.to_string()))?;
    if views.len() > shape.views {
        let (most, got) = (shape.views, views.len());
        return Err(refused(format!("the policy has {most} views, got {got}: {}", names.join(", "))));
    }
    Ok(views.into_iter().map(|view| view.unwrap_or(View::Absent)).collect())
}

fn checked_instruction(text: String) -> Result<String, RequestError> {
    if text.len() > MAX_INSTRUCTION {
        let message = format!("the prompt has {} bytes, but at most {MAX_INSTRUCTION} are read", text.len());
        return Err(RequestError::invalid(message));
    }
    Ok(text)
}
