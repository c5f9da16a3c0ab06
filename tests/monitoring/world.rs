//! The product on a control plane, a fake Azure behind it, and Prometheus that watches it.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::IpAddr,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use control_plane::ControlPlane;
use fake_azure::{FakeAzure, SUFFIX, TENANT};
pub use installation::Error;
use installation::{CHART, Installation, RELEASE, create_credentials, helm, service_port_setting, set};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount},
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::prometheus::{DiscoveredPod, Prometheus, Setup};

/// The login server whose pull secrets hold a password.
pub const PASSWORD_HOST: &str = "contoso.azurecr.io";
/// The application whose tokens the registries of the fake Azure take.
const APPLICATION: &str = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";
/// Registry rules with token delivery, and registries of the fake Azure.
pub const TOKEN_RULES: [&str; 2] = ["tokens", "short"];

pub struct World {
    pub prometheus: Prometheus,
    pub installation: Installation,
    pub azure: FakeAzure,
    pub client: Client,
    pub control_plane: ControlPlane,
    names: Mutex<BTreeMap<IpAddr, String>>,
    numbers: AtomicU32,
}

impl World {
    /// Starts everything: two replicas, and a Prometheus that looks every `interval` and knows all targets.
    pub async fn start(program: &Path, settings: &[&str], interval: Duration) -> Result<Self, Error> {
        let control_plane = ControlPlane::builder().controller_manager(true).start().await?;
        let client = control_plane.client();
        let azure = FakeAzure::start().await;
        azure.entra().application(APPLICATION).add_secret("secret-0");
        for registry in TOKEN_RULES {
            azure.registry(registry).grant(APPLICATION);
        }
        create_credentials(
            &client,
            &[
                ("contoso", &[("clientId", "contoso-app"), ("clientSecret", "password-0")]),
                ("application", &[("clientId", APPLICATION), ("clientSecret", "secret-0")]),
            ],
        )
        .await?;
        let ca = serde_json::from_value(json!({"metadata": {"name": "azure-ca"}, "data": {"ca.crt": azure.ca_pem()}}))?;
        Api::<ConfigMap>::namespaced(client.clone(), RELEASE).create(&PostParams::default(), &ca).await?;
        let own = values(&azure);
        let all: Vec<&str> = own.iter().map(String::as_str).chain(settings.iter().copied()).collect();
        let installation = Installation::install(&control_plane, program, &set(&all), 2).await?;
        let setup = setup(&control_plane, interval)?;
        let prometheus = Prometheus::start(&control_plane, &setup).await?;
        let (names, numbers) = (Mutex::default(), AtomicU32::new(0));
        let world = Self { prometheus, installation, azure, client, control_plane, names, numbers };
        world.show_pods().await?;
        Ok(world)
    }

