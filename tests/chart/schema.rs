//! values.schema.json is made from values.yaml: types and defaults from the values, descriptions and all else from the
//! comments.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{
    comments::{self, Entry},
    documented::assert_made,
};

#[test]
fn the_schema_is_made_from_values_yaml() {
    let schema = Schema::read(&comments::text()).whole();
    let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
    assert_made("values.schema.json", &text);
}

/// What makes the drift test above worth its name: no word of values.yaml is without effect on the schema.
#[test]
fn each_change_of_values_yaml_changes_the_schema() {
    let text = comments::text();
    let schema = Schema::read(&text).whole();
    for (from, to) in [
        ("# Tag of the image;", "# Label of the image;"),
        ("timeoutSeconds: 5\n", "timeoutSeconds: 6\n"),
        ("# @schema {minimum: 1, maximum: 30}", "# @schema {minimum: 1, maximum: 31}"),
        ("# port: {type: integer, minimum: 1,", "# port: {type: integer, minimum: 2,"),
        ("allowSecondRelease: false", "allowSecondRelease: maybe"),
        ("replicaCount: 2", "replicaNumber: 2"),
    ] {
        assert_eq!(text.matches(from).count(), 1, "{from}");
        assert_ne!(Schema::read(&text.replace(from, to)).whole(), schema, "{from} -> {to}");
    }
}

#[test]
fn the_schema_is_closed_wherever_it_names_keys() {
    fn check(schema: &Value, path: &str) -> usize {
        let is_object = schema["properties"].is_object();
        if is_object {
            assert_eq!(schema["additionalProperties"], false, "{path}");
        }
        // Conditions repeat a part of the keys.
        let parts = schema.as_object().into_iter().flatten().filter(|(key, _)| !CONDITIONS.contains(&key.as_str()));
        usize::from(is_object) + parts.map(|(key, part)| check(part, &format!("{path}/{key}"))).sum::<usize>()
    }
    assert!(check(&Schema::read(&comments::text()).whole(), "") > 30);
}

#[test]
#[should_panic(expected = "a.b: say by @schema what may stand in it")]
fn an_empty_list_or_map_must_say_what_may_stand_in_it() {
    Schema::read("a:\n  b: []\n# @shapes\n# text: {type: string}\n").whole();
}

const CONDITIONS: [&str; 3] = ["if", "then", "else"];

struct Schema {
    values: Value,
    entries: BTreeMap<String, Entry>,
    shapes: Map<String, Value>,
}

impl Schema {
    fn read(text: &str) -> Self {
        let values = serde_saphyr::from_str(text).unwrap();
        let entries = comments::entries(text).into_iter().map(|entry| (entry.path.clone(), entry)).collect();
        Self { values, entries, shapes: comments::shapes(text) }
    }

    fn whole(&self) -> Value {
        let mut schema = json!({
            "$schema": "http://json-schema.org/draft-07/schema#",
            "title": "Values of the Helm chart acr-pull-injector",
        });
        merge(&mut schema, self.object("", &self.values));
        schema["properties"]["global"] = json!({
            "type": "object", "description": "Set by Helm for parent charts; not used here.",
        });
        schema
    }

    fn object(&self, path: &str, value: &Value) -> Value {
        let fields = value.as_object().unwrap().iter().map(|(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            (key.clone(), self.value(&path, value))
        });
        json!({"type": "object", "additionalProperties": false, "properties": fields.collect::<Map<_, _>>()})
    }

    fn value(&self, path: &str, value: &Value) -> Value {
        let Entry { comment, annotation, .. } = &self.entries[path];
        let mut schema = json!({});
        if !comment.is_empty() {
            schema["description"] = json!(comment);
        }
        match (annotation, value) {
            (Some(Value::String(shape)), _) => merge(&mut schema, self.shape(shape)),
            (None, Value::Object(fields)) if !fields.is_empty() => {
                merge(&mut schema, self.object(path, value));
                return schema;
            }
            (None, Value::Object(_) | Value::Array(_) | Value::Null) => {
                panic!("{path}: say by @schema what may stand in it")
            }
            (stated, _) => {
                let stated = stated.as_ref().map(|stated| self.expanded(stated)).unwrap_or_default();
                // Of an enumeration the values say it all.
                if stated.get("enum").is_none() && stated.get("type").is_none() {
                    schema["type"] = json!(type_of(value));
                }
                merge(&mut schema, stated);
            }
        }
        schema["default"] = value.clone();
        schema
    }

    fn shape(&self, name: &str) -> Value {
        self.expanded(self.shapes.get(name).unwrap_or_else(|| panic!("@shapes has no {name}")))
    }

    /// With shapes in place of their names, and closed where it names properties.
    fn expanded(&self, stated: &Value) -> Value {
        let mut schema = Map::new();
        let words = stated.as_object().unwrap_or_else(|| panic!("{stated} is no map of JSON Schema"));
        if words.contains_key("properties") {
            schema.insert("type".to_owned(), json!("object"));
            schema.insert("additionalProperties".to_owned(), json!(false));
        }
        for (word, value) in words {
            let value = match (word.as_str(), value) {
                ("properties", Value::Object(properties)) => {
                    let parts = properties.iter().map(|(key, part)| (key.clone(), self.part(part)));
                    parts.collect::<Map<_, _>>().into()
                }
                ("items" | "additionalProperties", part) => self.part(part),
                _ => value.clone(),
            };
            schema.insert(word.clone(), value);
        }
        schema.into()
    }

    fn part(&self, part: &Value) -> Value {
        match part {
            Value::String(shape) => self.shape(shape),
            Value::Bool(_) => part.clone(),
            _ => self.expanded(part),
        }
    }
}

fn merge(schema: &mut Value, words: Value) {
    let Value::Object(words) = words else { return };
    schema.as_object_mut().unwrap().extend(words);
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
