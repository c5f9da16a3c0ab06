//! The program as a user runs it: files, streams and exit codes.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use crate::{DEPLOYMENT, review};

/// Runs the program; its exit code, what it wrote and what it said.
pub(crate) fn program(arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_acr-pull-injector"))
        .arg("review")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_program_reads_standard_input_or_a_file() {
    let (code, from_stdin, explanation) = program(&[], DEPLOYMENT);
    assert_eq!((code, explanation.lines().count()), (Some(0), 1), "{explanation}");
    assert_eq!(from_stdin, review(DEPLOYMENT).output);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("web.yaml");
    fs::write(&file, DEPLOYMENT).unwrap();
    let (code, from_file, _) = program(&["-f", file.to_str().unwrap(), "--namespace", "team-b"], "");
    assert_eq!((code, from_file), (Some(0), from_stdin));
}

#[test]
fn the_program_ends_with_2_on_bad_input() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.yaml");
    fs::write(&file, "kind: Pod\n").unwrap();
    let file = file.to_str().unwrap();
    let missing = directory.path().join("missing.yaml");
    let missing = missing.to_str().unwrap();
    for (arguments, part_of_the_message) in [
        (vec!["-f", file], format!("{file}: document 1: apiVersion is missing")),
        (vec!["--filename", missing], format!("cannot read {missing}")),
        (vec!["--config", missing], missing.to_owned()),
        (vec!["--config", file], "kind".to_owned()),
    ] {
        let (code, output, message) = program(&arguments, DEPLOYMENT);
        assert_eq!((code, output.as_str()), (Some(2), ""), "{arguments:?}: {message}");
        assert!(message.contains(&part_of_the_message), "{arguments:?}: {message}");
    }
}
