//! Low-rank adapters as PEFT writes them, for the modules of a LeRobot policy.
//!
//! A folder holds `adapter_config.json` and `adapter_model.safetensors`, in which a linear layer's adapter is two tensors:
//! `base_model.model.<module>.lora_A.weight`, `[rank, in]`, and `lora_B.weight`, `[out, rank]`. Their product, scaled by
//! `lora_alpha / rank`, is added to the layer's weight.
//!
//! Two modules are not as they seem there. PyTorch's `MultiheadAttention`, which the action expert has, keeps the
//! projections of queries, keys and values in one tensor, and PEFT gives that tensor and the output's projection one rank:
//! adapters of single projections become blocks of larger factors, the rest of which is 0. And PEFT adds the product of such
//! an output's factors twice ([`OUTPUT_TIMES`]).
//!
//! Folders that are written here hold `base.json` besides: the sum of the weights that the adapter belongs to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use burn::{
    module::{ParamGroup, ParamId},
    tensor::{DType, TensorData},
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tracing::warn;

use super::{
    Naming, ParamSpec, Place, WeightFile,
    file::{ReadRange, RecycledBuffer},
    floats, transposed, write_safetensors,
};
use crate::{
    Error, Result,
    files::{hexadecimal, write_atomically},
    json,
};

/// The files of an adapter.
pub const ADAPTER_FILES: [&str; 2] = [CONFIG, MODEL];
const CONFIG: &str = "adapter_config.json";
const MODEL: &str = "adapter_model.safetensors";
const BASE: &str = "base.json";

/// What PEFT puts before the names of modules.
const PREFIX: &str = "base_model.model.";
/// How the names of factors end.
const DOWN: &str = ".lora_A.weight";
const UP: &str = ".lora_B.weight";
/// How the projections of PyTorch's attention are named below it: in the policy, and with PEFT around them.
const JOINT: &str = ".in_proj_weight";
const OUTPUT: &str = ".out_proj";
const WRAPPED_OUTPUT: &str = ".base_layer.out_proj";

/// How often PEFT adds the product of the factors of an attention's output to its weight: in `lora.MultiheadAttention.merge`,
/// which every prediction goes through, and in the merging of the projection itself that it ends with.
const OUTPUT_TIMES: f64 = 2.0;

/// The version of PEFT that is known to do so, and that files written here name.
const VERSION: &str = "0.21.2";

/// Adapters of some weights.
#[derive(Debug, Clone, Default)]
pub struct Adapter {
    /// The factors, by the paths of the parameters.
    pub factors: BTreeMap<String, Factors>,
    /// The policy that it adapts, as its configuration names it.
    pub base: Option<String>,
    /// The sum of the weights that it adapts, as [`base_sum`] makes it.
    pub base_sum: Option<String>,
    /// Where it was read.
    path: PathBuf,
}

/// What is added to one weight.
///
/// # Shapes
/// - weight: `[in, out]`, to which `scale · a b` is added
/// - a: `[in, rank]`
/// - b: `[rank, out]`
#[derive(Debug, Clone)]
pub struct Factors {
    /// The first factor.
    pub a: TensorData,
    /// The second factor.
    pub b: TensorData,
    /// `alpha / rank`.
    pub scale: f64,
}

/// A module's tensors in PEFT's arrangement.
struct Module {
    /// `[rank, in]`.
    down: TensorData,
    /// `[out, rank]`.
    up: TensorData,
    scale: f64,
}

/// What is known of the weights that an adapter belongs to.
#[derive(Serialize, Deserialize)]
struct Base {
    weights_sha256: String,
}

impl Adapter {
    /// Adapters of some weights of the policy `base`.
    pub fn new(factors: BTreeMap<String, Factors>, base: Option<String>, base_sum: Option<String>) -> Self {
        Self { factors, base, base_sum, path: PathBuf::new() }
    }

