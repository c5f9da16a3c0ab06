//! Pieces that all parts of the configuration share: an error names the field by its path.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde::de::DeserializeOwned;

use super::Value;

/// A field that does not say what it should: its path, what is wrong and what to write.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidField(pub(super) String);

/// Parses a duration such as `2s`, `500ms` or `1m 30s`.
///
/// # Errors
///
/// Says what a duration looks like.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| format!("{text:?} is not a duration: write for example 2s, 500ms or 1m 30s"))
}

/// Parses a moment as `az` shows it, such as `2027-11-24T08:00:00Z`, or a date, which stands for its first second in UTC.
///
/// # Errors
///
/// Says what a moment looks like.
pub fn parse_moment(text: &str) -> Result<Timestamp, String> {
    let midnight = |text: &str| text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|day| day.timestamp());
    let is_date = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let moment = if is_date { midnight(text) } else { text.parse().ok() };
    // The text is not repeated: where it comes from a file it may be a secret under the wrong key.
    moment.ok_or_else(|| "write a moment such as 2027-11-24T08:00:00Z, or a date such as 2027-11-24".to_owned())
}

pub(super) fn parse_field<T, E: fmt::Display>(
    text: &str,
    field: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, InvalidField> {
    parse(text).map_err(|error| InvalidField(format!("{field}: {error}")))
}

pub(super) fn each<T, E: fmt::Display>(
    texts: &[String],
    field: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Vec<T>, InvalidField> {
    texts.iter().enumerate().map(|(index, text)| parse_field(text, &format!("{field}[{index}]"), &parse)).collect()
}

/// A value that is written as `name` or stands in the file of `nameFile`.
pub(super) fn one_of(
    literal: Option<&str>,
    file: Option<&Path>,
    field: &str,
    name: &str,
) -> Result<Value, InvalidField> {
    match (literal, file) {
        (Some(""), None) => Err(InvalidField(format!("{field}.{name} is empty: write a value or {name}File"))),
        (Some(literal), None) => Ok(Value::Literal(literal.to_owned())),
        (None, Some(file)) => Ok(Value::File(present(file, field, &format!("{name}File"))?)),
        (None, None) => Err(InvalidField(format!("{field}: {name} or {name}File is missing"))),
        (Some(_), Some(_)) => Err(InvalidField(format!("{field}: write {name} or {name}File, not both"))),
    }
}

/// The path of a file, which may not be empty.
pub(super) fn present(file: &Path, field: &str, name: &str) -> Result<PathBuf, InvalidField> {
    if file.as_os_str().is_empty() {
        return Err(InvalidField(format!("{field}.{name} is empty: write the path of a file")));
    }
    Ok(file.to_owned())
}

pub(super) fn deserialize<T: DeserializeOwned>(value: &serde_json::Value) -> Result<T, InvalidField> {
    serde_path_to_error::deserialize(value).map_err(|error| match error.path().to_string().as_str() {
        "." => InvalidField(error.inner().to_string()),
        path => InvalidField(format!("{path}: {}", error.inner())),
    })
}
