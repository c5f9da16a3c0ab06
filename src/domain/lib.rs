//! The pure core: what a review asks for, what a namespace may use, and what the answer is.
//!
//! Invariant: no I/O, no clock, no async, no logging. Whoever needs the time passes it in.

pub mod decision;
pub mod image;
pub mod patch;
pub mod pull_secret;
pub mod registry;
pub mod review;
pub mod stuck_pod;
pub mod upkeep;
