//! What the clients do when an API server, or what stands before it, answers as it should not. A real one does not, so
//! these are answers of a server of the test.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::join_all;
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api,
    api::{ListParams, WatchParams},
    core::PartialObjectMeta,
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::{
    lifecycle::{Gate, Readiness},
    telemetry::tests::Logged,
    watch_cache::WatchCache,
};

const NOTHING_LISTED: &str = r#"{"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
    "metadata": {"resourceVersion": "1"}, "items": []}"#;

const TEAM_A: &str = r#"{"metadata": {"name": "team-a"}}"#;
/// What is asked about this namespace is answered after some seconds.
const SLOW: &str = "slow";

fn answer(status: u16, body: &'static str) -> Response<Full<Bytes>> {
    let answer = Response::builder().status(status).header("content-type", "application/json");
    answer.body(Full::from(body)).unwrap()
}

/// A server that answers each request by `answer`.
struct Server {
    url: hyper::Uri,
    /// Connections from before a change never say a word again, nor do they end.
    silences: watch::Sender<()>,
    accepted: Arc<AtomicUsize>,
    _connections: JoinSet<()>,
}

impl Server {
    async fn start(answer: impl Fn(Request<Incoming>) -> Response<Full<Bytes>> + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let silences = watch::Sender::new(());
        let silence = silences.clone();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = accepted.clone();
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (answer, mut silenced) = (answer.clone(), silence.subscribe());
                served.spawn(async move {
                    let answers = service_fn(move |request| {
                        // Requests that begin together take a connection each.
                        let after = if request.uri().path().ends_with(SLOW) { 4_000 } else { 50 };
                        let answer = answer(request);
                        async move {
                            tokio::time::sleep(Duration::from_millis(after)).await;
                            Ok::<_, Infallible>(answer)
                        }
                    });
                    let mut connection =
                        std::pin::pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), answers));
                    tokio::select! {
                        _ = &mut connection => {}
                        _ = silenced.changed() => std::future::pending().await,
                    }
                });
            }
        });
        Self { url, silences, accepted, _connections: connections }
    }

    fn clients(&self) -> Clients {
        Clients::new(Config::new(self.url.clone())).unwrap()
    }
}

/// Follows namespaces, and tells when the first list is in.
fn follow(clients: &Clients) -> (Gate, DropGuard) {
    let shutdown = CancellationToken::new();
    let synced = Readiness::new().gate("namespaces");
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(clients.watches.clone());
    let entry = |metadata: &kube::core::ObjectMeta| metadata.name.clone().map(|name| (name, ()));
    tokio::spawn(WatchCache::new().follow(api, None, entry, synced.clone(), shutdown.clone()));
    (synced, shutdown.drop_guard())
}

#[tokio::test]
async fn a_watch_does_not_wait_for_as_long_as_the_api_server_says() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let server = Server::start(move |_| {
        if count.fetch_add(1, Ordering::SeqCst) > 0 {
            return answer(200, NOTHING_LISTED);
        }
        let mut answer = answer(503, "");
        answer.headers_mut().insert("retry-after", hyper::header::HeaderValue::from_static("86400"));
        answer
    })
    .await;
    let (synced, _ends) = follow(&server.clients());
    assert!(
        tokio::time::timeout(Duration::from_secs(20), synced.opened()).await.is_ok(),
        "nothing is known after 20 s"
    );
}

#[tokio::test]
async fn an_empty_watch_is_begun_anew_after_a_pause() {
    for status in [200, 302] {
        let watches = Arc::new(AtomicUsize::new(0));
        let count = watches.clone();
        let server = Server::start(move |request| {
            if is_watch(&request) {
                count.fetch_add(1, Ordering::SeqCst);
                answer(status, "")
            } else {
                answer(200, NOTHING_LISTED)
            }
        })
        .await;
        let (logged, _guard) = Logged::here();
        let (synced, _ends) = follow(&server.clients());
        synced.opened().await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let begun = watches.load(Ordering::SeqCst);
        assert!((2..=6).contains(&begun), "{status}: {begun} watches were begun in 4 s");
        let told = logged.lines().iter().filter(|line| line["level"] == "WARN").count();
        assert!((1..=6).contains(&told), "{status}: {told} lines are in the log");
    }
}

#[tokio::test]
async fn connections_that_died_cost_one_request() {
    let server = Server::start(|_| answer(200, TEAM_A)).await;
    let Clients { patient, single_attempt, watches } = server.clients();
    // What is read through the client for watches without watching is silent for as long as a list may be.
    let clients = [(patient, SILENCE), (single_attempt, SILENCE), (watches, SILENCE_OF_A_LIST)];
    let clients = clients.map(|(client, silence)| (Api::<Namespace>::all(client), silence + Duration::from_secs(3)));
    for (namespaces, _) in &clients {
        for read in join_all((0..8).map(|_| namespaces.get("team-a"))).await {
            read.unwrap();
        }
    }
    server.silences.send_replace(());
    let died = Instant::now();
    join_all(clients.iter().map(async |(namespaces, within)| {
        while !matches!(tokio::time::timeout(*within, namespaces.get("team-a")).await, Ok(Ok(_))) {
            assert!(died.elapsed() < *within, "no answer {:?} later", died.elapsed());
        }
    }))
    .await;
}

/// Begins a watch of the config maps of namespace `team-{number}`.
async fn watch_config_maps(client: &Client, number: usize) {
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), &format!("team-{number}"));
    let watch = tokio::time::timeout(Duration::from_secs(5), config_maps.watch(&WatchParams::default(), "1")).await;
    drop(watch.expect("it waits on a connection that is dead").unwrap());
}

/// A watch may be silent for so long that the next one on its connection would cost more than a minute.
#[tokio::test]
async fn connections_that_died_cost_no_watch() {
    let server = Server::start(|_| answer(200, "")).await;
    let client = server.clients().watches;
    join_all((0..8).map(|number| watch_config_maps(&client, number))).await;
    server.silences.send_replace(());
    for number in 8..16 {
        watch_config_maps(&client, number).await;
    }
}

#[tokio::test]
async fn the_pages_of_a_list_share_a_connection() {
    let server = Server::start(|_| answer(200, NOTHING_LISTED)).await;
    let client = server.clients().watches;
    let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
    for page in 0..8 {
        let page = ListParams::default().limit(1).continue_token(&page.to_string());
        namespaces.list_metadata(&page).await.unwrap();
    }
    assert_eq!(server.accepted.load(Ordering::SeqCst), 1);
    watch_config_maps(&client, 1).await;
    assert_eq!(server.accepted.load(Ordering::SeqCst), 2, "a watch has one of its own");
}

#[tokio::test]
async fn a_kept_connection_has_the_full_time_for_its_next_request() {
    let server = Server::start(|_| answer(200, TEAM_A)).await;
    let namespaces: Api<Namespace> = Api::all(server.clients().patient);
    namespaces.get("team-a").await.unwrap();
    tokio::time::sleep(SILENCE.mul_f64(0.8)).await;
    namespaces.get(SLOW).await.unwrap();
}
