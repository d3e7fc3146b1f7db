//! Tensors under the names of a checkpoint, and safetensors files of them.

use std::{collections::BTreeMap, io::Write, path::Path};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{BoolStore, DType, Gradients, Tensor, TensorData},
};
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};

use super::{Naming, Place, Position, transposed};
use crate::{Error, Result, files::write_atomically_with};

/// What `read` gives for each parameter of `module`, under the checkpoint's names, in PyTorch's layout, with parts put
/// together: the parameters themselves, or their gradients. Parameters for which it gives nothing are left out.
pub fn checkpoint_tensors<M: Module>(
    module: &M,
    naming: Naming,
    read: impl TensorReader,
) -> BTreeMap<String, TensorData> {
    let mut collector = Collector { naming, read, position: Position::default(), parts: BTreeMap::new() };
    module.visit(&mut collector);
    collector.parts.into_iter().filter_map(|(name, parts)| Some((name, joined(parts)?))).collect()
}

/// Reads something of a parameter's shape.
pub trait TensorReader {
    /// The tensor that stands for `param`.
    fn read<const D: usize>(&self, param: &Tensor<D>) -> Option<Tensor<D>>;
}

/// Reads the gradient of each trained parameter; zero for one that the loss does not depend on.
pub struct GradientsOf<'a>(pub &'a Gradients);

impl TensorReader for GradientsOf<'_> {
    fn read<const D: usize>(&self, param: &Tensor<D>) -> Option<Tensor<D>> {
        let inner = || param.clone().inner();
        param.is_require_grad().then(|| param.grad(self.0).unwrap_or_else(|| inner().zeros_like()))
    }
}

struct Collector<R> {
    naming: Naming,
    read: R,
    position: Position,
    parts: BTreeMap<String, Vec<(Place, TensorData)>>,
}

impl<R: TensorReader> ModuleVisitor for Collector<R> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.position.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.position.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(tensor) = self.read.read(&param.val()) else { return };
        let spec = self.position.spec(&param.lazy_shape());
        let Some(place) = self.naming.place(&spec) else { return };
        let is_transposed = self.naming.is_transposed(&spec);
        let data = if is_transposed { transposed(&tensor.into_data()) } else { tensor.into_data() };
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

/// A tensor that is made when it is written, so that a file may be larger than the memory.
pub struct LazyTensor {
    /// Its name in the file.
    pub name: String,
    /// Its number type.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Makes its values, of the number type and shape said above.
    pub read: Box<dyn Fn() -> Result<TensorData> + Send + Sync>,
}

/// The parameters of `module` under the checkpoint's names, in its layout, each read from its device when it is written.
pub fn module_tensors<M: Module>(module: &M, naming: Naming) -> Vec<LazyTensor> {
    let mut collector = LazyCollector { naming, position: Position::default(), parts: BTreeMap::new() };
    module.visit(&mut collector);
    collector.parts.into_iter().filter_map(|(name, parts)| whole(name, parts)).collect()
}

struct LazyCollector {
    naming: Naming,
    position: Position,
    parts: BTreeMap<String, Vec<LazyPart>>,
}

/// A parameter on its way into a tensor of a checkpoint.
struct LazyPart {
    place: Place,
    shape: Vec<usize>,
    dtype: DType,
    read: Box<dyn Fn() -> TensorData + Send + Sync>,
}

impl ModuleVisitor for LazyCollector {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.position.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.position.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let spec = self.position.spec(&param.lazy_shape());
        let Some(place) = self.naming.place(&spec) else { return };
        let is_transposed = self.naming.is_transposed(&spec);
        let (tensor, shape) = (param.val(), self.naming.shape_of(&spec));
        let dtype = tensor.dtype();
        let read = move || {
            let data = tensor.to_data();
            if is_transposed { transposed(&data) } else { data }
        };
        let part = LazyPart { shape, dtype, read: Box::new(read), place };
        self.parts.entry(part.place.name.clone()).or_default().push(part);
    }
}

/// A whole tensor from all of its parts.
fn whole(name: String, mut parts: Vec<LazyPart>) -> Option<LazyTensor> {
    parts.sort_by_key(|part| part.place.first);
    let first = parts.first()?;
    let (shape, dtype) = (first.place.whole_shape(first.shape.clone()), first.dtype);
    let target = shape.clone();
    let read = move || match parts.as_slice() {
        [only] if only.place.of == 1 => Ok((only.read)()),
        parts => {
            let bytes = parts.iter().flat_map(|part| (part.read)().as_bytes().to_vec()).collect();
            Ok(TensorData::from_bytes_vec(bytes, target.clone(), dtype))
        }
    };
    Some(LazyTensor { name, dtype, shape, read: Box::new(read) })
}

