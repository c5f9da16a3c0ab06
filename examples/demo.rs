//! The whole product in one command: `cargo run --example demo`.
//!
//! Starts a real Kubernetes control plane on loopback, installs the chart on it, runs the webhook under the chart's own
//! ServiceAccount, creates a Deployment with an image in an Azure Container Registry, and shows what came of it. Azure
//! itself is not contacted: with password delivery nothing needs to be.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "showing is what a demo is for")]

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use acr_pull_injector::cli::Cli;
use clap::Parser;
use control_plane::ControlPlane;
use installation::{Error, Installation, create_credentials, service_port_setting, set};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, Pod, Secret},
};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

/// Shows what the webhook does, on a Kubernetes control plane of its own.
#[derive(Debug, Parser)]
#[command(
    after_help = "The first run builds kube-apiserver, etcd and helm with Go, which takes some minutes; later runs start in seconds."
)]
struct Demo {
    /// End at once instead of staying up to be played with
    #[arg(long)]
    exit: bool,
}

const NAMESPACE: &str = "shop";
const IMAGE: &str = "contoso.azurecr.io/shop/web:v1";
const CREDENTIAL: &str = "sample-service-principal";

fn main() -> ExitCode {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return ExitCode::FAILURE;
    }
    // The demo is the webhook's program too: so one build serves for both.
    if std::env::args().nth(1).as_deref() == Some("serve") {
        return Cli::parse().run();
    }
    let demo = Demo::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(show(&demo)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn show(demo: &Demo) -> Result<(), Error> {
    let started = Instant::now();
    let step = |text: &str| eprintln!("[{:5.1} s] {text}", started.elapsed().as_secs_f64());
    // From the first moment on, so that Ctrl-C never leaves anything behind.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stopped = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let work = async {
        step("starting etcd, kube-apiserver and kube-controller-manager");
        let control_plane = ControlPlane::builder().controller_manager(true).start().await?;
        step(&format!("Kubernetes {} is up", control_plane.version()));
        let client = control_plane.client();
        step(&format!("storing a sample service principal: Secret {CREDENTIAL}"));
        let keys = [("clientId", "11111111-2222-3333-4444-555555555555"), ("clientSecret", "a-sample-password")];
        create_credentials(&client, &[(CREDENTIAL, &keys)]).await?;
        let setting = format!("servicePrincipal.existingSecret={CREDENTIAL}");
        step(&format!("helm install acr-pull-injector charts/acr-pull-injector --set {setting}"));
        let program = std::env::current_exe()?;
        let installation =
            Installation::install(&control_plane, &program, &set(&[&setting, service_port_setting()]), 2).await?;
        step("two replicas of the webhook are ready");
        create_deployment(&control_plane, &step).await?;
        Ok::<_, Error>((control_plane, installation))
    };
    tokio::pin!(stopped);
    let running = tokio::select! {
        () = &mut stopped => return Err("interrupted".into()),
        running = work => running?,
    };
    if !demo.exit {
        println!("Try it yourself:\n");
        println!("  export KUBECONFIG={}", running.0.kubeconfig().display());
        println!("  kubectl create namespace team-a");
        println!("  kubectl -n team-a run app --image=fabrikam.azurecr.io/app:v1");
        println!("  kubectl -n team-a get pod app -o jsonpath='{{.spec.imagePullSecrets}}'");
        println!("  kubectl label namespace team-a acr-pull-injector.io/inject=disabled   # and it stops\n");
        println!("Ctrl-C ends the demo and cleans up.");
        stopped.await;
    }
    eprintln!("cleaning up");
    drop(running);
    Ok(())
}

async fn create_deployment(control_plane: &ControlPlane, step: &impl Fn(&str)) -> Result<(), Error> {
    let client = control_plane.client();
    let namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    step(&format!("created namespace {NAMESPACE}; creating Deployment web with image {IMAGE}"));
    let deployment = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": IMAGE}]},
            },
        },
    }))?;
    Api::<Deployment>::namespaced(client.clone(), NAMESPACE).create(&PostParams::default(), &deployment).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let deadline = Instant::now() + Duration::from_secs(60);
    let pods = loop {
        let pods = pods.list(&ListParams::default()).await?.items;
        if pods.len() == 3 {
            break pods;
        }
        if Instant::now() > deadline {
            return Err("the Deployment got no pods within a minute".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let secret = Api::<Secret>::namespaced(client, NAMESPACE).get("acr-pull-secret").await?;
    let (count, seconds) = admission_time(control_plane).await?;

    println!("\nWhat happened\n");
    for pod in &pods {
        let spec = pod.spec.as_ref();
        let references = spec.into_iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
        let references: Vec<_> = references.map(|reference| reference.name.as_str()).collect();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        println!("  pod {NAMESPACE}/{name}   imagePullSecrets: [{}]", references.join(", "));
    }
    let annotations = secret.metadata.annotations.unwrap_or_default();
    let hosts = annotations.get("acr-pull-injector.io/hosts").map_or("none", String::as_str);
    println!("  Secret {NAMESPACE}/acr-pull-secret   {}", secret.type_.unwrap_or_default());
    println!("    hosts: {hosts}   (user name and password of the service principal, not shown)");
    println!(
        "  admission by the webhook took {:.1} ms on average over {count} pods, as the API server measured it\n",
        seconds / count * 1000.0
    );
    Ok(())
}

/// How often the API server called the webhook, and how many seconds that took in all.
async fn admission_time(control_plane: &ControlPlane) -> Result<(f64, f64), Error> {
    let metrics = control_plane.metrics().await?;
    let value = |suffix: &str| {
        let name = format!("apiserver_admission_webhook_admission_duration_seconds_{suffix}{{");
        let lines = metrics.lines().filter(|line| line.starts_with(&name) && line.contains("acr-pull-injector"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    Ok((value("count"), value("sum")))
}
