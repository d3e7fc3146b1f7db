//! Files that are always either old or complete.

use std::{fs, io, io::Write, path::Path};

use crate::{Error, Result};

/// Writes a file under a temporary name beside `path` and renames it once it is complete and on the disk.
///
/// # Errors
/// When the folder does not exist or the file cannot be written; `path` is then as it was.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically_with(path, |file| file.write_all(bytes).map_err(|reason| Error::io("write", path, reason)))
}

/// [`write_atomically`] for contents that are written piece by piece.
pub fn write_atomically_with(
    path: &Path,
    write: impl FnOnce(&mut io::BufWriter<fs::File>) -> Result<()>,
) -> Result<()> {
    let failed = |reason| Error::io("write", path, reason);
    let name = path.file_name().ok_or_else(|| failed(io::Error::other("the path names no file")))?;
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        return Err(failed(io::Error::other(format!("there is no folder {}", folder.display()))));
    }
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(temporary);
    let mut file = io::BufWriter::new(fs::File::create(&temporary).map_err(failed)?);
    let written = write(&mut file).and_then(|()| {
        file.into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&temporary, path))
            .map_err(failed)
    });
    if written.is_err() {
        // The error that matters is the one above; what is left of the file is of no use.
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_a_failure_leaves_the_old_one() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("file");
        write_atomically(&path, b"old").expect("write");
        write_atomically(&path, b"new").expect("replace");
        assert_eq!(fs::read(&path).expect("read"), b"new");
        let missing = directory.path().join("missing").join("file");
        let message = write_atomically(&missing, b"").expect_err("no folder").to_string();
        assert!(message.contains("there is no folder"), "{message}");
        fs::create_dir(directory.path().join("folder")).expect("folder");
        assert!(write_atomically(&directory.path().join("folder"), b"").is_err(), "a folder cannot be replaced");
        assert_eq!(fs::read_dir(directory.path()).expect("directory").count(), 2, "no temporary file is left");
    }
}
