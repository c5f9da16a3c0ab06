//! What changes in a manifest, as a unified diff.

use serde_json::Value;
use similar::TextDiff;

use super::documents;

/// The diff of an object before and after. Both are written anew, so that only what changed differs and not how it was
/// written; line numbers are those of the text written so.
pub(super) fn unified(name: &str, before: &Value, after: &Value) -> Result<String, String> {
    let (before, after) = (documents::to_yaml(before)?, documents::to_yaml(after)?);
    Ok(TextDiff::from_lines(&before, &after).unified_diff().header(name, &format!("{name}, as admitted")).to_string())
}
