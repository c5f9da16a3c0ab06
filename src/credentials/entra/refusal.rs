//! What an answer of Entra means.
//!
//! Source of the codes: <https://learn.microsoft.com/entra/identity-platform/reference-error-codes>. A code that is not
//! listed here reaches the operator with a link to its description.

use reqwest::StatusCode;
use serde::Deserialize;

use super::ProofKind;
use crate::credentials::{
    azure_error::{AzureError, AzureErrorKind, CorrelationId, Party},
    http::Answer,
};

#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    error: Option<String>,
    error_description: Option<String>,
    error_codes: Vec<u32>,
    correlation_id: Option<String>,
    access_token: Option<serde::de::IgnoredAny>,
}

/// Why this answer brings no token; `None` when it does.
pub(super) fn of(answer: &Answer, party: &Party, proof: ProofKind) -> Option<AzureError> {
    let body: Option<Body> = serde_json::from_slice(&answer.body).ok();
    if answer.status.is_success() {
        let has_token = body.is_some_and(|body| body.access_token.is_some());
        let html = answer.is_html();
        return (!has_token).then(|| answer.error(AzureErrorKind::NotTheService { html }, party));
    }
    if proof == ProofKind::Machine {
        return Some(answer.error(machine(answer.status), party));
    }
    let code = body.as_ref().and_then(code).or_else(|| code_in(&String::from_utf8_lossy(&answer.body)));
    let by_code = code.and_then(|code| kind_of_code(code, proof));
    let kind = by_code.unwrap_or_else(|| match answer.status {
        StatusCode::TOO_MANY_REQUESTS => AzureErrorKind::Throttled,
        status if status.is_server_error() => AzureErrorKind::Unavailable,
        status if status.is_redirection() => AzureErrorKind::Redirected,
        _ if code.is_none() && answer.is_html() => AzureErrorKind::NotTheService { html: true },
        StatusCode::FORBIDDEN if code.is_none() && body.is_none() => AzureErrorKind::Firewall,
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => AzureErrorKind::Proxy,
        _ => match &body {
            Some(body) if matches!(body.error.as_deref(), Some("temporarily_unavailable" | "server_error")) => {
                AzureErrorKind::Unavailable
            }
            Some(body) if code.is_some() || body.error.is_some() => AzureErrorKind::EntraRefused { error: name(body) },
            None if code.is_some() => AzureErrorKind::EntraRefused { error: None },
            _ => AzureErrorKind::NotTheService { html: false },
        },
    });
    let mut error = answer.error(kind, party);
    error.entra_code = code;
    let named = body.and_then(|body| CorrelationId::parse(&body.correlation_id?));
    error.correlation_id = named.or(error.correlation_id);
    Some(error)
}

fn machine(status: StatusCode) -> AzureErrorKind {
    match status {
        StatusCode::TOO_MANY_REQUESTS => AzureErrorKind::Throttled,
        StatusCode::GONE => AzureErrorKind::Unavailable,
        status if status.is_server_error() => AzureErrorKind::Unavailable,
        _ => AzureErrorKind::NoManagedIdentity,
    }
}

/// `error_codes` first; some answers have the code in the description only.
fn code(body: &Body) -> Option<u32> {
    body.error_codes.first().copied().or_else(|| code_in(body.error_description.as_deref()?))
}

fn code_in(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("AADSTS")?;
    let digits = rest.split(|character: char| !character.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// `error` is a word from a list of the OAuth standard; anything else is not repeated.
fn name(body: &Body) -> Option<String> {
    let name = body.error.as_deref()?;
    let well_formed = name.len() <= 40 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    well_formed.then(|| name.to_owned())
}

fn kind_of_code(code: u32, proof: ProofKind) -> Option<AzureErrorKind> {
    let of_proof = |secret, certificate, federated| match proof {
        ProofKind::Secret => Some(secret),
        ProofKind::Certificate => Some(certificate),
        ProofKind::FederatedToken => Some(federated),
        ProofKind::Machine => None,
    };
    match code {
        7_000_222 => Some(AzureErrorKind::SecretExpired),
        7_000_215 => Some(AzureErrorKind::SecretWrong),
        // The proof in general: its meaning depends on what was shown.
        50_012 | 70_002 => of_proof(
            AzureErrorKind::SecretWrong,
            AzureErrorKind::CertificateUnknown,
            AzureErrorKind::FederatedTokenInvalid,
        ),
        // An assertion: unknown or revoked key, wrong signature, wrong form.
        50_013 | 50_027 | 700_027 | 700_030 | 7_000_214 | 700_023 => of_proof(
            AzureErrorKind::EntraRefused { error: None },
            AzureErrorKind::CertificateUnknown,
            AzureErrorKind::FederatedTokenInvalid,
        ),
        // An assertion: not valid at this time.
        700_024 | 500_133 => of_proof(
            AzureErrorKind::EntraRefused { error: None },
            AzureErrorKind::AssertionTime,
            AzureErrorKind::FederatedTokenInvalid,
        ),
        70_021 | 700_211 | 700_212 | 700_213 | 700_222 => Some(AzureErrorKind::FederationMismatch),
        50_166 | 501_661 | 90_061 => Some(AzureErrorKind::FederatedTokenInvalid),
        70_001 | 700_016 | 7_000_229 => Some(AzureErrorKind::ApplicationUnknown),
        7_000_112 | 7_000_113 => Some(AzureErrorKind::ApplicationDisabled),
        50_059 | 50_128 | 90_002 | 90_019 | 900_021 | 900_023 | 900_382 => Some(AzureErrorKind::TenantUnknown),
        50_001 | 70_011 | 500_011 | 650_057 | 1_002_012 => Some(AzureErrorKind::ScopeUnknown),
        50_005 | 53_000..=53_003 | 53_011 | 530_034 | 530_035 => Some(AzureErrorKind::BlockedByPolicy),
        50_196 | 90_055 => Some(AzureErrorKind::Throttled),
        90_012 | 90_024 | 90_033 => Some(AzureErrorKind::Unavailable),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_found_wherever_it_stands() {
        for body in [
            r#"{"error":"invalid_client","error_codes":[7000215]}"#,
            r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid \"secret\".\r\nTrace ID: 1"}"#,
        ] {
            assert_eq!(code(&serde_json::from_str(body).unwrap()), Some(7_000_215), "{body}");
        }
        assert_eq!(code_in("<html>AADSTS90002: Tenant"), Some(90_002));
        assert_eq!(code_in("AADSTS"), None);
        assert_eq!(code_in("no code"), None);
    }

    #[test]
    fn only_names_of_the_standard_are_repeated() {
        for (error, repeated) in [("invalid_client", true), ("my-Secret", false), ("a b", false)] {
            let body = Body { error: Some(error.to_owned()), ..Body::default() };
            assert_eq!(name(&body).is_some(), repeated, "{error}");
        }
    }
}
