//! Ways to the API server: one for requests that are worth repeating, one for those whose refusal is an answer, one for
//! watches.
//!
//! A network that forgets a connection tells neither end. What is silent for longer than it may be is left.

use std::{collections::HashMap, fmt, time::Duration};

use hyper::{
    Request, Response, StatusCode,
    header::{CONNECTION, HeaderValue},
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tokio::time::Instant;
use tower::{BoxError, filter::FilterLayer, util::MapResultLayer};

use crate::watching;

/// Clients of the API server.
#[derive(Clone)]
pub struct Clients {
    /// Tries again what the API server is too busy for, and pauses for as long as it says, be that a day. So only for what
    /// ends its requests itself.
    pub patient: Client,
    /// Takes the first answer: for requests whose refusal is an answer, as that of an eviction is.
    pub single_attempt: Client,
    /// Takes the first answer, and lets no watch begin while another of the same objects has only just begun: kube's
    /// `watcher` would begin one after the other, without a pause or a word, where each is empty. Each request has a
    /// connection of its own: that of another may have died in the meantime, which takes a watch longer than a minute to see.
    pub watches: Client,
}

/// How long the API server may be silent while it works on a request, how long a connection is kept without one, and how
/// long a new one may take. After a network was cut, each dead connection costs one request at most, and those that nobody
/// uses none.
const SILENCE: Duration = Duration::from_secs(10);
/// A watch that follows another sooner was begun without a pause. Shorter than each pause of
/// [`watching::follow`].
const AT_ONCE: Duration = Duration::from_millis(400);

impl Clients {
    /// Clients for the cluster of `config`.
    pub fn new(mut config: Config) -> kube::Result<Self> {
        config.connect_timeout = Some(SILENCE);
        config.read_timeout = Some(SILENCE);
        // A connection that was kept without a request has the full time for the next.
        config.reset_reader_on_write = true;
        let patient = Client::try_from(config.clone())?;
        config.default_retry = false;
        let single_attempt = Client::try_from(config.clone())?;
        config.read_timeout = Some(watching::READ_TIMEOUT);
        Ok(Self { patient, single_attempt, watches: watches(config)? })
    }
}

/// Why a watch was not begun. Like every other error of a watch it is followed by a pause.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("the watch before this one ended as soon as it had begun")]
    EndedAtOnce,
    #[error("the API server answered with the redirect {0}, which is not followed")]
    Redirect(StatusCode),
}

fn watches(config: Config) -> kube::Result<Client> {
    let mut begun: HashMap<String, Instant> = HashMap::new();
    let paced = move |mut request: Request<Body>| {
        let is_watch = request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"));
        if is_watch && begun.get(request.uri().path()).is_some_and(|at| at.elapsed() < AT_ONCE) {
            return Err(WatchError::EndedAtOnce);
        }
        if is_watch {
            begun.insert(request.uri().path().to_owned(), Instant::now());
        }
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        Ok(request)
    };
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&MapResultLayer::new(no_redirect))
        .with_layer(&FilterLayer::new(paced))
        .build())
}

/// kube takes a redirect for an empty watch.
fn no_redirect<B>(answer: Result<Response<B>, BoxError>) -> Result<Response<B>, BoxError> {
    let answer = answer?;
    if answer.status().is_redirection() { Err(WatchError::Redirect(answer.status()).into()) } else { Ok(answer) }
}

impl fmt::Debug for Clients {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Clients").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
