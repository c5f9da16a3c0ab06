//! values.yaml as it is written: each value with the comment above it.

use serde_json::{Map, Value};

use crate::render::chart_directory;

/// What stands in a comment before JSON Schema's words for a value.
const SCHEMA: &str = "@schema ";
/// The line before the shapes that `@schema` may name; they end the file.
const SHAPES: &str = "@shapes";

/// A key of values.yaml.
#[derive(Debug)]
pub(crate) struct Entry {
    /// From the top of the file, with dots.
    pub(crate) path: String,
    /// The comment above it, without the line that is meant for the schema. What `enabled` enables is said above its
    /// parent.
    pub(crate) comment: String,
    /// JSON Schema's words for it, or the name of a shape.
    pub(crate) annotation: Option<Value>,
}

/// All keys, in the order of the file.
pub(crate) fn entries(text: &str) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    let mut parents: Vec<(usize, String)> = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    for line in text.lines() {
        let content = line.trim_start();
        if let Some(part) = content.strip_prefix('#') {
            comment.push(part.strip_prefix(' ').unwrap_or(part));
            continue;
        }
        let above = std::mem::take(&mut comment);
        let key = content.split_once(':').map(|(key, _)| key).filter(|key| key.chars().all(char::is_alphanumeric));
        let Some(key) = key else { continue };
        let indentation = line.len() - content.len();
        parents.retain(|(column, _)| *column < indentation);
        let parent = parents.last().map(|(_, path)| path.clone()).unwrap_or_default();
        let path = if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") };
        let (annotations, prose): (Vec<_>, Vec<_>) = above.into_iter().partition(|line| line.starts_with(SCHEMA));
        assert!(annotations.len() <= 1, "{path} has more than one {SCHEMA}");
        let annotation = annotations.first().map(|line| yaml(&path, &line[SCHEMA.len()..]));
        let mut prose = joined(&prose);
        if key == "enabled" && prose.is_empty() {
            prose =
                found.iter().find(|entry| entry.path == parent).map(|entry| entry.comment.clone()).unwrap_or_default();
        }
        parents.push((indentation, path.clone()));
        found.push(Entry { path, comment: prose, annotation });
    }
    found
}

/// The shapes by name.
pub(crate) fn shapes(text: &str) -> Map<String, Value> {
    let (_, shapes) = text.split_once(&format!("# {SHAPES}\n")).unwrap();
    let lines: Vec<_> = shapes.lines().map(|line| line.strip_prefix("# ").unwrap()).collect();
    let Value::Object(shapes) = yaml(SHAPES, &lines.join("\n")) else { panic!("{SHAPES} is no map") };
    shapes
}

/// The text of values.yaml.
pub(crate) fn text() -> String {
    std::fs::read_to_string(chart_directory().join("values.yaml")).unwrap()
}

fn yaml(path: &str, text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{path}: {text}: {error}"))
}

/// Prose in one line; an example, which is indented, keeps its lines.
fn joined(lines: &[&str]) -> String {
    let mut text = String::new();
    let mut after_example = false;
    for line in lines {
        let is_example = line.starts_with(' ');
        if !text.is_empty() {
            text.push(if is_example || after_example { '\n' } else { ' ' });
        }
        text.push_str(line.trim_end());
        after_example = is_example;
    }
    text
}
