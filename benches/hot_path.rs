//! What one review costs in pure computation, step by step: `cargo bench --bench hot_path`.
//!
//! No network and no TLS: bench `load` measures these. The caches are the real ones, filled by hand.

#![expect(clippy::expect_used, reason = "a bench may end at once and say why")]

use std::{collections::BTreeMap, hint::black_box, sync::Arc};

use acr_pull_injector::{
    admission::{
        Admission, CredentialError, CredentialSource, NamespaceSource, PullSecretStore, ReadPullSecret, StoreError,
        Waiting,
    },
    clock::Clock,
    config::Configuration,
    domain::{
        decision::{self, Decision, Settings},
        image::LoginServer,
        patch,
        pull_secret::{CredentialSourceHash, Origin, PullSecret, RegistryCredential, StoredHost, StoredPullSecret},
        registry::{Namespace, RegistryName},
        review::{self, Pod, Response, Review, Subject},
    },
    ensure::Ensurer,
    events::Events,
    lifecycle::Lifecycle,
    metrics::Metrics,
    retry::RetryQueue,
    watch_cache::WatchCache,
};
use arc_swap::ArcSwap;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::FutureExt;
use measuring::reviews::{NAMESPACE, Sample, samples};

/// What the captured reviews pull from.
const LOGIN_SERVERS: [&str; 2] = ["contoso.azurecr.io", "fabrikam.azurecr.io"];

criterion_group!(hot_path, steps, whole);
criterion_main!(hot_path);

/// Each step by itself.
fn steps(criterion: &mut Criterion) {
    let settings = settings();
    let namespace = namespace();
    for Sample { name, body } in samples() {
        let mut group = criterion.benchmark_group("decode");
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| review::parse(black_box(&body)).expect("a captured review"));
        });
        group.finish();

        let review = review::parse(&body).expect("a captured review");
        let pod = pod(&review);
        let decided = || {
            let login_servers = decision::login_servers(black_box(pod), NAMESPACE, &settings).expect("Azure images");
            decision::decide(login_servers, &namespace, &settings)
        };
        let mut group = criterion.benchmark_group("decide");
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| bencher.iter(decided));
        group.finish();
        assert!(matches!(decided(), Decision::Inject(_)), "the settings grant what the review asks for");

        let patched = || patch::image_pull_secrets(black_box(pod), &settings.pull_secret_name).expect("a change");
        let mut group = criterion.benchmark_group("patch");
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| bencher.iter(patched));
        group.finish();

        let response = Response::allowed(&review).with_patch(patched());
        let mut group = criterion.benchmark_group("response");
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| black_box(&response).to_json());
        });
        group.finish();
    }
}

/// From the body of the request to the body of the answer, with the pull secret known to be right.
fn whole(criterion: &mut Criterion) {
    let admission = admission();
    let mut group = criterion.benchmark_group("hot path");
    for Sample { name, body } in samples() {
        // What has to wait is not the hot path.
        let answer = || admission.answer(black_box(&body)).now_or_never().expect("answered from memory");
        assert_eq!(answer().expect("a captured review").outcome, "injected");
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| bencher.iter(answer));
    }
    group.finish();
}

fn pod<'a, 'b>(review: &'b Review<'a>) -> &'b Pod<'a> {
    match &review.subject {
        Subject::PodCreation(pod) => Some(pod),
        Subject::Other(_) => None,
    }
    .expect("the review is of a pod")
}

fn settings() -> Settings {
    let configuration = "registries: [{name: azure, credential: {static: {usernameFile: /u, passwordFile: /p}}}]";
    Configuration::parse(configuration).expect("a valid configuration").settings(Some("acr-pull-injector"))
}

fn namespace() -> Namespace {
    Namespace { name: NAMESPACE.to_owned(), labels: BTreeMap::new(), terminating: false }
}

fn admission() -> Admission<NoCredentials, Known, Known> {
    let known = Arc::new(Known { pull_secrets: WatchCache::new(), namespaces: WatchCache::new() });
    known.namespaces.insert(NAMESPACE.to_owned(), "1", namespace());
    known.pull_secrets.insert(
        NAMESPACE.to_owned(),
        "1",
        StoredPullSecret {
            origin: Origin::Ours,
            hosts: LOGIN_SERVERS.map(|host| StoredHost { host: host.into(), lifetime: None }).into(),
            source_hash: None,
            untouched: true,
            uid: "1d9ab0f2-3a0f-4f0e-8c1b-2b7d7a6f0000".to_owned(),
            resource_version: "1".to_owned(),
        },
    );
    let settings = Arc::new(ArcSwap::from_pointee(settings()));
    let metrics = Arc::new(Metrics::new());
    let ensurer =
        Ensurer::new(Arc::new(NoCredentials), known.clone(), settings.clone(), metrics.clone(), Clock::system());
    Admission {
        ensurer: Arc::new(ensurer),
        namespaces: known,
        retries: RetryQueue::new(),
        settings,
        waiting: Waiting::default(),
        events: Events::none(),
        lifecycle: Lifecycle::new(),
        metrics,
    }
}

/// Nobody needs a credential when the pull secret is right.
struct NoCredentials;

impl CredentialSource for NoCredentials {
    async fn credential(
        &self,
        registry: &RegistryName,
        _: &LoginServer,
    ) -> Result<RegistryCredential, CredentialError> {
        Err(CredentialError { registry: registry.clone(), reason: "there is none in a bench".to_owned() })
    }

    fn source(&self, _: &RegistryName) -> Option<CredentialSourceHash> {
        None
    }
}

/// What the watches have brought in. All else would mean to wait.
struct Known {
    pull_secrets: WatchCache<StoredPullSecret>,
    namespaces: WatchCache<Namespace>,
}

fn unavailable<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("there is no API server in a bench".to_owned()))
}

impl PullSecretStore for Known {
    fn stored(&self, namespace: &str) -> Option<Arc<StoredPullSecret>> {
        self.pull_secrets.get(namespace)
    }

    fn all(&self) -> Vec<(String, Arc<StoredPullSecret>)> {
        self.pull_secrets.snapshot()
    }

    async fn read(&self, _: &str) -> Result<Option<ReadPullSecret>, StoreError> {
        unavailable()
    }

    async fn create(&self, _: &str, _: &PullSecret) -> Result<(), StoreError> {
        unavailable()
    }

    async fn update(&self, _: &str, _: &PullSecret, _: &StoredPullSecret) -> Result<(), StoreError> {
        unavailable()
    }

    fn take_deleted(&self) -> Vec<(String, Arc<StoredPullSecret>)> {
        Vec::new()
    }

    async fn delete(&self, _: &str, _: &StoredPullSecret) -> Result<(), StoreError> {
        unavailable()
    }
}

impl NamespaceSource for Known {
    fn cached(&self, name: &str) -> Option<Arc<Namespace>> {
        self.namespaces.get(name)
    }

    async fn read(&self, _: &str) -> Result<Option<Namespace>, StoreError> {
        unavailable()
    }
}