    /// Writes the adapters into a folder, which is made where it is missing; `specs` are the parameters of the policy.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path, specs: &[ParamSpec]) -> Result<()> {
        fs::create_dir_all(folder).map_err(|reason| Error::io("create", folder, reason))?;
        let (modules, targets) = self.modules(specs);
        let of_module = |module: &Module| (module.down.shape()[0], module.scale * module.down.shape()[0] as f64);
        // What most modules have; the patterns say what the others do.
        let mut counts: BTreeMap<(usize, u64), usize> = BTreeMap::new();
        for target in &targets {
            let (rank, alpha) = of_module(&modules[target]);
            *counts.entry((rank, alpha.to_bits())).or_default() += 1;
        }
        let (rank, alpha) = counts
            .iter()
            .max_by_key(|(_, count)| **count)
            .map_or((1, 1.0), |((rank, alpha), _)| (*rank, f64::from_bits(*alpha)));
        let (mut ranks, mut alphas) = (Map::new(), Map::new());
        for target in &targets {
            let own = of_module(&modules[target]);
            if own.0 != rank {
                ranks.insert(target.clone(), own.0.into());
            }
            if own.1 != alpha {
                alphas.insert(target.clone(), number(own.1));
            }
        }
        let config = json!({
            "peft_type": "LORA",
            "task_type": null,
            "peft_version": VERSION,
            "base_model_name_or_path": self.base,
            "r": rank,
            "lora_alpha": number(alpha),
            "target_modules": targets,
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_lora_weights": true,
            "use_dora": false,
            "use_rslora": false,
            "inference_mode": true,
        });
        let tensors = modules.into_iter().flat_map(|(module, Module { down, up, .. })| {
            [
                (format!("{PREFIX}{}{DOWN}", wrapped(&module, &targets)), down),
                (format!("{PREFIX}{}{UP}", wrapped(&module, &targets)), up),
            ]
        });
        write_safetensors(&folder.join(MODEL), &tensors.collect())?;
        if let Some(sum) = &self.base_sum {
            let text = serde_json::to_string_pretty(&Base { weights_sha256: sum.clone() }).expect("a text is JSON");
            write_atomically(&folder.join(BASE), text.as_bytes())?;
        }
        write_atomically(&folder.join(CONFIG), format!("{config:#}\n").as_bytes())
    }

    /// The tensors of all modules by their names, and the modules that PEFT is to wrap.
    fn modules(&self, specs: &[ParamSpec]) -> (BTreeMap<String, Module>, BTreeSet<String>) {
        let mut wholes: BTreeMap<String, Vec<(Place, &ParamSpec, &Factors)>> = BTreeMap::new();
        for spec in specs {
            if let (Some(factors), Some(place)) = (self.factors.get(&spec.path), Naming::LEROBOT.place(spec)) {
                wholes.entry(place.name.clone()).or_default().push((place, spec, factors));
            }
        }
        let layouts = layouts(specs);
        let (mut modules, mut targets) = (BTreeMap::new(), BTreeSet::new());
        let names: BTreeSet<String> =
            wholes.keys().map(|name| attention_of(name, &layouts).unwrap_or(name).to_owned()).collect();
        for name in names {
            let Some(module) = name.strip_suffix(".weight") else {
                let [joint, output] = [format!("{name}{JOINT}"), format!("{name}{OUTPUT}.weight")];
                let parts = [&joint, &output].map(|tensor| wholes.remove(tensor).unwrap_or_default());
                let rank = |parts: &[(Place, &ParamSpec, &Factors)]| {
                    parts.iter().map(|(.., factors)| factors.rank()).sum::<usize>()
                };
                let rank = rank(&parts[0]).max(rank(&parts[1]));
                let scale = parts.iter().flatten().next().map_or(1.0, |(.., factors)| factors.scale);
                let [joined, out] = [(&parts[0], &joint), (&parts[1], &output)]
                    .map(|(parts, tensor)| joined(parts, &layouts[tensor], rank, scale));
                let out = Module { up: times(&out.up, 1.0 / OUTPUT_TIMES), ..out };
                modules.insert(format!("{name}{OUTPUT}"), out);
                modules.insert(name.clone(), joined);
                targets.insert(name);
                continue;
            };
            let parts = wholes.remove(&name).unwrap_or_default();
            let (rank, scale) = parts.first().map_or((0, 1.0), |(.., factors)| (factors.rank(), factors.scale));
            targets.insert(module.to_owned());
            modules.insert(module.to_owned(), joined(&parts, &layouts[&name], rank, scale));
        }
        (modules, targets)
    }

    /// Reads the adapters in a folder for a policy with the parameters `specs`.
    ///
    /// # Errors
    /// When the folder holds none, or one that computes something else than the product of two factors; and where it has
    /// tensors that the policy has no place for, or of other shapes.
    pub fn open(folder: &Path, specs: &[ParamSpec]) -> Result<Self> {
        let config = Config::read(&folder.join(CONFIG))?;
        let file = WeightFile::open(&folder.join(MODEL))?;
        let layouts = layouts(specs);
        let (mut factors, mut unused) = (BTreeMap::new(), Vec::new());
        let mut modules: BTreeMap<String, String> = BTreeMap::new();
        for name in file.names() {
            let module = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(DOWN).or(rest.strip_suffix(UP)));
            let tensor = module.and_then(|module| tensor_of(module, &layouts));
            match (module, tensor) {
                (Some(module), Some(tensor)) => _ = modules.insert(module.to_owned(), tensor),
                _ => unused.push(name.to_owned()),
            }
        }
        if !unused.is_empty() {
            return Err(Error::UnusedTensors { path: file.path().to_owned(), names: unused });
        }
        if modules.is_empty() {
            return Err(Error::invalid(file.path().display(), "tensors", "factors of adapters", "none"));
        }
        let is_other = config.version.as_deref().is_some_and(|version| version != VERSION);
        if is_other && modules.keys().any(|module| module.ends_with(WRAPPED_OUTPUT)) {
            warn!(
                "{}: outputs of attentions are read as PEFT {VERSION} computes them, which adds them twice; it was written \
                 by PEFT {}",
                folder.display(),
                config.version.as_deref().unwrap_or_default()
            );
        }
        for (module, tensor) in &modules {
            let module = config.module(module, tensor, &file, &layouts[tensor])?;
            for (spec, place) in places(specs).filter(|(_, place)| place.name == *tensor) {
                factors.insert(spec.path.clone(), module.factors(&place));
            }
        }
        let base = folder.join(BASE);
        let base_sum = base.is_file().then(|| json::read::<Base>(&base)).transpose()?;
        let base_sum = base_sum.map(|base| base.weights_sha256);
        Ok(Self { factors, base: config.base, base_sum, path: folder.to_owned() })
    }

    /// A checkpoint as if the adapters were in its weights: they are added when a tensor is read.
    ///
    /// # Errors
    /// When the checkpoint is known to be another one than the adapters were trained on.
    pub fn merged(&self, mut file: WeightFile, specs: &[ParamSpec]) -> Result<WeightFile> {
        let naming = Naming::detect(&file)?;
        let adapted = || specs.iter().filter_map(|spec| Some((spec, self.factors.get(&spec.path)?)));
        if let Some(expected) = &self.base_sum {
            let read = |spec: &ParamSpec| {
                let place = naming.place(spec).ok_or_else(|| Error::MissingTensors {
                    path: file.path().to_owned(),
                    names: vec![spec.path.clone()],
                })?;
                let data = file.read_part(&place, naming.shape_of(spec), RecycledBuffer::default())?;
                Ok(if naming.is_transposed(spec) { transposed(&data) } else { data })
            };
            let sum = base_sum(specs, |path| self.factors.contains_key(path), read)?;
            if sum != *expected {
                return Err(Error::OtherBase {
                    adapter: self.path.clone(),
                    path: file.path().to_owned(),
                    base: self.base.clone(),
                });
            }
        }
        let mut added: BTreeMap<String, Vec<Added>> = BTreeMap::new();
        for (spec, factors) in adapted() {
            let Some(place) = naming.place(spec) else { continue };
            let is_turned = naming.is_transposed(spec);
            let rows = naming.shape_of(spec)[0];
            let first_row = rows / place.count * place.first;
            added.entry(place.name).or_default().push(factors.added(is_turned, first_row));
        }
        for (tensor, added) in added {
            let columns = *file.shape(&tensor)?.last().unwrap_or(&1);
            let dtype = file.dtype(&tensor)?;
            file.map_tensor(&tensor, |read| adding(read, added, columns, dtype));
        }
        Ok(file)
    }
}

