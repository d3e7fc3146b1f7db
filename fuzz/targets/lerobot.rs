#![no_main]

#[path = "../serve.rs"]
#[allow(dead_code)]
mod serve;

libfuzzer_sys::fuzz_target!(|data: &[u8]| serve::lerobot(data));
