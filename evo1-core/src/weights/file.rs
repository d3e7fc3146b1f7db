//! A checkpoint file whose list of tensors is in memory and whose tensors are read one by one.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
};

use burn::tensor::{Bytes, DType, TensorData};

use super::{Place, burnpack, pytorch, safetensors};
use crate::{Error, Result};

/// A checkpoint: a safetensors file, one split into shards, a PyTorch file, or a burnpack.
#[derive(Debug)]
pub struct WeightFile {
    path: PathBuf,
    files: Vec<PathBuf>,
    tensors: BTreeMap<String, Stored>,
}

/// One tensor of the file.
pub(super) struct Stored {
    /// The number type, or the name of one that burn does not have.
    pub(super) dtype: Result<DType, String>,
    pub(super) shape: Vec<usize>,
    /// Reads some of the tensor's bytes.
    pub(super) read: ReadRange,
}

/// Reads a range of a tensor's bytes, into the given memory if it can.
pub(super) type ReadRange = Box<dyn Fn(Range<usize>, RecycledBuffer) -> io::Result<Bytes> + Send + Sync>;

/// Memory that bytes were read into before. Using it again saves the system from clearing pages: with a tensor read into
/// new ones, that is most of the time.
#[derive(Default)]
pub(super) struct RecycledBuffer(Vec<u64>);

impl RecycledBuffer {
    /// The memory of bytes that nobody needs any more.
    pub(super) fn from_bytes(bytes: Bytes) -> Self {
        Self(bytes.try_into_vec().unwrap_or_default())
    }

    /// Bytes to write to, which may hold anything. They are aligned for every number type: burn copies others.
    pub(super) fn into_bytes(self, length: usize) -> Bytes {
        let Self(mut words) = self;
        let (count, rest) = (length / size_of::<u64>(), length % size_of::<u64>());
        if rest > 0 {
            return Bytes::from_bytes_vec(vec![0; length]);
        }
        if words.capacity() < count {
            words = vec![0; count];
        }
        words.resize(count, 0);
        Bytes::from_elems(words)
    }
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
        let mut files = vec![path.to_owned()];
        let tensors = if [".pt", ".pth", ".bin"].iter().any(|ending| name.ends_with(ending)) {
            pytorch::open(path)?
        } else if name.ends_with(".bpk") {
            burnpack::open(path)?
        } else if name.ends_with(".index.json") {
            let (tensors, shards) = safetensors::open_shards(path)?;
            files.extend(shards);
            tensors
        } else {
            safetensors::open(path)?
        };
        Ok(Self { path: path.to_owned(), files, tensors })
    }

    /// A safetensors file that is in memory, for example embedded in the program; `path` stands for it in messages.
    pub fn from_bytes(path: &Path, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        Ok(Self { path: path.to_owned(), files: Vec::new(), tensors: safetensors::from_bytes(path, bytes.into())? })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files on the disk that it consists of: itself, and its shards.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
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

    /// The name of a tensor's number type, also of one that burn does not have.
    pub fn dtype_name(&self, name: &str) -> String {
        match self.tensors.get(name).map(|stored| &stored.dtype) {
            Some(Ok(dtype)) => dtype.name().to_owned(),
            Some(Err(other)) => other.to_lowercase(),
            None => "none".to_owned(),
        }
    }

    /// Reads a tensor.
    pub fn read(&self, name: &str) -> Result<TensorData> {
        let shape = self.shape(name)?.to_vec();
        self.read_bytes(name, 0, 1, 1, shape, RecycledBuffer::default())
    }

    /// Reads the part of a tensor that is a parameter's, whose shape is `shape`, into `memory` if the format can.
    pub(super) fn read_part(&self, place: &Place, shape: Vec<usize>, memory: RecycledBuffer) -> Result<TensorData> {
        self.read_bytes(&place.name, place.first, place.count, place.of, shape, memory)
    }

    /// Parts `first..first + count` of the `of` parts of a tensor, along its first dimension.
    fn read_bytes(
        &self,
        name: &str,
        first: usize,
        count: usize,
        of: usize,
        shape: Vec<usize>,
        memory: RecycledBuffer,
    ) -> Result<TensorData> {
        let (stored, dtype) = (self.stored(name)?, self.dtype(name)?);
        let unreadable =
            |message: String| Error::TensorUnreadable { path: self.path.clone(), tensor: name.to_owned(), message };
        let part = self.byte_len(name)? / of;
        let range = first * part..(first + count) * part;
        let bytes = (stored.read)(range, memory).map_err(|error| unreadable(error.to_string()))?;
        TensorData::try_from_bytes(bytes, shape, dtype).map_err(|error| unreadable(error.to_string()))
    }

    /// A tensor's size in bytes.
    pub fn byte_len(&self, name: &str) -> Result<usize> {
        let elements = self.shape(name)?.iter().try_fold(self.dtype(name)?.size(), |all, size| all.checked_mul(*size));
        elements.ok_or_else(|| Error::TensorUnreadable {
            path: self.path.clone(),
            tensor: name.to_owned(),
            message: "its shape has more elements than can be counted".to_owned(),
        })
    }

    /// Reads a tensor's bytes in another way from now on.
    pub(super) fn map_tensor(&mut self, name: &str, change: impl FnOnce(ReadRange) -> ReadRange) {
        if let Some(Stored { dtype, shape, read }) = self.tensors.remove(name) {
            self.tensors.insert(name.to_owned(), Stored { dtype, shape, read: change(read) });
        }
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        self.tensors
            .get(name)
            .ok_or_else(|| Error::MissingTensors { path: self.path.clone(), names: vec![name.to_owned()] })
    }
}
