//! openpi's websocket protocol: msgpack with numpy's arrays.
//!
//! The server sends its metadata when a client connects. A request is a map of an observation, the reply a map with
//! `actions` (`[horizon, action width]`, float32, in the robot's units) and `server_timing`. Arrays are maps of
//! `__ndarray__`, `data`, `dtype` and `shape`, whose keys are binary. Source: `openpi-client`, `msgpack_numpy.py` and
//! `websocket_client_policy.py`.
//!
//! Names differ from robot to robot in openpi, so that entries are known by their kind:
//! - Three-dimensional arrays, and those in a map `images`, are camera views, each that of the camera in
//!   [`ObservationOptions::cameras`] whose name it has or, where no names are known, as they come; height × width × 3 or
//!   3 × height × width, 8-bit or floats from 0 to 1. `None` is a camera that is absent.
//! - `observation/state` or `state` is the state; without it, all numbers and vectors below `observation/`, joined as they
//!   come.
//! - `prompt` is the instruction, or [`ObservationOptions::prompt`] where there is none. `arm_key`, `dataset_key`, `embodiment`, `seed`, `steps` and `deadline_ms` are those of
//!   the JSON protocol. Nothing else is looked at.

use std::time::Duration;

use evo1::{ActionChunk, FinishOptions, Frame, Observation, StatisticsKey, View};
use rmp::encode;

use super::{
    ObservationOptions, Shape,
    array::Array,
    checked_instruction,
    msgpack::{Value, decode},
    ordered,
};
use crate::{Answer, Description, Request, RequestError};

/// The message that a client gets when it has connected.
pub fn metadata(description: &Description) -> Vec<u8> {
    rmp_serde::to_vec_named(description).unwrap_or_default()
}

/// Reads a request.
pub fn parse(message: &[u8], shape: &Shape, options: &ObservationOptions) -> Result<Request, RequestError> {
    let value = decode(message).map_err(RequestError::invalid)?;
    let Value::Map(entries) = value else {
        return Err(RequestError::invalid(format!("a request must be a map, got {}", value.kind())));
    };
    let mut fields = Fields::default();
    for (key, value) in &entries {
        fields.read(&key.name().unwrap_or_default(), value)?;
    }
    let missing = |field: &str| RequestError::invalid(format!("the observation has no `{field}`"));
    let no_prompt = || RequestError::invalid("the observation has no `prompt`, and `evo1 serve --prompt` gives none");
    let instruction = checked_instruction(fields.prompt.or_else(|| options.prompt.clone()).ok_or_else(no_prompt)?)?;
    let state = fields.state.unwrap_or(fields.parts);
    if state.is_empty() {
        return Err(missing("observation/state"));
    }
    Ok(Request {
        observation: Observation {
            views: ordered(fields.views, shape, options)?,
            state,
            instruction,
            embodiment: fields.embodiment.map(|id| usize::try_from(id).unwrap_or(usize::MAX)),
            statistics: StatisticsKey { arm: fields.arm_key, dataset: fields.dataset_key },
            ..Observation::default()
        },
        seed: fields.seed,
        number: 0,
        steps: fields.steps.map(|steps| usize::try_from(steps).unwrap_or(usize::MAX)),
        rtc: None,
        guidance: None,
        finish: FinishOptions::default(),
        deadline: fields.deadline_ms.map(Duration::from_millis),
        id: None,
    })
}

/// Entries of a request as they come.
#[derive(Default)]
struct Fields {
    views: Vec<(String, View)>,
    state: Option<Vec<f32>>,
    parts: Vec<f32>,
    prompt: Option<String>,
    arm_key: Option<String>,
    dataset_key: Option<String>,
    embodiment: Option<u64>,
    seed: Option<u64>,
    steps: Option<u64>,
    deadline_ms: Option<u64>,
}

