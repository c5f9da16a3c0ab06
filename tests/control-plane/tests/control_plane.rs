//! The control plane is a real one, with access control on, and each instance stands alone.

use std::net::IpAddr;
use std::time::Duration;

use control_plane::{ControlPlane, ServiceForwarder};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service, ServiceAccount};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

#[tokio::test]
async fn it_serves_the_requested_version_its_metrics_and_helm() {
    let control_plane = ControlPlane::builder().start().await.unwrap();
    let tag = control_plane.version().tag();
    match std::env::var_os("K8S_VERSION") {
        Some(requested) => assert!(tag.contains(requested.to_str().unwrap()), "{tag} is not {requested:?}"),
        // Programs from elsewhere may have any version.
        None if std::env::var_os("KUBEBUILDER_ASSETS").is_some() => {}
        None => {
            let pinned = include_str!("../go/kubernetes/go.mod");
            assert!(pinned.contains(&format!("k8s.io/kubernetes {tag}\n")), "{tag} is not the pinned version");
        }
    }
    assert!(control_plane.metrics().await.unwrap().contains("apiserver_request_total"));
    let namespaces =
        control_plane.helm().command().args(["list", "--all-namespaces", "--output=json"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&namespaces.stdout).trim(), "[]", "{namespaces:?}");
}

#[tokio::test]
async fn a_service_account_may_do_nothing_until_it_is_allowed_to() {
    let control_plane = ControlPlane::builder().start().await.unwrap();
    let accounts = Api::<ServiceAccount>::namespaced(control_plane.client(), "default");
    let account = serde_json::from_value(json!({"metadata": {"name": "nobody"}})).unwrap();
    accounts.create(&PostParams::default(), &account).await.unwrap();

    let kubeconfig = control_plane.service_account_kubeconfig("default", "nobody").await.unwrap();
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let nobody = Client::try_from(config).unwrap();
    let refused = Api::<Secret>::namespaced(nobody, "default").list(&ListParams::default()).await.unwrap_err();
    let kube::Error::Api(status) = refused else { panic!("{refused}") };
    assert_eq!(status.code, 403, "{status:?}");
    assert!(status.message.contains("system:serviceaccount:default:nobody"), "{status:?}");
}

#[tokio::test]
async fn the_controller_manager_makes_accounts_and_pods_and_ends_namespaces() {
    let control_plane = ControlPlane::builder().controller_manager(true).start().await.unwrap();
    let client = control_plane.client();
    let namespaces = Api::<Namespace>::all(client.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "team-a"}})).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "team-a");
    until("the default ServiceAccount", async || accounts.get_opt("default").await.unwrap().is_some()).await;

    let deployment = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "contoso.azurecr.io/web:v1"}]},
        }},
    }))
    .unwrap();
    let deployments = Api::<Deployment>::namespaced(client.clone(), "team-a");
    deployments.create(&PostParams::default(), &deployment).await.unwrap();
    let pods = Api::<Pod>::namespaced(client, "team-a");
    until("two pods", async || pods.list(&ListParams::default()).await.unwrap().items.len() == 2).await;

    namespaces.delete("team-a", &DeleteParams::default()).await.unwrap();
    until("the end of the namespace", async || namespaces.get_opt("team-a").await.unwrap().is_none()).await;
}

#[tokio::test]
async fn two_run_at_once_and_know_nothing_of_each_other() {
    let (first, second) = tokio::join!(ControlPlane::builder().start(), ControlPlane::builder().start());
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_ne!(first.url(), second.url());
    assert_ne!(first.new_pod_address(), second.new_pod_address());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "only-here"}})).unwrap();
    Api::<Namespace>::all(first.client()).create(&PostParams::default(), &namespace).await.unwrap();
    let elsewhere = Api::<Namespace>::all(second.client()).get_opt("only-here").await.unwrap();
    assert_eq!(elsewhere, None);
}

#[tokio::test]
async fn the_api_server_comes_back_at_the_same_address_with_the_same_data() {
    let control_plane = ControlPlane::builder().start().await.unwrap();
    let namespaces = Api::<Namespace>::all(control_plane.client());
    let namespace = serde_json::from_value(json!({"metadata": {"name": "kept"}})).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();

    control_plane.stop_api_server();
    assert!(namespaces.get("kept").await.is_err(), "it answers although it was stopped");
    control_plane.start_api_server().await.unwrap();
    // The same client, thus the same port.
    assert!(namespaces.get("kept").await.is_ok());
}

