//! Pods with images in an Azure Container Registry just pull: an admission webhook makes the pull secret in their
//! namespace and names it in their spec.
//!
//! # Map
//!
//! A review comes in at [`server`], [`admission`] answers it with the pure rules of [`domain`], and [`ensure`] makes the
//! pull secret when it is missing. [`secrets`], [`namespaces`] and [`credentials`] are the adapters behind the traits that
//! [`admission`] owns. [`cli::serve`] is the only place that knows them all.
//!
//! # Invariants
//!
//! - The answer to a review always allows the pod, and carries at most one patch operation.
//! - When the pull secret is known to be right, answering needs no network call.
//! - A dry run writes nothing.
//! - A Secret that is not ours is never written, and of other names none is ever read.
//! - A failure never overwrites a pull secret that works.
//! - [`domain`] knows no I/O, no clock and no async.

pub mod admission;
pub mod cli;
pub mod clients;
pub mod clock;
pub mod config;
pub mod credentials;
pub mod ensure;
pub mod events;
pub mod heal;
pub mod leader;
pub mod lifecycle;
pub mod metrics;
pub mod namespaces;
pub mod recovery;
pub mod reload;
pub mod retry;
pub mod secrets;
pub mod server;
mod spans;
pub mod telemetry;
mod under_way;
pub mod watch_cache;
pub mod watching;

#[doc(inline)]
pub use domain;
