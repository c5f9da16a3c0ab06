//! The configuration file.

use acr_pull_injector::config::Configuration;

const FIELDS: [&str; 6] = ["pullSecretName", "registries", "azure", "admission", "reconcile", "heal"];

/// A file is taken with all that serving needs, or refused with words on a field.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match Configuration::parse(text) {
        Ok(configuration) => {
            let settings = configuration.settings(Some("own"));
            assert!(settings.excludes("own") && settings.excludes("kube-system"));
            assert!(!settings.limits.ensure_timeout.is_zero() && settings.limits.writes_per_second > 0);
            assert!(!format!("{configuration:?}").is_empty());
            assert_eq!(Configuration::parse(text).expect("it was taken a moment ago"), configuration);
        }
        Err(error) => {
            let error = error.to_string();
            let field = error.split([':', '.', '[', ' ']).next().unwrap_or_default();
            let on_field = FIELDS.contains(&field) || error.contains("unknown field `");
            // Of a file that is no map at all there is no field to name.
            let on_the_whole =
                ["not valid YAML: ", "the file holds no fields: "].iter().any(|start| error.starts_with(start));
            assert!(on_field || on_the_whole, "no field is named: {error}");
        }
    }
}
