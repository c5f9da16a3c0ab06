//! A stored pull secret: its docker config, and the metadata that the watch shows. Who may write Secrets can write anything.

use acr_pull_injector::{
    config::Configuration,
    domain::{
        image::{LoginServer, LoginServerRule},
        pull_secret::{Origin, PullSecret, StoredPullSecret},
        registry::Namespace,
        upkeep,
    },
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

/// The bytes are read as both.
pub(crate) fn check(bytes: &[u8]) {
    docker_config(bytes);
    if let Ok(metadata) = serde_json::from_slice::<ObjectMeta>(bytes) {
        of_metadata(&metadata);
    }
}

/// What is read of it can be written, is what a kubelet reads, and is read the same again.
fn docker_config(bytes: &[u8]) {
    let rule = LoginServerRule::default();
    let Ok(secret) = PullSecret::parse(bytes, |_| None, &rule) else { return };
    let written = secret.docker_config_json();
    let read: Value = serde_json::from_slice(&written).expect("a docker config is JSON");
    let auths = read["auths"].as_object().expect("auths");
    assert!(auths.keys().map(String::as_str).eq(secret.hosts().map(LoginServer::as_str)));
    for entry in auths.values() {
        assert!(
            ["username", "password", "auth"].iter().all(|field| entry[field].as_str().is_some_and(|it| !it.is_empty()))
        );
    }
    assert_eq!(PullSecret::parse(&written, |_| None, &rule).expect("it is a docker config"), secret);
    let metadata =
        ObjectMeta { annotations: Some(secret.annotations()), labels: Some(secret.labels()), ..ObjectMeta::default() };
    let stored = StoredPullSecret::from_metadata(&metadata);
    assert!(stored.hosts.iter().map(|stored| stored.host.as_ref()).eq(secret.hosts().map(LoginServer::as_str)));
}

/// Whatever somebody wrote there, what is to be done can be told.
fn of_metadata(metadata: &ObjectMeta) {
    let stored = StoredPullSecret::from_metadata(metadata);
    let configuration = "registries:\n- {name: all, credential: {static: {username: user, passwordFile: /password}}}\n";
    let settings = Configuration::parse(configuration).unwrap().settings(None);
    let namespace = Namespace { name: "team-a".to_owned(), ..Namespace::default() };
    let now = Timestamp::UNIX_EPOCH;
    if upkeep::upkeep(&stored, &namespace, &settings, now).is_none() && stored.origin == Origin::Ours {
        let login_servers = upkeep::held(&stored, &namespace, &settings);
        assert_eq!(login_servers.len(), stored.hosts.len(), "{stored:?}");
        assert!(stored.covers(login_servers.keys(), now), "of no use, and nothing is done: {stored:?}");
    }
}
