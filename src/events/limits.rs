//! How often what is said.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use super::{Reason, Subject};

/// How long the same is not said again about the same object. After it the recorder still remembers the Event (for six
/// minutes) and counts it up instead of making another.
pub const REPEAT_AFTER: SignedDuration = SignedDuration::from_secs(270);
/// Events that are recorded in a minute at most. Those about ourselves come on top of that.
pub const PER_MINUTE: usize = 60;

/// What was said lately. Bounded by [`PER_MINUTE`], since only what was said is remembered.
#[derive(Debug, Default)]
pub(super) struct Limits {
    said: HashMap<(Reason, String), Timestamp>,
    minute: Option<Timestamp>,
    in_minute: usize,
}

/// Why something is not said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    SaidBefore,
    TooMany,
}

impl Limits {
    /// May this be said now? If so it counts as said.
    pub(super) fn admit(&mut self, reason: Reason, subject: &Subject, now: Timestamp) -> Result<(), Refused> {
        let key = (reason, subject.key().to_owned());
        if self.said.get(&key).is_some_and(|said| is_within(REPEAT_AFTER, *said, now)) {
            return Err(Refused::SaidBefore);
        }
        if !self.minute.is_some_and(|minute| is_within(SignedDuration::from_mins(1), minute, now)) {
            self.minute = Some(now);
            self.in_minute = 0;
            self.said.retain(|_, said| is_within(REPEAT_AFTER, *said, now));
        }
        // What is wrong with ourselves must not be drowned by what is wrong elsewhere; it is little.
        if matches!(subject, Subject::Ourselves) {
            self.said.insert(key, now);
            return Ok(());
        }
        if self.in_minute >= PER_MINUTE {
            return Err(Refused::TooMany);
        }
        self.in_minute += 1;
        self.said.insert(key, now);
        Ok(())
    }
}

/// Is it less than so long ago? What is yet to come was noted by a clock that has been set back since, and is over.
fn is_within(time: SignedDuration, then: Timestamp, now: Timestamp) -> bool {
    let ago = now.duration_since(then);
    !ago.is_negative() && ago < time
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: i64) -> Timestamp {
        "2026-11-24T08:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(second)
    }

    fn namespace(name: &str) -> Subject {
        Subject::Namespace(name.to_owned())
    }

    #[test]
    fn the_same_about_the_same_waits() {
        let mut limits = Limits::default();
        let mut admit = |reason, name: &str, at| limits.admit(reason, &namespace(name), second(at));
        assert_eq!(admit(Reason::Replaced, "a", 0), Ok(()));
        assert_eq!(admit(Reason::Replaced, "a", 1), Err(Refused::SaidBefore));
        assert_eq!(admit(Reason::Replaced, "b", 1), Ok(()));
        assert_eq!(admit(Reason::NameTaken, "a", 1), Ok(()));
        assert_eq!(admit(Reason::Replaced, "a", 269), Err(Refused::SaidBefore));
        assert_eq!(admit(Reason::Replaced, "a", 270), Ok(()));
    }

    #[test]
    fn a_minute_has_room_for_so_many_and_no_more_is_remembered() {
        let mut limits = Limits::default();
        for minute in 0..20 {
            let admitted = (0..1000).filter(|number| {
                let subject = namespace(&format!("team-{minute}-{number}"));
                limits.admit(Reason::NotGranted, &subject, second(minute * 60)).is_ok()
            });
            assert_eq!(admitted.count(), PER_MINUTE);
        }
        assert!(limits.said.len() <= 6 * PER_MINUTE, "{}", limits.said.len());
    }

    #[test]
    fn events_about_ourselves_find_room_and_take_none() {
        let mut limits = Limits::default();
        assert_eq!(limits.admit(Reason::ConfigurationRefused, &Subject::Ourselves, second(0)), Ok(()));
        for number in 0..PER_MINUTE {
            limits.admit(Reason::Stuck, &namespace(&number.to_string()), second(0)).unwrap();
        }
        let later = second(270);
        for number in 0..PER_MINUTE {
            limits.admit(Reason::NotGranted, &namespace(&number.to_string()), later).unwrap();
        }
        assert_eq!(limits.admit(Reason::NotGranted, &namespace("late"), later), Err(Refused::TooMany));
        assert_eq!(limits.admit(Reason::ConfigurationRefused, &Subject::Ourselves, later), Ok(()));
        let again = limits.admit(Reason::ConfigurationRefused, &Subject::Ourselves, later);
        assert_eq!(again, Err(Refused::SaidBefore), "they are not repeated either");
    }

    #[test]
    fn a_clock_that_is_set_back_silences_nobody() {
        let mut limits = Limits::default();
        let hour = 3_600;
        for number in 0..PER_MINUTE {
            limits.admit(Reason::Stuck, &namespace(&number.to_string()), second(hour)).unwrap();
        }
        assert_eq!(limits.admit(Reason::Stuck, &namespace("0"), second(0)), Ok(()), "said by a clock that was ahead");
        assert_eq!(limits.admit(Reason::Stuck, &namespace("0"), second(1)), Err(Refused::SaidBefore));
        assert_eq!(limits.admit(Reason::Stuck, &namespace("new"), second(1)), Ok(()), "a minute that is yet to come");
        assert_eq!(limits.said.len(), 2);
    }

    #[test]
    fn what_found_no_room_may_be_said_later() {
        let mut limits = Limits::default();
        for number in 0..PER_MINUTE {
            limits.admit(Reason::Stuck, &namespace(&number.to_string()), second(0)).unwrap();
        }
        assert_eq!(limits.admit(Reason::Stuck, &namespace("late"), second(59)), Err(Refused::TooMany));
        assert_eq!(limits.admit(Reason::Stuck, &namespace("late"), second(60)), Ok(()));
    }
}
