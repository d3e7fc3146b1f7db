//! PyTorch checkpoints (`torch.save`), read by an unpickler that builds tensors and executes nothing.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read as _},
    ops::Range,
    path::Path,
};

use burn::tensor::{BoolStore, Bytes, DType};
use pytorch_reader::{PytorchError, PytorchReader};
use zip::{CompressionMethod, ZipArchive};

use super::file::Stored;
use crate::{Error, Result, files};

/// Where training programs put the weights among what else they save: DeepSpeed under `module`, the authors' own saving
/// under `model_state_dict`, most others under `state_dict`.
const WEIGHT_KEYS: [&str; 3] = ["module", "model_state_dict", "state_dict"];

/// Longer pickles are refused: a full-size checkpoint's has about 300 kB.
const MAX_PICKLE_BYTES: u64 = 8_000_000;

/// The unpickler names a tensor by all the keys above it, so that the names of nested tensors may together be as long as the
/// pickle times their number. More is refused: a full-size checkpoint comes to a tenth of it.
const MAX_NAME_BYTES: u64 = 4_000_000_000;

/// The opcode by which a pickle refers to a tensor's storage.
const BINPERSID: u8 = b'Q';

/// The tensors of a file.
pub(super) fn open(path: &Path) -> Result<BTreeMap<String, Stored>> {
    let invalid = |message: String| Error::PyTorch { path: path.to_owned(), message };
    let (file, size) = files::open(path)?;
    check_archive(file).map_err(invalid)?;
    let reader = WEIGHT_KEYS
        .iter()
        .find_map(|key| match PytorchReader::with_top_level_key(path, key) {
            Err(PytorchError::KeyNotFound(_)) => None,
            found => Some(found),
        })
        .unwrap_or_else(|| PytorchReader::new(path))
        .map_err(|error| invalid(error.to_string()))?;
    Ok(reader
        .into_tensors()
        .into_iter()
        .map(|(name, tensor)| {
            let bytes = tensor.byte_len();
            let (_, dtype, shape, read) = tensor.into_parts();
            let read = move |range: Range<usize>, _| {
                // A view may repeat its storage any number of times.
                if bytes as u64 > size {
                    return Err(io::Error::other(format!("it claims {bytes} bytes, and the file has {size}")));
                }
                let mut bytes = read()?;
                if range.end > bytes.len() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                bytes.truncate(range.end);
                bytes.drain(..range.start);
                Ok(Bytes::from_bytes_vec(bytes))
            };
            (name, Stored { dtype: Ok(burn_dtype(dtype)), shape, read: Box::new(read) })
        })
        .collect())
}

/// Looks at a file before the unpickler does, which bounds what it reads but not what it makes of it: a byte of a pickle
/// may become a hundred in memory, and a byte of a compressed one a hundred thousand.
///
/// `torch.save` has written archives since PyTorch 1.6, and never compresses.
fn check_archive(file: File) -> Result<(), String> {
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| {
        format!(
            "it is not an archive as `torch.save` has written since PyTorch 1.6: {error}; load it there and save it"
        )
    })?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index_raw(index).map_err(|error| error.to_string())?;
        let name = entry.name().map_err(|error| error.to_string())?.into_owned();
        let size = entry.size();
        if entry.compression() != CompressionMethod::Stored {
            return Err(format!("`{name}` is compressed, which `torch.save` never does"));
        }
        if name.ends_with("data.pkl") {
            if size > MAX_PICKLE_BYTES {
                return Err(format!(
                    "`{name}` has {size} bytes, more than the {MAX_PICKLE_BYTES} that a checkpoint needs"
                ));
            }
            let mut pickle = Vec::new();
            entry.read_to_end(&mut pickle).map_err(|error| error.to_string())?;
            // Bytes of that value in numbers and texts count as well.
            let tensors = pickle.iter().filter(|&&byte| byte == BINPERSID).count() as u64;
            if size.saturating_mul(tensors) > MAX_NAME_BYTES {
                return Err(format!(
                    "the names of up to {tensors} tensors in the {size} bytes of `{name}` may not fit into memory"
                ));
            }
        }
    }
    Ok(())
}

fn burn_dtype(dtype: pytorch_reader::DType) -> DType {
    use pytorch_reader::DType as Torch;
    match dtype {
        Torch::F64 => DType::F64,
        Torch::F32 => DType::F32,
        Torch::F16 => DType::F16,
        Torch::BF16 => DType::BF16,
        Torch::I64 => DType::I64,
        Torch::I32 => DType::I32,
        Torch::I16 => DType::I16,
        Torch::I8 => DType::I8,
        Torch::U64 => DType::U64,
        Torch::U32 => DType::U32,
        Torch::U16 => DType::U16,
        Torch::U8 => DType::U8,
        Torch::Bool => DType::Bool(BoolStore::Native),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{WeightFile, floats};

    const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/pytorch");

    fn open(name: &str) -> Result<WeightFile> {
        WeightFile::open(&Path::new(FIXTURE).join(name))
    }

    #[test]
    fn weights_are_found_wherever_training_programs_put_them() {
        for name in ["module.pt", "model_state_dict.pt", "bare.pt"] {
            let file = open(name).expect(name);
            assert_eq!(file.names().collect::<Vec<_>>(), ["half", "matrix", "view"], "{name}");
            assert_eq!(file.shape("matrix").expect("matrix"), [2, 3]);
            assert_eq!(floats(&file.read("matrix").expect("matrix")), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
            assert_eq!(file.dtype("half").expect("half"), DType::BF16);
            assert_eq!(floats(&file.read("half").expect("half")), [0.5, -2.0]);
            // A transposed view of the matrix: strides are followed.
            assert_eq!(floats(&file.read("view").expect("view")), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        }
    }

    #[test]
    fn a_pickle_that_would_run_a_command_is_refused_and_runs_nothing() {
        let error = open("os_system.pt").expect_err("it calls os.system");
        assert!(matches!(error, Error::PyTorch { .. }), "{error}");
        assert!(!std::env::temp_dir().join("evo1-pickle-was-executed").exists());
    }

    #[test]
    fn a_pickle_whose_names_may_fill_the_memory_is_refused() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("model.pt");
        let mut archive = zip::ZipWriter::new(File::create(&path).expect("file"));
        let options = zip::write::SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        archive.start_file("archive/data.pkl", options).expect("entry");
        io::Write::write_all(&mut archive, &vec![BINPERSID; 100_000]).expect("written");
        archive.finish().expect("finished");
        let error = WeightFile::open(&path).expect_err("names of 10 GB").to_string();
        assert!(error.contains("100000 tensors") && error.contains("data.pkl"), "{error}");
    }

    #[test]
    fn files_that_are_none_are_refused() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("model.pt");
        for bytes in [&b""[..], b"PK\x03\x04", b"\x80\x02}q\x00.", b"not a pickle at all"] {
            std::fs::write(&path, bytes).expect("write");
            match WeightFile::open(&path) {
                Ok(file) => assert_eq!(file.names().count(), 0, "{bytes:?}"),
                Err(error) => assert!(matches!(error, Error::PyTorch { .. }), "{error}"),
            }
        }
        assert!(matches!(open("no_such.pt"), Err(Error::Io { .. })));
    }
}
