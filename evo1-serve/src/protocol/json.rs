//! Evo-1's websocket JSON protocol: a message of the authors' clients, and what the server answers.
//!
//! Quirks of the authors' server that are kept because their clients count on them: the first and the third channel of
//! every image change places ([`JsonOptions::swaps_channels`]), an action is as wide as the model's, and the state is
//! normalised as long as it comes ([`evo1::Observation::state_is_padded`]).

use std::time::Duration;

use evo1::{ActionChunk, ActionWidth, FinishOptions, Frame, Observation, StatisticsKey, View};

use super::{
    Scaling, Shape, checked_instruction, scaled,
    scan::{ScanError, Scanner},
};
use crate::{Answer, Request, RequestError, RequestId, Rtc, client::CallOptions};

/// Images of a message, whatever the number of the model's views.
const WIRE_VIEWS: usize = 3;

/// Longest request id in bytes: it is sent back.
const MAX_ID: usize = 256;

/// How messages are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonOptions {
    /// The first and the third channel of every image change places: clients send BGR and the model sees RGB.
    pub swaps_channels: bool,
    /// Who scales frames.
    pub scaling: Scaling,
}

/// A message, read as far as it could be.
#[derive(Debug)]
pub struct Parsed {
    /// What the client calls the request, known even where the rest is in error.
    pub id: Option<RequestId>,
    /// The request.
    pub request: Result<Request, RequestError>,
}

/// Fields of a message as they come.
#[derive(Default)]
struct Fields {
    images: Option<Vec<Frame>>,
    image_mask: Option<Vec<bool>>,
    state: Option<Vec<f32>>,
    action_mask: Option<Vec<bool>>,
    prompt: Option<String>,
    arm_key: Option<String>,
    dataset_key: Option<String>,
    id: Option<RequestId>,
    seed: Option<u64>,
    steps: Option<u64>,
    embodiment: Option<u64>,
    deadline_ms: Option<u64>,
    smoothing: Option<f32>,
    rtc: Option<Rtc>,
}

/// Reads a message: the JSON object of a request.
pub fn parse(message: &[u8], shape: &Shape, options: JsonOptions) -> Parsed {
    let (mut fields, mut first_error) = (Fields::default(), None);
    let mut scanner = Scanner::new(message);
    let read = scanner.object(|scanner, key| {
        let start = scanner.position();
        match fields.read(key, scanner, shape, options) {
            Err(ScanError::Value(reason)) => {
                // Go on behind the field, because the request's id may follow.
                first_error.get_or_insert_with(|| format!("`{key}` must be {reason}"));
                scanner.seek(start);
                scanner.skip()
            }
            other => other,
        }
    });
    let read = read.and_then(|()| scanner.end());
    let id = fields.id.take();
    let request = match (read, first_error) {
        (Err(ScanError::Syntax { at, expected }), _) => {
            Err(RequestError::invalid(format!("not valid JSON: expected {expected} at byte {at}")))
        }
        (Err(ScanError::Value(reason)), _) => Err(RequestError::invalid(reason)),
        (Ok(()), Some(reason)) => Err(RequestError::invalid(reason)),
        (Ok(()), None) => fields.request(id.clone(), shape, options),
    };
    Parsed { id, request }
}

/// Puts a value in its place, which must still be empty.
fn put<T>(place: &mut Option<T>, value: T) -> Result<(), ScanError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(ScanError::Value("given once".into())),
    }
}

impl Fields {
    fn read(
        &mut self,
        key: &str,
        scanner: &mut Scanner<'_>,
        shape: &Shape,
        options: JsonOptions,
    ) -> Result<(), ScanError> {
        match key {
            "image" => put(&mut self.images, images(scanner, options.swaps_channels)?),
            "image_mask" => put(&mut self.image_mask, mask(scanner, WIRE_VIEWS.max(shape.views))?),
            "action_mask" => put(&mut self.action_mask, mask(scanner, shape.action * shape.horizon)?),
            "state" => put(&mut self.state, state(scanner, shape.state)?),
            "prompt" => put(&mut self.prompt, text(scanner)?),
            "arm_key" => optional(scanner, text, &mut self.arm_key),
            "dataset_key" => optional(scanner, text, &mut self.dataset_key),
            "request_id" => optional(scanner, request_id, &mut self.id),
            "seed" => optional(scanner, Scanner::integer, &mut self.seed),
            "steps" => optional(scanner, Scanner::integer, &mut self.steps),
            "embodiment" => optional(scanner, Scanner::integer, &mut self.embodiment),
            "deadline_ms" => optional(scanner, Scanner::integer, &mut self.deadline_ms),
            "smoothing" => optional(scanner, Scanner::float, &mut self.smoothing),
            "rtc" => optional(scanner, rtc, &mut self.rtc),
            // The authors' server looks at no other field either.
            _ => scanner.skip(),
        }
    }

