//! `--diff` and `--check`: what would change, for people and for CI.

use acr_pull_injector::cli::review::ReviewArguments;

use crate::{DEPLOYMENT, arguments, program::program, review_with};

fn diff_of(input: &str) -> String {
    review_with(&ReviewArguments { diff: true, ..arguments() }, input).output
}

#[test]
fn a_diff_shows_what_is_added_and_nothing_else() {
    let diff = diff_of(&DEPLOYMENT.replace("      imagePullSecrets:\n      - name: mine\n", ""));
    let changed = |sign: char, header: &str| {
        let lines = diff.lines().filter(|line| line.starts_with(sign) && !line.starts_with(header));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(changed('+', "+++"), ["+      imagePullSecrets:", "+      - name: acr-pull-secret"], "{diff}");
    assert!(changed('-', "---").is_empty(), "{diff}");
    assert!(
        diff.starts_with("--- standard input, document 1\n+++ standard input, document 1, as admitted\n@@"),
        "{diff}"
    );
}

#[test]
fn a_diff_names_each_document_and_leaves_out_what_stays() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n";
    let diff = diff_of(&format!("{service}---\n{DEPLOYMENT}---\n{service}---\n{DEPLOYMENT}"));
    let headers: Vec<_> = diff.lines().filter(|line| line.starts_with("--- ")).collect();
    assert_eq!(headers, ["--- standard input, document 2", "--- standard input, document 4"], "{diff}");
    assert!(!diff.contains("Service"), "{diff}");
    assert_eq!(diff_of(service), "");
}

#[test]
fn the_diff_of_an_admission_review_is_that_of_its_pod() {
    let review = include_str!("../fixtures/review-create-minimal.json");
    let image = review.split("\"image\":\"").nth(1).unwrap().split('"').next().unwrap();
    let diff = diff_of(&review.replace(image, "contoso.azurecr.io/app:v1"));
    assert!(diff.contains("+  - name: acr-pull-secret\n"), "{diff}");
    assert!(!diff.contains("AdmissionReview"), "{diff}");
}

#[test]
fn check_ends_with_3_when_something_would_change() {
    let untouched = DEPLOYMENT.replace("contoso.azurecr.io/app:v1", "nginx");
    let already = DEPLOYMENT.replace("name: mine", "name: acr-pull-secret");
    for (input, code) in [(DEPLOYMENT, 3), (&untouched, 0), (&already, 0)] {
        let (found, output, explanation) = program(&["--check"], input);
        assert_eq!((found, output.as_str()), (Some(code), ""), "{input}");
        assert!(explanation.contains("Deployment team-a/web"), "{explanation}");
        let (found, output, _) = program(&["--check", "--diff"], input);
        assert_eq!((found, !output.is_empty()), (Some(code), code == 3), "{input}");
    }
    assert_eq!(program(&[], DEPLOYMENT).0, Some(0), "without --check a change is no failure");
    assert_eq!(program(&["--diff"], DEPLOYMENT).0, Some(0));
    assert_eq!(program(&["--check"], "kind: Pod\n").0, Some(2), "bad input stays bad input");
}
