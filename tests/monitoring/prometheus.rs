//! A real Prometheus, set up as its operator does it from the chart's PodMonitor and PrometheusRule.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use control_plane::{BackgroundProgram, ControlPlane, prometheus_program};
use installation::Error;
use k8s_openapi::api::{
    core::v1::{Namespace, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

/// Where Prometheus and its ServiceAccount live in the cluster.
const NAMESPACE: &str = "monitoring";
const ACCOUNT: &str = "prometheus";
/// The file that lists the pods.
const TARGETS: &str = "targets.json";
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// How Prometheus is set up.
pub struct Setup {
    /// The chart's PodMonitor.
    pub pod_monitor: Value,
    /// The chart's PrometheusRule.
    pub prometheus_rule: Value,
    /// Time between two scrapes and between two evaluations of the rules, in whole seconds. It replaces that of the monitor.
    pub interval: Duration,
}

/// A running Prometheus. It ends when it is dropped.
pub struct Prometheus {
    program: BackgroundProgram,
    targets: PathBuf,
    address: SocketAddr,
    client: reqwest::Client,
}

/// A pod as the discovery of Kubernetes would find it.
pub struct DiscoveredPod {
    pub name: String,
    pub address: IpAddr,
    /// Its metadata and spec, as a template has them.
    pub template: Value,
}

/// An alert that waits or fires.
#[derive(Clone, Debug)]
pub struct Alert {
    pub name: String,
    pub severity: String,
    /// `pending` or `firing`.
    pub state: String,
}

/// One time series of an answer.
#[derive(Clone, Debug)]
pub struct Series {
    pub labels: BTreeMap<String, String>,
    /// Seconds since 1970 and value.
    pub values: Vec<(f64, f64)>,
}

impl Prometheus {
    /// Starts Prometheus, which scrapes the API server, and pods once it is told of them. An alert's `for` is cut to a second.
    pub async fn start(control_plane: &ControlPlane, setup: &Setup) -> Result<Self, Error> {
        let program = prometheus_program()?;
        let directory = control_plane.directory().join("prometheus");
        fs::create_dir(&directory)?;
        fs::write(directory.join("token"), token(control_plane).await?)?;
        fs::write(directory.join("ca.pem"), control_plane.ca_pem())?;
        // JSON is YAML too.
        fs::write(directory.join("rules.json"), impatient(&setup.prometheus_rule["spec"]).to_string())?;
        let configuration = configuration(control_plane, setup, &directory)?;
        fs::write(directory.join("prometheus.json"), configuration.to_string())?;
        let address = SocketAddr::new(control_plane.new_pod_address(), 9090);
        let arguments = [
            format!("--config.file={}", directory.join("prometheus.json").display()),
            format!("--storage.tsdb.path={}", directory.join("data").display()),
            format!("--web.listen-address={address}"),
            "--log.level=warn".to_owned(),
        ];
        let program = BackgroundProgram::start(control_plane, "prometheus", &program, &arguments)?;
        let (targets, client) = (directory.join(TARGETS), reqwest::Client::builder().no_proxy().build()?);
        let prometheus = Self { program, targets, address, client };
        prometheus.wait_ready().await?;
        Ok(prometheus)
    }

    /// Tells which pods there are, in place of the discovery of Kubernetes: one target for each port of each container, with
    /// the labels that it would have
    /// (<https://prometheus.io/docs/prometheus/latest/configuration/configuration/#kubernetes_sd_config>).
    pub fn discover(&self, namespace: &str, pods: &[DiscoveredPod]) -> Result<(), Error> {
        let mut targets = Vec::new();
        for pod in pods {
            for container in pod.template["spec"]["containers"].as_array().into_iter().flatten() {
                for port in container["ports"].as_array().into_iter().flatten() {
                    targets.push(target(namespace, pod, container, port));
                }
            }
        }
        // Never read half written.
        let new = self.targets.with_extension("new");
        fs::write(&new, Value::Array(targets).to_string())?;
        Ok(fs::rename(new, &self.targets)?)
    }

    /// The value of an expression now: series of one value each.
    pub async fn query(&self, expression: &str) -> Result<Vec<Series>, Error> {
        series(&self.ask("query", &[("query", expression)]).await?["result"])
    }

    /// The values of an expression in the last `past`, one every `step`.
    pub async fn query_range(&self, expression: &str, past: Duration, step: Duration) -> Result<Vec<Series>, Error> {
        let end = jiff::Timestamp::now().as_second();
        let start = end.saturating_sub_unsigned(past.as_secs());
        let (start, end, step) = (start.to_string(), end.to_string(), step.as_secs().to_string());
        let form = [("query", expression), ("start", &start), ("end", &end), ("step", &step)];
        series(&self.ask("query_range", &form).await?["result"])
    }

    /// The values that a label has on the series of a metric, as Grafana's `label_values` gives them.
    pub async fn label_values(&self, metric: &str, label: &str) -> Result<Vec<String>, Error> {
        let found = self.query(&format!("count by ({label}) ({metric})")).await?;
        Ok(found.into_iter().filter_map(|series| series.labels.get(label).cloned()).collect())
    }

    /// The alerts that wait or fire now.
    pub async fn alerts(&self) -> Result<Vec<Alert>, Error> {
        let answer = self.ask("alerts", &[]).await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let alerts = answer["alerts"].as_array().into_iter().flatten().map(|alert| Alert {
            name: text(&alert["labels"]["alertname"]),
            severity: text(&alert["labels"]["severity"]),
            state: text(&alert["state"]),
        });
        Ok(alerts.collect())
    }

    /// The names of the alerts that are loaded.
    pub async fn rules(&self) -> Result<BTreeSet<String>, Error> {
        let answer = self.ask("rules", &[]).await?;
        let groups = answer["groups"].as_array().into_iter().flatten();
        let rules = groups.flat_map(|group| group["rules"].as_array().into_iter().flatten());
        Ok(rules.filter_map(|rule| rule["name"].as_str().map(str::to_owned)).collect())
    }

    /// Asks the HTTP API and gives `data`.
    async fn ask(&self, method: &str, form: &[(&str, &str)]) -> Result<Value, Error> {
        let url = format!("http://{}/api/v1/{method}", self.address);
        let request = if form.is_empty() { self.client.get(url) } else { self.client.post(url).form(form) };
        let mut answer: Value = request.send().await?.json().await?;
        if answer["status"] != "success" {
            return Err(format!("{form:?}: {}", answer["error"]).into());
        }
        Ok(answer["data"].take())
    }

    async fn wait_ready(&self) -> Result<(), Error> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let url = format!("http://{}/-/ready", self.address);
        while !self.client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
            if self.program.has_ended() || Instant::now() > deadline {
                return Err(format!("Prometheus is not ready:\n{}", self.program.last_log_lines()).into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

/// The token of a ServiceAccount that may read the metrics of the API server.
async fn token(control_plane: &ControlPlane) -> Result<String, Error> {
    let (client, parameters) = (control_plane.client(), PostParams::default());
    let namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
    Api::<Namespace>::all(client.clone()).create(&parameters, &namespace).await?;
    let account = serde_json::from_value(json!({"metadata": {"name": ACCOUNT}}))?;
    Api::<ServiceAccount>::namespaced(client.clone(), NAMESPACE).create(&parameters, &account).await?;
    let role = serde_json::from_value(json!({
        "metadata": {"name": ACCOUNT},
        "rules": [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}],
    }))?;
    Api::<ClusterRole>::all(client.clone()).create(&parameters, &role).await?;
    let binding = serde_json::from_value(json!({
        "metadata": {"name": ACCOUNT},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ACCOUNT},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}],
    }))?;
    Api::<ClusterRoleBinding>::all(client).create(&parameters, &binding).await?;
    Ok(control_plane.service_account_token(NAMESPACE, ACCOUNT).await?)
}

/// The rules with every `for` cut to a second.
fn impatient(rules: &Value) -> Value {
    let mut rules = rules.clone();
    let groups = rules["groups"].as_array_mut().into_iter().flatten();
    for rule in groups.flat_map(|group| group["rules"].as_array_mut().into_iter().flatten()) {
        if rule.get("for").is_some() {
            rule["for"] = json!("1s");
        }
    }
    rules
}

fn configuration(control_plane: &ControlPlane, setup: &Setup, directory: &Path) -> Result<Value, Error> {
    let interval = format!("{}s", setup.interval.as_secs());
    let url: reqwest::Url = control_plane.url().parse()?;
    let endpoint = &setup.pod_monitor["spec"]["podMetricsEndpoints"][0];
    let address = format!("{}:{}", url.host_str().unwrap_or_default(), url.port().unwrap_or(443));
    // Under the labels that kube-prometheus gives it.
    let labels = json!({"namespace": "default", "service": "kubernetes", "endpoint": "https"});
    let api_server = json!({
        "job_name": "apiserver",
        "scheme": "https",
        "authorization": {"credentials_file": directory.join("token")},
        "tls_config": {"ca_file": directory.join("ca.pem")},
        "static_configs": [{"targets": [address], "labels": labels}],
    });
    Ok(json!({
        "global": {"scrape_interval": interval, "evaluation_interval": interval, "scrape_timeout": interval},
        "rule_files": [directory.join("rules.json")],
        "scrape_configs": [
            {
                "job_name": "podMonitor",
                "metrics_path": endpoint["path"],
                // Debian's package is built without the discovery of Kubernetes.
                "file_sd_configs": [{"files": [directory.join(TARGETS)], "refresh_interval": "1s"}],
                "relabel_configs": relabelings(&setup.pod_monitor),
            },
            api_server,
        ],
    }))
}

fn target(namespace: &str, pod: &DiscoveredPod, container: &Value, port: &Value) -> Value {
    let mut labels = json!({
        "__meta_kubernetes_namespace": namespace,
        "__meta_kubernetes_pod_name": pod.name,
        "__meta_kubernetes_pod_phase": "Running",
        "__meta_kubernetes_pod_container_name": container["name"],
        "__meta_kubernetes_pod_container_port_name": port["name"],
    });
    for (label, value) in pod.template["metadata"]["labels"].as_object().into_iter().flatten() {
        labels[meta(label)] = value.clone();
    }
    let address =
        SocketAddr::new(pod.address, port["containerPort"].as_u64().and_then(|n| n.try_into().ok()).unwrap_or(0));
    json!({"targets": [address], "labels": labels})
}

/// The discovered label that a label of the pod becomes.
fn meta(label: &str) -> String {
    let label: String = label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("__meta_kubernetes_pod_label_{label}")
}

/// What the operator makes of a PodMonitor (`generatePodMonitorConfig` of
/// <https://github.com/prometheus-operator/prometheus-operator/blob/main/pkg/prometheus/promcfg.go>). Of a ServiceMonitor it
/// makes the same labels `namespace`, `pod` and `job`.
fn relabelings(pod_monitor: &Value) -> Value {
    let spec = &pod_monitor["spec"];
    let mut rules = vec![
        json!({"action": "drop", "source_labels": ["__meta_kubernetes_pod_phase"], "regex": "(Failed|Succeeded)"}),
    ];
    for (label, value) in spec["selector"]["matchLabels"].as_object().into_iter().flatten() {
        rules.push(json!({"action": "keep", "source_labels": [meta(label)], "regex": value}));
    }
    let port = &spec["podMetricsEndpoints"][0]["port"];
    let job_label = meta(spec["jobLabel"].as_str().unwrap_or_default());
    rules.extend([
        json!({"action": "keep", "source_labels": ["__meta_kubernetes_pod_container_port_name"], "regex": port}),
        json!({"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"}),
        json!({"source_labels": ["__meta_kubernetes_pod_container_name"], "target_label": "container"}),
        json!({"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"}),
        json!({"source_labels": [job_label], "target_label": "job", "regex": "(.+)", "replacement": "${1}"}),
        json!({"target_label": "endpoint", "replacement": port}),
    ]);
    Value::Array(rules)
}

fn series(result: &Value) -> Result<Vec<Series>, Error> {
    let series = result.as_array().ok_or("the answer is no list of series")?;
    series.iter().map(one_series).collect()
}

fn one_series(series: &Value) -> Result<Series, Error> {
    let labels = serde_json::from_value(series["metric"].clone())?;
    let values = match series["values"].as_array() {
        Some(values) => values.as_slice(),
        None => std::slice::from_ref(&series["value"]),
    };
    let values = values.iter().map(|pair| {
        let value = pair[1].as_str().ok_or("a value is no text")?;
        Ok((pair[0].as_f64().ok_or("a time is no number")?, value.replace("Inf", "inf").parse()?))
    });
    Ok(Series { labels, values: values.collect::<Result<_, Error>>()? })
}
