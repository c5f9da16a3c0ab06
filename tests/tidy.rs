//! Rules of this repository that no compiler checks: who may use what, how large a file may grow, and that the documents
//! and samples say what is true. ARCHITECTURE.md gives the reasons.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test may end at once and say where")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use acr_pull_injector::config::Configuration;

const DOCUMENTS: [&str; 7] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "certs/README.md",
    "charts/acr-pull-injector/README.md",
    "fuzz/README.md",
];

#[test]
fn the_domain_is_pure() {
    let allowed = ["base64", "jiff", "k8s_openapi", "serde", "serde_json", "serde_path_to_error", "sha2", "thiserror"];
    let not_allowed = |name: &String| !allowed.contains(&name.as_str());
    let in_its_manifest: Vec<_> = dependencies("src/domain/Cargo.toml").into_iter().filter(not_allowed).collect();
    assert!(in_its_manifest.is_empty(), "src/domain/Cargo.toml must not name {in_its_manifest:?}");
    let crates = dependencies("Cargo.toml").into_iter().filter(not_allowed);
    let world = ["env", "fs", "io", "net", "os", "process", "thread"].map(|module| format!("std::{module}"));
    let clocks = ["std::time", "jiff::Timestamp::now", "Timestamp::now", "Zoned::now"].map(str::to_owned);
    let forbidden: Vec<String> = crates.chain(world).chain(clocks).collect();
    for file in product_files(&["src/domain"]) {
        let paths = file.paths();
        assert_none(&file, uses(&paths, &forbidden).filter(|path| *path != "std::time::Duration"));
        assert_none(&file, file.words().filter(|word| ["async", "await", "println", "eprintln"].contains(word)));
    }
}

/// Admission, ensuring and retrying see the world only through the traits of `admission`.
#[test]
fn the_use_case_knows_no_adapter() {
    let crates = ["axum", "certs", "hyper", "hyper_util", "k8s_openapi", "kube", "reqwest", "rustls", "tokio_rustls"];
    let modules = ["cli", "config", "credentials", "namespaces", "secrets", "server", "watch_cache"];
    let modules = modules.map(|module| format!("crate::{module}"));
    for file in product_files(&["src/admission.rs", "src/ensure.rs", "src/retry.rs"]) {
        let paths = file.paths();
        assert_none(&file, uses(&paths, &crates).chain(uses(&paths, &modules)));
        assert_none(&file, paths.iter().map(String::as_str).filter(|path| path.starts_with("azure")));
    }
}

#[test]
fn certs_knows_nothing_of_pull_secrets() {
    let manifest = SourceFile::read("certs/Cargo.toml");
    for file in product_files(&["certs/src"]).chain([manifest]) {
        let text = file.text.to_lowercase().replace(['_', '-', ' '], "");
        let told = ["acrpullinjector", "azure", "azurecr", "dockerconfigjson", "imagepullsecret", "pullsecret"];
        assert_none(&file, told.into_iter().filter(|word| text.contains(word)));
    }
}

/// A task that nobody tracks is neither waited for at the end nor missed when it panics.
#[test]
fn tasks_are_spawned_by_the_lifecycle_only() {
    let spawning =
        ["tokio::spawn", "tokio::task::spawn", "tokio::task::spawn_local", "task::spawn", "std::thread::spawn"];
    for file in product_files(&["src", "certs/src"]).filter(|file| file.path != "src/lifecycle.rs") {
        assert_none(&file, uses(&file.paths(), &spawning));
    }
}

/// A longer file has two jobs.
#[test]
fn files_stay_under_400_lines() {
    let places = ["src", "certs/src", "tests", "benches", "examples", "fuzz"];
    let long = places
        .iter()
        .flat_map(|place| files(place))
        .map(|path| (text(&path).lines().count(), path))
        .filter(|(lines, _)| *lines >= 400);
    assert_eq!(long.collect::<Vec<_>>(), [], "split these files");
}

/// Cargo.lock does name ring, as a feature of rustls-webpki that nobody turns on. What counts is what is built.
#[test]
fn there_is_one_tls_library() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--locked", "--offline", "--edges", "all", "--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let crates: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(crates.contains("aws-lc-rs"), "{crates:?}");
    for other in ["ring", "openssl", "openssl-sys", "native-tls"] {
        assert!(!crates.contains(other), "{other} is built: cargo tree --workspace --edges all --invert {other}");
    }
}