/// The sum of the weights of the modules in which some parameters are adapted, as `read` gives them, `[in, out]`: of their
/// values in bfloat16, so that it is the same for a policy in either number type.
///
/// # Errors
/// When a weight cannot be read.
pub fn base_sum(
    specs: &[ParamSpec],
    is_adapted: impl Fn(&str) -> bool,
    read: impl Fn(&ParamSpec) -> Result<TensorData>,
) -> Result<String> {
    let layouts = layouts(specs);
    let module = |place: &Place| attention_of(&place.name, &layouts).unwrap_or(&place.name).to_owned();
    let adapted = places(specs).filter(|(spec, _)| is_adapted(&spec.path));
    let modules: BTreeSet<String> = adapted.map(|(_, place)| module(&place)).collect();
    let mut sum = Sha256::new();
    for (spec, _) in places(specs).filter(|(_, place)| modules.contains(&module(place))) {
        sum.update(format!("{} {:?}", spec.path, spec.shape));
        sum.update(read(spec)?.convert_dtype(DType::BF16).as_bytes());
    }
    Ok(hexadecimal(&sum.finalize()))
}

impl Factors {
    fn rank(&self) -> usize {
        self.b.shape()[0]
    }

    /// What is added to rows of a tensor from `first_row` on, which has the weight transposed where it `is_turned`.
    fn added(&self, is_turned: bool, first_row: usize) -> Added {
        let scaled =
            |data: &TensorData| floats(data).into_iter().map(|value| value * self.scale as f32).collect::<Vec<f32>>();
        let (left, right) = match is_turned {
            false => (scaled(&self.a), floats(&self.b)),
            true => (scaled(&transposed(&self.b)), floats(&transposed(&self.a))),
        };
        Added { first_row, rank: self.rank(), left, right }
    }
}

