#![no_main]

#[path = "../checks/review.rs"]
mod review;

libfuzzer_sys::fuzz_target!(|data: &[u8]| review::check(data));
