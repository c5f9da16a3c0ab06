//! The documents for operators say what is true of the program and the chart.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test may end at once and say where")]

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use acr_pull_injector::{
    config::Configuration,
    credentials::token_lifetime::token_lifetime,
    domain::{
        pull_secret::{Origin, StoredHost, StoredPullSecret},
        registry::Namespace,
        upkeep::upkeep,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// How much of its three hours a token has left at least: in memory when it is renewed, and in a pull secret when that is
/// rewritten. This is what is left to pods when Azure or the webhook goes away in that moment.
#[test]
fn the_times_that_operations_states_are_those_of_the_program() {
    let configuration = "registries: [{name: r, credential: {static: {username: u, passwordFile: /p}}}]";
    let settings = Configuration::parse(configuration).unwrap().settings(None);
    let issued_at = Timestamp::from_second(1_800_000_000).unwrap();
    let claims = format!(r#"{{"iat":{0},"exp":{1}}}"#, issued_at.as_second(), issued_at.as_second() + 3 * 60 * 60);
    let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
    let (mut in_memory, mut in_pull_secret) = (i64::MAX, i64::MAX);
    for number in 0..3000 {
        let lifetime = token_lifetime(&token, issued_at).unwrap();
        in_memory = in_memory.min(lifetime.expires_at.duration_since(lifetime.renew_at).as_mins());
        let stored = StoredPullSecret {
            origin: Origin::Ours,
            hosts: vec![StoredHost { host: "contoso.azurecr.io".into(), lifetime: Some(lifetime) }],
            source_hash: None,
            untouched: true,
            uid: String::new(),
            resource_version: String::new(),
        };
        let namespace = Namespace { name: format!("team-{number}"), ..Namespace::default() };
        let ages = (0..180).map(SignedDuration::from_mins);
        let due = ages.into_iter().find(|age| upkeep(&stored, &namespace, &settings, issued_at + *age).is_some());
        in_pull_secret = in_pull_secret.min(180 - due.unwrap().as_mins());
    }
    // The worst is left to chance, so that it may be missed by a little.
    assert!((81..84).contains(&in_memory) && (64..68).contains(&in_pull_secret), "{in_memory} {in_pull_secret}");
    let operations = text("docs/operations.md");
    assert!(operations.contains("| 81 minutes at least,") && operations.contains("| 64 minutes at least,"));
}

#[test]
fn every_alert_has_its_runbook_and_every_runbook_its_alert() {
    let rules = text("charts/acr-pull-injector/files/alerts.yaml");
    let alerts: BTreeSet<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let runbooks = text("docs/runbooks.md");
    let sections: BTreeSet<_> = runbooks.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert!(alerts.len() > 5, "{alerts:?}");
    assert_eq!(sections, alerts);
}

#[test]
fn links_lead_somewhere() {
    for document in documents() {
        let content = text(&document);
        let targets = content.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let folder = Path::new(&document).parent().unwrap();
            let file = if path.is_empty() { PathBuf::from(&document) } else { folder.join(path) };
            assert!(root().join(&file).exists(), "{document}: {target} does not exist");
            let is_known =
                anchor.is_empty() || text(file.to_str().unwrap()).lines().any(|line| anchor_of(line) == anchor);
            assert!(is_known, "{document}: {target} has no such heading");
        }
    }
}

/// Troubleshooting quotes the program; what stands for something else is written `<...>`.
#[test]
fn quoted_messages_are_the_programs_own() {
    let said: String =
        files("src", "rs").iter().chain(&files("certs/src", "rs")).map(|file| spoken(&text(file))).collect();
    let troubleshooting = text("docs/troubleshooting.md");
    let quoting = ["What the webhook warns of", "What Azure says", "What events say"];
    let mut count = 0;
    for section in
        troubleshooting.split("\n## ").filter(|section| quoting.iter().any(|title| section.starts_with(title)))
    {
        let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
        for message in cells.flat_map(backticked) {
            count += 1;
            for fragment in fragments(message) {
                assert!(said.contains(fragment), "nobody says {fragment:?} of {message:?}");
            }
        }
    }
    assert!(count > 50, "only {count} messages were found");
}

#[test]
fn every_event_is_explained() {
    let troubleshooting = text("docs/troubleshooting.md");
    let source = text("src/events.rs");
    let names = source.split("fn as_str(self)").nth(1).unwrap().split("\n    }\n").next().unwrap();
    let reasons: Vec<_> = names.split('"').skip(1).step_by(2).collect();
    assert!(reasons.len() > 3, "{reasons:?}");
    for reason in reasons {
        assert!(troubleshooting.contains(&format!("| `{reason}` |")), "{reason} is not explained");
    }
}

#[test]
fn every_metric_is_explained() {
    let operations = text("docs/operations.md");
    let source = text("src/metrics.rs");
    let code = source.split("#[cfg(test)]").next().unwrap();
    let calls = code.split("registry.register").skip(1);
    let names: BTreeSet<_> = calls.filter_map(|call| call.split('"').nth(1)).collect();
    assert!(names.len() > 8, "{names:?}");
    for name in names {
        assert!(operations.contains(&format!("| `{name}")), "{name} is not explained");
    }
}

#[test]
fn values_that_are_named_exist() {
    let values: Value = serde_saphyr::from_str(&text("charts/acr-pull-injector/values.yaml")).unwrap();
    let mut count = 0;
    for document in documents() {
        let content = text(&document);
        for name in prose(&content).flat_map(backticked) {
            let path = name.split(['=', ':']).next().unwrap();
            let Some((first, rest)) = path.split_once('.') else { continue };
            let is_path = path.chars().all(|character| character.is_ascii_alphanumeric() || character == '.');
            if !is_path || values.get(first).is_none() {
                continue;
            }
            count += 1;
            let found = rest.split('.').try_fold(&values[first], |value, part| value.get(part));
            assert!(found.is_some(), "{document}: there is no value {path}");
        }
    }
    assert!(count > 30, "only {count} values were found");
}

#[test]
fn shell_commands_can_be_read_by_bash() {
    for document in documents() {
        let extracted = Command::new(root().join(".github/shell-blocks")).arg(root().join(&document)).output().unwrap();
        assert!(extracted.status.success(), "{document}: {extracted:?}");
        let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        bash.stdin.take().unwrap().write_all(&extracted.stdout).unwrap();
        let read = bash.wait_with_output().unwrap();
        assert!(read.status.success(), "{document}: {}", String::from_utf8_lossy(&read.stderr));
    }
}

/// Those that this file is about.
fn documents() -> Vec<String> {
    let mut documents = files("docs", "md");
    documents.push("SECURITY.md".to_owned());
    documents
}

/// The lines outside of fenced blocks.
fn prose(markdown: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    markdown.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    })
}

/// What stands between single backticks in a line.
fn backticked(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The parts of a message that the program itself says.
fn fragments(message: &str) -> impl Iterator<Item = &str> {
    let parts = message.split('<').flat_map(|part| part.split_once('>').map_or(part, |(_, rest)| rest).split(": "));
    parts.map(|part| part.trim_matches([' ', ':'])).filter(|part| part.len() > 4)
}

/// Source text with the breaks of long string literals taken out.
fn spoken(source: &str) -> String {
    let mut parts = source.split("\\\n");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |joined, part| joined + part.trim_start())
}

/// The anchor that a heading gets; empty for other lines.
fn anchor_of(line: &str) -> String {
    let title = line.strip_prefix('#').map(|rest| rest.trim_start_matches('#').trim()).unwrap_or_default();
    let kept = title.chars().filter(|character| character.is_alphanumeric() || matches!(character, ' ' | '-' | '_'));
    kept.map(|character| if character == ' ' { '-' } else { character.to_ascii_lowercase() }).collect()
}

/// All files of a kind below a folder.
fn files(folder: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == ending) {
                found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
