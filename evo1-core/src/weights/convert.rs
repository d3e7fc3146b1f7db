//! Checkpoints from one naming and number type to another, one tensor at a time.

use std::{collections::BTreeMap, sync::Arc};

use burn::tensor::{DType, TensorData};

use super::{
    LazyTensor, Naming, ParamSpec, Place, WeightFile,
    load::{check, part_of},
    names::TABLES,
    transposed,
};
use crate::{Error, Result};

/// The tensors of `file` as a checkpoint of another naming, in the number type that `dtype` gives for a parameter's path,
/// or in their own.
///
/// The file is checked first, as for loading. Constant tables and nothing else are carried over beside the parameters:
/// layers above those kept and the output head are left behind.
pub fn converted(
    specs: &[ParamSpec],
    file: WeightFile,
    language_layers: usize,
    target: Naming,
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
                bytes.extend_from_slice(part.read(&file, source, target)?.convert_dtype(dtype).as_bytes());
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
    fn read(&self, file: &WeightFile, source: Naming, target: Naming) -> Result<TensorData> {
        let part = part_of(file.read(&self.from.name)?, &self.from, &source.shape_of(&self.spec));
        let is_turned = self.spec.is_transposed() && source.is_torch_layout() != target.is_torch_layout();
        Ok(if is_turned { transposed(part) } else { part })
    }
}
