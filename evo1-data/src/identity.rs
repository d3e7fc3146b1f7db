//! What the data of a run are, so that a run that goes on can tell whether they are still the same.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use evo1::files::hexadecimal;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{DatasetSource, Mixture, mixture::frames};

/// Bytes that are looked at at the beginning and at the end of a file.
const LOOKED_AT: u64 = 64 << 10;

/// What a dataset of a mixture is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetIdentity {
    /// Arm and dataset key, `arm/dataset`.
    pub name: String,
    /// Episodes that are used.
    pub episodes: usize,
    /// Frames that are drawn from.
    pub frames: usize,
    /// A sum of which frames are drawn from and how often.
    pub weights: String,
    /// A sum of the tables and videos that are used: of their names, sizes, first and last bytes. A table ends with the
    /// ranges of its columns, a video begins or ends with its list of frames.
    pub contents: String,
}

impl Mixture {
    /// What the datasets are. Every file that is used is opened, none is read whole.
    pub fn identity(&self) -> Vec<DatasetIdentity> {
        let identity = |(index, source): (usize, &DatasetSource)| {
            let (mut weights, mut count) = (Sha256::new(), 0);
            for run in self.runs().iter().filter(|run| run.source == index) {
                count += frames(run).len();
                let places = [run.episode, run.first, run.count, run.stride].map(|place| place as u64);
                places.iter().for_each(|place| weights.update(place.to_le_bytes()));
                weights.update(run.weight.to_bits().to_le_bytes());
            }
            DatasetIdentity {
                name: source.name.to_string(),
                episodes: source.episodes().len(),
                frames: count,
                weights: short(weights),
                contents: short(contents(source)),
            }
        };
        self.sources().iter().enumerate().map(identity).collect()
    }
}

/// The sum of a dataset's files. One that is not there counts as such: what cannot be read shows when it is drawn.
fn contents(source: &DatasetSource) -> Sha256 {
    let dataset = &source.dataset;
    let mut paths = BTreeSet::new();
    for episode in source.episodes() {
        paths.extend(dataset.table_path(episode).ok());
        let cameras = source.cameras();
        paths.extend(cameras.filter_map(|camera| dataset.clip(episode, camera).ok()).map(|clip| clip.path));
    }
    let mut sum = Sha256::new();
    for path in paths {
        let name = path.strip_prefix(dataset.root()).unwrap_or(&path);
        sum.update(name.to_string_lossy().as_bytes());
        match ends(&path) {
            Ok((size, bytes)) => {
                sum.update(size.to_le_bytes());
                sum.update(bytes);
            }
            Err(_) => sum.update("absent"),
        }
    }
    sum
}

/// The size of a file, and its first and last bytes.
fn ends(path: &Path) -> std::io::Result<(u64, Vec<u8>)> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut bytes = Vec::new();
    (&mut file).take(LOOKED_AT).read_to_end(&mut bytes)?;
    if size > LOOKED_AT {
        file.seek(SeekFrom::Start(size.saturating_sub(LOOKED_AT).max(LOOKED_AT)))?;
        file.take(LOOKED_AT).read_to_end(&mut bytes)?;
    }
    Ok((size, bytes))
}

/// The first 64 bits of a sum, in hexadecimal digits.
fn short(sum: Sha256) -> String {
    hexadecimal(&sum.finalize()[..8])
}
