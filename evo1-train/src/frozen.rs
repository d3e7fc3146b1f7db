//! What a frozen vision-language model makes of each sample, kept on disk.
//!
//! A sample is known by its content, the SHA-256 sum of its pixels and tokens, and lies in a file of its own below a
//! folder that is named after the frozen weights, what of the policy's configuration they are used by, the number type
//! of the computation and the version of this crate: other data, weights or settings find nothing that is not theirs.
//! Frames are read and prepared for every step nevertheless, because they are what a sample is known by.
//!
//! Every sample is computed by itself, whatever else is in its batch. On the CPU that changes no bit, on other devices
//! what rounding does.
//!
//! Files appear whole, whenever the process is killed, and hold the sum of what was written: one that was damaged since is
//! made anew, with a warning that names it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{DType, Device, Tensor, TensorData},
};
use evo1::{
    Components, Context, CoreError, HostInputs, Policy, Preparer, Trace, VelocityModel, VisionLanguageModel,
    config::{ContextScope, PolicyConfig},
    cost::Workload,
    device::read,
    files::hexadecimal,
    vlm::{TokenBatch, frame::Pixels},
    weights::{WeightFile, write_safetensors},
};
use sha2::{Digest, Sha256};

use crate::{Error, Result, TrainedParts};

/// The names that a file has for its tensors: the fused tokens, the outputs of single layers, the sum of all of them.
const TOKENS: &str = "tokens";
const LAYER: &str = "layer.";
const SUM: &str = "sha256";

/// Fails where outputs of the vision-language model are to be kept although it is trained.
pub(crate) fn check_is_frozen(trained: &TrainedParts) -> Result<()> {
    let part = match (trained.vision, trained.language) {
        (false, false) => return Ok(()),
        (true, false) => "the vision tower with the projector is",
        (false, true) => "the language model is",
        (true, true) => "vision tower, projector and language model are",
    };
    let expected = "false where the vision-language model is trained";
    Err(Error::config("cache_frozen", expected, format!("true, and {part}")))
}

/// The outputs of a frozen vision-language model.
pub(crate) struct FrozenOutputs {
    folder: PathBuf,
    fingerprint: Vec<u8>,
    /// Held while an output is written: devices may be given the same sample at a time.
    room: Mutex<Room>,
}

/// What may still be written.
struct Room {
    /// Bytes; without end where it is `None`.
    left: Option<u64>,
    /// Whether an output was not written, which is said once.
    is_told: bool,
}

/// One sample's fused tokens and the outputs of single layers, each `[1, tokens, embed]`.
struct Output {
    tokens: Tensor<3>,
    layers: Vec<Tensor<3>>,
}

impl FrozenOutputs {
    /// The outputs below `folder` of a policy's vision-language model, computed in `compute`, to which `room` bytes may be
    /// added.
    pub(crate) fn open<C: Components>(
        folder: &Path,
        policy: &Policy<C>,
        compute: DType,
        room: Option<u64>,
    ) -> Result<Self> {
        let mut sum = Sum(Sha256::new());
        policy.network.vlm.visit(&mut sum);
        let config = &policy.config;
        let layers = policy.network.action.language_layers(config.vlm.language.num_layers);
        let layers = layers.map_err(evo1::Error::from)?;
        let used = (&config.vlm, &config.semantics, layers, policy.tokenizer.image_context());
        sum.0.update(serde_json::to_vec(&used).expect("a configuration is JSON"));
        sum.0.update(compute.name());
        sum.0.update(env!("CARGO_PKG_VERSION"));
        let fingerprint = sum.0.finalize().to_vec();
        let folder = folder.join(hexadecimal(&fingerprint[..8]));
        fs::create_dir_all(&folder).map_err(|reason| CoreError::io("create", &folder, reason))?;
        Ok(Self { folder, fingerprint, room: Mutex::new(Room { left: room, is_told: false }) })
    }

