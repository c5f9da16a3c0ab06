//! How much memory a review takes while it is decoded and answered. A program of its own: the allocator counts for all of it.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test may end at once and say where")]

use acr_pull_injector::domain::{
    patch,
    review::{self, Response, Subject},
};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bodies may take 48 MiB at once, and the chart's limit is 128 MiB.
fn most(body: usize) -> usize {
    (128 << 10) + body
}

/// Whatever a body says over and over, what is made of it is no larger.
#[test]
fn a_review_takes_memory_in_proportion_to_its_length() {
    let shapes = [
        ("fields of a pull secret", r#""imagePullSecrets":[{"junk":[0"#, ",0", "]}]"),
        ("lists in a pull secret", r#""imagePullSecrets":[{"junk":[[0]"#, ",[0]", "]}]"),
        ("objects in a pull secret", r#""imagePullSecrets":[{"junk":[{}"#, r#",{"a":0}"#, "]}]"),
        ("the name of a pull secret", r#""imagePullSecrets":[{"name":""#, r"\n", r#""}]"#),
        ("pull secrets", r#""imagePullSecrets":[{}"#, ",{}", "]"),
        ("pull secrets with names", r#""imagePullSecrets":[{}"#, r#",{"name":"\n"}"#, "]"),
        ("containers", r#""containers":[{}"#, ",{}", "]"),
        ("containers with empty images", r#""containers":[{}"#, r#",{"image":""}"#, "]"),
        ("init containers", r#""initContainers":[{}"#, ",{}", "]"),
        ("ephemeral containers", r#""ephemeralContainers":[{}"#, ",{}", "]"),
        ("volumes", r#""volumes":[{}"#, ",{}", "]"),
        ("image volumes", r#""volumes":[{}"#, r#",{"image":{}}"#, "]"),
        ("images", r#""containers":[{}"#, r#",{"image":"a"}"#, "]"),
        ("images that are copied", r#""containers":[{}"#, r#",{"image":"\n"}"#, "]"),
        ("an image that is copied", r#""containers":[{"image":""#, r"\n", r#""}]"#),
        ("what nobody looks at", r#""future":[{}"#, ",{}", "]"),
    ];
    let mut too_much = Vec::new();
    for (what, first, again, last) in shapes {
        for length in [16 << 10, 2 << 20] {
            let body = body(first, again, last, length);
            let used = memory_of(&body);
            if used > most(body.len()) {
                too_much.push(format!("{what}: {used} bytes for a body of {}", body.len()));
            }
        }
    }
    assert!(too_much.is_empty(), "{too_much:#?}");
}

/// The review of a pod whose spec says `first`, `again` as often as there is room, and `last`.
fn body(first: &str, again: &str, last: &str, length: usize) -> String {
    let before = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","kind":{"version":"v1",
        "kind":"Pod"},"operation":"CREATE","namespace":"team-a","object":{"spec":{"#;
    let after = "}}}}";
    let times = (length - before.len() - first.len() - last.len() - after.len()) / again.len();
    [before, first, &again.repeat(times), last, after].concat()
}

/// The most that decoding and answering takes beside the body.
fn memory_of(body: &str) -> usize {
    let name = "acr-pull-secret".parse().unwrap();
    MEMORY.reset_peak_usage();
    let before = MEMORY.peak_usage();
    let review = review::parse(body.as_bytes()).unwrap();
    let Subject::PodCreation(pod) = &review.subject else { panic!("{:?}", review.subject) };
    let response = Response::allowed(&review);
    let response = match patch::image_pull_secrets(pod, &name) {
        Some(patch) => response.with_patch(patch),
        None => response,
    };
    let _ = response.to_json();
    MEMORY.peak_usage() - before
}