/// A product of two matrices, `[rows, rank]` and `[rank, columns]`, that is added to rows of a tensor.
struct Added {
    first_row: usize,
    rank: usize,
    left: Vec<f32>,
    right: Vec<f32>,
}

impl Added {
    /// Adds what belongs to a row of the tensor to its values.
    fn add(&self, row: usize, values: &mut [f32]) {
        let Some(row) = row.checked_sub(self.first_row) else { return };
        let Some(left) = self.left.get(row * self.rank..(row + 1) * self.rank) else { return };
        let mut delta = vec![0.0; values.len()];
        for (factor, right) in left.iter().zip(self.right.chunks_exact(values.len())) {
            delta.iter_mut().zip(right).for_each(|(sum, value)| *sum += factor * value);
        }
        values.iter_mut().zip(delta).for_each(|(value, delta)| *value += delta);
    }
}

/// Reads rows of a tensor and adds to them.
fn adding(read: ReadRange, added: Vec<Added>, columns: usize, dtype: DType) -> ReadRange {
    Box::new(move |range, memory| {
        let row_bytes = columns * dtype.size();
        let first = range.start / row_bytes;
        let rows = range.len() / row_bytes;
        let data = TensorData::from_bytes(read(range, memory)?, [rows, columns], dtype);
        let mut values = floats(&data);
        values
            .par_chunks_mut(columns)
            .enumerate()
            .for_each(|(row, values)| added.iter().for_each(|added| added.add(first + row, values)));
        Ok(TensorData::new(values, [rows, columns]).convert_dtype(dtype).into_bytes())
    })
}

impl Module {
    /// The factors of the parameter that has a place in the module's tensor.
    fn factors(&self, place: &Place) -> Factors {
        let [out, rank] = self.up.shape().dims();
        let part = out / place.of;
        let rows = &floats(&self.up)[place.first * part * rank..][..place.count * part * rank];
        let up = TensorData::new(rows.to_vec(), [place.count * part, rank]);
        Factors { a: transposed(&self.down), b: transposed(&up), scale: self.scale }
    }
}

/// The factors of a tensor of shape `[out, in]` from those of its parts, of a rank that is larger where 0 is added.
fn joined(parts: &[(Place, &ParamSpec, &Factors)], shape: &[usize], rank: usize, scale: f64) -> Module {
    let (rows, columns) = (shape[0], shape[1]);
    let (mut down, mut up) = (vec![0.0; rank * columns], vec![0.0; rows * rank]);
    let mut first_rank = 0;
    for (place, _, factors) in parts {
        let own = factors.rank();
        down[first_rank * columns..][..own * columns].copy_from_slice(&floats(&transposed(&factors.a)));
        let first_row = rows / place.of * place.first;
        let scaled = (factors.scale / scale) as f32;
        for (row, values) in floats(&transposed(&factors.b)).chunks_exact(own).enumerate() {
            let to = &mut up[(first_row + row) * rank + first_rank..][..own];
            to.iter_mut().zip(values).for_each(|(to, value)| *to = value * scaled);
        }
        first_rank += own;
    }
    Module { down: TensorData::new(down, [rank, columns]), up: TensorData::new(up, [rows, rank]), scale }
}

