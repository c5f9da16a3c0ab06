//! A local pod gets from the API server what a kubelet would give it.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as the tests themselves do")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use control_plane::{ControlPlane, LocalPod, LocalPodOptions};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Shows what it was given, then stays until it is told to end.
const SCRIPT: &str = "\
echo arguments: $0 $*; \
echo namespace: $POD_NAMESPACE at $POD_ADDRESS; \
echo password: $(cat /etc/app/credentials/password); \
echo config: $(cat /etc/app/config/config.yaml); \
echo kubeconfig: $KUBECONFIG; \
trap 'echo told to end; exit 7' TERM; \
touch /run/app/started; \
while :; do sleep 0.05; done";

#[tokio::test]
async fn a_pod_gets_the_arguments_environment_volumes_and_token_of_its_template() {
    let control_plane = control_plane().await;
    deploy(&control_plane, "app", app()).await;
    let address = control_plane.new_pod_address();
    let options = LocalPodOptions::new("/bin/sh", address);
    let mut pod = LocalPod::start(&control_plane, "default", "app", options).await.unwrap();
    let started = pod.volume("scratch").join("started");
    until("the program to touch a file in its scratch volume", || started.exists()).await;

    let log = pod.log();
    assert!(log.contains(&format!("arguments: --listen={address}:9000")), "{log}");
    assert!(log.contains(&format!("--webhook-address={address}:8443")), "{log}");
    assert!(log.contains(&format!("namespace: default at {address}")), "{log}");
    assert!(log.contains("password: first"), "{log}");
    let local_password = pod.volume("credentials").join("password");
    assert!(log.contains(&format!("config: passwordFile: {}", local_password.display())), "{log}");
    assert_eq!(pod.port("webhook").unwrap().port(), 8443);
    assert_eq!(fs::metadata(&local_password).unwrap().permissions().mode() & 0o777, 0o400);

    let kubeconfig = log.lines().find_map(|line| line.strip_prefix("kubeconfig: ")).unwrap();
    assert_eq!(user_of(Path::new(kubeconfig)).await, "system:serviceaccount:default:app");

    pod.wait_ready(Duration::from_secs(5)).await.unwrap();
    pod.terminate();
    assert_eq!(pod.exited().await.code(), Some(7), "{}", pod.log());
    assert!(pod.log().contains("told to end"));
}

#[tokio::test]
async fn a_changed_secret_reaches_the_volume_by_a_swapped_link_each_time() {
    let control_plane = control_plane().await;
    deploy(&control_plane, "app", app()).await;
    let pod = start(&control_plane, "app").await.unwrap();
    let volume = pod.volume("credentials");
    assert_eq!(fs::read_link(volume.join("password")).unwrap(), Path::new("..data/password"));

    let mut targets = vec![fs::read_link(volume.join("..data")).unwrap()];
    for password in ["second", "third", "fourth"] {
        set_password(&control_plane, password).await;
        pod.refresh_volumes().await.unwrap();
        assert_eq!(fs::read_to_string(volume.join("password")).unwrap(), password);
        targets.push(fs::read_link(volume.join("..data")).unwrap());
    }
    let swapped = targets.windows(2).all(|pair| pair[0] != pair[1]);
    assert!(swapped, "{targets:?}");
    // Old content does not pile up: one directory beside ..data and the link of the one key.
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 3);

    // An unchanged Secret is no swap.
    pod.refresh_volumes().await.unwrap();
    assert_eq!(fs::read_link(volume.join("..data")).unwrap(), targets[3]);

    // It also happens by itself.
    set_password(&control_plane, "fifth").await;
    let changed = || fs::read_to_string(volume.join("password")).unwrap() == "fifth";
    until("the volume to follow by itself", changed).await;
}

#[tokio::test]
async fn an_optional_secret_may_come_and_go_and_another_must_be_there() {
    let control_plane = control_plane().await;
    deploy(&control_plane, "app", app()).await;
    let pod = start(&control_plane, "app").await.unwrap();
    let optional = pod.volume("optional");
    assert!(!optional.join("token").exists());

    let secrets = Api::<Secret>::namespaced(control_plane.client(), "default");
    let secret = serde_json::from_value(json!({"metadata": {"name": "later"}, "stringData": {"token": "t"}})).unwrap();
    secrets.create(&PostParams::default(), &secret).await.unwrap();
    pod.refresh_volumes().await.unwrap();
    assert_eq!(fs::read_to_string(optional.join("token")).unwrap(), "t");
    secrets.delete("later", &DeleteParams::default()).await.unwrap();
    pod.refresh_volumes().await.unwrap();
    assert!(fs::symlink_metadata(optional.join("token")).is_err(), "the link is still there");

    // A running pod keeps what it has; a new one does not start.
    secrets.delete("credentials", &DeleteParams::default()).await.unwrap();
    assert!(pod.refresh_volumes().await.is_err());
    assert_eq!(fs::read_to_string(pod.volume("credentials").join("password")).unwrap(), "first");
    let refused = start(&control_plane, "app").await.unwrap_err().to_string();
    assert_eq!(refused, "MountVolume.SetUp failed for volume \"credentials\": secret \"credentials\" not found");
}

