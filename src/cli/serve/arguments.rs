//! The options of `serve`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

#[cfg(feature = "otlp")]
use crate::telemetry::traces::CollectorEndpoint;
use crate::{
    config::parse_duration,
    telemetry::{self, LogFormat},
};

/// Options of `serve`. The Kubernetes API is found as kubectl finds it (KUBECONFIG), else as a pod does.
#[derive(Debug, Args)]
pub struct ServeArguments {
    /// Configuration file: registries, their credentials, the name of the pull secret
    #[arg(
        long,
        value_name = "FILE",
        env = "ACR_PULL_INJECTOR_CONFIG",
        default_value = "/etc/acr-pull-injector/config.yaml"
    )]
    pub(super) config: PathBuf,

    /// Address of the webhook (HTTPS, POST /mutate)
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8443")]
    pub(super) webhook_address: SocketAddr,

    /// Address of the admin port (HTTP: /livez, /readyz, /metrics)
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8080")]
    pub(super) admin_address: SocketAddr,

    /// Our own namespace: holds the serving certificate, and its pods are never touched
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    pub(super) namespace: String,

    /// How long requests are still answered after SIGTERM, until nobody sends any; a second signal ends at once
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = parse_duration)]
    pub(super) drain: Duration,

    /// How log lines look
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub(super) log_format: LogFormat,

    /// What is logged: a level, or a filter such as `info,acr_pull_injector=debug`
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info", value_parser = telemetry::parse_filter)]
    pub(super) log_level: EnvFilter,

    /// Where traces go, a collector of OpenTelemetry that takes OTLP over HTTP, such as `http://collector:4318`; else nowhere
    #[cfg(feature = "otlp")]
    #[arg(
        long,
        value_name = "URL",
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub(super) otlp_endpoint: CollectorEndpoint,

    #[command(flatten)]
    pub(super) certificates: CertificateArguments,

    #[command(flatten)]
    pub(super) election: ElectionArguments,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Serving certificate")]
pub(super) struct CertificateArguments {
    /// Where the serving certificate comes from
    #[arg(long, value_name = "SOURCE", value_enum, default_value_t)]
    pub(super) certificate_source: CertificateSource,

    /// self-managed: name of the Secret that holds the certificates, made when it is missing
    #[arg(long, value_name = "NAME", default_value = "acr-pull-injector-serving-certificate")]
    pub(super) certificate_secret: String,

    /// self-managed: name of the Service that the API server calls
    #[arg(long, value_name = "NAME", default_value = "acr-pull-injector")]
    pub(super) service: String,

    /// self-managed: MutatingWebhookConfiguration that is told which CA to trust
    #[arg(long, value_name = "NAME", default_value = "acr-pull-injector")]
    pub(super) webhook_configuration: String,

    /// files: directory with tls.crt and tls.key, read again when they change
    #[arg(long, value_name = "DIRECTORY", default_value = "/etc/acr-pull-injector/certificate")]
    pub(super) certificate_directory: PathBuf,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Election of the replica that writes in the background")]
pub(super) struct ElectionArguments {
    /// Name of the Lease, in our own namespace
    #[arg(long, value_name = "NAME", default_value = "acr-pull-injector")]
    pub(super) lease: String,

    /// Who we are in the election: unique to this process; made up when not given
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub(super) identity: Option<String>,
}

/// Where the serving certificate comes from.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum CertificateSource {
    /// Made, rotated and announced to the API server by the replicas themselves
    #[default]
    SelfManaged,
    /// Files that somebody else provides, cert-manager for example
    Files,
}