impl Fields {
    fn read(&mut self, key: &str, value: &Value<'_>) -> Result<(), RequestError> {
        let named = |error: String| RequestError::invalid(format!("`{key}` must be {error}"));
        let is_image_key = key.starts_with("image") || key.contains("/image") || key.contains("_image");
        match (key, value) {
            ("prompt", _) => self.prompt = Some(value.text().map_err(named)?),
            ("arm_key", _) => self.arm_key = Some(value.text().map_err(named)?),
            ("dataset_key", _) => self.dataset_key = Some(value.text().map_err(named)?),
            ("embodiment", _) => self.embodiment = Some(value.whole().map_err(named)?),
            ("seed", _) => self.seed = Some(value.whole().map_err(named)?),
            ("steps", _) => self.steps = Some(value.whole().map_err(named)?),
            ("deadline_ms", _) => self.deadline_ms = Some(value.whole().map_err(named)?),
            ("state" | "observation/state", _) => self.state = Some(numbers(value).map_err(named)?),
            ("images", Value::Map(images)) => {
                for (name, image) in images {
                    let view = view(image).map_err(named)?;
                    self.views.push((name.name().unwrap_or_default(), view));
                }
            }
            (_, Value::Array(array)) if array.shape.len() > 2 => {
                self.views.push((key.to_owned(), view(value).map_err(named)?));
            }
            (_, Value::Nil) if is_image_key => self.views.push((key.to_owned(), View::Absent)),
            (_, Value::Array(_) | Value::List(_) | Value::Integer(_) | Value::Float(_) | Value::Bool(_))
                if key.starts_with("observation/") =>
            {
                self.parts.extend(numbers(value).map_err(named)?);
            }
            _ => {}
        }
        Ok(())
    }
}

/// A list or an array of finite numbers.
fn numbers(value: &Value<'_>) -> Result<Vec<f32>, String> {
    let numbers = match value {
        Value::Array(array) => array.floats()?,
        Value::List(list) => list.iter().map(|value| value.float()).collect::<Result<_, _>>()?,
        other => vec![other.float()?],
    };
    match numbers.iter().find(|number| !number.is_finite()) {
        Some(number) => Err(format!("finite numbers, got {number}")),
        None => Ok(numbers),
    }
}

fn view(value: &Value<'_>) -> Result<View, String> {
    let array = match value {
        Value::Nil => return Ok(View::Absent),
        Value::Array(array) => array,
        other => return Err(format!("an image, got {}", other.kind())),
    };
    // A batch of one frame is that frame.
    let (&[first, second, third] | &[1, first, second, third]) = array.shape.as_slice() else {
        return Err(format!("an image of three dimensions, got shape {:?}", array.shape));
    };
    let levels = levels(array)?;
    let (height, width, rgb) = match (first, third) {
        (_, 3) => (first, second, levels),
        (3, _) => {
            let plane = second * third;
            let interleaved = (0..plane).flat_map(|i| [levels[i], levels[plane + i], levels[2 * plane + i]]).collect();
            (second, third, interleaved)
        }
        _ => return Err(format!("an image of three channels, got shape {:?}", array.shape)),
    };
    Frame::new(width, height, rgb).map(View::Present).map_err(|error| error.to_string())
}

/// Grey levels of an image; floats are cut off as numpy's `astype(uint8)` does.
fn levels(array: &Array<'_>) -> Result<Vec<u8>, String> {
    if array.dtype == "|u1" {
        return Ok(array.data.to_vec());
    }
    if !array.is_float() {
        return Err(format!("an image of 8-bit levels or of floats, got dtype {}", array.dtype));
    }
    let level = |value: f32| match value {
        0.0..=1.0 => Ok((value * 255.0) as u8),
        _ => Err(format!("an image of floats from 0 to 1, got {value}")),
    };
    array.floats()?.into_iter().map(level).collect()
}

/// The reply to a request. `previous` is the time that the whole of the previous request took.
pub fn reply(answer: &Answer, infer: Duration, previous: Option<Duration>) -> Vec<u8> {
    let mut out = Vec::new();
    // Writing to memory cannot fail.
    let _ = write_reply(&mut out, answer, infer, previous);
    out
}

fn write_reply(
    out: &mut Vec<u8>,
    answer: &Answer,
    infer: Duration,
    previous: Option<Duration>,
) -> Result<(), encode::ValueWriteError> {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    encode::write_map_len(out, 3)?;
    encode::write_str(out, "actions")?;
    write_array(out, &answer.chunk)?;
    encode::write_str(out, "server_timing")?;
    encode::write_map_len(out, 1 + u32::from(previous.is_some()))?;
    encode::write_str(out, "infer_ms")?;
    encode::write_f64(out, milliseconds(infer))?;
    if let Some(previous) = previous {
        encode::write_str(out, "prev_total_ms")?;
        encode::write_f64(out, milliseconds(previous))?;
    }
    encode::write_str(out, "policy_timing")?;
    let stages = answer.times.stages();
    encode::write_map_len(out, stages.len() as u32 + 1)?;
    encode::write_str(out, "infer_ms")?;
    encode::write_f64(out, milliseconds(answer.times.total()))?;
    for (stage, time) in stages {
        encode::write_str(out, &format!("{stage}_ms"))?;
        encode::write_f64(out, milliseconds(time))?;
    }
    Ok(())
}

