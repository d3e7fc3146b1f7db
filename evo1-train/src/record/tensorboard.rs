//! TensorBoard's event files: length-prefixed, checksummed protocol buffers.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// Writes scalars into an event file.
#[derive(Debug)]
pub struct EventFile {
    file: File,
}

/// What the first event of a file says.
const VERSION: &str = "brain.Event:2";

impl EventFile {
    /// Creates the file, whose name must hold `tfevents` for TensorBoard to see it.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut events = Self { file: File::create(path)? };
        let mut version = Message::default();
        version.double(1, now());
        version.bytes(3, VERSION.as_bytes());
        events.write(&version.0)?;
        Ok(events)
    }

    /// Adds one value of every tag for a step.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> io::Result<()> {
        let mut summary = Message::default();
        for &(tag, value) in values {
            let mut entry = Message::default();
            entry.bytes(1, tag.as_bytes());
            entry.float(2, value as f32);
            summary.bytes(1, &entry.0);
        }
        let mut event = Message::default();
        event.double(1, now());
        event.varint(2, step);
        event.bytes(5, &summary.0);
        self.write(&event.0)
    }

    /// One record: length and its checksum, data and its checksum.
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(data.len() + 16);
        record.extend(length);
        record.extend(masked(crc32c(&length)).to_le_bytes());
        record.extend(data);
        record.extend(masked(crc32c(data)).to_le_bytes());
        self.file.write_all(&record)
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// The fields of a protocol buffer, in the order in which they are added.
#[derive(Default)]
struct Message(Vec<u8>);

/// How a field's value is laid out: the lower three bits of its key.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED_32: u64 = 5;

impl Message {
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, layout: u64) {
        self.raw_varint(field << 3 | layout);
    }

    fn varint(&mut self, field: u64, value: u64) {
        self.key(field, VARINT);
        self.raw_varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, FIXED_64);
        self.0.extend(value.to_le_bytes());
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, FIXED_32);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, LENGTH_DELIMITED);
        self.raw_varint(value.len() as u64);
        self.0.extend(value);
    }
}

/// The checksum as the format stores it: rotated, so that a checksum of checksums is not degenerate.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: events are small and few.
fn crc32c(data: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !data.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_has_its_published_values() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn a_scalar_is_laid_out_as_tensorboard_reads_it() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("events.out.tfevents.1");
        let mut events = EventFile::create(&path).expect("file");
        events.scalars(300, &[("loss", 0.5)]).expect("written");
        let bytes = std::fs::read(&path).expect("file");
        let mut rest = bytes.as_slice();
        let mut records = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<8>() {
            assert_eq!(after[..4], masked(crc32c(length)).to_le_bytes());
            let (data, after) = after[4..].split_at(u64::from_le_bytes(*length) as usize);
            assert_eq!(after[..4], masked(crc32c(data)).to_le_bytes());
            records.push(data);
            rest = &after[4..];
        }
        assert_eq!(records[0][9..], [b"\x1a\x0d", VERSION.as_bytes()].concat());
        // Step 300, then a summary of one value: tag `loss`, simple value 0.5.
        assert_eq!(records[1][9..], *b"\x10\xac\x02\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\x00\x3f");
    }
}
