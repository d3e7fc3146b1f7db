//! burn's own file format, burnpack.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use burn::tensor::{Bytes, Shape};
use burn_pack::{Error as PackError, Reader, Tensor, Writer};

use super::{LazyTensor, file::Stored};
use crate::{Error, Result, files};

/// The tensors of a file.
pub(super) fn open(path: &Path) -> Result<BTreeMap<String, Stored>> {
    let _ = files::open(path)?;
    let tensors = Reader::from_file_exact(path).and_then(Reader::into_tensors).map_err(|error| invalid(path, error))?;
    Ok(tensors
        .into_iter()
        .map(|tensor| {
            let read = tensor.clone();
            let read = move |range: Range<usize>, _| {
                let bytes = read.to_bytes().map_err(|error| io::Error::other(error.to_string()))?;
                bytes
                    .get(range)
                    .map(|part| Bytes::from_bytes_vec(part.to_vec()))
                    .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            };
            (tensor.name, Stored { dtype: Ok(tensor.dtype), shape: tensor.shape.to_vec(), read: Box::new(read) })
        })
        .collect())
}

/// Writes tensors that are made one by one, under a temporary name that is renamed once the file is complete; `written`
/// hears of the bytes of each.
pub fn write_burnpack_lazily(
    path: &Path,
    tensors: Vec<LazyTensor>,
    written: impl Fn(usize) + Send + Sync + 'static,
) -> Result<()> {
    let written = Arc::new(written);
    // The format's writer knows errors of its own only: ours waits here until it gives up.
    let failed: Arc<Mutex<Option<Error>>> = Arc::default();
    let tensors = tensors
        .into_iter()
        .map(|LazyTensor { name, dtype, shape, read }| {
            let bytes = shape.iter().product::<usize>() * dtype.size();
            let (written, failed) = (Arc::clone(&written), Arc::clone(&failed));
            Tensor::deferred(name, dtype, Shape::from(shape), None, bytes, move || match read() {
                Ok(data) => {
                    written(bytes);
                    Ok(Bytes::from_bytes_vec(data.as_bytes().to_vec()))
                }
                Err(error) => {
                    let message = error.to_string();
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    Err(PackError::ValidationError(message))
                }
            })
        })
        .collect();
    Writer::new(tensors).auto_extension(false).overwrite(true).write_to_file(path).map_err(|error| {
        failed.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_else(|| invalid(path, error))
    })
}

fn invalid(path: &Path, message: impl ToString) -> Error {
    Error::Burnpack { path: path.to_owned(), message: message.to_string() }
}
