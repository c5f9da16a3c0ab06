//! The answer to an admission review.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;

use super::{super::patch::Patch, Review};

/// The API server cuts a longer warning off when the warnings of a request are many.
const WARNING_LENGTH_MAX: usize = 256;

/// The API server passes on 4096 characters of warnings, and drops what comes after them.
const WARNINGS_MAX: usize = 32;

/// A sentence for whoever creates the pod. kubectl prints it. Better no longer than 120 characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Warning(String);

impl Warning {
    /// Control characters, which the API server refuses, become spaces; after 256 characters the text is cut.
    pub fn new(text: impl AsRef<str>) -> Self {
        let spaced: String = text.as_ref().chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
        let trimmed = spaced.trim();
        if trimmed.chars().count() <= WARNING_LENGTH_MAX {
            return Self(trimmed.to_owned());
        }
        Self(trimmed.chars().take(WARNING_LENGTH_MAX - 3).chain("...".chars()).collect())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The answer. It always allows: a pod without our pull secret may still run, and a webhook that refuses pods is a
/// danger to the cluster.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    api_version: &'a str,
    uid: &'a str,
    patch: Option<Patch>,
    warnings: Vec<Warning>,
    audit_annotations: BTreeMap<&'static str, String>,
}

impl<'a> Response<'a> {
    /// The object may pass unchanged.
    pub fn allowed(review: &'a Review<'_>) -> Self {
        Self {
            api_version: &review.api_version,
            uid: &review.uid,
            patch: None,
            warnings: Vec::new(),
            audit_annotations: BTreeMap::new(),
        }
    }

    /// The object passes with this change.
    #[must_use]
    pub fn with_patch(self, patch: Patch) -> Self {
        Self { patch: Some(patch), ..self }
    }

    /// Adds a warning, unless there are so many that the API server would drop it.
    #[must_use]
    pub fn with_warning(mut self, warning: Warning) -> Self {
        if self.warnings.len() < WARNINGS_MAX {
            self.warnings.push(warning);
        }
        self
    }

    /// Adds a line to the API server's audit log. `key` has letters, digits, dots, dashes and underscores only: the API
    /// server puts our name and a slash before it.
    #[must_use]
    pub fn with_audit_annotation(mut self, key: &'static str, value: String) -> Self {
        self.audit_annotations.insert(key, value);
        self
    }

    /// The change, if there is one.
    pub fn patch(&self) -> Option<&Patch> {
        self.patch.as_ref()
    }

    /// The warnings in the order in which they were added.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The body to send.
    pub fn to_json(&self) -> Vec<u8> {
        let patch = self.patch.as_ref().map(|patch| STANDARD.encode(patch.as_json()));
        json(&wire::Review {
            api_version: self.api_version,
            kind: "AdmissionReview",
            response: wire::Response {
                uid: self.uid,
                allowed: true,
                patch_type: patch.is_some().then_some("JSONPatch"),
                patch,
                warnings: &self.warnings,
                audit_annotations: &self.audit_annotations,
            },
        })
    }
}

#[expect(clippy::expect_used, reason = "only a map with keys that are no strings fails, and there is none")]
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("a response can be written as JSON")
}

/// The fields as they are sent. A patch and its type come together or not at all.
mod wire {
    use std::collections::BTreeMap;

    use serde::Serialize;

    use super::Warning;

    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    pub(super) struct Review<'a> {
        pub(super) api_version: &'a str,
        pub(super) kind: &'a str,
        pub(super) response: Response<'a>,
    }

    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    pub(super) struct Response<'a> {
        pub(super) uid: &'a str,
        pub(super) allowed: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub(super) patch_type: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub(super) patch: Option<String>,
        #[serde(skip_serializing_if = "<[Warning]>::is_empty")]
        pub(super) warnings: &'a [Warning],
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub(super) audit_annotations: &'a BTreeMap<&'static str, String>,
    }
}
