//! How long a registry's refresh token is good, by its own words.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::Deserialize;

use super::azure_error::LifetimeFault;
use crate::domain::pull_secret::Lifetime;

/// Registries give hours. What is shorter or longer than these is a mistake, and acting on it would either storm the
/// registry or leave a dead token in place.
const SHORTEST_LIFE: Duration = Duration::from_secs(60);
pub(super) const LONGEST_LIFE: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// Renewals of many tokens are spread by a tenth of half their life to either side.
const JITTER: f64 = 0.1;

#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
    iat: Option<f64>,
}

/// Reads `iat` and `exp` of a JWT, without verifying what only the registry can verify, and chooses when to renew: at half
/// of the life, 10 % earlier or later by chance.
///
/// # Errors
///
/// When the times are missing or cannot be right; nothing is assumed then.
pub fn token_lifetime(token: &str, now: Timestamp) -> Result<Lifetime, LifetimeFault> {
    let claims: Claims = token
        .split('.')
        .nth(1)
        .and_then(|claims| URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok())
        .and_then(|claims| serde_json::from_slice(&claims).ok())
        .ok_or(LifetimeFault::Unreadable)?;
    let expires_at = claims.exp.and_then(timestamp).ok_or(LifetimeFault::Unreadable)?;
    // A token without iat was issued just now.
    let issued_at = claims.iat.map_or(Some(now), timestamp).ok_or(LifetimeFault::Unreadable)?;
    let life = Duration::try_from(expires_at.duration_since(issued_at)).map_err(|_| LifetimeFault::TooShort)?;
    if life < SHORTEST_LIFE {
        return Err(LifetimeFault::TooShort);
    }
    if life > LONGEST_LIFE {
        return Err(LifetimeFault::TooLong);
    }
    // A clock that is behind the registry's would renew too late; the token's own length is right by any clock.
    let (issued_at, expires_at) = if issued_at > now { (now, add(now, life)) } else { (issued_at, expires_at) };
    let remaining = Duration::try_from(expires_at.duration_since(now)).unwrap_or_default();
    if remaining < SHORTEST_LIFE / 2 {
        return Err(LifetimeFault::Over);
    }
    let jitter = 1.0 + JITTER * (2.0 * fastrand::f64() - 1.0);
    let renew_at = add(issued_at, life.mul_f64(0.5 * jitter));
    // A clock that is ahead would renew at once and for ever.
    let renew_at = if renew_at > now { renew_at } else { add(now, remaining / 2) };
    Ok(Lifetime { renew_at, expires_at })
}

#[expect(clippy::cast_possible_truncation, reason = "a cast that saturates, and what is out of range is refused")]
fn timestamp(seconds: f64) -> Option<Timestamp> {
    seconds.is_finite().then(|| Timestamp::from_second(seconds as i64).ok()).flatten()
}

fn add(at: Timestamp, duration: Duration) -> Timestamp {
    at.saturating_add(duration).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn jwt(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    fn lifetime(claims: &str) -> Result<(i64, i64), LifetimeFault> {
        let now = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(NOW);
        token_lifetime(&jwt(claims), now)
            .map(|lifetime| (lifetime.renew_at.as_second() - NOW, lifetime.expires_at.as_second() - NOW))
    }

    fn claims(issued: i64, expires: i64) -> String {
        format!(r#"{{"iat":{},"exp":{}}}"#, NOW + issued, NOW + expires)
    }

    #[test]
    fn three_hours_are_renewed_between_81_and_99_minutes() {
        let mut seen = Vec::new();
        for _ in 0..200 {
            let (renew, expires) = lifetime(&claims(0, 10_800)).unwrap();
            assert!((81 * 60..=99 * 60).contains(&renew), "{renew}");
            assert_eq!(expires, 10_800);
            seen.push(renew);
        }
        let (earliest, latest) = (seen.iter().min().unwrap(), seen.iter().max().unwrap());
        assert!(latest - earliest > 10 * 60, "the jitter is too small: {earliest} to {latest}");
    }

    #[test]
    fn a_token_issued_earlier_is_renewed_earlier() {
        let (renew, expires) = lifetime(&claims(-3600, 7200)).unwrap();
        assert!((21 * 60..=39 * 60).contains(&renew), "{renew}");
        assert_eq!(expires, 7200);
    }

    #[test]
    fn a_wrong_clock_neither_storms_nor_sleeps() {
        let (renew, expires) = lifetime(&claims(7200, 18_000)).unwrap();
        assert!((81 * 60..=99 * 60).contains(&renew) && expires == 10_800, "behind: {renew} {expires}");
        let (renew, expires) = lifetime(&claims(-7200, 3600)).unwrap();
        assert!(renew == 1800 && expires == 3600, "ahead: {renew} {expires}");
    }

    #[test]
    fn nothing_is_assumed() {
        for (claims, fault) in [
            ("{}".to_owned(), LifetimeFault::Unreadable),
            (format!(r#"{{"iat":{NOW}}}"#), LifetimeFault::Unreadable),
            (r#"{"exp":"tomorrow"}"#.to_owned(), LifetimeFault::Unreadable),
            // Milliseconds.
            (format!(r#"{{"iat":{NOW},"exp":{}}}"#, NOW * 1000), LifetimeFault::Unreadable),
            (format!(r#"{{"exp":{}}}"#, 1e300), LifetimeFault::Unreadable),
            ("not json".to_owned(), LifetimeFault::Unreadable),
            (claims(-20_000, -9_000), LifetimeFault::Over),
            (claims(0, 30), LifetimeFault::TooShort),
            (claims(0, -30), LifetimeFault::TooShort),
            (claims(0, 400 * 86_400), LifetimeFault::TooLong),
        ] {
            assert_eq!(lifetime(&claims), Err(fault), "{claims}");
        }
        let now = Timestamp::from_second(NOW).unwrap();
        for token in ["", "opaque", "a.b.c", "..."] {
            assert_eq!(token_lifetime(token, now), Err(LifetimeFault::Unreadable), "{token}");
        }
    }

    #[test]
    fn a_token_without_iat_counts_from_now() {
        let (renew, expires) = lifetime(&format!(r#"{{"exp":{}}}"#, NOW + 10_800)).unwrap();
        assert!((81 * 60..=99 * 60).contains(&renew) && expires == 10_800);
    }
}
