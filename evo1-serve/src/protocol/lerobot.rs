//! LeRobot's asynchronous inference (release 0.6): the pickles in its messages.
//!
//! A client first says which policy it wants and what its robot calls its values ([`Instructions`]), then sends what the robot
//! sees ([`parse`]) and asks for actions ([`reply`]). An observation is a dictionary of the robot's own names: numbers,
//! which joined in the order of the instructions are the state, frames `[height, width, 3]` of 8 bits, and the `task`.
//!
//! Sources: LeRobot, `async_inference/helpers.py` and `policy_server.py`, `utils/feature_utils.py`.

use std::collections::BTreeSet;

use evo1::{ActionChunk, Frame, Observation, View};

use super::{
    ObservationOptions, Shape,
    array::Array,
    checked_instruction, ordered,
    pickle::{HELPERS, Pickle, Value, Writer},
};
use crate::{Request, RequestError, scale::resize_as_torch};

/// What a feature's name begins with that is a camera's.
const IMAGES: &str = "observation.images.";

/// The feature that is the state.
const STATE: &str = "observation.state";

/// What LeRobot calls policies of this kind.
pub const POLICY_TYPE: &str = "evo1";

/// Distance of two states below which observations are taken for the same, in the robot's units.
const SIMILAR: f32 = 1.0;

/// Most time steps that are remembered as answered.
const MAX_ANSWERED: usize = 100_000;

/// What a client says of itself before its first observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instructions {
    /// LeRobot's name of the policy's kind.
    pub policy_type: String,
    /// The policy's directory or repository, as the client calls it.
    pub policy: String,
    /// Most actions of a reply.
    pub actions_per_chunk: usize,
    /// The robot's names of the values of its state, in order.
    state: Vec<String>,
    /// Features that are cameras, and the robot's names of them.
    cameras: Vec<(String, String)>,
}

/// When an observation was made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Seconds since 1970 by the robot's clock.
    pub timestamp: f64,
    /// Actions that the robot had executed.
    pub timestep: i64,
    /// The robot has no actions left: the observation is predicted from, whatever it is like.
    pub must_go: bool,
}

/// An observation, ready to be predicted from.
#[derive(Debug, Clone, PartialEq)]
pub struct Timed {
    /// When it was made.
    pub moment: Moment,
    /// The state by which it is compared with others.
    pub state: Vec<f32>,
    /// The request that it is.
    pub request: Request,
}

/// Which observations of a robot are predicted from, as LeRobot's server decides it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    answered: BTreeSet<i64>,
    last: Option<Vec<f32>>,
}

impl Filter {
    /// Whether an observation is to be predicted from: one that must, the first, and any whose time step has no actions yet
    /// and whose state is at least 1 away from that of the last.
    pub fn accepts(&self, moment: &Moment, state: &[f32]) -> bool {
        let Some(last) = &self.last else { return true };
        let distance = state.iter().zip(last).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
        moment.must_go || (!self.answered.contains(&moment.timestep) && distance >= SIMILAR)
    }

    /// Notes that an observation is predicted from, and returns what [`Self::undo`] needs.
    pub fn note(&mut self, timed: &Timed) -> (i64, Option<Vec<f32>>) {
        self.answered.insert(timed.moment.timestep);
        if self.answered.len() > MAX_ANSWERED {
            self.answered.pop_first();
        }
        (timed.moment.timestep, self.last.replace(timed.state.clone()))
    }

    /// Forgets an observation from which no actions came. LeRobot's server does not, so that a robot that stands still after
    /// one failure is never answered again.
    pub fn undo(&mut self, (timestep, last): (i64, Option<Vec<f32>>)) {
        self.answered.remove(&timestep);
        self.last = last;
    }
}

/// Reads what a client says of itself.
pub fn instructions(message: &[u8]) -> Result<Instructions, RequestError> {
    read_instructions(message).map_err(|error| RequestError::invalid(format!("the policy's instructions: {error}")))
}

