//! What the configuration needs of the product's crate `certs`, from its own file.

#[path = "../../certs/src/polled_file.rs"]
pub mod polled_file;
