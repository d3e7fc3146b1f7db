//! The fixtures: datasets, and what other programs read from them.
#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use evo1_core::test_support;
use safetensors::{Dtype, SafeTensors};

/// Actions of a window in the reference.
pub(crate) const HORIZON: usize = 4;

/// A dataset of the fixtures.
pub(crate) fn fixture(name: &str) -> PathBuf {
    test_support::fixture("lerobot-datasets").join(name)
}

/// A copy of a dataset of the fixtures that a test may damage.
pub(crate) fn copied(name: &str) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).expect("folder");
        for entry in fs::read_dir(from).expect("folder") {
            let entry = entry.expect("entry");
            let to = to.join(entry.file_name());
            if entry.file_type().expect("type").is_dir() {
                copy(&entry.path(), &to);
            } else {
                fs::write(to, fs::read(entry.path()).expect("read")).expect("write");
            }
        }
    }
    let directory = tempfile::tempdir().expect("directory");
    copy(&fixture(name), directory.path());
    directory
}

/// What other programs read.
pub(crate) struct Reference(Vec<u8>);

impl Reference {
    pub(crate) fn open() -> Self {
        Self::of(&fixture("reference.safetensors"))
    }

    /// What stands in a file.
    pub(crate) fn of(path: &Path) -> Self {
        Self(fs::read(path).expect("fixture"))
    }

    /// A tensor's values and shape.
    pub(crate) fn values(&self, name: &str) -> (Vec<f64>, Vec<usize>) {
        let file = SafeTensors::deserialize(&self.0).expect("safetensors");
        let tensor = file.tensor(name).unwrap_or_else(|_| panic!("`{name}` is in the reference"));
        let data = tensor.data();
        let values = match tensor.dtype() {
            Dtype::U8 => data.iter().map(|&value| f64::from(value)).collect(),
            Dtype::F32 => {
                data.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().expect("4 bytes")))).collect()
            }
            Dtype::F64 => data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes"))).collect(),
            Dtype::I64 => {
                data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("8 bytes")) as f64).collect()
            }
            other => panic!("{other:?} in the reference"),
        };
        (values, tensor.shape().to_vec())
    }

    /// Pictures `[frames, height, width, 3]`, one by one.
    pub(crate) fn pictures(&self, name: &str) -> Vec<Vec<u8>> {
        let (values, shape) = self.values(name);
        let levels: Vec<u8> = values.into_iter().map(|value| value as u8).collect();
        levels.chunks_exact(shape[1..].iter().product()).map(<[u8]>::to_vec).collect()
    }
}

/// Mean absolute difference of two pictures in grey levels.
pub(crate) fn difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| f64::from(a.abs_diff(b))).sum::<f64>() / a.len() as f64
}
