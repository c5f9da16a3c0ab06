#![no_main]

#[path = "../checks/pull_secret.rs"]
mod pull_secret;

libfuzzer_sys::fuzz_target!(|data: &[u8]| pull_secret::check(data));
