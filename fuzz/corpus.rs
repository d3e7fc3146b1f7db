//! Runs fuzz targets on their corpus and on simple mutations of it, for the tests of the crates. Whoever includes this
//! module has `rng` of `evo1-core` in scope beside it.

use std::{fs, path::Path};

use super::rng::{self, RngExt};

/// A target's name and its body.
type Target<'a> = (&'a str, fn(&[u8]));

/// Runs every target's body on each file of its corpus, and on `mutations` mutations of each.
pub(crate) fn run(targets: &[Target], mutations: usize) {
    let corpus = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus"));
    for (name, body) in targets {
        let mut files: Vec<_> = fs::read_dir(corpus.join(name))
            .unwrap_or_else(|error| panic!("{name} has no corpus: {error}"))
            .map(|entry| entry.expect("a file").path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{name} has no corpus");
        for path in files {
            let data = fs::read(&path).expect("readable");
            body(&data);
            let mut rng = rng::stream(0, &path.file_name().expect("a name").to_string_lossy());
            for _ in 0..mutations {
                body(&mutated(data.clone(), &mut rng));
            }
        }
    }
}

/// The bytes with one of them changed, left out or doubled, or without their end.
fn mutated(mut data: Vec<u8>, rng: &mut rng::ChaCha8Rng) -> Vec<u8> {
    if data.is_empty() {
        return data;
    }
    let at = rng.random_range(0..data.len());
    match rng.random_range(0..4) {
        0 => data[at] ^= 1 << rng.random_range(0..8),
        1 => drop(data.remove(at)),
        2 => data.insert(at, data[at]),
        _ => data.truncate(at),
    }
    data
}
