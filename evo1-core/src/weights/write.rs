//! Tensors under the names of a checkpoint, and files of them.

use std::{collections::BTreeMap, path::Path};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{DType, Tensor, TensorData},
};
use safetensors::{Dtype, tensor::TensorView};

use super::{Naming, Place, Position, transposed};
use crate::{Error, Result, files::write_atomically};

/// What `read` gives for each parameter of `module`, under the checkpoint's names, in PyTorch's layout, with parts put
/// together: the parameters themselves, or their gradients. Parameters for which it gives nothing are left out.
pub fn checkpoint_tensors<M: Module>(module: &M, naming: Naming, read: impl Reader) -> BTreeMap<String, TensorData> {
    let mut collector = Collector { naming, read, position: Position::default(), parts: BTreeMap::new() };
    module.visit(&mut collector);
    collector.parts.into_iter().filter_map(|(name, parts)| Some((name, joined(parts)?))).collect()
}

/// Reads something of a parameter's shape.
pub trait Reader {
    /// The tensor that stands for `param`.
    fn read<const D: usize>(&self, param: &Tensor<D>) -> Option<Tensor<D>>;
}

struct Collector<R> {
    naming: Naming,
    read: R,
    position: Position,
    parts: BTreeMap<String, Vec<(Place, TensorData)>>,
}

impl<R: Reader> ModuleVisitor for Collector<R> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.position.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.position.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(tensor) = self.read.read(&param.val()) else { return };
        let spec = self.position.spec(&param.lazy_shape());
        let data = if spec.is_transposed() { transposed(tensor.into_data()) } else { tensor.into_data() };
        let place = self.naming.place(&spec);
        self.parts.entry(place.name.clone()).or_default().push((place, data));
    }
}

/// A whole tensor from all of its parts; nothing when some are missing.
fn joined(mut parts: Vec<(Place, TensorData)>) -> Option<TensorData> {
    parts.sort_by_key(|(place, _)| place.first);
    let (place, first) = parts.first()?;
    if place.of == 1 {
        return parts.pop().map(|(_, data)| data);
    }
    let shape = place.whole_shape(first.shape().to_vec());
    let dtype = first.dtype();
    let bytes = parts.iter().flat_map(|(_, data)| data.as_bytes()).copied().collect();
    TensorData::try_from_bytes_vec(bytes, shape, dtype).ok()
}

/// Writes tensors as a safetensors file: under a temporary name beside `path`, which is renamed once it is complete.
pub fn write_safetensors(path: &Path, tensors: &BTreeMap<String, TensorData>) -> Result<()> {
    let invalid =
        |error: safetensors::SafeTensorError| Error::Safetensors { path: path.to_owned(), message: error.to_string() };
    let mut views = Vec::with_capacity(tensors.len());
    for (name, data) in tensors {
        let dtype = stored_dtype(path, name, data.dtype())?;
        views.push((name, TensorView::new(dtype, data.shape().to_vec(), data.as_bytes()).map_err(invalid)?));
    }
    let bytes = safetensors::serialize(views, None).map_err(invalid)?;
    write_atomically(path, &bytes)
}

fn stored_dtype(path: &Path, name: &str, dtype: DType) -> Result<Dtype> {
    Ok(match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::U8 => Dtype::U8,
        other => {
            return Err(Error::TensorDtype {
                path: path.to_owned(),
                tensor: name.to_owned(),
                expected: "f64, f32, f16, bf16, i64, i32 or u8",
                got: other.name().to_owned(),
            });
        }
    })
}
