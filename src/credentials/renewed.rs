//! A value that expires and is fetched anew: one fetch at a time, and after a failure not before its back-off is over.

use std::{
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::azure_error::AzureError;
use crate::{clock::Clock, domain::pull_secret::Lifetime};

/// A token that ends sooner than this, or than a tenth of its life, is not handed out when there may be a newer one.
const LONGEST_MARGIN: Duration = Duration::from_secs(5 * 60);
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(5 * 60);
/// No back-off is longer, so one that ends later was set by a clock that was wrong.
const LONGEST_WAIT: Duration = Duration::from_secs(61 * 60);

/// A value with its life.
#[derive(Clone, Debug)]
pub struct Fetched<T> {
    /// The value.
    pub value: T,
    /// How long it is good.
    pub lifetime: Lifetime,
}

/// Why a value could not be fetched.
#[derive(Clone, Debug)]
pub struct Failed {
    /// What went wrong.
    pub error: AzureError,
    /// When it makes sense to try again, where somebody else's back-off decides that.
    pub not_before: Option<Timestamp>,
}

impl From<AzureError> for Failed {
    fn from(error: AzureError) -> Self {
        Self { error, not_before: None }
    }
}

/// A value that expires.
#[derive(Debug)]
pub struct Renewed<T> {
    clock: Clock,
    state: Mutex<State<T>>,
    flight: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State<T> {
    current: Option<Fetched<T>>,
    /// The time of renewal by a clock that nobody sets back.
    renew_by: Instant,
    margin: Duration,
    failure: Option<Failure>,
}

#[derive(Clone, Debug)]
struct Failure {
    error: AzureError,
    attempts: u32,
    retry_at: Timestamp,
}

impl<T: Clone> Renewed<T> {
    /// No value yet.
    pub fn new(clock: Clock) -> Self {
        let state = State { current: None, renew_by: Instant::now(), margin: Duration::ZERO, failure: None };
        Self { clock, state: Mutex::new(state), flight: tokio::sync::Mutex::default() }
    }

    /// The value: from memory while it is good, else fetched. Whoever comes during a fetch waits for it; whoever comes
    /// during the back-off after a failure gets that failure, or the old value while it has not expired.
    pub async fn get<F>(&self, fetch: impl FnOnce() -> F + Send) -> Result<Fetched<T>, AzureError>
    where
        F: Future<Output = Result<Fetched<T>, Failed>> + Send,
    {
        if let Some(answer) = self.known() {
            return answer;
        }
        let _flight = self.flight.lock().await;
        match self.known() {
            Some(answer) => answer,
            None => self.fetch(fetch()).await,
        }
    }

    /// Fetches the value if it is due for renewal and nobody fetches it already. Tells whether there was none that could be
    /// used before and there is one now.
    pub async fn renew<F>(&self, fetch: impl FnOnce() -> F + Send) -> bool
    where
        F: Future<Output = Result<Fetched<T>, Failed>> + Send,
    {
        let Ok(_flight) = self.flight.try_lock() else { return false };
        if !self.is_due() {
            return false;
        }
        let usable = self.current().is_some();
        let _ = self.fetch(fetch()).await;
        !usable && self.current().is_some()
    }

    /// Should it be fetched in the background: not there or past its time of renewal, and no back-off?
    pub fn is_due(&self) -> bool {
        let now = self.clock.now();
        let state = self.state();
        let is_over = |lifetime: Lifetime| lifetime.renew_at <= now || lifetime.is_ahead(now);
        let is_wanted = state.current.as_ref().is_none_or(|current| is_over(current.lifetime));
        (is_wanted || state.renew_by <= Instant::now()) && state.waiting(now).is_none()
    }

    /// Does somebody fetch it right now?
    pub fn is_being_fetched(&self) -> bool {
        self.flight.try_lock().is_err()
    }

    /// The value while it has not expired, however little is left of it.
    pub fn current(&self) -> Option<Fetched<T>> {
        let now = self.clock.now();
        self.state().current.clone().filter(|current| current.lifetime.expires_at > now)
    }

    /// When the back-off ends, while there is one.
    pub fn retry_at(&self) -> Option<Timestamp> {
        self.state().waiting(self.clock.now()).map(|failure| failure.retry_at)
    }

    /// Did the last fetch end without an answer? The next one may hang as well.
    pub fn may_hang(&self) -> bool {
        self.state().failure.as_ref().is_some_and(|failure| failure.error.is_silence())
    }

    /// Drops the value, so that the next request fetches one.
    pub fn forget(&self) {
        self.state().current = None;
    }

    /// Ends the back-off: something changed that may have been the obstacle.
    pub fn retry_now(&self) {
        if let Some(failure) = &mut self.state().failure {
            failure.retry_at = Timestamp::UNIX_EPOCH;
        }
    }

    fn known(&self) -> Option<Result<Fetched<T>, AzureError>> {
        let now = self.clock.now();
        let state = self.state();
        let good_until = |current: &Fetched<T>, margin| current.lifetime.expires_at.saturating_sub(margin).ok();
        if let Some(current) = &state.current
            && good_until(current, state.margin).is_some_and(|end| end > now)
        {
            return Some(Ok(current.clone()));
        }
        let failure = state.waiting(now)?;
        match &state.current {
            Some(current) if current.lifetime.expires_at > now => Some(Ok(current.clone())),
            _ => Some(Err(failure.error.clone())),
        }
    }

    async fn fetch(
        &self,
        fetched: impl Future<Output = Result<Fetched<T>, Failed>> + Send,
    ) -> Result<Fetched<T>, AzureError> {
        let fetched = fetched.await;
        let now = self.clock.now();
        let mut state = self.state();
        match fetched {
            Ok(fetched) => {
                let left = |end: Timestamp| Duration::try_from(end.duration_since(now)).unwrap_or_default();
                let (renew_by, life) = (left(fetched.lifetime.renew_at), left(fetched.lifetime.expires_at));
                *state = State {
                    current: Some(fetched.clone()),
                    renew_by: Instant::now() + renew_by,
                    margin: LONGEST_MARGIN.min(life / 10),
                    failure: None,
                };
                Ok(fetched)
            }
            Err(Failed { error, not_before }) => {
                let attempts = state.failure.as_ref().map_or(0, |failure| failure.attempts);
                let wait = delay(attempts).max(error.retry_after.unwrap_or_default());
                let retry_at = not_before.unwrap_or_else(|| now.saturating_add(wait).unwrap_or(Timestamp::MAX));
                state.failure = Some(Failure { error: error.clone(), attempts: attempts.saturating_add(1), retry_at });
                match &state.current {
                    Some(current) if current.lifetime.expires_at > now => Ok(current.clone()),
                    _ => Err(error),
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    /// The failure whose back-off is not over.
    fn waiting(&self, now: Timestamp) -> Option<&Failure> {
        let latest = now.saturating_add(LONGEST_WAIT).unwrap_or(Timestamp::MAX);
        self.failure.as_ref().filter(|failure| failure.retry_at > now && failure.retry_at <= latest)
    }
}

/// Anything from one second to a limit that doubles with every failure, five minutes at most: chance spreads the retries of
/// many over the whole time.
fn delay(attempts: u32) -> Duration {
    let limit = FIRST_DELAY.saturating_mul(2 << attempts.min(16)).min(LONGEST_DELAY);
    FIRST_DELAY + limit.saturating_sub(FIRST_DELAY).mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    };

    use super::*;
    use crate::credentials::azure_error::{AzureErrorKind, Party};

    #[test]
    fn delays_grow_to_five_minutes_and_are_spread() {
        for (attempts, longest) in [(0, 2), (1, 4), (2, 8), (6, 128), (8, 300), (40, 300), (u32::MAX, 300)] {
            let delays: Vec<_> = (0..400).map(|_| delay(attempts)).collect();
            let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
            assert!(*least >= FIRST_DELAY && *most <= Duration::from_secs(longest), "{attempts}: {least:?} {most:?}");
            let span = Duration::from_secs(longest).abs_diff(FIRST_DELAY);
            assert!(most.abs_diff(*least) > span.mul_f64(0.8), "{attempts}: {least:?} to {most:?} is not spread");
        }
    }

    #[tokio::test]
    async fn a_failed_fetch_keeps_the_value_until_it_expires() {
        let time = Arc::new(AtomicI64::new(0));
        let shown = time.clone();
        let clock = Clock::from_fn(move || Timestamp::from_second(shown.load(Ordering::SeqCst)).unwrap());
        let token = Renewed::new(clock);
        let [renew_at, expires_at] = [5_000, 10_000].map(|second| Timestamp::from_second(second).unwrap());
        let fetched = Fetched { value: "token", lifetime: Lifetime { renew_at, expires_at } };
        token.get(|| async { Ok(fetched) }).await.unwrap();
        let fail = || async {
            let party = Party::Registry { login_server: "contoso.azurecr.io".to_owned() };
            Err(AzureError::new(AzureErrorKind::Timeout, party).into())
        };
        let unasked = || async { panic!("there is a good token") };
        assert_eq!(token.get(unasked).await.unwrap().value, "token");
        time.store(5_000, Ordering::SeqCst);
        assert!(!token.renew(fail).await);
        assert_eq!(token.get(unasked).await.unwrap().value, "token");
        // Within the margin of five minutes a newer one is asked for.
        time.store(9_800, Ordering::SeqCst);
        assert_eq!(token.get(fail).await.unwrap().value, "token");
        time.store(10_000, Ordering::SeqCst);
        assert!(token.get(fail).await.is_err());
    }
}
