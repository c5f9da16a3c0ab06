//! `AdmissionReview` v1: what is asked, and the answer.
//!
//! Only what a decision needs is decoded, borrowed from the body. A typed Pod would cost more and would tie us to the
//! fields of one Kubernetes version.

mod response;
mod wire;

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};

use self::wire::{Fields, PullSecrets};
use super::pull_secret::PullSecretName;
pub use response::{Response, Warning};

/// The label that opts a namespace or a pod out when its value is [`OPT_OUT_VALUE`].
pub const OPT_OUT_LABEL: &str = "acr-pull-injector.io/inject";
/// The value of [`OPT_OUT_LABEL`] that opts out.
pub const OPT_OUT_VALUE: &str = "disabled";
/// The annotation of a mirror pod, the API server's copy of a kubelet's static pod. The API server refuses a mirror pod
/// that references a Secret.
pub(super) const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// A pod that references more pull secrets, or has more text about them, is left alone: no kubelet could make use of them.
pub(super) const MOST_PULL_SECRETS: usize = 1000;
/// Each with the longest name that a Secret can have.
pub(super) const MOST_PULL_SECRET_BYTES: usize = MOST_PULL_SECRETS * (r#"{"name":""}"#.len() + 253);
/// Images of a pod that are looked at: no node runs one with more.
pub(super) const MOST_IMAGES: usize = 1000;
/// Of each text that the answer repeats.
const MOST_REPEATED_BYTES: usize = 253;

/// What an admission review asks.
#[derive(Clone, Debug)]
pub struct Review<'a> {
    /// The version of the review, which the response must repeat.
    pub api_version: Cow<'a, str>,
    /// Identifies the call. The response must repeat it.
    pub uid: Cow<'a, str>,
    /// The namespace of the object; empty for an object that has none.
    pub namespace: Cow<'a, str>,
    /// The caller wants to know, nothing may be stored.
    pub dry_run: bool,
    /// What is being done.
    pub subject: Subject<'a>,
}

/// What is being done to what.
#[derive(Clone, Debug)]
pub enum Subject<'a> {
    /// A pod is created.
    PodCreation(Pod<'a>),
    /// Something that is none of our business.
    Other(OtherSubject),
}

/// In what a review differs from the creation of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherSubject {
    /// The review is not `admission.k8s.io/v1`.
    ApiVersion,
    /// The object is not a `v1` Pod.
    Kind,
    /// The operation is not CREATE: the list of pull secrets cannot change afterwards.
    Operation,
    /// A subresource such as `pods/eviction`.
    Subresource,
}

/// Why a body is no admission review. The text names fields, never their contents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// The body cannot be read as JSON.
    #[error("not JSON: line {line}, column {column}")]
    NotJson {
        /// Counted from 1.
        line: usize,
        /// In bytes, counted from 1.
        column: usize,
    },
    /// The body is not even text.
    #[error("not JSON: byte {offset} is not UTF-8")]
    NotUtf8 {
        /// Counted from 0.
        offset: usize,
    },
    /// JSON, but something else.
    #[error("not an AdmissionReview of admission.k8s.io")]
    NotAnAdmissionReview,
    /// A field is missing, null or empty.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// What the answer has to repeat is so long that the answer could fill the memory.
    #[error("{0} is longer than {MOST_REPEATED_BYTES} bytes")]
    TooLong(&'static str),
    /// A field cannot be read.
    #[error("{field} has the wrong type or holds a field twice")]
    Field {
        /// Its path from the start of the document.
        field: String,
    },
}

/// Decodes the body of an admission call.
pub fn parse(body: &[u8]) -> Result<Review<'_>, ReviewError> {
    // Checking the encoding of the whole body first is faster than checking each string.
    let body = str::from_utf8(body).map_err(|error| ReviewError::NotUtf8 { offset: error.valid_up_to() })?;
    match serde_json::from_str::<PodReview<'_>>(body) {
        Ok(Fields(review)) => assemble(review, |Fields(pod)| Ok(pod.into())),
        Err(error) if error.is_data() => {
            // The object may be of another kind, whose fields have other types. Only for a pod is that an error.
            let Fields(review) = decode::<Fields<wire::Review<'_, IgnoredAny>>>(body)?;
            assemble(review, |_| Err(field_error::<PodReview<'_>>(body, &error)))
        }
        Err(error) => Err(not_json(&error)),
    }
}

/// Decodes a pod, or the template of one, that stands alone.
pub fn parse_pod(object: &str) -> Result<Pod<'_>, ReviewError> {
    decode::<Fields<wire::Pod<'_>>>(object).map(|Fields(pod)| pod.into())
}

type PodReview<'a> = Fields<wire::Review<'a, Fields<wire::Pod<'a>>>>;