/// The values of a tensor times a factor.
fn times(data: &TensorData, factor: f64) -> TensorData {
    let values = floats(data).into_iter().map(|value| value * factor as f32).collect();
    TensorData::new::<f32, _>(values, data.shape().clone())
}

/// Where the weights of linear layers stand in a LeRobot policy.
fn places(specs: &[ParamSpec]) -> impl Iterator<Item = (&ParamSpec, Place)> {
    let linear = specs.iter().filter(|spec| spec.is_transposed());
    linear.filter_map(|spec| Some((spec, Naming::LEROBOT.place(spec)?)))
}

/// The shapes of those tensors, `[out, in]`.
fn layouts(specs: &[ParamSpec]) -> BTreeMap<String, Vec<usize>> {
    places(specs).map(|(spec, place)| (place.name.clone(), place.whole_shape(spec.torch_shape()))).collect()
}

/// The attention that a tensor is a projection of, where it is PyTorch's.
fn attention_of<'a>(tensor: &'a str, layouts: &BTreeMap<String, Vec<usize>>) -> Option<&'a str> {
    let attention = tensor.strip_suffix(JOINT).or_else(|| tensor.strip_suffix(".weight")?.strip_suffix(OUTPUT))?;
    layouts.contains_key(&format!("{attention}{JOINT}")).then_some(attention)
}

/// The tensor of a module that PEFT names.
fn tensor_of(module: &str, layouts: &BTreeMap<String, Vec<usize>>) -> Option<String> {
    let plain = module.replacen(WRAPPED_OUTPUT, OUTPUT, 1);
    [format!("{plain}.weight"), format!("{plain}{JOINT}")].into_iter().find(|tensor| {
        // PEFT uses no adapter of an attention's output by itself.
        layouts.contains_key(tensor)
            && (attention_of(tensor, layouts).is_none() || tensor.ends_with(JOINT) || plain != module)
    })
}

/// A module's name with what PEFT puts around it.
fn wrapped(module: &str, targets: &BTreeSet<String>) -> String {
    match module.strip_suffix(OUTPUT) {
        Some(attention) if targets.contains(attention) => format!("{attention}{WRAPPED_OUTPUT}"),
        _ => module.to_owned(),
    }
}

/// What PEFT's configuration says of the computation.
struct Config {
    path: PathBuf,
    base: Option<String>,
    version: Option<String>,
    rank: usize,
    alpha: f64,
    ranks: Vec<(ParamGroup, Value)>,
    alphas: Vec<(ParamGroup, Value)>,
    /// Divide by the rank's root.
    is_rank_stabilised: bool,
}

/// Keys that say nothing of what a trained adapter computes.
const WITHOUT_MEANING: [&str; 15] = [
    "task_type",
    "auto_mapping",
    "revision",
    "inference_mode",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "lora_dropout",
    "megatron_core",
    "qalora_group_size",
    "ensure_weight_tying",
    "runtime_config",
    "eva_config",
    "loftq_config",
];

/// Ways to begin that leave the weights as they are.
const INITIALISATIONS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

