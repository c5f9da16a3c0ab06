//! Where registry credentials come from.
//!
//! [`source::Credentials`] answers for every registry rule. A stored username and password come from files as they are. An
//! identity of Entra comes from files too ([`material`]); with it [`entra`] signs in, [`exchange`] turns the token of Entra
//! into a refresh token of the registry, and [`token_cache`] keeps it for all namespaces. Secrets and tokens of Entra stay
//! in this module: what leaves it is the credential for one login server.

pub mod azure_error;
pub mod certificate;
pub mod end;
pub mod entra;
pub mod exchange;
pub mod files;
pub mod http;
pub mod identity;
pub mod material;
pub mod registry_login;
pub mod renewed;
pub mod source;
mod strangers;
pub mod token_cache;
pub mod token_lifetime;

pub use source::{Credentials, POLL_INTERVAL};
