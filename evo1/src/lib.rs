//! evo1
