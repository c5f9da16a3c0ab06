//! What fuzzing begins with, through the checks that fuzzing makes: a stable compiler and a second suffice for that.
//! `fuzz/README.md` tells how to look further.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test may end at once and say where")]
#![expect(clippy::print_stdout, reason = "shown when a check fails")]

use std::{fs, path::Path};

#[path = "../fuzz/checks/configuration.rs"]
mod configuration;
#[path = "../fuzz/checks/image.rs"]
mod image;
#[path = "../fuzz/checks/pull_secret.rs"]
mod pull_secret;
#[path = "../fuzz/checks/review.rs"]
mod review;
#[path = "../fuzz/checks/token.rs"]
mod token;

#[test]
fn reviews() {
    each_seed("review", review::check);
}

#[test]
fn images() {
    each_seed("image", image::check);
    let answers = include_str!("fixtures/image-registry-more.tsv").lines().filter(|line| !line.starts_with("# "));
    for line in answers {
        let image: String = serde_json::from_str(line.split('\t').next().unwrap()).unwrap();
        image::check(image.as_bytes());
    }
}

#[test]
fn configurations() {
    each_seed("configuration", configuration::check);
}

#[test]
fn stored_pull_secrets() {
    each_seed("pull_secret", pull_secret::check);
}

#[test]
fn tokens() {
    each_seed("token", token::check);
}

/// Every seed, and what becomes of it when a byte in its middle is another, or when it ends early.
fn each_seed(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut seeds = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        let seed = fs::read(&path).unwrap();
        check(&seed);
        for index in (0..seed.len()).step_by(seed.len() / 100 + 1) {
            check(&seed[..index]);
            let mut changed = seed.clone();
            changed[index] ^= 0x15;
            check(&changed);
        }
        seeds += 1;
    }
    assert!(seeds >= 5, "{} holds {seeds} seeds", folder.display());
}