    /// The context of a batch: of each sample as it was kept, or computed by itself and kept now. `vlm` is looked at only
    /// for what is computed.
    pub(crate) fn context<'a, C: Components>(
        &self,
        vlm: &impl Fn() -> &'a C::Vlm,
        policy: &Policy<C>,
        inputs: &HostInputs,
        preparer: &Preparer,
    ) -> Result<Context> {
        let (config, image_token) = (&policy.config, policy.tokenizer.image_context());
        let [samples, length] = inputs.tokens.dims();
        let ends = match config.semantics.context_scope {
            // What follows is padding to the longest prompt of the batch, which the action expert does not see.
            ContextScope::ValidTokens => inputs.tokens.last_visible().into_iter().map(|last| last + 1).collect(),
            _ => vec![length; samples],
        };
        let mut first_tile = 0;
        let mut outputs = Vec::with_capacity(samples);
        for (row, end) in ends.into_iter().enumerate() {
            let tokens = inputs.tokens.sample(row, end);
            let of_images = tokens.ids()[0].iter().filter(|&&id| id == image_token).count();
            let tiles = of_images / config.vlm.tokens_per_tile();
            let available = inputs.pixels.tiles(config.vlm.image_size);
            let pixels =
                inputs.pixels.tile_range(first_tile..(first_tile + tiles).min(available), config.vlm.image_size);
            first_tile += tiles;
            outputs.push(self.output(vlm, policy, pixels, &tokens, preparer)?);
        }
        let width = policy.network.vlm.context_len(length);
        let layers = outputs[0].layers.len();
        let joined = |of: &dyn Fn(&Output) -> Tensor<3>| {
            Tensor::cat(outputs.iter().map(|output| padded(of(output), width)).collect(), 0)
        };
        let tokens = joined(&|output| output.tokens.clone());
        let layers = (0..layers).map(|layer| joined(&|output| output.layers[layer].clone())).collect();
        let hidden = policy.network.vlm.hidden_tokens(&inputs.tokens, &config.semantics, &tokens.device());
        Ok(Context { tokens, layers, hidden })
    }

    /// One sample's output.
    fn output<'a, C: Components>(
        &self,
        vlm: &impl Fn() -> &'a C::Vlm,
        policy: &Policy<C>,
        pixels: Pixels,
        tokens: &TokenBatch,
        preparer: &Preparer,
    ) -> Result<Output> {
        let mut sum = Sha256::new_with_prefix(&self.fingerprint);
        sum.update(pixels.bytes());
        sum.update(format!("{tokens:?}"));
        let name = hexadecimal(&sum.finalize());
        // A folder of a few hundred files each, for the sake of those who list them.
        let path = self.folder.join(&name[..2]).join(format!("{name}.safetensors"));
        if path.is_file() {
            match Output::read(&path, &name, &preparer.device) {
                Ok(output) => return Ok(output),
                Err(error) => tracing::warn!("computed again: {error}"),
            }
        }
        let (vlm, trace) = (vlm(), &mut Trace::off());
        let visual = preparer.place_pixels(pixels).map(|pixels| vlm.visual_tokens(pixels, trace));
        let (image_token, semantics) = (policy.tokenizer.image_context(), &policy.config.semantics);
        let context = vlm.forward(visual, tokens, image_token, semantics, trace).map_err(evo1::Error::from)?;
        let output = Output { tokens: context.tokens, layers: context.layers };
        self.keep(&output, &path, &name);
        Ok(output)
    }

    /// Writes an output. Without room the run goes on, at the speed that it would have had.
    fn keep(&self, output: &Output, path: &Path, name: &str) {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let size = output.bytes();
        let failure = match room.left {
            Some(left) if size > left => Some(format!("`cache_mb` leaves no room in {}", self.folder.display())),
            _ => output.write(path, name).err().map(|error| error.to_string()),
        };
        match failure {
            None => room.left = room.left.map(|left| left - size),
            Some(_) if room.is_told => {}
            Some(failure) => {
                room.is_told = true;
                tracing::warn!("an output of the frozen model is not kept, nor are others: {failure}");
            }
        }
    }
}

