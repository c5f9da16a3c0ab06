//! The table in the chart's README is made from the comments of values.yaml.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{comments, effects::documented_values, render::chart_directory};

const UPDATE: &str = "UPDATE_CHART";
const BEGIN: &str = "<!-- values: made from values.yaml; UPDATE_CHART=1 cargo test --test chart writes it anew -->\n";
const END: &str = "<!-- /values -->";

#[test]
fn the_table_in_the_readme_is_made_from_the_comments_of_values_yaml() {
    let readme = std::fs::read_to_string(chart_directory().join("README.md")).unwrap();
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    assert_made("README.md", &[before, BEGIN, &table(), END, after].concat());
}

/// A file of the chart is what is made of values.yaml; with `UPDATE_CHART` in the environment it becomes so.
pub(crate) fn assert_made(name: &str, expected: &str) {
    let file = chart_directory().join(name);
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(file, expected).unwrap();
        return;
    }
    let found = std::fs::read_to_string(file).unwrap();
    for (number, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "{name}:{}: run {UPDATE}=1 cargo test --test chart", number + 1);
    }
    assert_eq!(found, expected, "{name}: run {UPDATE}=1 cargo test --test chart");
}

fn table() -> String {
    let text = comments::text();
    let values: Value = serde_saphyr::from_str(&text).unwrap();
    let documented: BTreeSet<_> = documented_values().collect();
    let mut rows = vec!["| value | default | what it does |\n| --- | --- | --- |\n".to_owned()];
    // In the order of values.yaml, which is the order in which they are explained.
    for entry in comments::entries(&text).iter().filter(|entry| documented.contains(entry.path.as_str())) {
        let path = &entry.path;
        let default = values.pointer(&format!("/{}", path.replace('.', "/"))).unwrap().to_string();
        let default = if default.len() > 44 { "see values.yaml".to_owned() } else { format!("`{default}`") };
        let sentence = first_sentence(&entry.comment).replace('|', r"\|");
        assert!(!sentence.is_empty(), "{path} has no comment of its own");
        rows.push(format!("| `{path}` | {default} | {sentence} |\n"));
    }
    assert_eq!(rows.len(), documented.len() + 1);
    rows.concat()
}

fn first_sentence(comment: &str) -> &str {
    comment.split_once(". ").map_or(comment, |(first, _)| first).trim_end_matches(['.', ':'])
}