#[tokio::test]
async fn readiness_is_what_the_probe_says_and_an_early_end_is_told_with_the_log() {
    let control_plane = control_plane().await;
    let mut template = app();
    template["containers"][0]["readinessProbe"] = json!({"httpGet": {"path": "/readyz", "port": "webhook"}});
    deploy(&control_plane, "probed", template.clone()).await;
    let mut pod = start(&control_plane, "probed").await.unwrap();
    let not_ready = pod.wait_ready(Duration::from_millis(300)).await.unwrap_err().to_string();
    assert!(not_ready.contains("was not ready within 0.3 s (GET /readyz"), "{not_ready}");

    let server = TcpListener::bind(pod.port("webhook").unwrap()).await.unwrap();
    let serving = tokio::spawn(answer_in_turn(server, ["503 Service Unavailable", "200 OK"]));
    pod.wait_ready(Duration::from_secs(10)).await.unwrap();
    serving.await.unwrap();
    pod.kill();
    assert_eq!(pod.exited().await.code(), None, "it was killed");

    template["containers"][0]["command"] = json!(["app", "-c", "echo cannot go on >&2; exit 3"]);
    deploy(&control_plane, "failing", template).await;
    let pod = start(&control_plane, "failing").await.unwrap();
    let ended = pod.wait_ready(Duration::from_secs(10)).await.unwrap_err().to_string();
    assert!(ended.contains("exit status: 3") && ended.contains("cannot go on"), "{ended}");
}

async fn control_plane() -> ControlPlane {
    let control_plane = ControlPlane::builder().start().await.unwrap();
    let client = control_plane.client();
    let account: ServiceAccount = object(json!({"metadata": {"name": "app"}}));
    Api::namespaced(client.clone(), "default").create(&PostParams::default(), &account).await.unwrap();
    let config: ConfigMap = object(json!({
        "metadata": {"name": "config"}, "data": {"config.yaml": "passwordFile: /etc/app/credentials/password\n"},
    }));
    Api::namespaced(client.clone(), "default").create(&PostParams::default(), &config).await.unwrap();
    let secret: Secret = object(json!({
        "metadata": {"name": "credentials"}, "stringData": {"clientSecret": "first", "unused": "x"},
    }));
    Api::namespaced(client, "default").create(&PostParams::default(), &secret).await.unwrap();
    control_plane
}

fn app() -> Value {
    json!({
        "serviceAccountName": "app",
        "containers": [{
            "name": "app",
            "image": "app",
            "command": ["app", "-c", SCRIPT],
            "args": ["--listen=[::]:9000"],
            "ports": [{"name": "webhook", "containerPort": 8443}],
            "env": [
                {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
                {"name": "POD_ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            ],
            "volumeMounts": [
                {"name": "config", "mountPath": "/etc/app/config"},
                {"name": "credentials", "mountPath": "/etc/app/credentials"},
                {"name": "optional", "mountPath": "/etc/app/optional"},
                {"name": "scratch", "mountPath": "/run/app"},
            ],
        }],
        "volumes": [
            {"name": "config", "configMap": {"name": "config"}},
            {"name": "credentials", "secret": {
                "secretName": "credentials", "defaultMode": 0o400, "items": [{"key": "clientSecret", "path": "password"}],
            }},
            {"name": "optional", "projected": {"sources": [{"secret": {"name": "later", "optional": true}}]}},
            {"name": "scratch", "emptyDir": {}},
        ],
    })
}

async fn deploy(control_plane: &ControlPlane, name: &str, spec: Value) {
    let deployment: Deployment = object(json!({
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}}, "spec": spec,
        }},
    }));
    Api::namespaced(control_plane.client(), "default").create(&PostParams::default(), &deployment).await.unwrap();
}

async fn start(control_plane: &ControlPlane, deployment: &str) -> Result<LocalPod, control_plane::LocalPodError> {
    let options = LocalPodOptions::new("/bin/sh", control_plane.new_pod_address());
    LocalPod::start(control_plane, "default", deployment, options).await
}

async fn user_of(kubeconfig: &Path) -> String {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let reviews = Api::<SelfSubjectReview>::all(Client::try_from(config).unwrap());
    let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await.unwrap();
    review.status.unwrap().user_info.unwrap().username.unwrap()
}

async fn answer_in_turn<const N: usize>(listener: TcpListener, statuses: [&str; N]) {
    for status in statuses {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let length = stream.read(&mut request).await.unwrap();
        assert!(request[..length].starts_with(b"GET /readyz HTTP/1.1\r\n"));
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited 20 s for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn set_password(control_plane: &ControlPlane, password: &str) {
    let secrets = Api::<Secret>::namespaced(control_plane.client(), "default");
    let patch = Patch::Merge(json!({"stringData": {"clientSecret": password}}));
    secrets.patch("credentials", &PatchParams::default(), &patch).await.unwrap();
}

fn object<T: k8s_openapi::serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}
