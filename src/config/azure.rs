//! How Entra and the registries are reached.

use std::path::PathBuf;

use serde::Deserialize;
use url::Url;

use super::field::{InvalidField, parse_field, present};

/// The authority of the public cloud.
pub const DEFAULT_AUTHORITY_HOST: &str = "https://login.microsoftonline.com";
/// The audience that every registry accepts, hardened ones too.
///
/// Source: <https://learn.microsoft.com/azure/container-registry/container-registry-disable-authentication-as-arm>.
pub const DEFAULT_SCOPE: &str = "https://containerregistry.azure.net/.default";

/// How Entra and the registries are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureConfiguration {
    /// Where tokens of Entra come from: scheme https, a host, perhaps a port, nothing else.
    pub authority_host: Url,
    /// What tokens of Entra are asked for.
    pub scope: String,
    /// More certificates to trust, in PEM, next to those of the system.
    pub ca_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Azure {
    authority_host: String,
    scope: String,
    pub(super) extra_suffixes: Vec<String>,
    ca_file: Option<PathBuf>,
}

impl Default for Azure {
    fn default() -> Self {
        Self {
            authority_host: DEFAULT_AUTHORITY_HOST.to_owned(),
            scope: DEFAULT_SCOPE.to_owned(),
            extra_suffixes: Vec::new(),
            ca_file: None,
        }
    }
}

impl Azure {
    pub(super) fn parse(&self, field: &str) -> Result<AzureConfiguration, InvalidField> {
        let ca_file = self.ca_file.as_deref().map(|file| present(file, field, "caFile")).transpose()?;
        Ok(AzureConfiguration {
            authority_host: parse_field(&self.authority_host, &format!("{field}.authorityHost"), parse_authority)?,
            scope: parse_field(&self.scope, &format!("{field}.scope"), parse_scope)?,
            ca_file,
        })
    }
}

fn parse_authority(text: &str) -> Result<Url, String> {
    let remedy = "write https:// and a host name, such as https://login.microsoftonline.us";
    // A host alone would parse as a scheme or a relative path, so the scheme is looked at first.
    if !text.starts_with("https://") {
        return Err(format!("{text:?} does not start with https://, and secrets are sent there: {remedy}"));
    }
    let url = Url::parse(text).map_err(|error| format!("{text:?} is no address ({error}): {remedy}"))?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let anonymous = url.username().is_empty() && url.password().is_none();
    // A user and a password in the text must not come back in an error.
    if !anonymous {
        return Err(format!("it holds a user name or a password: {remedy}"));
    }
    if bare {
        Ok(url)
    } else {
        Err(format!("{text:?} holds more than a host: {remedy}; the tenant has a field of its own"))
    }
}

fn parse_scope(text: &str) -> Result<String, String> {
    let well_formed = text.strip_suffix("/.default").is_some_and(|resource| !resource.is_empty())
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    if well_formed {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no scope of an application: write a resource and /.default, such as {DEFAULT_SCOPE}"))
    }
}

impl Default for AzureConfiguration {
    #[expect(clippy::expect_used, reason = "a constant that a test parses")]
    fn default() -> Self {
        Azure::default().parse("azure").expect("the defaults are valid")
    }
}
