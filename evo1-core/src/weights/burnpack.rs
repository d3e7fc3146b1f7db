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
    write_pack(path, Writer::new(tensors))
        .map_err(|error| failed.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or(error))
}

/// Writes a pack tensor by tensor, under a temporary name that is renamed once the file is complete.
///
/// # Errors
/// When the file cannot be written: with what the system said, a full disk for example.
pub fn write_pack(path: &Path, writer: Writer) -> Result<()> {
    writer.auto_extension(false).overwrite(true).write_to_file(path).map_err(|error| match &error {
        // The format's writer has it in words alone.
        PackError::IoError(message) => match system_error(message) {
            Some(reason) => Error::io("write", path, reason),
            None => invalid(path, error),
        },
        _ => invalid(path, error),
    })
}

/// The error of the system that a message ends with: `… (os error 28)`.
fn system_error(message: &str) -> Option<io::Error> {
    let (_, number) = message.rsplit_once("(os error ")?;
    Some(io::Error::from_raw_os_error(number.split(')').next()?.parse().ok()?))
}

fn invalid(path: &Path, message: impl ToString) -> Error {
    Error::Burnpack { path: path.to_owned(), message: message.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_said_is_found_in_a_message() {
        let full = io::Error::from(io::ErrorKind::StorageFull).kind();
        let said = io::Error::from_raw_os_error(28).to_string();
        let found = system_error(&format!("tensor 'a': cannot write x: {said}")).expect("an error of the system");
        assert_eq!((found.raw_os_error(), cfg!(not(target_os = "linux")) || found.kind() == full), (Some(28), true));
        assert!(system_error("something else").is_none());
    }
}
