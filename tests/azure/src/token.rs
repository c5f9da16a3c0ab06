//! Tokens that this crate gives out.

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

/// Text that nobody can guess.
pub(crate) fn random(prefix: &str) -> String {
    let mut bytes = [0; 24];
    let _ = rand::fill(&mut bytes);
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// A JWT with these claims. Its signature is random: whoever gave it out knows it again.
pub(crate) fn jwt(claims: &Value) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","typ":"JWT"}"#);
    format!("{header}.{}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()), random("sig-"))
}

/// The header and the claims of a JWT.
pub(crate) fn parts(token: &str) -> Option<(Value, Value)> {
    let mut parts = token.split('.');
    let mut part = || serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts.next()?).ok()?).ok();
    Some((part()?, part()?))
}
