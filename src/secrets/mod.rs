//! Pull secrets in Kubernetes: what is known of them, how they are written, and how they are kept right.

pub mod reconciler;
pub mod store;
