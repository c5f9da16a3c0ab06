//! The product on a real control plane, installed from its chart, as the end-to-end tests have it.

use std::{net::SocketAddr, path::Path};

use control_plane::{ControlPlane, ControlPlaneBuilder};
use installation::{Error, Installation, RELEASE, Replica};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, api::PostParams};
use serde_json::json;

use crate::client::Endpoint;

/// The Secret of the operator that holds the service principal.
pub const CREDENTIAL: &str = "service-principal";

/// A control plane with the product on it.
#[expect(missing_debug_implementations, reason = "a client of Kubernetes has none")]
pub struct Product {
    /// What it runs on.
    pub control_plane: ControlPlane,
    /// The chart and its replicas.
    pub installation: Installation,
    /// An administrator's.
    pub client: Client,
}

impl Product {
    /// Starts a control plane, stores a service principal (password delivery) and installs the chart with `settings`.
    pub async fn install(
        control_plane: ControlPlaneBuilder,
        program: &Path,
        settings: &[&str],
        replicas: usize,
    ) -> Result<Self, Error> {
        let control_plane = control_plane.start().await?;
        let client = control_plane.client();
        let keys = [("clientId", "11111111-2222-3333-4444-555555555555"), ("clientSecret", "password-0")];
        installation::create_credentials(&client, &[(CREDENTIAL, &keys)]).await?;
        let credential = format!("servicePrincipal.existingSecret={CREDENTIAL}");
        // Only the webhook shall make references, so that what is measured is its own.
        let settings = [&[credential.as_str(), "fallbackPolicy.enabled=false", "drainSeconds=1"], settings].concat();
        let settings = installation::set(&settings);
        let installation = Installation::install(&control_plane, program, &settings, replicas).await?;
        Ok(Self { control_plane, installation, client })
    }

    /// A replica's webhook, as the API server knows it.
    pub async fn endpoint(&self, webhook: SocketAddr) -> Result<Endpoint, Error> {
        let bundle = installation::ca_bundle(&self.client).await?;
        Endpoint::new(webhook, &format!("{RELEASE}.{RELEASE}.svc"), &bundle)
    }

    /// An empty namespace.
    pub async fn create_namespace(&self, name: &str) -> Result<(), Error> {
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        Api::<Namespace>::all(self.client.clone()).create(&PostParams::default(), &namespace).await?;
        Ok(())
    }
}

/// A replica's admin port.
pub fn admin(replica: &Replica) -> SocketAddr {
    SocketAddr::new(replica.webhook.ip(), 8080)
}
