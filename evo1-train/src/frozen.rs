//! What a frozen vision-language model makes of each sample, kept on disk.
//!
//! A sample is known by its content, the SHA-256 sum of its pixels and tokens, and lies in a file of its own below a
//! folder that is named after the frozen weights, the policy's configuration and the number type of the computation:
//! other data, weights or settings find nothing that is not theirs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{DType, Tensor},
};
use evo1::{
    Context, CoreError, Inputs, Policy, Trace,
    config::ContextScope,
    vlm::{InternVl, TokenBatch},
    weights::{WeightFile, write_safetensors},
};
use sha2::{Digest, Sha256};

use crate::Result;

/// The names that a file has for its tensors: the fused tokens, then the outputs of single layers.
const TOKENS: &str = "tokens";
const LAYER: &str = "layer.";

/// The outputs of a frozen vision-language model.
pub(crate) struct FrozenOutputs {
    folder: PathBuf,
    fingerprint: Vec<u8>,
    /// Whether an output could not be written, which is said once.
    is_full: AtomicBool,
}

/// One sample's fused tokens and the outputs of single layers, each `[1, tokens, embed]`.
struct Output {
    tokens: Tensor<3>,
    layers: Vec<Tensor<3>>,
}

impl FrozenOutputs {
    /// The outputs below `folder` of a policy's vision-language model, computed in `compute`.
    pub(crate) fn open(folder: &Path, policy: &Policy, compute: DType) -> Result<Self> {
        let mut sum = Sum(Sha256::new());
        policy.network.vlm.visit(&mut sum);
        sum.0.update(serde_json::to_vec(&policy.config).expect("a configuration is JSON"));
        sum.0.update(compute.name());
        let fingerprint = sum.0.finalize().to_vec();
        let folder = folder.join(hexadecimal(&fingerprint[..8]));
        fs::create_dir_all(&folder).map_err(|reason| CoreError::io("create", &folder, reason))?;
        Ok(Self { folder, fingerprint, is_full: AtomicBool::new(false) })
    }

    /// The context of a batch: of each sample as it was kept, or computed by itself and kept now.
    pub(crate) fn context(&self, vlm: &InternVl, policy: &Policy, inputs: &Inputs) -> Result<Context> {
        let (config, image_token) = (&policy.config, policy.tokenizer.image_context());
        let [samples, length] = inputs.tokens.dims();
        let ends = match config.semantics.context_scope {
            // What follows is padding to the longest prompt of the batch, which the action expert does not see.
            ContextScope::ValidTokens => inputs.tokens.last_valid().into_iter().map(|last| last + 1).collect(),
            _ => vec![length; samples],
        };
        let mut first_tile = 0;
        let mut outputs = Vec::with_capacity(samples);
        for (row, end) in ends.into_iter().enumerate() {
            let tokens = inputs.tokens.sample(row, end);
            let of_images = tokens.ids()[0].iter().filter(|&&id| id == image_token).count();
            let tiles = of_images / config.vlm.tokens_per_tile();
            let pixels = inputs.pixels.clone().filter(|_| tiles > 0);
            let pixels = pixels.map(|pixels| pixels.narrow(0, first_tile, tiles));
            first_tile += tiles;
            outputs.push(self.output(vlm, policy, pixels, &tokens)?);
        }
        let width = if config.vlm.return_cls_only { 1 } else { length };
        let layers = outputs[0].layers.len();
        let joined = |of: &dyn Fn(&Output) -> Tensor<3>| {
            Tensor::cat(outputs.iter().map(|output| padded(of(output), width)).collect(), 0)
        };
        let tokens = joined(&|output| output.tokens.clone());
        let layers = (0..layers).map(|layer| joined(&|output| output.layers[layer].clone())).collect();
        let hidden = vlm.hidden_tokens(&inputs.tokens, &config.semantics, &tokens.device());
        Ok(Context { tokens, layers, hidden })
    }

    /// One sample's output.
    fn output(
        &self,
        vlm: &InternVl,
        policy: &Policy,
        pixels: Option<Tensor<4>>,
        tokens: &TokenBatch,
    ) -> Result<Output> {
        let mut sum = Sha256::new_with_prefix(&self.fingerprint);
        if let Some(pixels) = &pixels {
            sum.update(pixels.to_data().as_bytes());
        }
        sum.update(format!("{tokens:?}"));
        let name = hexadecimal(&sum.finalize());
        // A folder of a few hundred files each, for the sake of those who list them.
        let path = self.folder.join(&name[..2]).join(format!("{name}.safetensors"));
        let device = vlm.language_model().device();
        if path.is_file() {
            match Output::read(&path, |data| Tensor::from_data(data, &device)) {
                Ok(output) => return Ok(output),
                Err(error) => tracing::warn!("computed again: {error}"),
            }
        }
        let trace = &mut Trace::off();
        let visual = pixels.map(|pixels| vlm.visual_tokens(pixels, trace));
        let (image_token, semantics) = (policy.tokenizer.image_context(), &policy.config.semantics);
        let context = vlm.forward(visual, tokens, image_token, semantics, trace).map_err(evo1::Error::from)?;
        let output = Output { tokens: context.tokens, layers: context.layers };
        // Without room the run goes on, at the speed that it would have had.
        if let Err(error) = output.write(&path)
            && !self.is_full.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("an output of the frozen model is not kept: {error}");
        }
        Ok(output)
    }
}

impl Output {
    fn read(path: &Path, tensor: impl Fn(burn::tensor::TensorData) -> Tensor<3>) -> Result<Self> {
        let file = WeightFile::open(path)?;
        let layers = (0..).map(|layer| format!("{LAYER}{layer}")).take_while(|name| file.contains(name));
        let layers = layers.map(|name| Ok(tensor(file.read(&name)?))).collect::<Result<_>>()?;
        Ok(Self { tokens: tensor(file.read(TOKENS)?), layers })
    }

    fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|reason| CoreError::io("create", folder, reason))?;
        }
        let mut tensors = BTreeMap::from([(TOKENS.to_owned(), self.tokens.to_data())]);
        let layers = self.layers.iter().enumerate();
        tensors.extend(layers.map(|(at, layer)| (format!("{LAYER}{at}"), layer.to_data())));
        Ok(write_safetensors(path, &tensors)?)
    }
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

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The sum of all weights of a module.
struct Sum(Sha256);

impl ModuleVisitor for Sum {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.update(param.val().to_data().as_bytes());
    }
}
