//! A checkpoint file whose list of tensors is in memory and whose tensors are read one by one.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};

use burn::tensor::{DType, TensorData};

use super::{burnpack, pytorch, safetensors};
use crate::{Error, Result};

/// A checkpoint: a safetensors file, one split into shards, a PyTorch file, or a burnpack.
#[derive(Debug)]
pub struct WeightFile {
    path: PathBuf,
    tensors: BTreeMap<String, Stored>,
}

/// One tensor of the file.
pub(super) struct Stored {
    /// The number type, or the name of one that burn does not have.
    pub(super) dtype: Result<DType, String>,
    pub(super) shape: Vec<usize>,
    /// Reads the tensor's bytes.
    pub(super) read: Box<dyn Fn() -> io::Result<Vec<u8>> + Send + Sync>,
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.dtype, self.shape)
    }
}

impl WeightFile {
    /// Opens a checkpoint by what its name says: `.pt`, `.pth` and `.bin` are PyTorch's, `.bpk` is
    /// burn's, `.index.json` lists the shards
    /// of a split safetensors file, everything else is safetensors. Nothing of the file is executed.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        let tensors = if [".pt", ".pth", ".bin"].iter().any(|ending| name.ends_with(ending)) {
            pytorch::open(path)?
        } else if name.ends_with(".bpk") {
            burnpack::open(path)?
        } else if name.ends_with(".index.json") {
            safetensors::open_shards(path)?
        } else {
            safetensors::open(path)?
        };
        Ok(Self { path: path.to_owned(), tensors })
    }

    /// A safetensors file that is in memory, for example embedded in the program; `path` stands for it in messages.
    pub fn from_bytes(path: &Path, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        Ok(Self { path: path.to_owned(), tensors: safetensors::from_bytes(path, bytes.into())? })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor's shape.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.stored(name)?.shape)
    }

    /// A tensor's number type.
    pub fn dtype(&self, name: &str) -> Result<DType> {
        self.stored(name)?.dtype.clone().map_err(|got| Error::TensorDtype {
            path: self.path.clone(),
            tensor: name.to_owned(),
            expected: "f64, f32, f16, bf16, integers or booleans",
            got,
        })
    }

    /// Reads a tensor.
    pub fn read(&self, name: &str) -> Result<TensorData> {
        let (stored, dtype) = (self.stored(name)?, self.dtype(name)?);
        let unreadable =
            |message: String| Error::TensorUnreadable { path: self.path.clone(), tensor: name.to_owned(), message };
        let bytes = (stored.read)().map_err(|error| unreadable(error.to_string()))?;
        TensorData::try_from_bytes_vec(bytes, stored.shape.clone(), dtype)
            .map_err(|error| unreadable(error.to_string()))
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        self.tensors
            .get(name)
            .ok_or_else(|| Error::MissingTensors { path: self.path.clone(), names: vec![name.to_owned()] })
    }
}
