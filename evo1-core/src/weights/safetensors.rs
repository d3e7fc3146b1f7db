//! The safetensors format: a header that lists the tensors, and their bytes.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use burn::tensor::{BoolStore, Bytes, DType};
use rayon::prelude::*;
use safetensors::{Dtype, tensor::Metadata};
use serde::Deserialize;

use super::file::{ReadRange, RecycledBuffer, Stored};
use crate::{
    Error, Result,
    files::{self, read_exact_at},
    json,
};

/// Bytes of the header's length at the start of a safetensors file.
const LENGTH_BYTES: usize = 8;

/// Longer headers are refused, as the format's own reader does.
const MAX_HEADER_BYTES: usize = 100_000_000;

/// The tensors of a file, whose header is checked against its size.
pub(super) fn open(path: &Path) -> Result<BTreeMap<String, Stored>> {
    let failed = |reason| Error::io("read", path, reason);
    let (mut file, size) = files::open(path)?;
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let mut length = [0; LENGTH_BYTES];
    if size < LENGTH_BYTES {
        return Err(invalid(path, format!("{size} bytes are too few for a header")));
    }
    file.read_exact(&mut length).map_err(failed)?;
    let mut header = vec![0; header_length(path, length, size)?];
    file.read_exact(&mut header).map_err(failed)?;
    let file = Arc::new(file);
    listed(path, &header, size, |tensor| {
        let file = Arc::clone(&file);
        Box::new(move |range, memory| read_range(&file, &within(&tensor, &range), memory))
    })
}

/// The tensors of a file that is in memory.
pub(super) fn from_bytes(path: &Path, bytes: Cow<'static, [u8]>) -> Result<BTreeMap<String, Stored>> {
    let bytes = Arc::new(bytes);
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(invalid(path, format!("{} bytes are too few for a header", bytes.len())));
    };
    let header = &rest[..header_length(path, *length, bytes.len())?];
    listed(path, header, bytes.len(), |tensor| {
        let bytes = Arc::clone(&bytes);
        Box::new(move |range, _| Ok(Bytes::from_bytes_vec(bytes[within(&tensor, &range)].to_vec())))
    })
}

/// The tensors of all shards that an index file names, and the shards.
pub(super) fn open_shards(path: &Path) -> Result<(BTreeMap<String, Stored>, Vec<PathBuf>)> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Index { weight_map } = json::read(path)?;
    let shards: BTreeSet<&String> = weight_map.values().collect();
    let (mut tensors, mut files) = (BTreeMap::new(), Vec::new());
    for shard in shards {
        let mut components = Path::new(shard).components();
        let is_sibling =
            matches!(components.next(), Some(std::path::Component::Normal(_))) && components.next().is_none();
        if !is_sibling {
            return Err(Error::invalid(path.display(), "weight_map", "names of files in the same folder", shard));
        }
        let file = path.with_file_name(shard);
        for (name, stored) in open(&file)? {
            // The index says where a tensor is; a shard may hold others that no index speaks of.
            if weight_map.get(&name) == Some(shard) {
                tensors.insert(name, stored);
            }
        }
        files.push(file);
    }
    let names: Vec<String> = weight_map.into_keys().filter(|name| !tensors.contains_key(name)).collect();
    if !names.is_empty() {
        return Err(Error::MissingTensors { path: path.to_owned(), names });
    }
    Ok((tensors, files))
}

/// A range of a tensor's bytes as one of the file's.
fn within(tensor: &Range<usize>, range: &Range<usize>) -> Range<usize> {
    tensor.start + range.start..tensor.start + range.end
}

/// Reads a range in pieces, on several threads when it is long.
fn read_range(file: &File, range: &Range<usize>, memory: RecycledBuffer) -> io::Result<Bytes> {
    const PIECE: usize = 1 << 22;
    let mut bytes = memory.into_bytes(range.len());
    bytes
        .par_chunks_mut(PIECE)
        .enumerate()
        .try_for_each(|(index, piece)| read_exact_at(file, piece, (range.start + index * PIECE) as u64))?;
    Ok(bytes)
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

/// The tensors that a header lists, each with a way to read its range of the file.
fn listed(
    path: &Path,
    header: &[u8],
    size: usize,
    reader: impl Fn(Range<usize>) -> ReadRange,
) -> Result<BTreeMap<String, Stored>> {
    let failed = |error: serde_json::Error| invalid(path, error.to_string());
    json::check_keys(header).map_err(failed)?;
    let metadata: Metadata = serde_json::from_slice(header).map_err(failed)?;
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
            let read = reader(start + from..start + to);
            (name, Stored { dtype: burn_dtype(info.dtype), shape: info.shape.clone(), read })
        })
        .collect())
}

fn burn_dtype(dtype: Dtype) -> Result<DType, String> {
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
        other => return Err(format!("{other:?}")),
    })
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::weights::WeightFile;

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
            r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
            r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
            r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,18446744073709551615]}}"#,
            r#"{"x":{"dtype":"F32","shape":[0,4611686018427387904,4],"data_offsets":[0,8]}}"#,
        ] {
            assert!(message(file(header, &[0; 8])).starts_with("FILE: not a valid safetensors file: "), "{header}");
        }
    }

    #[test]
    fn shards_are_read_as_one_file() {
        let directory = tempfile::tempdir().expect("directory");
        let write = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).expect("write");
        let data = [1.0_f32.to_le_bytes(), 2.0_f32.to_le_bytes()].concat();
        write("a.safetensors", &file(ONE, &data));
        write("b.safetensors", &file(&ONE.replace("\"x\"", "\"y\""), &data));
        let open = |map: &str| {
            write("model.safetensors.index.json", format!(r#"{{"weight_map":{map}}}"#).as_bytes());
            WeightFile::open(&directory.path().join("model.safetensors.index.json"))
        };
        let whole = open(r#"{"x":"a.safetensors","y":"b.safetensors"}"#).expect("two shards");
        assert_eq!(whole.names().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(whole.read("y").expect("y"), TensorData::from([1.0_f32, 2.0]));
        let message = |map| open(map).expect_err("must be refused").to_string();
        assert!(message(r#"{"x":"b.safetensors"}"#).contains("missing: `x`"));
        assert!(message(r#"{"x":"../a.safetensors"}"#).contains("names of files in the same folder"));
        assert!(message(r#"{"x":"c.safetensors"}"#).contains("c.safetensors"));
        assert!(message("3").contains("not valid JSON"));
    }
}
