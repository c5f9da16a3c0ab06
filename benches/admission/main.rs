//! What users feel: pods created through the real API server with and without the webhook: `cargo bench --bench admission`.
//!
//! Without means that the MutatingWebhookConfiguration is not there. Rounds with and without take turns, since etcd grows
//! and machines drift. There is no scheduler and no kubelet: a pod is created, and that is all.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a bench prints and has no public interface"
)]
#![expect(clippy::cast_precision_loss, reason = "counts and times are far below the limits of f64")]

mod pods;
mod webhook;

use std::{
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use control_plane::ControlPlane;
use futures_util::{StreamExt, TryStreamExt, stream};
use installation::Error;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use measuring::{
    latencies::{Latencies, milliseconds},
    machine,
    product::Product,
    table::Table,
};
use pods::{create, create_all};
use serde_json::json;
use webhook::{AdmissionTime, Webhook, admission_time};

/// Creates pods through the API server, with and without the webhook.
#[derive(Debug, Parser)]
#[command(name = "admission", max_term_width = 100)]
struct Arguments {
    /// Few pods and one round, to see that it works
    #[arg(long)]
    quick: bool,
    /// Rounds with and rounds without the webhook
    #[arg(long, default_value_t = 4)]
    rounds: usize,
    /// Pods that are created in each round at each number of clients
    #[arg(long, default_value_t = 2000)]
    pods: usize,
    /// New namespaces in each round, a first pod in each
    #[arg(long, default_value_t = 200)]
    namespaces: usize,
    /// Replicas of the webhook
    #[arg(long, default_value_t = 2)]
    replicas: usize,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

const CLIENTS: [usize; 2] = [1, 16];
/// Namespaces are prepared by this many clients at once.
const PREPARING_CLIENTS: usize = 8;
const WAIT_LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    measuring::run_on_tokio(async || {
        let mut arguments = Arguments::parse();
        if arguments.quick {
            arguments = Arguments { rounds: 1, pods: 100, namespaces: 20, ..arguments };
        }
        run(&arguments).await
    })
}

async fn run(arguments: &Arguments) -> Result<(), Error> {
    println!("{}", machine::description());
    println!("{} replica(s) of the webhook, all programs on all cores", arguments.replicas);
    eprintln!("starting a control plane and installing the webhook");
    let control_plane = ControlPlane::builder().controller_manager(true);
    let program = Path::new(env!("CARGO_BIN_EXE_acr-pull-injector"));
    let product = Product::install(control_plane, program, &[], arguments.replicas).await?;
    let bench = Bench { webhook: Webhook::installed(&product).await?, product, numbers: 0 };
    bench.measure(arguments).await
}

struct Bench {
    product: Product,
    webhook: Webhook,
    numbers: usize,
}

/// Latencies with the webhook and without it.
#[derive(Default)]
struct Sides {
    with: Vec<Duration>,
    without: Vec<Duration>,
    seconds_with: f64,
    seconds_without: f64,
    webhook: AdmissionTime,
}

impl Bench {
    async fn measure(mut self, arguments: &Arguments) -> Result<(), Error> {
        let mut steady = CLIENTS.map(|_| Sides::default());
        let mut first = CLIENTS.map(|_| Sides::default());
        for round in 0..arguments.rounds {
            // Which side comes first alternates too.
            for with in [round % 2 == 0, round % 2 != 0] {
                self.webhook.switch(&self.product.client, with).await?;
                for (clients, (steady, first)) in CLIENTS.into_iter().zip(steady.iter_mut().zip(&mut first)) {
                    eprintln!("round {}, with webhook: {with}, {clients} client(s)", round + 1);
                    let start = admission_time(&self.product.control_plane).await?;
                    self.pods_of_a_namespace(arguments, clients, with, steady).await?;
                    let middle = admission_time(&self.product.control_plane).await?;
                    self.first_pods(arguments, clients, with, first).await?;
                    let end = admission_time(&self.product.control_plane).await?;
                    steady.webhook.add(start, middle);
                    first.webhook.add(middle, end);
                }
            }
        }
        print_side_by_side(
            "Pods in a namespace whose pull secret exists; latency in ms; added: the difference of the two percentiles",
            &steady,
        );
        print_side_by_side(
            "First pod of a new namespace; latency in ms; added: the difference of the two percentiles",
            &first,
        );
        Ok(())
    }

    async fn pods_of_a_namespace(
        &mut self,
        arguments: &Arguments,
        clients: usize,
        with: bool,
        sides: &mut Sides,
    ) -> Result<(), Error> {
        let namespaces = self.namespaces(1).await?;
        let namespace = namespaces.first().ok_or("no namespace")?;
        // Also makes the pull secret.
        create_all(&self.product.client, vec![namespace.clone(); 20], clients, with).await?;
        let created = create_all(&self.product.client, vec![namespace.clone(); arguments.pods], clients, with).await?;
        sides.add(with, created);
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        let pods: Api<Pod> = Api::namespaced(self.product.client.clone(), namespace);
        pods.delete_collection(&now, &ListParams::default()).await?;
        Ok(())
    }

    async fn first_pods(
        &mut self,
        arguments: &Arguments,
        clients: usize,
        with: bool,
        sides: &mut Sides,
    ) -> Result<(), Error> {
        let namespaces = self.namespaces(arguments.namespaces).await?;
        // The first pod of any kind makes the API server look for quotas and limits, which takes it 100 ms by itself.
        let other = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"generateName": "other-"},
            "spec": {"containers": [{"name": "other", "image": "registry.k8s.io/pause:3.10"}]},
        });
        let other: Arc<[u8]> = serde_json::to_vec(&other)?.into();
        let others = stream::iter(&namespaces).map(|namespace| {
            let (client, other) = (self.product.client.clone(), other.clone());
            async move { create(&client, namespace, &other, false).await }
        });
        others.buffer_unordered(PREPARING_CLIENTS).try_collect::<Vec<_>>().await?;
        let created = create_all(&self.product.client, namespaces, clients, with).await?;
        sides.add(with, created);
        Ok(())
    }

    /// New namespaces in which pods can be created.
    async fn namespaces(&mut self, count: usize) -> Result<Vec<String>, Error> {
        let names: Vec<_> = (0..count).map(|number| format!("team-{}", self.numbers + number)).collect();
        self.numbers += count;
        stream::iter(&names).map(Ok).try_for_each_concurrent(PREPARING_CLIENTS, |name| self.namespace(name)).await?;
        Ok(names)
    }

    async fn namespace(&self, name: &str) -> Result<(), Error> {
        self.product.create_namespace(name).await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.product.client.clone(), name);
        let started = Instant::now();
        while accounts.get_opt("default").await?.is_none() {
            if started.elapsed() > WAIT_LIMIT {
                return Err(format!("namespace {name} got no ServiceAccount").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Sides {
    fn add(&mut self, with: bool, (latencies, seconds): (Vec<Duration>, f64)) {
        let (all, total) = if with {
            (&mut self.with, &mut self.seconds_with)
        } else {
            (&mut self.without, &mut self.seconds_without)
        };
        all.extend(latencies);
        *total += seconds;
    }
}

fn print_side_by_side(title: &'static str, sides: &[Sides]) {
    let columns = [
        "clients",
        "webhook",
        "pods",
        "pods a second",
        "p50",
        "p99",
        "p50 added",
        "p99 added",
        "call of the webhook, mean",
    ];
    let mut table = Table::new(title, &columns);
    for (clients, sides) in CLIENTS.iter().zip(sides) {
        let (with, without) = (Latencies::new(sides.with.clone()), Latencies::new(sides.without.clone()));
        let added = |percent| {
            let difference = with.percentile(percent).as_secs_f64() - without.percentile(percent).as_secs_f64();
            format!("{:.2}", difference * 1000.0)
        };
        let lines = [
            ("without", &without, sides.seconds_without, [String::new(), String::new(), String::new()]),
            ("with", &with, sides.seconds_with, [added(50.0), added(99.0), sides.webhook.mean()]),
        ];
        for (webhook, latencies, seconds, added) in lines {
            let first = [
                clients.to_string(),
                webhook.to_owned(),
                latencies.count().to_string(),
                format!("{:.0}", latencies.count() as f64 / seconds),
            ];
            let percentiles = [50.0, 99.0].map(|percent| milliseconds(latencies.percentile(percent)));
            table.row(first.into_iter().chain(percentiles).chain(added));
        }
    }
    println!("{table}");
}
