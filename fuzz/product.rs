//! The part of the product that reads what others wrote, compiled from its own files, without Azure, Kubernetes and TLS: it
//! then builds under a sanitizer in a minute.

#![allow(dead_code, unused_imports, reason = "what the rest of the product uses is not here")]

#[path = "../src"]
mod source {
    pub mod config;

    pub mod credentials {
        pub mod azure_error;
        pub mod token_lifetime;
    }
}

pub use domain;
pub use source::{config, credentials};