    fn request(self, id: Option<RequestId>, shape: &Shape, options: JsonOptions) -> Result<Request, RequestError> {
        let missing = |field: &str| RequestError::invalid(format!("the field `{field}` is missing"));
        let images = self.images.ok_or_else(|| missing("image"))?;
        let image_mask = self.image_mask.ok_or_else(|| missing("image_mask"))?;
        let state = self.state.ok_or_else(|| missing("state"))?;
        let action_mask = self.action_mask.ok_or_else(|| missing("action_mask"))?;
        let instruction = checked_instruction(self.prompt.ok_or_else(|| missing("prompt"))?)?;
        if action_mask.len() != shape.action && action_mask.len() != shape.action * shape.horizon {
            return Err(RequestError::invalid(format!(
                "`action_mask` must have {} values, or {} for every step of the chunk, got {}",
                shape.action,
                shape.action * shape.horizon,
                action_mask.len()
            )));
        }
        Ok(Request {
            observation: Observation {
                views: views(images, &image_mask, shape, options.scaling)?,
                state,
                state_is_padded: true,
                instruction,
                embodiment: self.embodiment.map(|id| usize::try_from(id).unwrap_or(usize::MAX)),
                statistics: StatisticsKey { arm: self.arm_key, dataset: self.dataset_key },
                action_mask: Some(action_mask),
            },
            seed: self.seed,
            number: 0,
            steps: self.steps.map(|steps| usize::try_from(steps).unwrap_or(usize::MAX)),
            rtc: self.rtc,
            guidance: None,
            finish: FinishOptions { width: ActionWidth::Padded, smoothing: self.smoothing },
            deadline: self.deadline_ms.map(Duration::from_millis),
            id,
        })
    }
}

/// Views of the images and their mask. Images past the model's views must be masked.
fn views(images: Vec<Frame>, mask: &[bool], shape: &Shape, scaling: Scaling) -> Result<Vec<View>, RequestError> {
    let invalid = |message: String| Err(RequestError::invalid(message));
    if images.len() != WIRE_VIEWS && images.len() != shape.views {
        return invalid(format!("`image` must be a list of {WIRE_VIEWS} images, got {}", images.len()));
    }
    if mask.len() != images.len() {
        return invalid(format!(
            "`image_mask` must have a value for each of {} images, got {}",
            images.len(),
            mask.len()
        ));
    }
    if let Some(surplus) = mask.iter().enumerate().skip(shape.views).find_map(|(view, shown)| shown.then_some(view)) {
        return invalid(format!("`image_mask` shows image {surplus}, but the policy has {} views", shape.views));
    }
    let view = |(frame, &shown): (Frame, &bool)| {
        let frame = scaled(frame, shape, scaling);
        if shown { View::Present(frame) } else { View::Masked(frame) }
    };
    Ok(images.into_iter().zip(mask).take(shape.views).map(view).collect())
}

/// A field that Python clients may also send as `None`.
fn optional<'a, T>(
    scanner: &mut Scanner<'a>,
    read: impl FnOnce(&mut Scanner<'a>) -> Result<T, ScanError>,
    place: &mut Option<T>,
) -> Result<(), ScanError> {
    if scanner.next_byte() == b'n' {
        return scanner.skip();
    }
    put(place, read(scanner)?)
}

fn images(scanner: &mut Scanner<'_>, swaps_channels: bool) -> Result<Vec<Frame>, ScanError> {
    if scanner.next_byte() != b'[' {
        return scanner.wrong("a list of images");
    }
    let mut images = Vec::new();
    scanner.array(|scanner| {
        if images.len() >= WIRE_VIEWS {
            return Err(ScanError::Value(format!("a list of {WIRE_VIEWS} images, got more")));
        }
        let pixels = scanner.image(swaps_channels)?;
        let frame = Frame::new(pixels.width, pixels.height, pixels.values);
        images.push(frame.map_err(|error| ScanError::Value(error.to_string()))?);
        Ok(())
    })?;
    Ok(images)
}