impl LazyTensor {
    /// Its size in bytes.
    pub fn byte_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// Writes tensors as a safetensors file: under a temporary name beside `path`, which is renamed once it is complete.
pub fn write_safetensors(path: &Path, tensors: &BTreeMap<String, TensorData>) -> Result<()> {
    let lazy: Vec<LazyTensor> = tensors
        .iter()
        .map(|(name, data)| {
            let (name, dtype, shape, data) = (name.clone(), data.dtype(), data.shape().to_vec(), data.clone());
            LazyTensor { name, dtype, shape, read: Box::new(move || Ok(data.clone())) }
        })
        .collect();
    write_safetensors_lazily(path, &lazy, |_| {})
}

/// [`write_safetensors`] for tensors that are made one by one; `written` hears of the bytes of each.
pub fn write_safetensors_lazily(path: &Path, tensors: &[LazyTensor], written: impl Fn(usize)) -> Result<()> {
    let invalid = |message: String| Error::Safetensors { path: path.to_owned(), message };
    let mut end = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let LazyTensor { name, dtype, shape, .. } = tensor;
        let start = end;
        end += tensor.byte_len();
        let dtype = stored_dtype(path, name, *dtype)?;
        infos.push((name.clone(), TensorInfo { dtype, shape: shape.clone(), data_offsets: (start, end) }));
    }
    // `format` tells transformers and LeRobot that the layout is PyTorch's.
    let about = [("format".to_owned(), "pt".to_owned())].into();
    let metadata = Metadata::new(Some(about), infos).map_err(|error| invalid(error.to_string()))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|error| invalid(error.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    write_atomically_with(path, |file| {
        let failed = |reason| Error::io("write", path, reason);
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
        file.write_all(&header).map_err(failed)?;
        for LazyTensor { name, dtype, shape, read } in tensors {
            let data = read()?;
            if data.dtype() != *dtype || data.shape().as_slice() != shape.as_slice() {
                let (got, shape_got) = (data.dtype(), data.shape());
                return Err(invalid(format!("tensor `{name}` became {got:?} {shape_got:?}, not {dtype:?} {shape:?}")));
            }
            file.write_all(data.as_bytes()).map_err(failed)?;
            written(data.as_bytes().len());
        }
        Ok(())
    })
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
        DType::Bool(BoolStore::Native) => Dtype::BOOL,
        other => {
            return Err(Error::TensorDtype {
                path: path.to_owned(),
                tensor: name.to_owned(),
                expected: "f64, f32, f16, bf16, i64, i32, u8 or booleans",
                got: other.name().to_owned(),
            });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{WeightFile, write_burnpack_lazily};

    fn tensor(name: &str, read: impl Fn() -> Result<TensorData> + Send + Sync + 'static) -> LazyTensor {
        LazyTensor { name: name.into(), dtype: DType::F32, shape: vec![2], read: Box::new(read) }
    }

    /// A good tensor and one that cannot be read once half of the file is written.
    fn half() -> Vec<LazyTensor> {
        let broken = || Err(Error::io("read", "elsewhere", std::io::Error::other("the disk is gone")));
        vec![tensor("a", || Ok(TensorData::from([3.0_f32, 4.0]))), tensor("b", broken)]
    }

    #[test]
    fn a_write_that_fails_midway_leaves_the_old_file_whole() {
        let directory = tempfile::tempdir().expect("directory");
        let old = || vec![tensor("a", || Ok(TensorData::from([1.0_f32, 2.0])))];
        let (safetensors, burnpack) = (directory.path().join("model.safetensors"), directory.path().join("model.bpk"));
        write_safetensors_lazily(&safetensors, &old(), |_| {}).expect("written");
        write_burnpack_lazily(&burnpack, old(), |_| {}).expect("written");
        let failures =
            [write_safetensors_lazily(&safetensors, &half(), |_| {}), write_burnpack_lazily(&burnpack, half(), |_| {})];
        for failed in failures {
            assert!(failed.expect_err("half a file").to_string().contains("the disk is gone"));
        }
        for path in [safetensors, burnpack] {
            let file = WeightFile::open(&path).expect("the old file");
            assert_eq!(file.names().collect::<Vec<_>>(), ["a"]);
            assert_eq!(file.read("a").expect("a"), TensorData::from([1.0_f32, 2.0]));
        }
        assert_eq!(std::fs::read_dir(directory.path()).expect("directory").count(), 2, "no temporary file is left");
    }

    #[test]
    fn a_tensor_that_is_not_what_was_said_is_an_error() {
        let directory = tempfile::tempdir().expect("directory");
        let other = [tensor("a", || Ok(TensorData::from([1.0_f32])))];
        let message =
            write_safetensors_lazily(&directory.path().join("file"), &other, |_| {}).expect_err("another shape");
        assert!(message.to_string().contains("tensor `a` became F32"), "{message}");
    }
}
