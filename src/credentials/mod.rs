//! Where registry credentials come from.

pub mod files;