/// A mask of at most `most` values, in lists up to three deep: the authors' server wraps it in one more.
fn mask(scanner: &mut Scanner<'_>, most: usize) -> Result<Vec<bool>, ScanError> {
    let mut values = Vec::new();
    list(scanner, 3, most, &mut values, Scanner::flag)?;
    Ok(values)
}

fn state(scanner: &mut Scanner<'_>, most: usize) -> Result<Vec<f32>, ScanError> {
    let mut values = Vec::new();
    list(scanner, 2, most, &mut values, Scanner::float)?;
    Ok(values)
}

fn list<'a, T>(
    scanner: &mut Scanner<'a>,
    depth: usize,
    most: usize,
    values: &mut Vec<T>,
    read: impl Fn(&mut Scanner<'a>) -> Result<T, ScanError>,
) -> Result<(), ScanError> {
    if scanner.next_byte() != b'[' {
        return scanner.wrong("a list");
    }
    scanner.nested(depth, &mut |scanner| {
        if values.len() == most {
            return Err(ScanError::Value(format!("a list of at most {most} values, got more")));
        }
        values.push(read(scanner)?);
        Ok(())
    })
}

fn text(scanner: &mut Scanner<'_>) -> Result<String, ScanError> {
    if scanner.next_byte() == b'"' { scanner.string() } else { scanner.wrong("a string") }
}

fn request_id(scanner: &mut Scanner<'_>) -> Result<RequestId, ScanError> {
    match scanner.next_byte() {
        b'"' => match scanner.string()? {
            text if text.len() <= MAX_ID => Ok(RequestId::Text(text)),
            text => Err(ScanError::Value(format!("at most {MAX_ID} bytes, got {}", text.len()))),
        },
        b'0'..=b'9' => scanner.integer().map(RequestId::Number),
        _ => scanner.wrong("a string or a whole number"),
    }
}

fn rtc(scanner: &mut Scanner<'_>) -> Result<Rtc, ScanError> {
    let text = scanner.raw()?;
    serde_json::from_slice(text).map_err(|error| ScanError::Value(format!("guidance to the reply before: {error}")))
}

/// The reply to a request: a list of actions, nothing around it.
///
/// Numbers have as many digits as tell single-precision numbers apart.
pub fn reply(chunk: &ActionChunk) -> String {
    serde_json::to_string(&chunk.steps().collect::<Vec<_>>()).unwrap_or_default()
}

/// The reply for a connection that asked for objects (`?reply=object`).
pub fn reply_object(answer: &Answer, id: Option<&RequestId>, total: Duration) -> String {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let mut timing: serde_json::Map<String, serde_json::Value> =
        answer.times.stages().into_iter().map(|(name, time)| (name.into(), milliseconds(time).into())).collect();
    timing.insert("queue".into(), milliseconds(answer.queued).into());
    timing.insert("total".into(), milliseconds(total).into());
    serde_json::json!({
        "request_id": id,
        "actions": answer.chunk.steps().collect::<Vec<_>>(),
        "batch": answer.batch,
        "milliseconds": timing,
    })
    .to_string()
}

/// The error object for a client that can read it.
pub fn error_object(error: &RequestError, id: Option<&RequestId>) -> String {
    serde_json::json!({
        "request_id": id,
        "error": { "kind": error.kind.name(), "message": error.message },
    })
    .to_string()
}

/// How a client writes observations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireOptions {
    /// Frames are sent as BGR, because the server swaps the channels.
    pub swaps_channels: bool,
    /// Padded width of an action.
    pub max_action_dim: usize,
    /// Values of the robot's actions, for observations without an action mask; all columns are real when `None`.
    pub action_dim: Option<usize>,
}

impl Default for WireOptions {
    /// What the authors' server expects.
    fn default() -> Self {
        Self { swaps_channels: true, max_action_dim: 24, action_dim: None }
    }
}

