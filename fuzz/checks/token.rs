//! A registry's refresh token, of which only the registry knows whether it is one.

use acr_pull_injector::credentials::token_lifetime::token_lifetime;
use jiff::Timestamp;

/// Whatever times it states, it is renewed in the future and before it ends, or refused.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(token) = str::from_utf8(bytes) else { return };
    for now in [0, 1_764_000_000, Timestamp::MAX.as_second() - 1] {
        let now = Timestamp::from_second(now).unwrap();
        if let Ok(lifetime) = token_lifetime(token, now) {
            assert!(now < lifetime.renew_at && lifetime.renew_at < lifetime.expires_at, "at {now}: {lifetime:?}");
        }
    }
}
