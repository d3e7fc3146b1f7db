//! Files that are always either old or complete, and texts that are never too long to read.

use std::{
    fs, io,
    io::{Read, Write},
    path::Path,
};

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// More bytes than any configuration, statistics or tokenizer file has.
const MAX_TEXT_BYTES: u64 = 100_000_000;

/// What a file begins with that Git LFS puts in place of another one, and more bytes than it has.
const POINTER: (&[u8], u64) = (b"version https://git-lfs.github.com/spec/", 1024);

/// Opens a regular file for reading and says how many bytes it has. Nothing else is opened: a pipe would be waited for.
///
/// # Errors
/// When it cannot be opened, or is what Git LFS puts in place of the file that is wanted.
pub fn open(path: &Path) -> Result<(fs::File, u64)> {
    let failed = |reason| Error::io("read", path, reason);
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is not a regular file")));
    }
    let file = fs::File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let (start, longest) = POINTER;
    if (start.len() as u64..longest).contains(&size) {
        let mut found = vec![0; start.len()];
        read_exact_at(&file, &mut found, 0).map_err(failed)?;
        if found == start {
            return Err(Error::Pointer(path.to_owned()));
        }
    }
    Ok((file, size))
}

/// Reads a file whole.
///
/// # Errors
/// As [`open`].
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let (mut file, size) = open(path)?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default().min(1 << 30));
    file.read_to_end(&mut bytes).map_err(|reason| Error::io("read", path, reason))?;
    Ok(bytes)
}

/// Fills `bytes` from `offset` bytes into the file; several threads may read from one file at a time.
///
/// # Errors
/// When the file cannot be read, or ends before.
pub fn read_exact_at(file: &fs::File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset);
    #[cfg(windows)]
    {
        let mut filled = 0;
        while filled < bytes.len() {
            match std::os::windows::fs::FileExt::seek_read(file, &mut bytes[filled..], offset + filled as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(())
    }
}

/// Reads a small text file whole.
///
/// # Errors
/// When it is not a regular file, has more than 100 MB, or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let failed = |reason| Error::io("read", path, reason);
    let (file, _) = open(path)?;
    let mut text = String::new();
    file.take(MAX_TEXT_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_TEXT_BYTES {
        return Err(failed(io::Error::other(format!("it has more than {MAX_TEXT_BYTES} bytes"))));
    }
    Ok(text)
}

/// The SHA-256 sum of a file as hexadecimal digits; `read` hears of the bytes of each block.
pub fn sha256(path: &Path, read: impl Fn(usize)) -> Result<String> {
    const BLOCK: usize = 1 << 20;
    let failed = |reason| Error::io("read", path, reason);
    let (mut file, _) = open(path)?;
    let (mut sum, mut block) = (Sha256::new(), vec![0; BLOCK]);
    loop {
        match file.read(&mut block).map_err(failed)? {
            0 => break,
            count => {
                sum.update(&block[..count]);
                read(count);
            }
        }
    }
    Ok(hexadecimal(&sum.finalize()))
}

/// Bytes as hexadecimal digits.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

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
    fn sums_are_the_published_ones() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("file");
        write_atomically(&path, b"abc").expect("write");
        let sum = sha256(&path, |count| assert_eq!(count, 3)).expect("sum");
        assert_eq!(sum, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn what_git_lfs_puts_in_place_of_a_file_is_named() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("file");
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        fs::write(&path, pointer).expect("write");
        for message in [open(&path).err(), read_text(&path).err(), sha256(&path, |_| ()).err()] {
            let message = message.expect("refused").to_string();
            assert!(message.contains("`git lfs pull`") && message.contains("file"), "{message}");
        }
        fs::write(&path, &pointer[1..]).expect("write");
        assert_eq!(read(&path).expect("another file"), &pointer.as_bytes()[1..]);
    }

    #[test]
    fn texts_are_regular_files_of_bounded_size() {
        let directory = tempfile::tempdir().expect("directory");
        assert!(read_text(directory.path()).is_err());
        let path = directory.path().join("text");
        fs::File::create(&path).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
        let message = read_text(&path).expect_err("too long").to_string();
        assert!(message.contains("more than 100000000 bytes"), "{message}");
        #[cfg(unix)]
        {
            let link = directory.path().join("link");
            std::os::unix::fs::symlink(&link, &link).expect("a loop");
            assert!(read_text(&link).is_err());
        }
    }

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
