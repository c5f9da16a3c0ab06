//! The command lines of the three programs.

use std::path::Path;

use crate::admin_credentials::AdminCredentials;

/// etcd, on two loopback ports, without waiting for the disk: the data is thrown away.
pub(super) fn etcd(data: &Path, client_port: u16, peer_port: u16) -> Vec<String> {
    let client = format!("http://127.0.0.1:{client_port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    vec![
        "--name=control-plane".to_owned(),
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=control-plane={peer}"),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

/// kube-apiserver with RBAC on, default admission plugins and default feature gates.
///
/// Service addresses lie in loopback, so that a webhook's service reference, which the API server resolves to the
/// Service's `ClusterIP`, is dialled on this machine.
pub(super) fn api_server(
    credentials: &AdminCredentials,
    directory: &Path,
    etcd_port: u16,
    port: u16,
    services: &str,
) -> Vec<String> {
    vec![
        format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        "--advertise-address=127.0.0.1".to_owned(),
        format!("--cert-dir={}", directory.join("apiserver").display()),
        format!("--tls-cert-file={}", credentials.serving_certificate_file.display()),
        format!("--tls-private-key-file={}", credentials.serving_key_file.display()),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={}", credentials.service_account_public_key_file.display()),
        format!("--service-account-signing-key-file={}", credentials.service_account_key_file.display()),
        format!("--token-auth-file={}", credentials.token_file.display()),
        "--authorization-mode=RBAC".to_owned(),
        format!("--service-cluster-ip-range={services}"),
        "--endpoint-reconciler-type=none".to_owned(),
        "--allow-privileged=true".to_owned(),
    ]
}

/// kube-controller-manager as its own user, with one ServiceAccount per controller, and no port of its own.
pub(super) fn controller_manager(credentials: &AdminCredentials, kubeconfig: &Path) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        "--secure-port=0".to_owned(),
        "--leader-elect=false".to_owned(),
        "--use-service-account-credentials=true".to_owned(),
        format!("--service-account-private-key-file={}", credentials.service_account_key_file.display()),
        format!("--root-ca-file={}", credentials.ca_file.display()),
        // The defaults spare a large cluster; tests make namespaces and Deployments by the dozen.
        "--kube-api-qps=500".to_owned(),
        "--kube-api-burst=1000".to_owned(),
        "--concurrent-namespace-syncs=50".to_owned(),
        "--concurrent-deployment-syncs=20".to_owned(),
        "--concurrent-replicaset-syncs=20".to_owned(),
    ]
}
