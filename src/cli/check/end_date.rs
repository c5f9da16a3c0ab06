//! What `check` says of the end of a service principal's secret or certificate.

use jiff::Timestamp;

use super::table::Outcome;
use crate::credentials::end::EndError;

/// From when on the end is warned of, as the chart's alert does.
const CLOSE_TO_ITS_END_DAYS: i64 = 30;

/// `None` where there is no end, or nobody has stated it.
pub(super) fn outcome(end: Result<Option<Timestamp>, EndError>, now: Timestamp) -> Option<Outcome> {
    const REMEDY: &str = "make a new one (az ad app credential reset --append) and store it with its endDateTime; if that \
                          is done, the end that is stated is an old one";
    let ends_at = match end {
        Ok(ends_at) => ends_at?,
        Err(error) => return Some(Outcome::Warned(error.to_string())),
    };
    let days = ends_at.duration_since(now).as_hours() / 24;
    Some(if ends_at <= now {
        Outcome::Warned(format!("the service principal's secret or certificate has ended, at {ends_at}: {REMEDY}"))
    } else if days < CLOSE_TO_ITS_END_DAYS {
        Outcome::Warned(format!(
            "the service principal's secret or certificate ends in {days} days, at {ends_at}: {REMEDY}"
        ))
    } else {
        Outcome::Noted(format!("the service principal's secret or certificate ends in {days} days, at {ends_at}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_is_near_or_past_is_warned_of() {
        let now: Timestamp = "2026-11-24T08:00:00Z".parse().unwrap();
        for (end, word, said) in [
            ("2026-11-24T07:59:59Z", "Warned", "has ended, at 2026-11-24T07:59:59Z: make a new one"),
            ("2026-11-24T08:00:00Z", "Warned", "has ended"),
            ("2026-12-01T08:00:00Z", "Warned", "ends in 7 days, at 2026-12-01T08:00:00Z: make a new one"),
            ("2026-12-24T07:59:59Z", "Warned", "ends in 29 days"),
            ("2026-12-24T08:00:00Z", "Noted", "ends in 30 days, at 2026-12-24T08:00:00Z"),
        ] {
            let outcome = format!("{:?}", outcome(Ok(Some(end.parse().unwrap())), now).unwrap());
            assert!(outcome.starts_with(word) && outcome.contains(said), "{outcome}");
        }
        assert!(outcome(Ok(None), now).is_none());
    }
}
