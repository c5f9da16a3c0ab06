//! Credentials from Entra and their life, against servers of our own that follow Microsoft's wire format. The clock is the
//! test's: no test waits for a token to expire.

#![expect(clippy::unwrap_used, reason = "a test may end at once and say where")]

mod cache;
mod check;
mod identities;
mod refusals;
mod rotation;
mod secrecy;
mod world;
