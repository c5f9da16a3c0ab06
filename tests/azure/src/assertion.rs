//! Verifies client assertions as Entra does.

use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use crate::token::parts;

/// The code of Entra for what is wrong with an assertion that a certificate's key signed.
pub(crate) fn verify(
    assertion: &str,
    client: &str,
    audience: &str,
    certificates: &[Vec<u8>],
    now: i64,
) -> Result<(), u32> {
    const INVALID: u32 = 700_027;
    const TIME: u32 = 700_024;
    let (header, claims) = parts(assertion).ok_or(50_027_u32)?;
    if header["alg"] != "PS256" || header["typ"] != "JWT" {
        return Err(INVALID);
    }
    let thumbprint = header["x5t#S256"].as_str().unwrap_or_default();
    let certificate = certificates
        .iter()
        .find(|certificate| URL_SAFE_NO_PAD.encode(Sha256::digest(certificate)) == thumbprint)
        .ok_or(INVALID)?;
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| INVALID)?;
    let key = UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, &certificate.public_key().subject_public_key.data);
    let (signed, signature) = assertion.rsplit_once('.').ok_or(INVALID)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| INVALID)?;
    key.verify(signed.as_bytes(), &signature).map_err(|_| INVALID)?;
    if claims["aud"] != audience {
        return Err(700_023);
    }
    if claims["iss"] != client || claims["sub"] != client || claims["jti"].as_str().is_none_or(str::is_empty) {
        return Err(INVALID);
    }
    let time = |name: &str| claims[name].as_i64().ok_or(INVALID);
    let (not_before, expires_at) = (time("nbf")?, time("exp")?);
    // Entra takes assertions of ten minutes at most.
    if expires_at <= now || not_before > now + 300 || expires_at - not_before > 600 {
        return Err(TIME);
    }
    Ok(())
}
