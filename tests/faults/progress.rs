//! What the program is doing, with the time since its first word.

use std::{sync::OnceLock, time::Instant};

/// Says it on standard error.
pub fn say(what: impl std::fmt::Display) {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    eprintln!("[{:6.1} s] {what}", start.elapsed().as_secs_f64());
}