fn read_instructions(message: &[u8]) -> Result<Instructions, String> {
    let pickle = Pickle::read(message)?;
    let fields = pickle.root().object("RemotePolicyConfig")?;
    let (mut state, mut cameras) = (Vec::new(), Vec::new());
    for (feature, value) in required(fields, "lerobot_features")?.entries()? {
        let named = |error: String| format!("`lerobot_features.{feature}`: {error}");
        match required(value, "dtype").and_then(Value::text).map_err(named)? {
            "float32" if feature == STATE => {
                let names = required(value, "names").and_then(Value::items).map_err(named)?;
                state = names.map(|name| name.text().map(str::to_owned)).collect::<Result<_, _>>().map_err(named)?;
            }
            "image" | "video" => match feature.strip_prefix(IMAGES) {
                Some(name) => cameras.push((feature.to_owned(), name.to_owned())),
                None => return Err(named(format!("a camera's name begins with `{IMAGES}`"))),
            },
            // LeRobot's policies of this kind look at nothing else.
            _ => {}
        }
    }
    if state.is_empty() {
        return Err(format!("`lerobot_features` must have `{STATE}` with the names of its values"));
    }
    if required(fields, "rename_map")?.entries()?.next().is_some() {
        return Err("`rename_map` must be empty: the policy's own rename_map and --camera name its cameras".into());
    }
    let actions = required(fields, "actions_per_chunk")?.integer()?;
    Ok(Instructions {
        policy_type: required(fields, "policy_type")?.text()?.to_owned(),
        policy: required(fields, "pretrained_name_or_path")?.text()?.to_owned(),
        actions_per_chunk: usize::try_from(actions)
            .ok()
            .filter(|&actions| actions > 0)
            .ok_or_else(|| format!("`actions_per_chunk` must be at least 1, got {actions}"))?,
        state,
        cameras,
    })
}

/// Reads an observation of a client with these instructions; nothing if `accepts` does not want it, which is asked before
/// the frames are looked at.
pub fn parse(
    message: &[u8],
    instructions: &Instructions,
    shape: &Shape,
    options: &ObservationOptions,
    accepts: impl FnOnce(&Moment, &[f32]) -> bool,
) -> Result<Option<Timed>, RequestError> {
    let invalid = |error: String| RequestError::invalid(format!("the observation: {error}"));
    let pickle = Pickle::read(message).map_err(invalid)?;
    let fields = pickle.root().object("TimedObservation").map_err(invalid)?;
    let (moment, values) = moment(fields).map_err(invalid)?;
    let state = state(values, instructions).map_err(invalid)?;
    if !accepts(&moment, &state) {
        return Ok(None);
    }
    let views = views(values, instructions).map_err(invalid)?;
    let task = values.get("task").and_then(|task| task.map(Value::text).transpose()).map_err(invalid)?;
    // LeRobot's client sends an empty task where it is given none.
    let task = task.filter(|task| !task.is_empty()).or(options.prompt.as_deref()).unwrap_or_default();
    let observation = Observation {
        views: scaled(ordered(views, shape, options)?, options),
        state: state.clone(),
        instruction: checked_instruction(task.to_owned())?,
        ..Observation::default()
    };
    Ok(Some(Timed { moment, state, request: Request::of(observation) }))
}

fn required<'p, 'a>(fields: Value<'p, 'a>, name: &str) -> Result<Value<'p, 'a>, String> {
    fields.get(name)?.ok_or_else(|| format!("`{name}` is missing"))
}

/// When an observation was made, and its values.
fn moment<'p, 'a>(fields: Value<'p, 'a>) -> Result<(Moment, Value<'p, 'a>), String> {
    let field = |name: &'static str| required(fields, name);
    let named = |name: &'static str| move |error: String| format!("`{name}` must be {error}");
    let moment = Moment {
        timestamp: field("timestamp")?.number().map_err(named("timestamp"))?,
        timestep: field("timestep")?.integer().map_err(named("timestep"))?,
        must_go: field("must_go")?.flag().map_err(named("must_go"))?,
    };
    match moment.timestamp.is_finite() {
        true => Ok((moment, field("observation")?)),
        false => Err(format!("`timestamp` must be finite, got {}", moment.timestamp)),
    }
}

fn state(values: Value<'_, '_>, instructions: &Instructions) -> Result<Vec<f32>, String> {
    let value = |name: &String| {
        let number = required(values, name)?.number().map_err(|error| format!("`{name}` must be {error}"))? as f32;
        number.is_finite().then_some(number).ok_or_else(|| format!("`{name}` must be finite, got {number}"))
    };
    instructions.state.iter().map(value).collect()
}