/// The message of an observation, as the authors' clients write it. Every column of its actions is real where neither it
/// nor `options` say which are.
pub fn encode(observation: &Observation, call: &CallOptions, options: &WireOptions) -> String {
    let blank = Frame::black(1, 1);
    let mut text = String::from("{\"image\": [");
    let views = (0..WIRE_VIEWS.max(observation.views.len())).map(|view| observation.views.get(view));
    let mut image_mask = Vec::new();
    for view in views {
        if !image_mask.is_empty() {
            text.push_str(", ");
        }
        image_mask.push(u8::from(view.is_some_and(View::is_present)));
        encode_image(&mut text, view.and_then(View::frame).unwrap_or(&blank), options.swaps_channels);
    }
    let action_mask: Vec<u8> = match &observation.action_mask {
        Some(mask) => {
            let padding = options.max_action_dim.saturating_sub(mask.len());
            mask.iter().map(|&real| u8::from(real)).chain(std::iter::repeat_n(0, padding)).collect()
        }
        None => {
            let real = options.action_dim.unwrap_or(options.max_action_dim);
            (0..options.max_action_dim).map(|column| u8::from(column < real)).collect()
        }
    };
    text.push_str("], ");
    let fields = serde_json::json!({
        "state": observation.state,
        "prompt": observation.instruction,
        "image_mask": image_mask,
        "action_mask": action_mask,
        "arm_key": observation.statistics.arm,
        "dataset_key": observation.statistics.dataset,
        "embodiment": observation.embodiment,
        "seed": call.seed,
        "steps": call.steps,
        "deadline_ms": call.deadline.map(|deadline| deadline.as_millis() as u64),
        "smoothing": call.smoothing,
        "rtc": call.rtc,
        "request_id": call.request_id,
    });
    let members = fields.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    text.push_str(&members.map(|(name, value)| format!("\"{name}\": {value}")).collect::<Vec<_>>().join(", "));
    text.push('}');
    text
}

