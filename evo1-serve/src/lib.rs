//! A policy server that existing robot clients talk to unchanged.
