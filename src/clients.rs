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
use tower::{BoxError, filter::FilterLayer, service_fn, util::MapResultLayer};

use crate::watching;

/// Clients of the API server.
#[derive(Clone)]
pub struct Clients {
    /// Tries again what the API server is too busy for, and pauses for as long as it says, be that a day. So only for what
    /// ends its requests itself.
    pub patient: Client,
    /// Takes the first answer: for requests whose refusal is an answer, as that of an eviction is.
    pub single_attempt: Client,
    /// Lists and watches; takes the first answer. It lets no watch begin while another of the same objects has only just
    /// begun: kube's `watcher` would begin one after the other, without a pause or a word, where each is empty. Each watch has
    /// a connection of its own: that of another may have died in the meantime, which takes a watch longer than a minute to see.
    pub watches: Client,
}

/// How long the API server may be silent while it works on a request, how long a connection is kept without one, and how
/// long a new one may take. After a network was cut, each dead connection costs one request at most, and those that nobody
/// uses none.
const SILENCE: Duration = Duration::from_secs(10);
/// The same for a list. An API server that has too much to do lets one wait for up to 15 s
/// (<https://kubernetes.io/docs/concepts/cluster-administration/flow-control/>).
const SILENCE_OF_A_LIST: Duration = Duration::from_secs(20);
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
        let watches = lists_and_watches(config)?;
        Ok(Self { patient, single_attempt, watches })
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

/// Pages of a list follow each other on one connection: handshakes would take most of the time.
fn lists_and_watches(mut config: Config) -> kube::Result<Client> {
    let namespace = config.default_namespace.clone();
    config.read_timeout = Some(SILENCE_OF_A_LIST);
    let lists = Client::try_from(config.clone())?;
    config.read_timeout = Some(watching::READ_TIMEOUT);
    let watches = paced(config)?;
    let by_kind = service_fn(move |request: Request<Body>| {
        let client = if is_watch(&request) { &watches } else { &lists }.clone();
        async move { client.send(request).await }
    });
    Ok(Client::new(by_kind, namespace))
}

fn is_watch<B>(request: &Request<B>) -> bool {
    request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"))
}

fn paced(config: Config) -> kube::Result<Client> {
    let mut begun: HashMap<String, Instant> = HashMap::new();
    let paced = move |mut watch: Request<Body>| {
        if begun.get(watch.uri().path()).is_some_and(|at| at.elapsed() < AT_ONCE) {
            return Err(WatchError::EndedAtOnce);
        }
        begun.insert(watch.uri().path().to_owned(), Instant::now());
        watch.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        Ok(watch)
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