    /// Tells Prometheus which replicas run, and waits until it scrapes these and the API server, and nothing else.
    pub async fn show_pods(&self) -> Result<(), Error> {
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), RELEASE);
        let template = deployments.get(RELEASE).await?.spec.ok_or("the Deployment has no spec")?.template;
        let template = serde_json::to_value(template)?;
        let pods: Vec<DiscoveredPod> = {
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            let mut name = |address| {
                let new = format!("{RELEASE}-{}", names.len());
                names.entry(address).or_insert(new).clone()
            };
            let addresses = self.installation.webhooks().into_iter().map(|webhook| webhook.ip());
            let pod = |address| DiscoveredPod { name: name(address), address, template: template.clone() };
            addresses.map(pod).collect()
        };
        self.prometheus.discover(RELEASE, &pods)?;
        let expected: BTreeSet<String> = pods.into_iter().map(|pod| pod.name).collect();
        eventually("Prometheus to scrape every pod and the API server", || async {
            let up = self.prometheus.query("up == 1").await?;
            let scraped = up.iter().filter_map(|series| series.labels.get("pod").cloned()).collect::<BTreeSet<_>>();
            let api_server = up.iter().any(|series| series.labels.get("job").is_some_and(|job| job == "apiserver"));
            Ok((scraped == expected && api_server).then_some(()))
        })
        .await
    }

    /// Ends the oldest replica; `show_pods` then tells.
    pub fn end_oldest(&self) {
        if let Some(replica) = self.installation.take_oldest() {
            self.installation.forwarder().remove_backend(replica.webhook);
            replica.pod.kill();
        }
    }

    /// A fresh namespace with its `default` ServiceAccount.
    pub async fn namespace(&self, labels: &[(&str, &str)]) -> Result<String, Error> {
        let name = format!("team-{}", self.numbers.fetch_add(1, Ordering::Relaxed));
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let namespace = serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}}))?;
        Api::<Namespace>::all(self.client.clone()).create(&PostParams::default(), &namespace).await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &name);
        eventually("the default ServiceAccount", || async { Ok(accounts.get_opt("default").await?) }).await?;
        Ok(name)
    }

    /// Creates a pod with an image of this login server, and gives its name.
    pub async fn create_pod(&self, namespace: &str, host: &str) -> Result<String, kube::Error> {
        let name = format!("app-{}", self.numbers.fetch_add(1, Ordering::Relaxed));
        let containers = json!([{"name": "app", "image": format!("{host}/app:v1")}]);
        let pod = json!({"metadata": {"name": name}, "spec": {"containers": containers}});
        let pod = serde_json::from_value(pod).map_err(kube::Error::SerdeError)?;
        Api::<Pod>::namespaced(self.client.clone(), namespace).create(&PostParams::default(), &pod).await?;
        Ok(name)
    }

    pub async fn delete_pod(&self, namespace: &str, name: &str) -> Result<(), Error> {
        let parameters = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        Api::<Pod>::namespaced(self.client.clone(), namespace).delete(name, &parameters).await?;
        Ok(())
    }

    pub async fn patch_pod_status(&self, namespace: &str, name: &str, status: Value) -> Result<(), Error> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({ "status": status }))).await?;
        Ok(())
    }

    /// Changes keys of a Secret of the operator; `null` takes one away.
    pub async fn change_secret(&self, name: &str, keys: Value) -> Result<(), Error> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), RELEASE);
        secrets.patch(name, &PatchParams::default(), &Patch::Merge(keys)).await?;
        self.installation.refresh_volumes().await
    }

    /// Stores another secret of the application, valid or not. New tokens are then asked for at once.
    pub async fn change_secret_of_application(&self, secret: &str, valid: bool) -> Result<(), Error> {
        if valid {
            self.azure.entra().application(APPLICATION).add_secret(secret);
        }
        self.change_secret("application", json!({"stringData": {"clientSecret": secret}})).await
    }

    /// `helm upgrade` with the values that are, and these.
    pub fn upgrade(&self, settings: &[&str]) -> Result<(), Error> {
        let command = ["upgrade", RELEASE, CHART, "-n", RELEASE, "--reuse-values"];
        helm(&self.control_plane, &[&command[..], &set(settings)].concat()).map(drop)
    }
}

/// One registry with passwords, and two with tokens.
fn values(azure: &FakeAzure) -> Vec<String> {
    let mut values = vec![
        "registries[0].name=contoso".to_owned(),
        format!("registries[0].hosts={{{PASSWORD_HOST}}}"),
        "registries[0].credential.servicePrincipal.existingSecret=contoso".to_owned(),
        format!("azure.authorityHost={}", azure.authority_host()),
        format!("azure.extraSuffixes={{{SUFFIX}}}"),
        "azure.caBundle.configMapName=azure-ca".to_owned(),
        // Without it a reference can only come from the webhook.
        "fallbackPolicy.enabled=false".to_owned(),
        "drainSeconds=1".to_owned(),
        service_port_setting().to_owned(),
    ];
    for (number, name) in (1..).zip(TOKEN_RULES) {
        let entry = format!("registries[{number}]");
        values.extend([
            format!("{entry}.name={name}"),
            format!("{entry}.hosts={{{}}}", azure.login_server(name)),
            format!("{entry}.credential.servicePrincipal.existingSecret=application"),
            format!("{entry}.credential.servicePrincipal.tenantId={TENANT}"),
            format!("{entry}.credential.servicePrincipal.delivery=token"),
        ]);
    }
    values
}

/// What the chart gives to Prometheus's operator.
fn setup(control_plane: &ControlPlane, interval: Duration) -> Result<Setup, Error> {
    let settings = set(&["metrics.podMonitor.enabled=true", "metrics.prometheusRule.enabled=true"]);
    let command = ["template", RELEASE, CHART, "-n", RELEASE, "--api-versions", "monitoring.coreos.com/v1"];
    let text = helm(control_plane, &[&command[..], &settings].concat())?;
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    let object = |kind: &str| {
        let found = objects.iter().find(|object| object["kind"] == kind).cloned();
        found.ok_or_else(|| format!("the chart renders no {kind}"))
    };
    Ok(Setup { pod_monitor: object("PodMonitor")?, prometheus_rule: object("PrometheusRule")?, interval })
}

/// Asks again until there is an answer, three minutes at most: a round of looking for stuck pods alone takes one.
pub async fn eventually<T, F: Future<Output = Result<Option<T>, Error>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> Result<T, Error> {
    let deadline = Instant::now() + Duration::from_secs(180);
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            return Err(format!("{what}: not within 3 minutes").into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
