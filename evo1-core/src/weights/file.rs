//! A safetensors file whose header is in memory and whose tensors are read one by one.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
    sync::Mutex,
};

use burn::tensor::{BoolStore, DType, TensorData};
use safetensors::{Dtype, tensor::Metadata};

use crate::{Error, Result};

/// A safetensors file, on disk or in memory.
#[derive(Debug)]
pub struct WeightFile {
    path: PathBuf,
    tensors: BTreeMap<String, Stored>,
    bytes: Source,
}

/// One tensor of the file.
#[derive(Debug, Clone)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

#[derive(Debug)]
enum Source {
    File(Mutex<File>),
    Memory(Cow<'static, [u8]>),
}

/// Bytes of the header's length at the start of a safetensors file.
const LENGTH_BYTES: usize = 8;

/// Longer headers are refused, as the format's own reader does.
const MAX_HEADER_BYTES: usize = 100_000_000;

impl WeightFile {
    /// Opens a file and checks its header against its size.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::io("read", path, source);
        let mut file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(io(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file")));
        }
        let size = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
        let mut length = [0; LENGTH_BYTES];
        if size < LENGTH_BYTES {
            return Err(invalid(path, format!("{size} bytes are too few for a header")));
        }
        file.read_exact(&mut length).map_err(io)?;
        let mut header = vec![0; header_length(path, length, size)?];
        file.read_exact(&mut header).map_err(io)?;
        let tensors = parse_header(path, &header, size)?;
        Ok(Self { path: path.to_owned(), tensors, bytes: Source::File(Mutex::new(file)) })
    }

    /// A file that is in memory, for example embedded in the program; `path` stands for it in messages.
    pub fn from_bytes(path: &Path, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        let bytes = bytes.into();
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
            return Err(invalid(path, format!("{} bytes are too few for a header", bytes.len())));
        };
        let header = &rest[..header_length(path, *length, bytes.len())?];
        let tensors = parse_header(path, header, bytes.len())?;
        Ok(Self { path: path.to_owned(), tensors, bytes: Source::Memory(bytes) })
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

    /// Reads a tensor.
    pub fn read(&self, name: &str) -> Result<TensorData> {
        let stored = self.stored(name)?;
        let dtype = self.dtype(name, stored.dtype)?;
        let bytes = match &self.bytes {
            Source::Memory(bytes) => bytes[stored.range.clone()].to_vec(),
            Source::File(file) => {
                let io = |source| Error::io("read", &self.path, source);
                let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                file.seek(SeekFrom::Start(stored.range.start as u64)).map_err(io)?;
                let mut bytes = Vec::with_capacity(stored.range.len());
                (&mut *file).take(stored.range.len() as u64).read_to_end(&mut bytes).map_err(io)?;
                bytes
            }
        };
        TensorData::try_from_bytes_vec(bytes, stored.shape.clone(), dtype)
            .map_err(|error| invalid(&self.path, format!("tensor `{name}` was cut short while it was read: {error}")))
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        self.tensors
            .get(name)
            .ok_or_else(|| Error::MissingTensors { path: self.path.clone(), names: vec![name.to_owned()] })
    }

    fn dtype(&self, name: &str, dtype: Dtype) -> Result<DType> {
        Ok(match dtype {
            Dtype::F64 => DType::F64,
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::I64 => DType::I64,
            Dtype::I32 => DType::I32,
            Dtype::I16 => DType::I16,
            Dtype::I8 => DType::I8,
            Dtype::U64 => DType::U64,
            Dtype::U32 => DType::U32,
            Dtype::U16 => DType::U16,
            Dtype::U8 => DType::U8,
            Dtype::BOOL => DType::Bool(BoolStore::Native),
            other => {
                return Err(Error::TensorDtype {
                    path: self.path.clone(),
                    tensor: name.to_owned(),
                    expected: "f64, f32, f16, bf16, integers or booleans",
                    got: format!("{other:?}"),
                });
            }
        })
    }
}

fn invalid(path: &Path, message: impl Into<String>) -> Error {
    Error::Safetensors { path: path.to_owned(), message: message.into() }
}

fn header_length(path: &Path, length: [u8; LENGTH_BYTES], size: usize) -> Result<usize> {
    let length = u64::from_le_bytes(length);
    let room = size - LENGTH_BYTES;
    match usize::try_from(length) {
        Ok(length) if length <= room.min(MAX_HEADER_BYTES) => Ok(length),
        _ => Err(invalid(path, format!("it claims a header of {length} bytes, but {room} bytes follow"))),
    }
}

fn parse_header(path: &Path, header: &[u8], size: usize) -> Result<BTreeMap<String, Stored>> {
    let metadata: Metadata = serde_json::from_slice(header).map_err(|error| invalid(path, error.to_string()))?;
    let start = LENGTH_BYTES + header.len();
    let (claimed, present) = (metadata.data_len(), size - start);
    if claimed != present {
        return Err(invalid(path, format!("its header describes {claimed} bytes of tensors, but {present} are there")));
    }
    Ok(metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| {
            let (from, to) = info.data_offsets;
            let range = start + from..start + to;
            (name, Stored { dtype: info.dtype, shape: info.shape.clone(), range })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    fn message(bytes: Vec<u8>) -> String {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("model.safetensors");
        std::fs::write(&path, &bytes).expect("write");
        let opened = WeightFile::open(&path).expect_err("must be refused").to_string();
        let in_memory = WeightFile::from_bytes(&path, bytes).expect_err("must be refused").to_string();
        assert_eq!(opened, in_memory);
        opened.replace(&path.display().to_string(), "FILE")
    }

    const ONE: &str = r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;

    #[test]
    fn a_tensor_is_read_back() {
        let data = [1.0_f32.to_le_bytes(), 2.0_f32.to_le_bytes()].concat();
        let file = WeightFile::from_bytes(Path::new("memory"), file(ONE, &data)).expect("valid");
        assert_eq!(file.names().collect::<Vec<_>>(), ["x"]);
        assert_eq!(file.read("x").expect("x"), TensorData::from([1.0_f32, 2.0]));
        assert!(matches!(file.read("y"), Err(Error::MissingTensors { .. })));
    }

    #[test]
    fn lying_and_truncated_headers_are_refused() {
        assert_eq!(message(vec![1, 2, 3]), "FILE: not a valid safetensors file: 3 bytes are too few for a header");
        let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
        assert!(message(huge).contains("claims a header of 18446744073709551615 bytes, but 2 bytes follow"));
        assert!(message(file(ONE, &[0; 7])).contains("describes 8 bytes of tensors, but 7 are there"));
        assert!(message(file(ONE, &[0; 9])).contains("describes 8 bytes of tensors, but 9 are there"));
        assert!(message(file("{", &[])).contains("EOF"));
        for header in [
            r#"{"x":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
            r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
            r#"{"x":{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,8]}}"#,
            r#"{"x":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}"#,
            r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"y":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
        ] {
            assert!(message(file(header, &[0; 8])).starts_with("FILE: not a valid safetensors file: "), "{header}");
        }
    }
}
