//! The webhook as the API server knows it: its registration, and what its calls took.

use std::time::{Duration, Instant};

use control_plane::ControlPlane;
use installation::{Error, RELEASE};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
    client::Body,
    core::Request,
};
use measuring::{metrics, product::Product};

use crate::pods::{is_injected, pod};

const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// The registration of the webhook, which is taken away and put back.
pub struct Webhook {
    configuration: MutatingWebhookConfiguration,
    registered: bool,
}

impl Webhook {
    pub async fn installed(product: &Product) -> Result<Self, Error> {
        let mut configuration = Api::<MutatingWebhookConfiguration>::all(product.client.clone()).get(RELEASE).await?;
        configuration.metadata.resource_version = None;
        configuration.metadata.uid = None;
        configuration.metadata.managed_fields = None;
        Ok(Self { configuration, registered: true })
    }

    /// Registers the webhook or not, and waits until the API server acts on it.
    pub async fn switch(&mut self, client: &Client, on: bool) -> Result<(), Error> {
        if on == self.registered {
            return Ok(());
        }
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
        if on {
            configurations.create(&PostParams::default(), &self.configuration).await?;
        } else {
            configurations.delete(RELEASE, &DeleteParams::default()).await?;
        }
        self.registered = on;
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        let started = Instant::now();
        loop {
            let request = Request::new("/api/v1/namespaces/default/pods");
            let request = request.create(&dry_run, serde_json::to_vec(&pod())?)?.map(Body::from);
            let body = client.send(request).await?.into_body().collect_bytes().await?;
            if is_injected(&body) == on {
                return Ok(());
            }
            if started.elapsed() > WAIT_LIMIT {
                return Err("the API server does not take note of the webhook's registration".into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// How often the API server called the webhook, and how many seconds that took in all.
#[derive(Clone, Copy, Default)]
pub struct AdmissionTime {
    calls: f64,
    seconds: f64,
}

impl AdmissionTime {
    pub fn add(&mut self, from: Self, to: Self) {
        self.calls += to.calls - from.calls;
        self.seconds += to.seconds - from.seconds;
    }

    /// In ms.
    pub fn mean(&self) -> String {
        format!("{:.2}", self.seconds / self.calls * 1000.0)
    }
}

/// As the API server has measured it so far.
pub async fn admission_time(control_plane: &ControlPlane) -> Result<AdmissionTime, Error> {
    let text = control_plane.metrics().await?;
    let value = |suffix: &str| {
        metrics::sum(&text, &[&format!("apiserver_admission_webhook_admission_duration_seconds_{suffix}{{"), RELEASE])
    };
    Ok(AdmissionTime { calls: value("count"), seconds: value("sum") })
}