#[tokio::test]
async fn etcd_comes_back_with_the_same_data() {
    let control_plane = ControlPlane::builder().start().await.unwrap();
    let namespaces = Api::<Namespace>::all(control_plane.client());
    let create = async |name: &str| {
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        let parameters = PostParams::default();
        let created = namespaces.create(&parameters, &namespace);
        tokio::time::timeout(Duration::from_secs(5), created).await.is_ok_and(|created| created.is_ok())
    };
    assert!(create("kept").await);
    control_plane.stop_etcd();
    assert!(!create("refused").await, "something was stored although etcd was stopped");
    control_plane.start_etcd().await.unwrap();
    assert!(namespaces.get("kept").await.is_ok());
    assert!(create("later").await);
}

#[tokio::test]
async fn a_backup_brings_back_what_there_was() {
    let control_plane = ControlPlane::builder().start().await.unwrap();
    let namespaces = Api::<Namespace>::all(control_plane.client());
    let create = async |name: &str| {
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        let created = namespaces.create(&PostParams::default(), &namespace).await.unwrap();
        created.metadata.resource_version.unwrap().parse::<u64>().unwrap()
    };
    create("kept").await;
    control_plane.back_up().await.unwrap();
    let mut before = 0;
    for number in 0..50 {
        before = create(&format!("undone-{number}")).await;
    }
    control_plane.restore_backup().await.unwrap();
    assert!(namespaces.get("kept").await.is_ok());
    assert!(namespaces.get_opt("undone-0").await.unwrap().is_none());
    assert!(create("anew").await < before, "versions did not go back");
}

#[tokio::test]
async fn a_watch_from_before_the_history_was_forgotten_is_refused() {
    let control_plane = ControlPlane::builder().start().await.unwrap();
    let namespaces = Api::<Namespace>::all(control_plane.client());
    let before = namespaces.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let namespace = serde_json::from_value(json!({"metadata": {"name": "newer"}})).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let watch = async || {
        let path = format!("/api/v1/namespaces?watch=1&timeoutSeconds=1&resourceVersion={before}");
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        control_plane.client().request_text(request).await.unwrap_or_else(|error| error.to_string())
    };
    let answer = watch().await;
    assert!(answer.contains("newer"), "{answer}");
    control_plane.forget_history().await.unwrap();
    control_plane.restart_api_server().await.unwrap();
    let answer = watch().await;
    assert!(answer.contains("too old resource version") && !answer.contains("newer"), "{answer}");
}

#[tokio::test]
async fn a_webhooks_service_reference_leads_to_the_forwarder_on_the_cluster_ip() {
    let control_plane = ControlPlane::builder().start().await.unwrap();
    let client = control_plane.client();
    let service: Service =
        serde_json::from_value(json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"port": 10443}]}})).unwrap();
    let service = Api::namespaced(client.clone(), "default").create(&PostParams::default(), &service).await.unwrap();
    let cluster_ip: IpAddr = service.spec.unwrap().cluster_ip.unwrap().parse().unwrap();
    let forwarder = ServiceForwarder::start(cluster_ip, 10443).await.unwrap();
    let webhook = TcpListener::bind((control_plane.new_pod_address(), 8443)).await.unwrap();
    forwarder.add_backend(webhook.local_addr().unwrap());

    let configuration: MutatingWebhookConfiguration = serde_json::from_value(json!({
        "metadata": {"name": "hook"},
        "webhooks": [{
            "name": "hook.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": "Ignore", "timeoutSeconds": 1,
            "clientConfig": {"service": {"namespace": "default", "name": "hook", "port": 10443}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE"]}],
        }],
    }))
    .unwrap();
    Api::all(client.clone()).create(&PostParams::default(), &configuration).await.unwrap();

    let hello = tokio::spawn(async move {
        let (mut stream, _) = webhook.accept().await.unwrap();
        let mut hello = vec![0; 4096];
        let length = stream.read(&mut hello).await.unwrap();
        String::from_utf8_lossy(&hello[..length]).into_owned()
    });
    let maps = Api::<ConfigMap>::namespaced(client, "default");
    let map = serde_json::from_value(json!({"metadata": {"generateName": "reviewed-"}})).unwrap();
    until("a call of the webhook", async || {
        maps.create(&PostParams::default(), &map).await.unwrap();
        hello.is_finished()
    })
    .await;
    // The server name of the TLS handshake.
    assert!(hello.await.unwrap().contains("hook.default.svc"));
}

#[tokio::test]
async fn a_program_that_ends_at_the_start_is_reported_with_its_log() {
    let refused = ControlPlane::builder().api_server_argument("--no-such-flag").start().await.unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("kube-apiserver ended before it was ready"), "{text}");
    assert!(text.contains("unknown flag: --no-such-flag"), "{text}");
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "waited 60 s for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
