//! Strict loading: every parameter is found in its shape, and nothing in the file is left over.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc::{Receiver, Sender, channel, sync_channel},
    thread,
};

use burn::{
    module::{Module, ModuleMapper, Param},
    tensor::{DType, Tensor, TensorData},
};

use super::{Audit, Finding, Naming, ParamSpec, Place, Position, WeightFile, file::RecycledBuffer, params, transposed};
use crate::{Error, Result};

/// How a checkpoint is loaded.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions<F> {
    /// Language layers that the model keeps; those above are neither read nor complained about.
    pub language_layers: usize,
    /// The number type of each parameter once loaded.
    pub dtype: F,
    /// Refuse values that no trained network has, instead of reporting them.
    pub is_strict: bool,
}

/// Tensors that are read while the ones before are made into parameters.
const READ_AHEAD: usize = 2;

/// What loading found.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// Names of the tensors that were read.
    pub read: Vec<String>,
    /// Names of tensors that are known to have no use, such as layers above those kept.
    pub skipped: Vec<String>,
    /// How the file names its tensors.
    pub naming: Naming,
    /// Tensors with values that no trained network has; nobody looked for any before reading.
    pub findings: Vec<Finding>,
}

/// Loads `module` from `file`, or says which tensors are missing, unused, of a wrong shape, of integers, or too large for
/// the number type that is wanted.
///
/// Names, shapes and number types are compared before anything is read. The action expert keeps its values when the file is a base
/// model without one.
pub fn load<M, F>(module: M, file: &WeightFile, options: &LoadOptions<F>) -> Result<(M, Loaded)>
where
    M: Module,
    F: Fn(&str) -> DType,
{
    let specs = params(&module);
    let loaded = check(&specs, file, options.language_layers)?;
    let naming = loaded.naming;
    let (module, findings) = thread::scope(|scope| {
        let (sender, parts) = sync_channel(READ_AHEAD);
        let (give_back, spent) = channel();
        scope.spawn(move || {
            for (spec, place) in specs.iter().filter_map(|spec| Some((spec, naming.place(spec)?))) {
                // What is transposed is copied on the way. Everything else keeps the memory that it was read into.
                let memory = if naming.is_transposed(spec) { spent.try_recv().ok() } else { None };
                let part = file.read_part(&place, naming.shape_of(spec), memory.unwrap_or_default());
                if sender.send((place, part)).is_err() {
                    // Nobody wants any more: loading has failed.
                    break;
                }
            }
        });
        let (position, findings) = (Position::default(), BTreeMap::new());
        let mut loader = Loader { file, naming, options, parts, give_back, position, findings, failed: None };
        let module = module.map(&mut loader);
        match loader.failed {
            Some(error) => Err(error),
            None => Ok((module, loader.findings)),
        }
    })?;
    let findings: Vec<Finding> = findings.into_iter().map(|(tensor, audit)| Finding { tensor, audit }).collect();
    if options.is_strict && !findings.is_empty() {
        return Err(Error::ImplausibleTensors { path: file.path().to_owned(), findings });
    }
    Ok((module, Loaded { findings, ..loaded }))
}