impl Config {
    /// Reads a configuration. Everything that this module does not know must be switched off.
    fn read(path: &Path) -> Result<Self> {
        let mut fields: Map<String, Value> = json::read(path)?;
        let invalid = |field: &str, expected: &str, got: &dyn ToString| {
            Error::invalid(path.display(), field, expected, got.to_string())
        };
        let mut take = |name: &str| fields.remove(name).unwrap_or(Value::Null);
        let kind = take("peft_type");
        if kind != "LORA" {
            return Err(invalid("peft_type", "\"LORA\"", &kind));
        }
        let (rank, alpha) = (take("r"), take("lora_alpha"));
        let rank =
            rank.as_u64().filter(|rank| *rank > 0).ok_or_else(|| invalid("r", "a number above 0", &rank))? as usize;
        let alpha = alpha.as_f64().ok_or_else(|| invalid("lora_alpha", "a number", &alpha))?;
        let base = take("base_model_name_or_path").as_str().map(str::to_owned);
        let version = take("peft_version").as_str().map(str::to_owned);
        let is_rank_stabilised = take("use_rslora") == true;
        let [ranks, alphas] = ["rank_pattern", "alpha_pattern"].map(|name| patterns(path, name, take(name)));
        let initial = take("init_lora_weights");
        if !(initial.is_null()
            || initial.is_boolean()
            || initial.as_str().is_some_and(|name| INITIALISATIONS.contains(&name)))
        {
            let expected =
                "a way to begin that leaves the base's weights as they are (PEFT's `save_pretrained` converts others)";
            return Err(invalid("init_lora_weights", expected, &initial));
        }
        let bias = take("bias");
        if !(bias.is_null() || bias == "none") {
            return Err(invalid("bias", "\"none\"", &bias));
        }
        for (name, value) in fields.iter().filter(|(name, _)| !WITHOUT_MEANING.contains(&name.as_str())) {
            let is_off = match value {
                Value::Null | Value::Bool(false) => true,
                Value::Array(values) => values.is_empty(),
                Value::Object(values) => values.is_empty(),
                _ => false,
            };
            if !is_off {
                return Err(invalid(name, "off: adapters are two factors of a linear layer's weight", value));
            }
        }
        Ok(Self {
            path: path.to_owned(),
            base,
            version,
            rank,
            alpha,
            ranks: ranks?,
            alphas: alphas?,
            is_rank_stabilised,
        })
    }

    /// A module's tensors, which adapt a `tensor` of shape `[out, in]`.
    fn module(&self, module: &str, tensor: &str, file: &WeightFile, shape: &[usize]) -> Result<Module> {
        let plain = tensor.strip_suffix(JOINT).or_else(|| tensor.strip_suffix(".weight")).unwrap_or(tensor);
        // An attention's output has its rank.
        let plain = module.strip_suffix(WRAPPED_OUTPUT).unwrap_or(plain);
        let of = |patterns: &[(ParamGroup, Value)]| {
            patterns
                .iter()
                .find(|(group, _)| group.matches(&ParamId::new(), Some(plain)))
                .map(|(_, value)| value.clone())
        };
        let rank = of(&self.ranks).and_then(|value| value.as_u64()).map_or(self.rank, |rank| rank as usize);
        let alpha = of(&self.alphas).and_then(|value| value.as_f64()).unwrap_or(self.alpha);
        let read = |ending: &str, expected: [usize; 2]| {
            let name = format!("{PREFIX}{module}{ending}");
            let data = file.read(&name)?;
            if data.shape().as_slice() != expected {
                return Err(Error::TensorShape {
                    path: file.path().to_owned(),
                    tensor: name,
                    expected: expected.to_vec(),
                    got: data.shape().to_vec(),
                });
            }
            Ok(data.convert_dtype(DType::F32))
        };
        if !(rank > 0 && alpha.is_finite()) {
            return Err(Error::invalid(self.path.display(), "rank_pattern", "ranks above 0", rank));
        }
        let times = if module.ends_with(WRAPPED_OUTPUT) { OUTPUT_TIMES } else { 1.0 };
        let divisor = if self.is_rank_stabilised { (rank as f64).sqrt() } else { rank as f64 };
        Ok(Module {
            down: read(DOWN, [rank, shape[1]])?,
            up: read(UP, [shape[0], rank])?,
            scale: times * alpha / divisor,
        })
    }
}

/// Patterns of modules' names with their values: a pattern must match the end of a name, from a dot on.
fn patterns(path: &Path, field: &str, value: Value) -> Result<Vec<(ParamGroup, Value)>> {
    let invalid = |expected: &str, got: &dyn ToString| Error::invalid(path.display(), field, expected, got.to_string());
    let fields = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Object(fields) => fields,
        other => return Err(invalid("patterns with numbers", &other)),
    };
    let pattern = |(pattern, value): (String, Value)| {
        if !value.is_number() {
            return Err(invalid("patterns with numbers", &value));
        }
        let group = ParamGroup::from_regex(format!(r"^(?:.*\.)?(?:{pattern})$"))
            .map_err(|_| invalid("regular expressions", &pattern))?;
        Ok((group, value))
    };
    fields.into_iter().map(pattern).collect()
}

/// A number as JSON, without a point where it is whole.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { (value as i64).into() } else { value.into() }
}
