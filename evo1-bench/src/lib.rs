//! evo1-bench
