//! What an answer of Entra means.
//!
//! Source of the codes: <https://learn.microsoft.com/entra/identity-platform/reference-error-codes>. A code that is not
//! listed here reaches the operator with a link to its description.

use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;

use super::ProofKind;
use crate::credentials::{
    azure_error::{AzureError, AzureErrorKind, CorrelationId, LifetimeFault, Party},
    http::Answer,
    token_lifetime::LONGEST_LIFE,
};

#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    error: Option<String>,
    error_description: Option<String>,
    error_codes: serde_json::Value,
    correlation_id: Option<String>,
    access_token: Option<String>,
    /// In seconds. The metadata service of a machine writes text, and what counts there is `expires_on`.
    expires_in: serde_json::Value,
}

/// Why this answer brings no token; `None` when it does.
pub(super) fn of(answer: &Answer, party: &Party, proof: ProofKind) -> Option<AzureError> {
    let body: Option<Body> = serde_json::from_slice(&answer.body).ok();
    if answer.status.is_success() {
        let has_token = |body: &Body| body.access_token.as_ref().is_some_and(|token| !token.is_empty());
        let Some(body) = body.filter(has_token) else {
            return Some(answer.error(AzureErrorKind::NotTheService { html: answer.is_html() }, party));
        };
        let fault = lifetime_fault(body.expires_in.as_i64()?)?;
        return Some(answer.error(AzureErrorKind::TokenLifetime(fault), party));
    }
    if proof == ProofKind::Machine {
        return Some(answer.error(machine(answer.status), party));
    }
    let codes = codes(body.as_ref(), &String::from_utf8_lossy(&answer.body));
    // A general code may come first, and the one that tells more after it.
    let known = codes.iter().find_map(|code| Some((*code, kind_of_code(*code, proof)?)));
    let code = known.as_ref().map(|(code, _)| *code).or_else(|| codes.first().copied());
    let by_code = known.map(|(_, kind)| kind);
    let kind = by_code.unwrap_or_else(|| match answer.status {
        StatusCode::TOO_MANY_REQUESTS => AzureErrorKind::Throttled,
        status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => AzureErrorKind::Unavailable,
        status if status.is_redirection() => AzureErrorKind::Redirected,
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => AzureErrorKind::Proxy,
        _ if code.is_none() && answer.is_html() => AzureErrorKind::NotTheService { html: true },
        StatusCode::FORBIDDEN if code.is_none() && body.is_none() => AzureErrorKind::Firewall,
        _ => match &body {
            Some(body) if matches!(body.error.as_deref(), Some("temporarily_unavailable" | "server_error")) => {
                AzureErrorKind::Unavailable
            }
            // Nobody is there to interact: a policy asks for more than a secret.
            Some(body) if body.error.as_deref() == Some("interaction_required") => AzureErrorKind::BlockedByPolicy,
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

/// `azure_identity` 1.0 adds the seconds to the time of day, and panics where the sum is no time.
fn lifetime_fault(seconds: i64) -> Option<LifetimeFault> {
    match u64::try_from(seconds).map(Duration::from_secs) {
        Err(_) => Some(LifetimeFault::TooShort),
        Ok(life) if life > LONGEST_LIFE => Some(LifetimeFault::TooLong),
        Ok(_) => None,
    }
}

fn machine(status: StatusCode) -> AzureErrorKind {
    match status {
        StatusCode::TOO_MANY_REQUESTS => AzureErrorKind::Throttled,
        StatusCode::GONE => AzureErrorKind::Unavailable,
        status if status.is_server_error() => AzureErrorKind::Unavailable,
        _ => AzureErrorKind::NoManagedIdentity,
    }
}

/// Those of `error_codes` first, as numbers or as text; then the one that the description or the whole answer names.
fn codes(body: Option<&Body>, answer: &str) -> Vec<u32> {
    let listed = body.map_or(&serde_json::Value::Null, |body| &body.error_codes).as_array().into_iter().flatten();
    let listed = listed.filter_map(|code| match code.as_str() {
        Some(text) => text.trim_start_matches("AADSTS").parse().ok(),
        None => u32::try_from(code.as_u64()?).ok(),
    });
    let described = body.and_then(|body| code_in(body.error_description.as_deref()?));
    listed.chain(described.or_else(|| code_in(answer))).collect()
}

fn code_in(text: &str) -> Option<u32> {
    text.split("AADSTS").skip(1).find_map(|rest| {
        let digits = rest.split(|character: char| !character.is_ascii_digit()).next()?;
        digits.parse().ok()
    })
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
        70_021 | 70_025 | 700_211 | 700_212 | 700_213 | 700_222 => Some(AzureErrorKind::FederationMismatch),
        50_166 | 501_661 | 90_061 => Some(AzureErrorKind::FederatedTokenInvalid),
        70_001 | 700_016 | 7_000_229 => Some(AzureErrorKind::ApplicationUnknown),
        7_000_112 | 7_000_113 => Some(AzureErrorKind::ApplicationDisabled),
        50_049 | 50_059 | 50_128 | 90_002 | 90_019 | 90_038 | 900_021 | 900_023 | 900_382..=900_384 | 900_432 => {
            Some(AzureErrorKind::TenantUnknown)
        }
        5_000_225 => Some(AzureErrorKind::TenantBlocked),
        50_001 | 70_011 | 500_011 | 500_014 | 650_052 | 650_057 | 1_002_012 => Some(AzureErrorKind::ScopeUnknown),
        50_005 | 50_076 | 50_079 | 50_131 | 50_158 | 53_000..=53_004 | 53_011 | 530_031..=530_035 => {
            Some(AzureErrorKind::BlockedByPolicy)
        }
        // Restrictions that a proxy on the way adds, and what a tenant demands of federated credentials.
        500_021 | 5_000_211 | 700_223 | 700_238 | 7_002_381 => Some(AzureErrorKind::BlockedByPolicy),
        50_196 | 90_055 => Some(AzureErrorKind::Throttled),
        50_033 | 90_012 | 90_024 | 90_033 => Some(AzureErrorKind::Unavailable),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_wherever_they_stand() {
        for (answer, expected) in [
            (r#"{"error":"invalid_client","error_codes":[7000215]}"#, vec![7_000_215]),
            (
                r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid \"secret\".\r\nTrace ID: 1"}"#,
                vec![7_000_215],
            ),
            (r#"{"error_codes":["7000222","50012",-1,null,{},99999999999]}"#, vec![7_000_222, 50_012]),
            (r#"{"error_codes":null,"error_description":null}"#, vec![]),
            (r#"{"error":{"code":"x","message":"AADSTS90002: Tenant"}}"#, vec![90_002]),
            ("<html>an AADSTS code, AADSTS90002: Tenant", vec![90_002]),
            ("AADSTS", vec![]),
            ("no code", vec![]),
        ] {
            let body = serde_json::from_str(answer).ok();
            assert_eq!(codes(body.as_ref(), answer), expected, "{answer}");
        }
    }

    #[test]
    fn only_names_of_the_standard_are_repeated() {
        for (error, repeated) in [("invalid_client", true), ("my-Secret", false), ("a b", false)] {
            let body = Body { error: Some(error.to_owned()), ..Body::default() };
            assert_eq!(name(&body).is_some(), repeated, "{error}");
        }
    }
}
