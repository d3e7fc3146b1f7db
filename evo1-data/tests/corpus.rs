//! The fuzz targets' bodies on their corpus, and on simple mutations of it.

use std::{fs, path::Path};

use evo1_core::rng::{self, RngExt};

#[path = "../../fuzz/data.rs"]
mod bodies;

/// Mutations tried of each file.
const MUTATIONS: usize = 100;

#[test]
fn every_target_survives_its_corpus() {
    let corpus = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus"));
    for (name, body) in bodies::TARGETS {
        let mut files: Vec<_> =
            fs::read_dir(corpus.join(name)).expect(name).map(|entry| entry.expect("a file").path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has no corpus");
        for path in files {
            let data = fs::read(&path).expect("readable");
            body(&data);
            let mut rng = rng::stream(0, &path.file_name().expect("a name").to_string_lossy());
            for _ in 0..MUTATIONS {
                let (mut data, at) = (data.clone(), rng.random_range(0..data.len()));
                match rng.random_range(0..4) {
                    0 => data[at] ^= 1 << rng.random_range(0..8),
                    1 => drop(data.remove(at)),
                    2 => data.insert(at, data[at]),
                    _ => data.truncate(at),
                }
                body(&data);
            }
        }
    }
}