/// Bytes of a file beside its tensors: their names, and the sum.
const BESIDE_TENSORS: u64 = 512;

/// Bytes that outputs of a policy's frozen model take, for each observation: of a prompt of usual length.
pub(crate) fn expected_bytes<C: Components>(policy: &Policy<C>, compute: DType) -> u64 {
    let PolicyConfig { vlm, .. } = &policy.config;
    let tokens = policy.network.vlm.context_len(Workload::of(&policy.config).tokens);
    let layers = policy.network.action.language_layers(vlm.language.num_layers).map_or(0, |layers| layers.len());
    ((1 + layers) * tokens * vlm.language.hidden_size * compute.size()) as u64 + BESIDE_TENSORS
}

/// Bytes of all files below a folder.
pub(crate) fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(about) if about.is_dir() => bytes_below(&entry.path()),
        Ok(about) => about.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

impl Output {
    /// Reads what was written for the sample `name`.
    fn read(path: &Path, name: &str, device: &Device) -> Result<Self> {
        let file = WeightFile::open(path)?;
        let tensors = file.names().filter(|&tensor| tensor != SUM);
        let tensors = tensors.map(|tensor| Ok((tensor.to_owned(), file.read(tensor)?)));
        let mut tensors = tensors.collect::<Result<BTreeMap<_, _>, CoreError>>()?;
        let is_whole = file.read(SUM)?.as_bytes() == sum_of(name, &tensors);
        // Without its number type burn would make it the device's own.
        let tensor_of = |data: TensorData| {
            let dtype = data.dtype();
            Tensor::from_data(data, (device, dtype))
        };
        let mut tensor = |name: &str| tensors.remove(name).map(tensor_of);
        match tensor(TOKENS).filter(|_| is_whole) {
            Some(tokens) => Ok(Self { tokens, layers: (0..).map_while(|at| tensor(&layer_name(at))).collect() }),
            None => Err(CoreError::io("read", path, io::Error::other("it is not what was written")).into()),
        }
    }

    /// Bytes of its file.
    fn bytes(&self) -> u64 {
        let tensors = [&self.tokens].into_iter().chain(&self.layers);
        let bytes = tensors.map(|tensor| tensor.shape().num_elements() * tensor.dtype().size()).sum::<usize>();
        bytes as u64 + BESIDE_TENSORS
    }

    fn write(&self, path: &Path, name: &str) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|reason| CoreError::io("create", folder, reason))?;
        }
        let mut tensors = BTreeMap::from([(TOKENS.to_owned(), read(self.tokens.clone())?)]);
        for (at, layer) in self.layers.iter().enumerate() {
            tensors.insert(layer_name(at), read(layer.clone())?);
        }
        let sum = sum_of(name, &tensors);
        tensors.insert(SUM.to_owned(), TensorData::new(sum.clone(), [sum.len()]));
        Ok(write_safetensors(path, &tensors)?)
    }
}

fn layer_name(at: usize) -> String {
    format!("{LAYER}{at}")
}

/// The sum of a sample's name and its tensors with their number types and shapes.
fn sum_of(name: &str, tensors: &BTreeMap<String, TensorData>) -> Vec<u8> {
    let mut sum = Sha256::new_with_prefix(name);
    for (name, data) in tensors {
        sum.update(format!("{name} {} {:?}", data.dtype().name(), data.shape().as_slice()));
        sum.update(data.as_bytes());
    }
    sum.finalize().to_vec()
}

/// `[1, tokens, embed]` with zeros up to `width` tokens.
fn padded(tokens: Tensor<3>, width: usize) -> Tensor<3> {
    let [_, count, embed] = tokens.dims();
    if count >= width {
        return tokens;
    }
    let rest = Tensor::zeros([1, width - count, embed], (&tokens.device(), tokens.dtype()));
    Tensor::cat(vec![tokens, rest], 1)
}

/// The sum of all weights of a module.
struct Sum(Sha256);

impl ModuleVisitor for Sum {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.update(param.val().to_data().as_bytes());
    }
}
