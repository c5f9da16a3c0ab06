//! Issues, rotates and hot-reloads the serving certificate of a Kubernetes webhook.
//!
//! ```text
//!             files.rs ────────────── CertificatePair ──┐
//!   (tls.crt, tls.key on disk, by polled_file.rs)       ├─> serving.rs: ServingCertificate ─> TLS handshakes
//!   self_managed.rs ──────────────────────────────────── ┘
//!     reads    webhook_configuration.rs (caBundle), secret.rs (our one Secret)
//!     parses   stored.rs   bytes -> StoredCertificates
//!     asks     plan.rs     StoredCertificates + now -> Step       (pure)
//!     makes    issue.rs    certificate authorities and leaves     (rcgen)
//!     writes   secret.rs, webhook_configuration.rs                (server-side apply only)
//! ```
//!
//! There are two sources of a pair. [`CertificateFiles`] polls a directory that somebody else fills. [`SelfManaged`]
//! keeps a certificate authority and a leaf in one Secret and the `caBundle` of one `MutatingWebhookConfiguration` in
//! step with it. Every replica runs the same loop; there is no leader, because every write is guarded.
//!
//! # Invariants
//!
//! - **A connection is never cut.** A new pair is used for new handshakes only.
//! - **A bad pair never replaces a good one.** Bytes become a [`CertificatePair`] or are refused with a reason.
//! - **What is served verifies.** A new authority is first stored, then seen in the `caBundle`, and only
//!   [`Lifetimes::overlap`] later signs a leaf. An old authority leaves the bundle only [`Lifetimes::overlap`] after
//!   the last leaf of it was replaced. So API servers and replicas may lag behind each other by up to the overlap.
//!   The exception is a state in which nothing can verify any more: then a new leaf is issued at once.
//! - **Writers do not overwrite each other.** The Secret is created by a field manager of its own per process and
//!   without force: a second creator gets a conflict and reads again. Later writes name the `resourceVersion` that
//!   they were made from. (A `resourceVersion` on a Secret that does not exist is ignored by the API server, and so
//!   is "0" on one that does; seen with Kubernetes 1.36.)
//! - **The `caBundle` never goes back.** The configuration is read before the Secret and written with the
//!   `resourceVersion` of that reading, so a slow replica cannot put an older bundle over a newer one.
//! - **The plan knows no clock.** Time is an argument, so years of rotation run in a test within seconds.
//!
//! # New keys on demand
//!
//! Delete the Secret. Replicas that run keep their certificate and put the Secret back without the old authority's
//! key; a new authority takes over after the usual overlap, so no call fails. To have new keys at once, and calls fail
//! for some seconds: scale to zero, delete the Secret, scale up.

pub mod files;
pub mod issue;
pub mod pair;
pub mod plan;
pub mod polled_file;
pub mod self_managed;
pub mod serving;
pub mod stored;

mod hexadecimal;
mod reason;
mod secret;
mod validity;
mod webhook_configuration;

pub use files::CertificateFiles;
pub use pair::{CertificatePair, CertificatePairError};
pub use plan::Lifetimes;
pub use self_managed::SelfManaged;
pub use serving::ServingCertificate;
