//! The fuzz targets' bodies on their corpus, and on simple mutations of it.

use evo1_core::rng;

#[path = "../../fuzz/data.rs"]
mod bodies;
#[path = "../../fuzz/corpus.rs"]
mod corpus;

/// Mutations tried of each file.
const MUTATIONS: usize = 100;

#[test]
fn every_target_survives_its_corpus() {
    corpus::run(&bodies::TARGETS, MUTATIONS);
}
