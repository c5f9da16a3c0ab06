//! What a package puts beside the program: completions and the manual page.

use std::process::Command;

fn output(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_acr-pull-injector")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

const SUBCOMMANDS: [&str; 6] = ["serve", "check", "review", "cleanup", "completions", "man"];

#[test]
fn every_shell_gets_every_subcommand_and_option() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let text = output(&["completions", shell]);
        for word in SUBCOMMANDS.iter().chain(&["webhook-address", "diff", "pull-secret-name"]) {
            assert!(text.contains(word), "{shell} does not know {word}");
        }
    }
}

#[test]
fn bash_completes_with_what_it_gets() {
    let completions = output(&["completions", "bash"]);
    let function = completions.lines().find_map(|line| line.strip_suffix("() {")).unwrap();
    let script = format!(
        "{completions}\nCOMP_WORDS=(acr-pull-injector review --ch); COMP_CWORD=2; \
         {function} acr-pull-injector --ch review; echo \"${{COMPREPLY[@]}}\""
    );
    let completed = Command::new("bash").args(["--norc", "-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&completed.stdout).trim(), "--check", "{completed:?}");
}

#[test]
fn the_manual_page_has_a_section_for_every_subcommand() {
    let page = output(&["man"]);
    assert!(page.contains(".TH acr-pull-injector 1"), "{page}");
    for subcommand in SUBCOMMANDS {
        assert!(page.lines().any(|line| line == format!(".SH {}", subcommand.to_uppercase())), "{subcommand}\n{page}");
    }
    assert!(page.contains("\\-\\-certificate\\-source"), "{page}");
    let command = "    helm template shop ./chart | acr\\-pull\\-injector review \\-\\-check \\-\\-diff";
    assert!(page.lines().any(|line| line == command), "an example is a line of its own\n{page}");
}