fn views(values: Value<'_, '_>, instructions: &Instructions) -> Result<Vec<(String, View)>, String> {
    let view = |(feature, name): &(String, String)| {
        let array = required(values, name)?.array();
        let frame = array.and_then(frame).map_err(|error| format!("`{name}` must be {error}"))?;
        Ok((feature.clone(), View::Present(frame)))
    };
    instructions.cameras.iter().map(view).collect()
}

fn frame(array: &Array<'_>) -> Result<Frame, String> {
    match (array.dtype, array.shape.as_slice()) {
        ("|u1", &[height, width, 3]) => {
            Frame::new(width, height, array.data.to_vec()).map_err(|error| error.to_string())
        }
        (dtype, shape) => {
            Err(format!("an image [height, width, 3] of 8-bit levels, got dtype {dtype} and shape {shape:?}"))
        }
    }
}

/// Frames of the sizes that the policy's cameras have: LeRobot's server scales them so, before the policy does.
fn scaled(views: Vec<View>, options: &ObservationOptions) -> Vec<View> {
    let sizes = options.cameras.sizes.iter().map(Some).chain(std::iter::repeat(None));
    let scaled = |(view, size): (View, Option<&[usize; 2]>)| match (view, size) {
        (View::Present(frame), Some(&[width, height])) => View::Present(resize_as_torch(frame, width, height)),
        (view, _) => view,
    };
    views.into_iter().zip(sizes).map(scaled).collect()
}

/// The reply to an observation: a list of actions, each with its time, at most as many as the instructions ask for. `period`
/// is the time in seconds between two.
pub fn reply(chunk: &ActionChunk, moment: &Moment, period: f64, actions_per_chunk: usize) -> Vec<u8> {
    let mut pickle = Writer::new();
    let action = pickle.declare(HELPERS, "TimedAction");
    let tensor = pickle.declare("torch", "tensor");
    pickle.raw(b"](");
    for (step, values) in chunk.steps().take(actions_per_chunk).enumerate() {
        // An object without fields, and a dictionary for them.
        pickle.recall(action).raw(b")\x81}(");
        pickle.text("timestamp").float(moment.timestamp + step as f64 * period);
        pickle.text("timestep").integer(moment.timestep.saturating_add(step as i64));
        pickle.text("action").recall(tensor).raw(b"](");
        for value in values {
            pickle.float((*value).into());
        }
        // The list's end, the call, the dictionary's end, and the object's fields.
        pickle.raw(b"e\x85Rub");
    }
    pickle.raw(b"e");
    pickle.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(timestep: i64, must_go: bool) -> Moment {
        Moment { timestamp: 0.0, timestep, must_go }
    }

    fn timed(timestep: i64, state: &[f32]) -> Timed {
        let request = Request::of(Observation::default());
        Timed { moment: moment(timestep, false), state: state.to_vec(), request }
    }

    #[test]
    fn observations_are_answered_once_and_only_when_something_has_moved() {
        let mut filter = Filter::default();
        assert!(filter.accepts(&moment(0, false), &[0.0, 0.0]), "the first");
        filter.note(&timed(0, &[0.0, 0.0]));
        assert!(!filter.accepts(&moment(1, false), &[0.5, 0.5]), "too similar");
        assert!(filter.accepts(&moment(1, false), &[1.0, 0.0]), "as far as it must be");
        assert!(!filter.accepts(&moment(0, false), &[9.0, 9.0]), "answered already");
        assert!(filter.accepts(&moment(0, true), &[0.0, 0.0]), "it must");
        let before = filter.note(&timed(1, &[2.0, 0.0]));
        assert!(!filter.accepts(&moment(2, false), &[2.0, 0.5]));
        filter.undo(before);
        assert!(filter.accepts(&moment(2, false), &[2.0, 0.5]) && filter.accepts(&moment(1, false), &[2.0, 0.0]));
        assert!(!filter.accepts(&moment(0, false), &[9.0, 9.0]));
    }

    #[test]
    fn time_steps_are_not_remembered_for_ever() {
        let mut filter = Filter::default();
        (0..MAX_ANSWERED as i64 + 10).for_each(|step| drop(filter.note(&timed(step, &[0.0]))));
        assert_eq!(filter.answered.len(), MAX_ANSWERED);
        assert!(!filter.accepts(&moment(MAX_ANSWERED as i64, false), &[9.0]));
    }
}
