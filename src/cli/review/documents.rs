//! The documents of a YAML stream: cut apart, read, and written again.
//!
//! A document that does not change is written as it was read, comments and all. One that does is written anew from its
//! values; only the comments before its first line survive.

use serde_json::Value;

/// A document of the input.
#[derive(Debug)]
pub(super) struct Document<'a> {
    /// Counted from 1, documents without content left out.
    pub(super) number: usize,
    /// As it stands in the input, with its `---`.
    pub(super) text: &'a str,
    /// What it says; null when it has no content.
    pub(super) value: Value,
}

/// Cuts the text into documents and reads each. JSON is YAML here.
pub(super) fn parse(text: &str) -> Result<Vec<Document<'_>>, String> {
    let mut documents = Vec::new();
    let mut number = 0;
    let mut lines_before = 0;
    for chunk in split(text) {
        let value = read(chunk, lines_before).map_err(|error| format!("document {}: {error}", number + 1))?;
        if !value.is_null() {
            number += 1;
        }
        documents.push(Document { number, text: chunk, value });
        lines_before += chunk.matches('\n').count();
    }
    Ok(documents)
}

/// A line that starts with `---` always starts a document, and `...` ends one: YAML allows neither within a text.
fn split(text: &str) -> Vec<&str> {
    let mut chunks = Vec::new();
    let (mut start, mut end) = (0, 0);
    let mut open = false;
    for line in text.split_inclusive('\n') {
        let is_start = is_marker(line, "---");
        // Comments and directives before the first `---` belong to the document that it starts.
        if is_start && open {
            chunks.push(&text[start..end]);
            start = end;
        }
        end += line.len();
        open |= is_start || !is_preamble(line);
        if is_marker(line, "...") && open {
            chunks.push(&text[start..end]);
            (start, open) = (end, false);
        }
    }
    if start < text.len() {
        chunks.push(&text[start..]);
    }
    chunks
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn is_preamble(line: &str) -> bool {
    line.trim().is_empty() || line.starts_with('%') || line.trim_start().starts_with('#')
}

fn read(chunk: &str, lines_before: usize) -> Result<Value, String> {
    if chunk.lines().all(is_preamble) {
        return Ok(Value::Null);
    }
    if chunk.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(chunk)
    {
        return Ok(value);
    }
    // Numbers with a leading zero are octal for kubectl, and file modes are written so.
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        with_snippet: false,
        // A manifest may be large. Its depth stays limited, since depth costs stack.
        budget: serde_saphyr::budget! { max_nodes: usize::MAX, max_events: usize::MAX },
    };
    // Empty lines in front make the line of an error the line of the file.
    let padded = "\n".repeat(lines_before) + chunk;
    serde_saphyr::from_str_with_options(&padded, options).map_err(|error| error.to_string())
}

/// A value as YAML, the way kubectl writes it.
pub(super) fn to_yaml(value: &Value) -> Result<String, String> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: true, compact_list_indent: true };
    serde_saphyr::to_string_with_options(value, options).map_err(|error| error.to_string())
}

impl Document<'_> {
    /// Whether a `---` stands before its content, which sets it apart from what comes before.
    pub(super) fn is_marked(&self) -> bool {
        self.text.lines().find(|line| !is_preamble(line)).is_some_and(|line| is_marker(line, "---"))
    }

    /// Appends the document to a stream of documents.
    pub(super) fn write(&self, changed: bool, output: &mut String) -> Result<(), String> {
        if !output.is_empty() && !output.ends_with('\n') {
            output.push('\n');
        }
        if !changed {
            output.push_str(self.text);
            return Ok(());
        }
        let text = to_yaml(&self.value)?;
        let preamble = self.preamble();
        if !output.is_empty() && !preamble.lines().any(|line| is_marker(line, "---")) {
            output.push_str("---\n");
        }
        output.push_str(&preamble);
        output.push_str(&text);
        Ok(())
    }

    /// The comments before the content, and the `---` if nothing else stands on its line.
    fn preamble(&self) -> String {
        let is_bare_marker =
            |line: &str| is_marker(line, "---") && is_preamble(line.strip_prefix("---").unwrap_or_default());
        let lines = self.text.split_inclusive('\n').take_while(|line| is_preamble(line) || is_bare_marker(line));
        lines.filter(|line| !line.starts_with('%')).collect()
    }
}