#[test]
fn the_code_map_is_complete() {
    let map = text("ARCHITECTURE.md");
    let named: BTreeSet<String> = backticked(&map)
        .filter(|name| name.starts_with("src/") || name.starts_with("certs/src/"))
        .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "rs"))
        .map(str::to_owned)
        .collect();
    let modules: BTreeSet<String> =
        files("src").into_iter().chain(files("certs/src")).filter(|path| !path.ends_with("tests.rs")).collect();
    let missing: Vec<_> = modules.difference(&named).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md does not name {missing:?}");
    let gone: Vec<_> = named.iter().filter(|path| !root().join(path).exists()).collect();
    assert!(gone.is_empty(), "ARCHITECTURE.md names {gone:?}, which do not exist");
}

/// The invariants are worth as much as the tests that they name.
#[test]
fn every_invariant_has_its_tests() {
    let architecture = text("ARCHITECTURE.md");
    let invariants = architecture.split("\n## Invariants").nth(1).unwrap().split("\n## ").next().unwrap();
    let is_test = |name: &&str| {
        name.matches('_').count() >= 2 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let named: Vec<&str> = backticked(invariants).filter(is_test).collect();
    assert!(named.len() >= 10, "the test looks in the wrong place: {named:?}");
    let code: String =
        ["src", "certs", "tests"].iter().flat_map(|folder| files(folder)).map(|path| text(&path)).collect();
    let gone: Vec<_> = named.iter().filter(|name| !code.contains(&format!("fn {name}("))).collect();
    assert!(gone.is_empty(), "ARCHITECTURE.md names tests that do not exist: {gone:?}");
}

#[test]
fn links_lead_somewhere() {
    for document in DOCUMENTS {
        let content = text(document);
        let targets = content.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let folder = Path::new(document).parent().unwrap();
            let file = if path.is_empty() { PathBuf::from(document) } else { folder.join(path) };
            assert!(root().join(&file).exists(), "{document}: {target} does not exist");
            let is_known =
                anchor.is_empty() || text(file.to_str().unwrap()).lines().any(|line| anchor_of(line) == anchor);
            assert!(is_known, "{document}: {target} has no such heading");
        }
    }
}

#[test]
fn the_readme_names_the_versions_that_are_needed() {
    let readme = text("README.md");
    let manifest = text("Cargo.toml");
    let rust = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(readme.contains(&format!("Rust {rust}")), "README.md does not say Rust {rust}");
    let go = ["kubernetes", "etcd", "helm"].map(|module| {
        let module = text(&format!("tests/control-plane/go/{module}/go.mod"));
        let version = module.lines().find_map(|line| line.strip_prefix("go ")).unwrap();
        version.splitn(3, '.').take(2).map(|number| number.parse::<u32>().unwrap()).collect::<Vec<_>>()
    });
    let [major, minor] = go.iter().max().unwrap()[..] else { panic!("{go:?}") };
    assert!(readme.contains(&format!("Go {major}.{minor}")), "README.md does not say Go {major}.{minor}");
}

