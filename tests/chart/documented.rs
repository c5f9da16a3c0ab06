//! values.yaml, values.schema.json and the table in the chart's README say the same.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{effects::documented_values, render::chart_directory};

fn read(name: &str) -> String {
    std::fs::read_to_string(chart_directory().join(name)).unwrap()
}

fn values() -> Value {
    serde_saphyr::from_str(&read("values.yaml")).unwrap()
}

fn schema() -> Value {
    serde_json::from_str(&read("values.schema.json")).unwrap()
}

#[test]
fn the_schema_knows_every_value_and_no_other() {
    let mut stated = BTreeSet::new();
    value_paths(&values(), &schema(), "", &mut stated);
    let mut known = BTreeSet::new();
    schema_paths(&schema(), "", &mut known);
    // Helm itself sets it for parent charts.
    known.remove("global");
    // Keys that only some users set.
    known.retain(|path| {
        !["certificates.certManager.issuerRef.", "livenessProbe.", "readinessProbe."]
            .iter()
            .any(|free| path.starts_with(free))
    });
    stated.retain(|path| !["livenessProbe.", "readinessProbe."].iter().any(|free| path.starts_with(free)));
    assert_eq!(stated, known);
}

/// Paths of values, down to where the schema no longer names keys.
fn value_paths(value: &Value, schema: &Value, path: &str, paths: &mut BTreeSet<String>) {
    let properties = schema["properties"].as_object();
    match (value.as_object(), properties) {
        (Some(fields), Some(properties)) if !fields.is_empty() => {
            for (key, field) in fields {
                value_paths(field, properties.get(key).unwrap_or(&Value::Null), &join(path, key), paths);
            }
        }
        _ => drop(paths.insert(path.to_owned())),
    }
}

fn schema_paths(schema: &Value, path: &str, paths: &mut BTreeSet<String>) {
    match schema["properties"].as_object() {
        Some(properties) => properties.iter().for_each(|(key, schema)| schema_paths(schema, &join(path, key), paths)),
        None => drop(paths.insert(path.to_owned())),
    }
    if path == "certificates.certManager.issuerRef" {
        paths.insert(path.to_owned());
    }
}

#[test]
fn the_schema_is_closed_wherever_it_names_keys() {
    fn check(schema: &Value, path: &str) {
        if schema["properties"].is_object() {
            assert_eq!(schema["additionalProperties"], false, "{path}");
        }
        for (key, part) in schema.as_object().into_iter().flatten() {
            // Conditions repeat a part of the keys.
            if !["if", "then", "else"].contains(&key.as_str()) {
                check(part, &join(path, key));
            }
        }
    }
    check(&schema(), "");
}

const BEGIN: &str =
    "<!-- values: made from values.yaml; UPDATE_CHART_README=1 cargo test --test chart writes it anew -->\n";
const END: &str = "<!-- /values -->";

#[test]
fn the_table_in_the_readme_is_made_from_the_comments_of_values_yaml() {
    let readme = read("README.md");
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (table, after) = rest.split_once(END).unwrap();
    let expected = expected_table();
    if std::env::var_os("UPDATE_CHART_README").is_some() {
        std::fs::write(chart_directory().join("README.md"), [before, BEGIN, &expected, END, after].concat()).unwrap();
        return;
    }
    for (found, expected) in table.lines().zip(expected.lines()) {
        assert_eq!(found, expected, "run UPDATE_CHART_README=1 cargo test --test chart");
    }
    assert_eq!(table, expected);
}

fn expected_table() -> String {
    let comments = comments(&read("values.yaml"));
    let values = values();
    let documented: BTreeSet<_> = documented_values().collect();
    let mut rows = vec!["| value | default | what it does |\n| --- | --- | --- |\n".to_owned()];
    // In the order of values.yaml, which is the order in which they are explained.
    for (path, comment) in comments.iter().filter(|(path, _)| documented.contains(path.as_str())) {
        let default = values.pointer(&format!("/{}", path.replace('.', "/"))).unwrap().to_string();
        let default = if default.len() > 44 { "see values.yaml".to_owned() } else { format!("`{default}`") };
        let sentence = first_sentence(comment).replace('|', r"\|");
        assert!(!sentence.is_empty(), "{path} has no comment of its own");
        rows.push(format!("| `{path}` | {default} | {sentence} |\n"));
    }
    assert_eq!(rows.len(), documented.len() + 1);
    rows.concat()
}

/// The comment above each key, in the order of the file. What `enabled` enables is said above its parent.
fn comments(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut parents: Vec<(usize, String)> = Vec::new();
    let mut comment = String::new();
    for line in text.lines() {
        let content = line.trim_start();
        let indentation = line.len() - content.len();
        if let Some(part) = content.strip_prefix('#') {
            comment = format!("{comment} {}", part.trim());
            continue;
        }
        let key = content.split_once(':').map(|(key, _)| key).filter(|key| key.chars().all(char::is_alphanumeric));
        if let Some(key) = key {
            parents.retain(|(column, _)| *column < indentation);
            let parent = parents.last().map(|(_, path)| path.clone()).unwrap_or_default();
            let path = join(&parent, key);
            let own = std::mem::take(&mut comment);
            let own =
                if key == "enabled" && own.is_empty() { known.get(&parent).cloned().unwrap_or_default() } else { own };
            known.insert(path.clone(), own.clone());
            parents.push((indentation, path.clone()));
            found.push((path, own));
        }
        comment.clear();
    }
    found
}

fn first_sentence(comment: &str) -> &str {
    let comment = comment.trim();
    comment.split_once(". ").map_or(comment, |(first, _)| first).trim_end_matches(['.', ':'])
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