/// Compares the parameters of a module with the tensors of a file, by name and shape, without reading any: what would be
/// read and what has no use, or which are missing, unused or of a wrong shape.
pub fn check(specs: &[ParamSpec], file: &WeightFile, language_layers: usize) -> Result<Loaded> {
    let naming = Naming::detect(file)?;
    let places: Vec<(&ParamSpec, Place)> = specs.iter().filter_map(|spec| Some((spec, naming.place(spec)?))).collect();
    let used: BTreeSet<&str> = places.iter().map(|(_, place)| place.name.as_str()).collect();
    let missing: Vec<String> = used.iter().filter(|name| !file.contains(name)).map(|&name| name.to_owned()).collect();
    if !missing.is_empty() {
        return Err(Error::MissingTensors { path: file.path().to_owned(), names: missing });
    }
    for (spec, place) in &places {
        let expected = place.whole_shape(naming.shape_of(spec));
        let got = file.shape(&place.name)?;
        if got != expected {
            return Err(Error::TensorShape {
                path: file.path().to_owned(),
                tensor: place.name.clone(),
                expected,
                got: got.to_vec(),
            });
        }
        let dtype = file.dtype(&place.name)?;
        if !dtype.is_float() {
            return Err(Error::TensorDtype {
                path: file.path().to_owned(),
                tensor: place.name.clone(),
                expected: "floating-point numbers",
                got: dtype.name().to_owned(),
            });
        }
    }
    let (skipped, unused): (Vec<String>, Vec<String>) = file
        .names()
        .filter(|name| !used.contains(name))
        .map(str::to_owned)
        .partition(|name| naming.is_expected_extra(name, language_layers));
    if !unused.is_empty() {
        return Err(Error::UnusedTensors { path: file.path().to_owned(), names: unused });
    }
    let read = used.into_iter().map(str::to_owned).collect();
    Ok(Loaded { read, skipped, naming, findings: Vec::new() })
}

struct Loader<'a, F> {
    file: &'a WeightFile,
    naming: Naming,
    options: &'a LoadOptions<F>,
    /// What is read of the file, parameter by parameter, in their order.
    parts: Receiver<(Place, Result<TensorData>)>,
    /// Takes memory for what is read next.
    give_back: Sender<RecycledBuffer>,
    position: Position,
    findings: BTreeMap<String, Audit>,
    failed: Option<Error>,
}

impl<F: Fn(&str) -> DType> Loader<'_, F> {
    /// The values of a parameter; nothing when the file has no place for it.
    fn read(&mut self, spec: &ParamSpec) -> Result<Option<TensorData>> {
        let Some(place) = self.naming.place(spec) else { return Ok(None) };
        let part = match self.parts.recv() {
            Ok((next, part)) if next == place => part?,
            _ => self.file.read_part(&place, self.naming.shape_of(spec), RecycledBuffer::default())?,
        };
        let audit = Audit::of(&part);
        let data = cast(part, (self.options.dtype)(&spec.path), &audit, self.file, &place.name)?;
        if !audit.is_plausible() {
            let found = self.findings.entry(place.name).or_default();
            *found = found.and(audit);
        }
        if !self.naming.is_transposed(spec) {
            return Ok(Some(data));
        }
        let ours = transposed(&data);
        // The reader has left when everything is read.
        let _ = self.give_back.send(RecycledBuffer::from_bytes(data.into_bytes()));
        Ok(Some(ours))
    }
}

impl<F: Fn(&str) -> DType> ModuleMapper for Loader<'_, F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.position.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.position.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.failed.is_some() {
            return param;
        }
        match self.read(&self.position.spec(&param.lazy_shape())) {
            Ok(Some(data)) => place_in(param, data),
            Ok(None) => param,
            Err(error) => {
                self.failed = Some(error);
                param
            }
        }
    }
}

/// A tensor of `file` in another number type, unless that makes finite values infinite; `audit` is what was found in it.
pub(super) fn cast(
    data: TensorData,
    dtype: DType,
    audit: &Audit,
    file: &WeightFile,
    tensor: &str,
) -> Result<TensorData> {
    if data.dtype() == dtype {
        return Ok(data);
    }
    let data = data.convert_dtype(dtype);
    let count = Audit::of(&data).non_finite().saturating_sub(audit.non_finite());
    if count > 0 {
        let (path, tensor) = (file.path().to_owned(), tensor.to_owned());
        return Err(Error::TensorOverflow { path, tensor, count, dtype: dtype.name().to_owned() });
    }
    Ok(data)
}

/// The parameter with `data` as its value, on its own device and as trainable as it was.
pub(super) fn place_in<const D: usize>(param: Param<Tensor<D>>, data: TensorData) -> Param<Tensor<D>> {
    let (device, id, dtype) = (param.lazy_device(), param.id, data.dtype());
    param.transform_for_load(Tensor::from_data(data, (&device, dtype)), id)
}
