//! Load: pods that keep coming while a case does its worst, and each must come out with its reference and its pull secret.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};

use crate::world::{Error, PULL_SECRET, World, complain, entries, expect, expect_equal, pod, references};

const EVERY: Duration = Duration::from_millis(15);
/// Namespaces that have their pull secret after the first moments.
const NAMESPACES: usize = 10;
/// One pod in so many is the first of its namespace.
const NEW_NAMESPACE: usize = 25;
/// Creations that are under way at the same time.
const AT_ONCE: usize = 64;
/// How long a creation is tried again, and how long a pull secret may take after its pod.
const PATIENCE: Duration = Duration::from_secs(120);

/// Every few milliseconds a pod.
pub struct Load {
    stop: Arc<AtomicBool>,
    work: JoinHandle<Result<Outcome, Error>>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Pods, all with their reference.
    pub created: usize,
    /// Creations that were tried again.
    pub repeated: usize,
    /// Namespaces whose pull secret a kubelet had to ask for.
    pub complaints: usize,
    /// How long the pull secrets took, after the last pod, to be all there and right.
    pub settled_after: Duration,
    /// How long the slowest creation took, with all that it was tried again.
    pub slowest: Duration,
}

/// How clients behave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clients {
    /// What fails, fails.
    Strict,
    /// As controllers: what fails is tried again.
    Patient,
}

impl Load {
    /// A creation that fails is an error.
    pub async fn start(world: &Arc<World>) -> Result<Self, Error> {
        Self::start_with(world, Clients::Strict).await
    }

    /// A creation that fails is tried again, as a controller does it. A pod that is patched while its pull secret cannot be
    /// made has it later, for which a kubelet may complain.
    pub async fn start_patient(world: &Arc<World>) -> Result<Self, Error> {
        Self::start_with(world, Clients::Patient).await
    }

    async fn start_with(world: &Arc<World>, clients: Clients) -> Result<Self, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut namespaces = Vec::new();
        for _ in 0..NAMESPACES {
            namespaces.push(world.namespace(&[]).await?);
        }
        let work = tokio::spawn(create_pods(world.clone(), namespaces, clients, stop.clone()));
        Ok(Self { stop, work })
    }

    /// Ends the load and looks at all that it made.
    pub async fn finish(mut self) -> Result<Outcome, Error> {
        self.stop.store(true, Ordering::SeqCst);
        (&mut self.work).await?
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.work.abort();
    }
}

/// A pod that was created, and what it took.
struct Made {
    pod: Pod,
    repeated: usize,
    took: Duration,
}

async fn create_pods(
    world: Arc<World>,
    namespaces: Vec<String>,
    clients: Clients,
    stop: Arc<AtomicBool>,
) -> Result<Outcome, Error> {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut pending: JoinSet<Result<Made, Error>> = JoinSet::new();
    let mut made = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let permit = permits.clone().acquire_owned().await?;
        let namespace = (number % NEW_NAMESPACE != 0).then(|| namespaces[number % namespaces.len()].clone());
        let world = world.clone();
        pending.spawn(async move {
            let _permit = permit;
            create_pod(&world, namespace, &format!("load-{number}"), clients).await
        });
        while let Some(one) = pending.try_join_next() {
            made.push(one??);
        }
        tokio::time::sleep(EVERY).await;
    }
    while let Some(one) = pending.join_next().await {
        made.push(one??);
    }
    let ended = Instant::now();
    let complaints = wait_for_pull_secrets(&world, &made, clients).await?;
    Ok(Outcome {
        created: made.len(),
        repeated: made.iter().map(|made| made.repeated).sum(),
        complaints,
        settled_after: ended.elapsed(),
        slowest: made.iter().map(|made| made.took).max().unwrap_or_default(),
    })
}

async fn create_pod(world: &World, namespace: Option<String>, name: &str, clients: Clients) -> Result<Made, Error> {
    let mut repeated = 0;
    let namespace = match namespace {
        Some(namespace) => namespace,
        None => patiently(clients, &mut repeated, || world.namespace(&[])).await?,
    };
    let wanted = pod(name, &["contoso.azurecr.io/app:v1"]);
    let started = Instant::now();
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), &namespace);
    let pod = patiently(clients, &mut repeated, || async {
        match world.create(&namespace, &wanted).await {
            // The answer to an earlier attempt was lost.
            Err(error) if error.to_string().starts_with("409") => Ok(pods.get(name).await?),
            created => Ok(created?.pod),
        }
    })
    .await
    .map_err(|error| format!("pod {namespace}/{name} is lost: {error}"))?;
    expect_equal(&format!("imagePullSecrets of {namespace}/{name}"), references(&pod), vec![PULL_SECRET.to_owned()])?;
    Ok(Made { pod, repeated, took: started.elapsed() })
}

/// Tries again what fails, as far as these clients do.
async fn patiently<T, F: Future<Output = Result<T, Error>>>(
    clients: Clients,
    repeated: &mut usize,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Err(_) if clients == Clients::Patient && Instant::now() < deadline => {}
            done => return done,
        }
        *repeated += 1;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Looks at the pull secret of each namespace and gives how many a kubelet had to ask for.
async fn wait_for_pull_secrets(world: &World, made: &[Made], clients: Clients) -> Result<usize, Error> {
    let mut pods = BTreeMap::new();
    for made in made {
        pods.entry(made.pod.metadata.namespace.clone().unwrap_or_default()).or_insert(&made.pod);
    }
    let (expected, mut complaints) = (("contoso-app".to_owned(), "contoso-password".to_owned()), 0);
    let deadline = Instant::now() + PATIENCE;
    for (namespace, pod) in pods {
        let mut has_complained = false;
        loop {
            let Some(secret) = patiently(clients, &mut 0, || world.pull_secret(&namespace)).await? else {
                let late = format!("{namespace} has no pull secret {PATIENCE:?} after its pod");
                expect(Instant::now() < deadline, late)?;
                if clients == Clients::Patient && !has_complained {
                    has_complained = true;
                    complaints += 1;
                    patiently(clients, &mut 0, || complain(world, pod, PULL_SECRET)).await?;
                }
                tokio::time::sleep(Duration::from_millis(250)).await;
                continue;
            };
            let found = entries(&secret)?;
            let right = BTreeMap::from([("contoso.azurecr.io".to_owned(), expected.clone())]);
            expect_equal(&format!("pull secret of {namespace}"), found, right)?;
            break;
        }
    }
    Ok(complaints)
}
