//! `cleanup.onUninstall`: the Job of `helm uninstall`, with what it may do, against a real API server.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use control_plane::ControlPlane;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Namespace, Pod, Secret, ServiceAccount},
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{
    installed::{release, run},
    render::render,
};

const ON: [&str; 2] = ["--set", "cleanup.onUninstall=true"];
const NAMESPACE: &str = "acr-pull-injector";
const NAME: &str = "acr-pull-injector-cleanup";
const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn all_of_it_lives_only_as_long_as_the_job() {
    let objects = render(&ON);
    let kinds = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Job"];
    for kind in kinds {
        let annotations = &objects[&format!("{kind}/{NAME}")]["metadata"]["annotations"];
        assert_eq!(annotations["helm.sh/hook"], "post-delete", "{kind}");
        assert_eq!(annotations["helm.sh/hook-delete-policy"], "before-hook-creation,hook-succeeded", "{kind}");
        let first = annotations["helm.sh/hook-weight"] == "-1";
        assert_eq!(first, kind != "Job", "{kind}");
    }
    assert!(kinds.iter().all(|kind| !render(&[]).contains_key(&format!("{kind}/{NAME}"))));
    let labels = &objects[&format!("Job/{NAME}")]["spec"]["template"]["metadata"]["labels"];
    let selected = &objects["Service/acr-pull-injector"]["spec"]["selector"];
    assert_ne!(labels["app.kubernetes.io/name"], selected["app.kubernetes.io/name"], "the Service must not find it");
}

#[tokio::test]
async fn uninstalling_deletes_the_pull_secrets_and_nothing_else_and_pods_can_be_created() {
    let control_plane = ControlPlane::builder().controller_manager(true).start().await.unwrap();
    let client = control_plane.client();
    // No webhook runs, and with Fail that keeps pods from being created: what an uninstall must undo.
    let fail = ["--set", "webhook.failurePolicy=Fail,servicePrincipal.existingSecret=sp"];
    run(release(control_plane.helm().command(), "install").args(ON).args(fail));
    let managed = json!({"app.kubernetes.io/managed-by": "acr-pull-injector"});
    for (namespace, name, labels) in [
        ("team-a", "acr-pull-secret", &managed),
        ("team-b", "acr-pull-secret", &managed),
        ("team-c", "acr-pull-secret", &json!({})),
        ("team-d", "other", &managed),
    ] {
        let namespace_object = serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace_object).await.unwrap();
        let secret = serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap();
        Api::<Secret>::namespaced(client.clone(), namespace).create(&PostParams::default(), &secret).await.unwrap();
    }

    let refusal = create_pod(&client, "team-a").await.unwrap_err().to_string();
    assert!(refusal.contains("failed calling webhook"), "{refusal}");

    let mut uninstalling = control_plane.helm().command();
    uninstalling.args(["uninstall", "acr-pull-injector", "--namespace", NAMESPACE]);
    let uninstalling = uninstalling.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let jobs: Api<Job> = Api::namespaced(client.clone(), NAMESPACE);
    let job = eventually("the Job", async || jobs.get_opt(NAME).await.unwrap()).await;
    let container = job.spec.unwrap().template.spec.unwrap().containers.remove(0);

    // There is no node: the test runs the container, and says so in its pod's status.
    let kubeconfig = control_plane.service_account_kubeconfig(NAMESPACE, NAME).await.unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_acr-pull-injector"));
    program.args(container.args.unwrap()).env("KUBECONFIG", kubeconfig);
    let output = tokio::task::spawn_blocking(move || program.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    finish_pod(&client).await;

    let output = tokio::task::spawn_blocking(move || uninstalling.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let secrets = Api::<Secret>::all(client.clone()).list(&ListParams::default()).await.unwrap().items;
    let left: Vec<_> = secrets
        .iter()
        .filter_map(|secret| secret.metadata.namespace.as_deref().zip(secret.metadata.name.as_deref()))
        .filter(|(namespace, _)| namespace.starts_with("team-"))
        .collect();
    assert_eq!(left, [("team-c", "acr-pull-secret"), ("team-d", "other")]);
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    assert!(accounts.get_opt(NAME).await.unwrap().is_none(), "the hook left its ServiceAccount");
    create_pod(&client, "team-a").await.unwrap();
}

async fn create_pod(client: &Client, namespace: &str) -> Result<Pod, kube::Error> {
    let account: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    eventually("the default ServiceAccount", async || account.get_opt("default").await.unwrap()).await;
    let containers = json!([{"name": "app", "image": "contoso.azurecr.io/app:v1"}]);
    let pod = serde_json::from_value(json!({"metadata": {"name": "app"}, "spec": {"containers": containers}})).unwrap();
    Api::<Pod>::namespaced(client.clone(), namespace).create(&PostParams::default(), &pod).await
}

async fn finish_pod(client: &Client) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let of_the_job = ListParams::default().labels(&format!("job-name={NAME}"));
    let pod = eventually("the Job's pod", async || pods.list(&of_the_job).await.unwrap().items.pop()).await;
    let status = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    pods.patch_status(&pod.metadata.name.unwrap(), &PatchParams::default(), &status).await.unwrap();
}

async fn eventually<T>(what: &str, probe: impl AsyncFn() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