/// An array of float32 as `msgpack_numpy` writes it.
pub fn write_array(out: &mut Vec<u8>, chunk: &ActionChunk) -> Result<(), encode::ValueWriteError> {
    encode::write_map_len(out, 4)?;
    encode::write_bin(out, b"__ndarray__")?;
    encode::write_bool(out, true).map_err(encode::ValueWriteError::InvalidDataWrite)?;
    encode::write_bin(out, b"data")?;
    encode::write_bin(out, &chunk.values().iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())?;
    encode::write_bin(out, b"dtype")?;
    encode::write_str(out, "<f4")?;
    encode::write_bin(out, b"shape")?;
    encode::write_array_len(out, 2)?;
    encode::write_uint(out, chunk.horizon() as u64)?;
    encode::write_uint(out, chunk.width() as u64)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use evo1::config::Cameras;

    use super::*;

    const SHAPE: Shape = Shape { views: 3, image_size: 2, state: 24, action: 24, horizon: 50 };

    fn options(cameras: &[&str]) -> ObservationOptions {
        ObservationOptions { cameras: Cameras::named(cameras.iter().copied()), prompt: None }
    }

    fn array(out: &mut Vec<u8>, dtype: &str, shape: &[u64], data: &[u8]) {
        encode::write_map_len(out, 4).expect("memory");
        encode::write_bin(out, b"__ndarray__").expect("memory");
        encode::write_bool(out, true).expect("memory");
        encode::write_bin(out, b"data").expect("memory");
        encode::write_bin(out, data).expect("memory");
        encode::write_bin(out, b"dtype").expect("memory");
        encode::write_str(out, dtype).expect("memory");
        encode::write_bin(out, b"shape").expect("memory");
        encode::write_array_len(out, shape.len() as u32).expect("memory");
        for size in shape {
            encode::write_uint(out, *size).expect("memory");
        }
    }

    /// A key and what writes its value.
    type Entry<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>));

    fn message(entries: &[Entry<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        encode::write_map_len(&mut out, entries.len() as u32).expect("memory");
        for (key, write) in entries {
            encode::write_str(&mut out, key).expect("memory");
            write(&mut out);
        }
        out
    }

    fn prompt(out: &mut Vec<u8>) {
        encode::write_str(out, "fold the towel").expect("memory");
    }

    fn image(out: &mut Vec<u8>) {
        array(out, "|u1", &[1, 2, 3], &[1, 2, 3, 4, 5, 6]);
    }

    fn batch_of_one(out: &mut Vec<u8>) {
        array(out, "|u1", &[1, 1, 2, 3], &[1, 2, 3, 4, 5, 6]);
    }

    fn nothing(out: &mut Vec<u8>) {
        encode::write_nil(out).expect("memory");
    }

    fn gripper(out: &mut Vec<u8>) {
        encode::write_f64(out, 0.25).expect("memory");
    }

    fn planes(out: &mut Vec<u8>) {
        array(out, "|u1", &[3, 1, 2], &[1, 4, 2, 5, 3, 6]);
    }

    fn state(out: &mut Vec<u8>) {
        let values: Vec<u8> = [0.5_f64, -1.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        array(out, "<f8", &[2], &values);
    }

    #[test]
    fn a_libero_observation_is_read() {
        let text = message(&[
            ("observation/image", &image),
            ("observation/wrist_image", &planes),
            ("observation/state", &state),
            ("prompt", &prompt),
        ]);
        let request = parse(&text, &SHAPE, &options(&[])).expect("a request");
        let frame = Frame::new(2, 1, vec![1, 2, 3, 4, 5, 6]).expect("full");
        assert_eq!(request.observation.views, [View::Present(frame.clone()), View::Present(frame)]);
        assert_eq!(request.observation.state, [0.5, -1.0]);
        assert_eq!(request.observation.instruction, "fold the towel");
    }

    #[test]
    fn cameras_choose_and_order_the_views() {
        let text = message(&[
            ("observation/wrist_image", &batch_of_one),
            ("observation/spare_image", &image),
            ("observation/image", &nothing),
            ("observation/joint_position", &state),
            ("observation/gripper_position", &gripper),
            ("prompt", &prompt),
        ]);
        let request = parse(&text, &SHAPE, &options(&["image", "wrist_image"])).expect("a request");
        let frame = Frame::new(2, 1, vec![1, 2, 3, 4, 5, 6]).expect("full");
        assert_eq!(request.observation.views, [View::Absent, View::Present(frame)]);
        assert_eq!(request.observation.state, [0.5, -1.0, 0.25], "a plain number is a part of the state");
    }

    #[test]
    fn an_observation_without_a_prompt_gets_the_one_that_the_server_has() {
        let told = ObservationOptions { prompt: Some("open the drawer".into()), ..options(&[]) };
        let instruction =
            |text: &[u8], options| parse(text, &SHAPE, options).map(|request| request.observation.instruction);
        let (without, with) = (message(&[("state", &state)]), message(&[("state", &state), ("prompt", &prompt)]));
        assert_eq!(instruction(&without, &told).expect("a request"), "open the drawer");
        assert_eq!(instruction(&with, &told).expect("a request"), "fold the towel");
        assert!(instruction(&without, &options(&[])).expect_err("none").message.contains("--prompt"));
    }

    #[test]
    fn a_state_may_be_in_half_precision() {
        let halves = |out: &mut Vec<u8>| array(out, "<f2", &[3], &[0x00, 0x3c, 0x00, 0xc1, 0xff, 0x7b]);
        let request = parse(&message(&[("state", &halves), ("prompt", &prompt)]), &SHAPE, &options(&[]));
        assert_eq!(request.expect("a request").observation.state, [1.0, -2.5, 65504.0]);
        let infinite = |out: &mut Vec<u8>| array(out, "<f2", &[1], &[0x00, 0x7c]);
        let error = parse(&message(&[("state", &infinite), ("prompt", &prompt)]), &SHAPE, &options(&[]));
        assert!(error.expect_err("infinite").message.contains("finite numbers, got inf"));
        let image = |out: &mut Vec<u8>| array(out, "<f2", &[1, 1, 3], &[0x00, 0x3c, 0x00, 0x38, 0x00, 0x00]);
        let text = message(&[("image", &image), ("state", &state), ("prompt", &prompt)]);
        let views = parse(&text, &SHAPE, &options(&[])).expect("a request").observation.views;
        assert_eq!(views, [View::Present(Frame::new(1, 1, vec![255, 127, 0]).expect("full"))]);
    }

    #[test]
    fn a_camera_that_is_lacking_is_no_black_picture() {
        let text = message(&[("observation/wrist_image", &image), ("state", &state), ("prompt", &prompt)]);
        let error = parse(&text, &SHAPE, &options(&["imagee", "wrist_image"])).expect_err("a misspelt name").message;
        assert!(error.contains("`imagee` is lacking: the policy's cameras are imagee, wrist_image"), "{error}");
        assert!(error.contains("those given are observation/wrist_image") && error.contains("--camera"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let nan = |out: &mut Vec<u8>| array(out, "<f4", &[1], &f32::NAN.to_le_bytes());
        let short = |out: &mut Vec<u8>| array(out, "|u1", &[4, 4, 3], &[0; 47]);
        let objects = |out: &mut Vec<u8>| array(out, "|O", &[1], &[0]);
        let two = |out: &mut Vec<u8>| array(out, "|u1", &[2, 1, 2, 3], &[0; 12]);
        let cases: [(Vec<u8>, &str); 7] = [
            (
                message(&[("prompt", &prompt), ("image", &two)]),
                "`image` must be an image of three dimensions, got shape [2, 1, 2, 3]",
            ),
            (message(&[("state", &state)]), "has no `prompt`"),
            (message(&[("prompt", &prompt)]), "has no `observation/state`"),
            (message(&[("prompt", &prompt), ("state", &nan)]), "`state` must be finite numbers, got NaN"),
            (message(&[("prompt", &prompt), ("image", &short)]), "has 47 bytes"),
            (message(&[("prompt", &prompt), ("state", &objects)]), "dtype"),
            (vec![0x01], "a request must be a map, got a number"),
        ];
        for (text, expected) in cases {
            let error = parse(&text, &SHAPE, &options(&[])).expect_err(expected);
            assert!(error.message.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_reply_can_be_read_back() {
        let chunk = ActionChunk::new(2, vec![1.0, 2.0, 3.0, 4.0]);
        let answer =
            Answer { normalized: chunk.clone(), chunk, times: Default::default(), queued: Duration::ZERO, batch: 1 };
        let bytes = reply(&answer, Duration::from_millis(5), Some(Duration::from_millis(7)));
        let Value::Map(entries) = decode(&bytes).expect("msgpack") else { panic!("a map") };
        let Value::Array(actions) = &entries[0].1 else { panic!("{entries:?}") };
        assert_eq!(
            (actions.shape.as_slice(), actions.floats().expect("floats")),
            (&[2, 2][..], vec![1.0, 2.0, 3.0, 4.0])
        );
    }
}
