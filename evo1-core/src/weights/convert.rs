//! Checkpoints from one naming and number type to another, one tensor at a time.

use std::{collections::BTreeMap, sync::Arc};

use burn::tensor::{DType, TensorData};
use tracing::warn;

use super::{
    Audit, Finding, LazyTensor, Naming, ParamSpec, Place, WeightFile,
    file::RecycledBuffer,
    load::{cast, check},
    names::TABLES,
    transposed,
};
use crate::{Error, Result};

/// The tensors of `file` as a checkpoint of another naming, in the number type that `dtype` gives for a parameter's path,
/// or in their own.
///
/// The file is checked first, as for loading; values that no trained network has are warned of when they are read, or
/// refused when `is_strict`. Constant tables and nothing else are carried over beside the parameters:
/// layers above those kept and the output head are left behind.
pub fn converted(
    specs: &[ParamSpec],
    file: WeightFile,
    language_layers: usize,
    target: Naming,
    is_strict: bool,
    dtype: impl Fn(&str) -> Option<DType>,
) -> Result<Vec<LazyTensor>> {
    let source = check(specs, &file, language_layers)?.naming;
    let file = Arc::new(file);
    let mut wholes: BTreeMap<String, Vec<Part>> = BTreeMap::new();
    for spec in specs {
        if let (Some(from), Some(to)) = (source.place(spec), target.place(spec)) {
            wholes.entry(to.name.clone()).or_default().push(Part { spec: spec.clone(), from, to });
        }
    }
    let mut tensors = Vec::with_capacity(wholes.len() + TABLES.len());
    for (name, mut parts) in wholes {
        parts.sort_by_key(|part| part.to.first);
        let Some(first) = parts.first() else { continue };
        let shape = first.to.whole_shape(target.shape_of(&first.spec));
        let own = file.dtype(&first.from.name)?;
        if let Some(other) = parts.iter().find(|part| file.dtype(&part.from.name).ok() != Some(own)) {
            return Err(Error::TensorDtype {
                path: file.path().to_owned(),
                tensor: other.from.name.clone(),
                expected: "the number type of the tensors that it is put together with",
                got: file.dtype(&other.from.name)?.name().to_owned(),
            });
        }
        let dtype = dtype(&first.spec.path).unwrap_or(own);
        let (file, whole) = (Arc::clone(&file), shape.clone());
        let read = move || {
            let mut bytes = Vec::with_capacity(whole.iter().product::<usize>() * dtype.size());
            for part in &parts {
                bytes.extend_from_slice(part.read(&file, source, target, dtype, is_strict)?.as_bytes());
            }
            Ok(TensorData::from_bytes_vec(bytes, whole.clone(), dtype))
        };
        tensors.push(LazyTensor { name, dtype, shape, read: Box::new(read) });
    }
    for table in TABLES {
        let (Some(from), Some(to)) = (source.table(table), target.table(table)) else { continue };
        if file.contains(&from) {
            let dtype = dtype("action.").unwrap_or(file.dtype(&from)?);
            let (shape, file) = (file.shape(&from)?.to_vec(), Arc::clone(&file));
            let read = move || Ok(file.read(&from)?.convert_dtype(dtype));
            tensors.push(LazyTensor { name: to, dtype, shape, read: Box::new(read) });
        }
    }
    Ok(tensors)
}

/// A parameter on its way from a tensor of one checkpoint into one of another.
struct Part {
    spec: ParamSpec,
    from: Place,
    to: Place,
}

impl Part {
    fn read(
        &self,
        file: &WeightFile,
        source: Naming,
        target: Naming,
        dtype: DType,
        is_strict: bool,
    ) -> Result<TensorData> {
        let part = file.read_part(&self.from, source.shape_of(&self.spec), RecycledBuffer::default())?;
        let audit = Audit::of(&part);
        if !audit.is_plausible() {
            let finding = Finding { tensor: self.from.name.clone(), audit };
            if is_strict {
                return Err(Error::ImplausibleTensors { path: file.path().to_owned(), findings: vec![finding] });
            }
            warn!("{}: values that no trained network has: {finding}", file.path().display());
        }
        let part = cast(part, dtype, &audit, file, &self.from.name)?;
        let is_turned = source.is_transposed(&self.spec) != target.is_transposed(&self.spec);
        Ok(if is_turned { transposed(&part) } else { part })
    }
}