/// The two samples are one, as the chart's values and as what the webhook reads. But for the part of a path that tells one
/// Secret from another, which the chart needs and nobody wants to read.
#[test]
fn the_sample_configuration_is_what_the_chart_makes_of_the_sample_values() {
    let rendered = Command::new(control_plane::helm_program().unwrap())
        .args(["template", "acr-pull-injector", "charts/acr-pull-injector", "--namespace", "acr-pull-injector"])
        .args(["--values", "examples/values.yaml", "--show-only", "templates/configmap.yaml"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    let rendered: serde_json::Value = serde_saphyr::from_str(&String::from_utf8(rendered.stdout).unwrap()).unwrap();
    let is_hash = |part: &&str| part.len() == 8 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts = rendered["data"]["config.yaml"].as_str().unwrap().split('/');
    let text = parts.filter(|part| !is_hash(part)).collect::<Vec<_>>().join("/");
    let from_values = Configuration::parse(&text).unwrap();
    assert_eq!(from_values, Configuration::load(&root().join("examples/config.yaml")).unwrap());
}

fn assert_none<'a>(file: &SourceFile, found: impl Iterator<Item = &'a str>) {
    let found: Vec<_> = found.collect();
    assert!(found.is_empty(), "{} must not use {found:?}", file.path);
}

/// A file of the product. Paths are relative to the repository.
#[derive(Debug)]
struct SourceFile {
    path: String,
    text: String,
    /// Without comments and tests.
    code: String,
}

impl SourceFile {
    fn read(path: &str) -> Self {
        let text = text(path);
        let product = text.split("\n#[cfg(test)]\nmod tests").next().unwrap();
        let code = product.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
        Self { path: path.to_owned(), text, code }
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        self.code.split(|character: char| !is_word(character)).filter(|word| !word.is_empty())
    }

    /// Every path that the code names, with the groups of `use` spelled out: `a::{b, c::d}` is `a::b` and `a::c::d`.
    fn paths(&self) -> BTreeSet<String> {
        let mut paths = BTreeSet::new();
        let (mut path, mut rest) = (String::new(), self.code.as_str());
        // The path before each open brace; of a brace that opens no group it is empty.
        let mut groups: Vec<String> = Vec::new();
        while let Some(character) = rest.chars().next() {
            let word = &rest[..rest.find(|character: char| !is_word(character)).unwrap_or(rest.len())];
            let is_continued = path.ends_with("::");
            if !word.is_empty() {
                if !is_continued {
                    paths.insert(std::mem::replace(&mut path, groups.last().cloned().unwrap_or_default()));
                }
                path.push_str(word);
                rest = &rest[word.len()..];
                continue;
            }
            rest = if let Some(rest) = rest.strip_prefix("::") {
                path.push_str("::");
                rest
            } else {
                match character {
                    '{' => groups.push(if is_continued { std::mem::take(&mut path) } else { String::new() }),
                    '}' => drop(groups.pop()),
                    _ => {}
                }
                if !character.is_whitespace() {
                    paths.insert(std::mem::take(&mut path));
                }
                &rest[character.len_utf8()..]
            };
        }
        paths.into_iter().map(|path| path.trim_end_matches("::").to_owned()).collect()
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The paths that are one of `forbidden` or lead into it.
fn uses<'a>(paths: &'a BTreeSet<String>, forbidden: &[impl AsRef<str>]) -> impl Iterator<Item = &'a str> {
    paths.iter().map(String::as_str).filter(|path| {
        let leads_into = |rest: &str| rest.is_empty() || rest.starts_with("::");
        path.contains("::")
            && forbidden.iter().any(|forbidden| path.strip_prefix(forbidden.as_ref()).is_some_and(leads_into))
    })
}

/// The Rust files of the product in these files and folders; tests are left out.
fn product_files<'a>(places: &'a [&'a str]) -> impl Iterator<Item = SourceFile> + 'a {
    let paths = places.iter().flat_map(|place| files(place));
    let is_test = |path: &str| path.ends_with("tests.rs") || path.contains("/tests/");
    paths.filter(move |path| !is_test(path)).map(|path| SourceFile::read(&path))
}

/// The Rust files in a folder, or the file itself.
fn files(place: &str) -> Vec<String> {
    let path = root().join(place);
    if path.is_file() {
        return vec![place.to_owned()];
    }
    let entries = fs::read_dir(&path).unwrap_or_else(|error| panic!("{place}: {error}"));
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let is_rust = |name: &String| Path::new(name).extension().is_some_and(|extension| extension == "rs");
    let is_wanted = |name: &String| name != "target" && (is_rust(name) || path.join(name).is_dir());
    names.filter(is_wanted).flat_map(|name| files(&format!("{place}/{name}"))).collect()
}

/// The crates that the product depends on, as the code spells them.
fn dependencies(manifest: &str) -> Vec<String> {
    let manifest = text(manifest);
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let names = section.lines().filter_map(|line| line.split(['.', ' ', '=']).next()).filter(|name| !name.is_empty());
    names.map(|name| name.replace('-', "_")).collect()
}

/// What stands between single backticks, fenced blocks left out.
fn backticked(markdown: &str) -> impl Iterator<Item = &str> {
    let prose = markdown.split("\n```").step_by(2);
    prose.flat_map(|prose| prose.split('`').skip(1).step_by(2))
}

/// The anchor that a heading gets; empty for other lines.
fn anchor_of(line: &str) -> String {
    let title = line.strip_prefix('#').map(|rest| rest.trim_start_matches('#').trim()).unwrap_or_default();
    let kept = title.chars().filter(|character| is_word(*character) || matches!(character, ' ' | '-'));
    kept.map(|character| if character == ' ' { '-' } else { character.to_ascii_lowercase() }).collect()
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