fn assemble<'a, Object>(
    review: wire::Review<'a, Object>,
    into_pod: impl FnOnce(Object) -> Result<Pod<'a>, ReviewError>,
) -> Result<Review<'a>, ReviewError> {
    let api_version = review.api_version.map(Cow::from).unwrap_or_default();
    let version = api_version.strip_prefix("admission.k8s.io/").ok_or(ReviewError::NotAnAdmissionReview)?;
    if review.kind.is_none_or(|kind| kind.as_str() != "AdmissionReview") {
        return Err(ReviewError::NotAnAdmissionReview);
    }
    let Fields(request) = review.request.ok_or(ReviewError::Missing("request"))?;
    let uid = request.uid.filter(|uid| !uid.as_str().is_empty()).ok_or(ReviewError::Missing("request.uid"))?;
    for (field, text) in [("apiVersion", &*api_version), ("request.uid", uid.as_str())] {
        if text.len() > MOST_REPEATED_BYTES {
            return Err(ReviewError::TooLong(field));
        }
    }
    let Fields(kind) = request.kind.ok_or(ReviewError::Missing("request.kind"))?;
    let operation = request.operation.ok_or(ReviewError::Missing("request.operation"))?;
    let subject = if version != "v1" {
        Subject::Other(OtherSubject::ApiVersion)
    } else if !kind.is_pod() {
        Subject::Other(OtherSubject::Kind)
    } else if operation.as_str() != "CREATE" {
        Subject::Other(OtherSubject::Operation)
    } else if request.sub_resource.is_some_and(|subresource| !subresource.as_str().is_empty()) {
        Subject::Other(OtherSubject::Subresource)
    } else {
        Subject::PodCreation(into_pod(request.object.ok_or(ReviewError::Missing("request.object"))?)?)
    };
    Ok(Review {
        uid: uid.into(),
        namespace: request.namespace.map(Cow::from).unwrap_or_default(),
        dry_run: request.dry_run.unwrap_or_default(),
        subject,
        api_version,
    })
}

fn decode<'a, T: Deserialize<'a>>(body: &'a str) -> Result<T, ReviewError> {
    serde_json::from_str(body)
        .map_err(|error| if error.is_data() { field_error::<T>(body, &error) } else { not_json(&error) })
}

fn not_json(error: &serde_json::Error) -> ReviewError {
    ReviewError::NotJson { line: error.line(), column: error.column() }
}

/// Decodes once more to learn which field `error` is about. The text of the error itself may quote the body.
fn field_error<'a, T: Deserialize<'a>>(body: &'a str, error: &serde_json::Error) -> ReviewError {
    let mut deserializer = serde_json::Deserializer::from_str(body);
    match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Err(error) if error.path().iter().next().is_some() => ReviewError::Field { field: error.path().to_string() },
        Err(_) => ReviewError::NotAnAdmissionReview,
        Ok(_) => not_json(error),
    }
}

/// What is known of a pod.
#[derive(Clone, Debug)]
pub struct Pod<'a> {
    name: Cow<'a, str>,
    generate_name: Cow<'a, str>,
    images: Vec<Cow<'a, str>>,
    pull_secrets: PullSecrets<'a>,
    opted_out: bool,
    mirror: bool,
}

impl<'a> Pod<'a> {
    /// Every image that a kubelet pulls for the pod: of containers, init containers, ephemeral containers and image
    /// volumes, in this order, not empty; the first thousand at most.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        self.images.iter().map(AsRef::as_ref)
    }

    /// Does the pod reference more pull secrets than anybody can use? The list is then not known.
    pub fn has_too_many_pull_secrets(&self) -> bool {
        matches!(self.pull_secrets, PullSecrets::TooMany)
    }

    /// The list `spec.imagePullSecrets` as it stands; empty when there are too many.
    pub fn image_pull_secrets(&self) -> &[PullSecretReference<'a>] {
        match &self.pull_secrets {
            PullSecrets::Known(references) => references,
            PullSecrets::TooMany => &[],
        }
    }

    /// Is the pull secret in the list?
    pub fn references(&self, name: &PullSecretName) -> bool {
        self.image_pull_secrets().iter().any(|reference| reference.name() == Some(name.as_str()))
    }

    /// Is this the API server's copy of a static pod?
    pub fn is_mirror(&self) -> bool {
        self.mirror
    }

    /// Does the pod carry the label that opts out?
    pub fn opted_out(&self) -> bool {
        self.opted_out
    }

    /// The name for people: for a pod of a controller, which has no name yet, what its name will start with.
    pub fn display_name(&self) -> &str {
        if self.name.is_empty() { &self.generate_name } else { &self.name }
    }
}

/// An entry of `spec.imagePullSecrets`. Fields that we do not know stay as they are written: decoded they may take a hundred
/// times their text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullSecretReference<'a> {
    json: &'a str,
    name: Option<Cow<'a, str>>,
}

impl PullSecretReference<'_> {
    /// What null stands for.
    const EMPTY: Self = Self { json: "{}", name: None };

    /// The name of the Secret.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The whole entry.
    pub(super) fn as_json(&self) -> &str {
        self.json
    }
}

#[cfg(test)]
mod tests;