fn encode_image(text: &mut String, frame: &Frame, swaps_channels: bool) {
    let levels: Vec<String> = (0..256).map(|level| level.to_string()).collect();
    let level = |value: u8| levels[usize::from(value)].as_str();
    text.push('[');
    for (y, row) in frame.rgb().chunks_exact(3 * frame.width()).enumerate() {
        text.push_str(if y == 0 { "[" } else { ", [" });
        for (x, pixel) in row.chunks_exact(3).enumerate() {
            let [first, second, third] = if swaps_channels { [2, 1, 0] } else { [0, 1, 2] };
            text.push_str(if x == 0 { "[" } else { ", [" });
            for (channel, end) in [(first, ", "), (second, ", "), (third, "]")] {
                text.push_str(level(pixel[channel]));
                text.push_str(end);
            }
        }
        text.push(']');
    }
    text.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    const SHAPE: Shape = Shape { views: 3, image_size: 2, state: 24, action: 24, horizon: 50 };
    const OPTIONS: JsonOptions = JsonOptions { swaps_channels: true, scaling: Scaling::OpenCv };
    const IMAGE: &str = "[[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]]";

    /// A Meta-World client's message with some of its fields replaced.
    fn message(changes: &[(&str, &str)]) -> String {
        let mask = format!(
            "[{}]",
            ["1", "1", "1", "1"].into_iter().chain([(); 20].map(|()| "0")).collect::<Vec<_>>().join(", ")
        );
        let image = format!("[{IMAGE}, {IMAGE}, {IMAGE}]");
        let mut fields = vec![
            ("image", image.as_str()),
            ("state", "[0.5, -1, 2e-1, 0]"),
            ("prompt", "\"open \\u0064oor\""),
            ("image_mask", "[1, 0, 0]"),
            ("action_mask", mask.as_str()),
        ];
        for &(name, value) in changes {
            fields.retain(|(field, _)| *field != name);
            fields.push((name, value));
        }
        let members: Vec<String> = fields
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("\"{name}\": {value}"))
            .collect();
        format!("{{{}}}", members.join(", "))
    }

    fn parsed(changes: &[(&str, &str)]) -> Parsed {
        parse(message(changes).as_bytes(), &SHAPE, OPTIONS)
    }

    fn read(changes: &[(&str, &str)]) -> Request {
        parsed(changes).request.expect("a request")
    }

    #[test]
    fn a_request_is_read_as_the_authors_server_reads_it() {
        let observation = read(&[]).observation;
        let [View::Present(frame), View::Masked(_), View::Masked(_)] = observation.views.as_slice() else {
            panic!("{:?}", observation.views)
        };
        assert_eq!(frame.rgb(), [3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10], "channels are swapped");
        assert_eq!(observation.state, [0.5, -1.0, 0.2, 0.0]);
        assert_eq!(observation.instruction, "open door");
        assert_eq!(observation.action_mask.expect("mask").iter().filter(|real| **real).count(), 4);
        assert_eq!(observation.statistics, StatisticsKey::default());
    }

    #[test]
    fn the_swap_can_be_switched_off() {
        let options = JsonOptions { swaps_channels: false, ..OPTIONS };
        let request = parse(message(&[]).as_bytes(), &SHAPE, options).request.expect("a request");
        let frame = request.observation.views[0].frame().expect("frame").clone();
        assert_eq!(frame.rgb()[..6], [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn every_form_of_a_mask_and_state_is_the_same_request() {
        let flat = read(&[]);
        let ones = |count: usize| vec!["1"; count].join(",") + "," + &vec!["0"; 24 - count].join(",");
        for mask in [format!("[[{}]]", ones(4)), format!("[[[{}]]]", ones(4))] {
            assert_eq!(read(&[("action_mask", &mask)]), flat);
        }
        assert_eq!(read(&[("image_mask", "[[1, 0, 0]]"), ("state", "[[0.5, -1, 2e-1, 0]]")]), flat);
        assert_eq!(read(&[("image_mask", "[true, false, 0.0]")]), flat);
        let every_step = format!("[{}]", vec![ones(4); 50].join(","));
        for mask in [
            every_step.clone(),
            format!("[{every_step}]"),
            format!("[{}]", vec![format!("[{}]", ones(4)); 50].join(",")),
        ] {
            assert_eq!(read(&[("action_mask", &mask)]).observation.action_mask.expect("mask").len(), 1200);
        }
    }

    #[test]
    fn keys_and_extensions_are_read() {
        let request = read(&[
            ("arm_key", "\"aloha_joint\""),
            ("dataset_key", "null"),
            ("seed", "7"),
            ("steps", "4"),
            ("deadline_ms", "250"),
            ("request_id", "\"a\""),
            ("camera", "{\"x\": [1, NaN, {}]}"),
        ]);
        assert_eq!(request.observation.statistics.arm.as_deref(), Some("aloha_joint"));
        assert_eq!(request.observation.statistics.dataset, None);
        assert_eq!((request.seed, request.steps), (Some(7), Some(4)));
        assert_eq!(request.deadline, Some(Duration::from_millis(250)));
        assert_eq!(request.id, Some(RequestId::Text("a".into())));
    }

    #[test]
    fn what_is_wrong_is_named_and_the_id_is_known_all_the_same() {
        let long_state = format!("[{}]", ["0"; 25].join(","));
        let four = format!("[{IMAGE}, {IMAGE}, {IMAGE}, {IMAGE}]");
        let two = format!("[{IMAGE}, {IMAGE}]");
        let cases: [(&[(&str, &str)], &str); 14] = [
            (&[("state", "")], "the field `state` is missing"),
            (&[("image", "")], "the field `image` is missing"),
            (&[("state", "[NaN]")], "`state` must be not a finite number"),
            (&[("state", "[1e60]")], "`state` must be a number that single precision can hold, got 1e60"),
            (&[("state", &long_state)], "`state` must be a list of at most 24 values, got more"),
            (&[("state", "[[[0]]]")], "`state` must be a flatter list, got a list"),
            (&[("state", "0")], "`state` must be a list, got a number"),
            (&[("prompt", "5")], "`prompt` must be a string, got a number"),
            (&[("image", &four)], "a list of 3 images, got more"),
            (&[("image", &two)], "`image` must be a list of 3 images, got 2"),
            (&[("image_mask", "[1, 2, 0]")], "`image_mask` must be 0 or 1, got 2"),
            (&[("image_mask", "[1, 0]")], "`image_mask` must have a value for each of 3 images, got 2"),
            (&[("action_mask", "[1, 0]")], "`action_mask` must have 24 values, or 1200"),
            (&[("seed", "-1")], "`seed` must be a whole number that is not negative, got -1"),
        ];
        for (changes, expected) in cases {
            let parsed = parsed(&[changes, &[("request_id", "12")]].concat());
            let error = parsed.request.expect_err(expected);
            assert!(error.message.contains(expected), "{expected}: {error}");
            assert_eq!(error.kind, ErrorKind::InvalidRequest);
            assert_eq!(parsed.id, Some(RequestId::Number(12)), "{expected}");
        }
        let broken = parse(b"{\"request_id\": 3, \"image\": [[[1", &SHAPE, OPTIONS);
        assert_eq!(broken.id, Some(RequestId::Number(3)));
        assert!(broken.request.expect_err("cut").message.starts_with("not valid JSON"));
        assert!(parse(b"[1]", &SHAPE, OPTIONS).request.is_err());
        let twice = message(&[]).replacen('{', "{\"prompt\": \"x\", ", 1);
        let error = parse(twice.as_bytes(), &SHAPE, OPTIONS).request.expect_err("twice");
        assert_eq!(error.message, "`prompt` must be given once");
    }

    #[test]
    fn what_a_client_encodes_is_what_the_server_reads() {
        let frame =
            |seed: u8| Frame::new(2, 2, (0..12).map(|i| seed.wrapping_mul(37) ^ (i * 21)).collect()).expect("full");
        let observation = Observation {
            views: vec![View::Present(frame(1)), View::Masked(frame(2)), View::Present(frame(3))],
            state: vec![0.1, -2.5e-7, 3.0],
            instruction: "say \"ä\"\n".into(),
            embodiment: Some(2),
            statistics: StatisticsKey { arm: Some("arm".into()), dataset: None },
            state_is_padded: true,
            action_mask: Some((0..24).map(|column| column % 3 == 0).collect()),
        };
        let rtc = Rtc { executed: 3, delay: 1, config: Default::default() };
        let call = CallOptions {
            seed: Some(u64::MAX),
            steps: Some(3),
            deadline: Some(Duration::from_millis(20)),
            smoothing: Some(1.5),
            rtc: Some(rtc),
            request_id: Some(RequestId::Text("a \"name\"".into())),
        };
        let text = encode(&observation, &call, &WireOptions::default());
        let request = parse(text.as_bytes(), &SHAPE, OPTIONS).request.expect("a request");
        assert_eq!(request.observation, observation);
        assert_eq!((request.seed, request.steps, request.deadline), (call.seed, call.steps, call.deadline));
        assert_eq!((request.finish.smoothing, request.rtc), (call.smoothing, call.rtc));
        assert_eq!(request.id, call.request_id);
    }

    #[test]
    fn a_policy_of_fewer_views_takes_three_images_if_the_others_are_masked() {
        let shape = Shape { views: 1, ..SHAPE };
        let request = |mask: &str| parse(message(&[("image_mask", mask)]).as_bytes(), &shape, OPTIONS).request;
        assert_eq!(request("[1, 0, 0]").expect("one").observation.views.len(), 1);
        let error = request("[1, 1, 0]").expect_err("two");
        assert_eq!(error.message, "`image_mask` shows image 1, but the policy has 1 views");
    }

    #[test]
    fn a_reply_is_a_bare_list_that_reads_back_to_the_bit() {
        let values = vec![5e-9, -0.1, 1.0, f32::MIN_POSITIVE, 1234.5677, f32::MAX];
        let text = reply(&ActionChunk::new(2, values.clone()));
        let back: Vec<Vec<f32>> = serde_json::from_str(&text).expect("a list of lists");
        assert_eq!((back.len(), back.concat()), (3, values));
    }

    #[test]
    fn images_of_any_size_are_scaled_to_the_models() {
        let row = format!("[{}]", ["[9, 9, 9]"; 7].join(", "));
        let image = format!("[{}]", vec![row; 5].join(", "));
        let request = read(&[("image", &format!("[{image}, {IMAGE}, {image}]"))]);
        assert!(request.observation.views.iter().filter_map(View::frame).all(|f| (f.width(), f.height()) == (2, 2)));
        let options = JsonOptions { scaling: Scaling::Policy, ..OPTIONS };
        let text = message(&[("image", &format!("[{image}, {IMAGE}, {image}]"))]);
        let request = parse(text.as_bytes(), &SHAPE, options).request.expect("a request");
        assert_eq!(request.observation.views[0].frame().map(Frame::width), Some(7));
    }
}
