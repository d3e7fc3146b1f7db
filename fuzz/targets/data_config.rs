#![no_main]

#[path = "../data.rs"]
#[allow(dead_code)]
mod data;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| data::data_config(bytes));
