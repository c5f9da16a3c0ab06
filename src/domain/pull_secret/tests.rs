use base64::Engine as _;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn login_server(host: &str) -> LoginServer {
    LoginServerRule::default().parse(host).unwrap()
}

fn credential(username: &str, password: &str, expires_at: Option<&str>) -> RegistryCredential {
    let credential = RegistryCredential::stored(username.to_owned(), Password::new(password.to_owned()));
    RegistryCredential { lifetime: expires_at.map(lifetime), ..credential }
}

/// Renewed an hour before it expires.
fn lifetime(expires_at: &str) -> Lifetime {
    let expires_at: Timestamp = expires_at.parse().unwrap();
    Lifetime { renew_at: expires_at - SignedDuration::from_hours(1), expires_at }
}

fn two_hosts() -> PullSecret {
    PullSecret::new(BTreeMap::from([
        (login_server("fabrikam.azurecr.io:443"), credential("token", "s3cret\"\\", Some("2026-11-24T10:00:00Z"))),
        (login_server("Contoso.azurecr.io"), credential("app-id", "pass:word", Some("2026-11-24T09:00:00.5Z"))),
        (login_server("contoso.azurecr.io"), credential("app-id", "pass:word", None)),
    ]))
}

/// As `kubectl create secret docker-registry` writes it: three fields for each host, `auth` in standard base64.
#[test]
fn the_docker_config_is_what_kubectl_writes() {
    let expected = concat!(
        r#"{"auths":{"Contoso.azurecr.io":{"username":"app-id","password":"pass:word","auth":"YXBwLWlkOnBhc3M6d29yZA=="},"#,
        r#""contoso.azurecr.io":{"username":"app-id","password":"pass:word","auth":"YXBwLWlkOnBhc3M6d29yZA=="},"#,
        r#""fabrikam.azurecr.io:443":{"username":"token","password":"s3cret\"\\","auth":"dG9rZW46czNjcmV0Ilw="}}}"#
    );
    assert_eq!(String::from_utf8(two_hosts().docker_config_json()).unwrap(), expected);
    assert_eq!(PullSecret::new(BTreeMap::new()).docker_config_json(), br#"{"auths":{}}"#);
}

#[test]
fn annotations_tell_hosts_times_and_hash() {
    let secret = two_hosts();
    let annotations = secret.annotations();
    assert_eq!(annotations[HOSTS_ANNOTATION], "Contoso.azurecr.io,contoso.azurecr.io,fabrikam.azurecr.io:443");
    assert_eq!(annotations[EXPIRES_AT_ANNOTATION], "2026-11-24T09:00:00.5Z");
    let tokens = "Contoso.azurecr.io=2026-11-24T08:00:00.5Z/2026-11-24T09:00:00.5Z,\
                  fabrikam.azurecr.io:443=2026-11-24T09:00:00Z/2026-11-24T10:00:00Z";
    assert_eq!(annotations[TOKENS_ANNOTATION], tokens);
    assert_eq!(annotations[SOURCE_HASH_ANNOTATION], secret.source_hash());
    assert_eq!(secret.labels()[MANAGED_BY_LABEL], MANAGER);
    let empty = PullSecret::new(BTreeMap::new());
    assert_eq!([EXPIRES_AT_ANNOTATION, TOKENS_ANNOTATION].map(|key| empty.annotations()[key].clone()), ["", ""]);
}

#[test]
fn the_source_hash_follows_hosts_and_sources_but_not_tokens() {
    let hash = |host: &str, parts: &[&str], token: &str| {
        let source = CredentialSourceHash::of(parts);
        let credential = RegistryCredential { source, ..credential("u", token, Some("2026-11-24T09:00:00Z")) };
        PullSecret::new(BTreeMap::from([(login_server(host), credential)])).source_hash()
    };
    let first = hash("contoso.azurecr.io", &["tenant", "client"], "token-1");
    assert_eq!(first, hash("contoso.azurecr.io", &["tenant", "client"], "token-2"), "a renewal changes nothing");
    assert_ne!(first, hash("Contoso.azurecr.io", &["tenant", "client"], "token-1"));
    assert_ne!(first, hash("contoso.azurecr.io", &["tenant", "other"], "token-1"));
    assert_ne!(first, hash("contoso.azurecr.io", &["tenantc", "lient"], "token-1"), "where a part ends counts");
    assert_ne!(credential("u", "p", None).source, credential("u", "q", None).source);
    assert_ne!(credential("u", "p", None).source, credential("v", "p", None).source);
}

#[test]
fn parsing_keeps_what_is_of_use() {
    let stored = json!({"auths": {
        "contoso.azurecr.io": {"username": "u", "password": "p", "auth": "dTpw", "email": "e"},
        "registry.example": {"username": "u", "password": "p"},
        "https://fabrikam.azurecr.io": {"username": "u", "password": "p"},
        "nouser.azurecr.io": {"password": "p"},
        "nopassword.azurecr.io": {"username": "u", "password": ""},
        "number.azurecr.io": {"username": "u", "password": 1},
        "anull.azurecr.io": null,
    }});
    let expires_at = Some("2026-11-24T09:00:00Z");
    let parsed = PullSecret::parse(
        &serde_json::to_vec(&stored).unwrap(),
        |_| expires_at.map(lifetime),
        &LoginServerRule::default(),
    );
    let parsed = parsed.unwrap();
    assert_eq!(parsed.hosts().map(LoginServer::as_str).collect::<Vec<_>>(), ["contoso.azurecr.io"]);
    let kept = parsed.credential(&login_server("contoso.azurecr.io")).unwrap();
    assert_eq!((kept.username.as_str(), kept.password.expose()), ("u", "p"));
    assert_eq!(kept.lifetime, expires_at.map(lifetime));
    assert_ne!(kept.source, credential("u", "p", None).source, "what was kept is not taken for what is stored now");
}

#[test]
fn an_error_of_parsing_does_not_quote_the_secret() {
    for stored in ["", "{}", r#"{"auths":"s3cret"}"#, r#"{"auths":["s3cret"]}"#, r#""s3cret""#, "s3cret"] {
        let error = PullSecret::parse(stored.as_bytes(), |_| None, &LoginServerRule::default()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }
}

#[test]
fn a_password_does_not_show() {
    let secret =
        PullSecret::new(BTreeMap::from([(login_server("contoso.azurecr.io"), credential("u", "s3cret", None))]));
    assert!(!format!("{secret:?} {secret:#?}").contains("s3cret"));
}

#[test]
fn names_of_secrets() {
    for name in ["a", "acr-pull-secret", "a.b-c.9", &"a".repeat(253)] {
        assert_eq!(name.parse::<PullSecretName>().unwrap().as_str(), name);
    }
    for name in ["", "A", "-a", "a-", ".a", "a.", "a..b", "a.-b", "a_b", "ä", "a/b", &"a".repeat(254)] {
        assert!(name.parse::<PullSecretName>().is_err(), "{name:?}");
    }
}

/// Metadata as the API server shows it after our server-side apply of `secret`.
fn stored_metadata(secret: &PullSecret) -> ObjectMeta {
    serde_json::from_value(json!({
        "uid": "u-1",
        "resourceVersion": "42",
        "labels": secret.labels(),
        "annotations": secret.annotations(),
        "managedFields": [{
            "manager": MANAGER, "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:data": {"f:.dockerconfigjson": {}},
                "f:metadata": {"f:annotations": annotations(&[HOSTS_ANNOTATION, TOKENS_ANNOTATION, SOURCE_HASH_ANNOTATION]), "f:labels": {}},
                "f:type": {},
            },
        }],
    }))
    .unwrap()
}

/// As `managedFields` lists annotations.
fn annotations(keys: &[&str]) -> Value {
    keys.iter().map(|key| (format!("f:{key}"), json!({}))).collect()
}

fn owner(manager: &str, fields: &Value) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry {
    serde_json::from_value(json!({"manager": manager, "operation": "Update", "fieldsV1": fields})).unwrap()
}

#[test]
fn what_we_wrote_is_recognised() {
    let secret = two_hosts();
    let stored = StoredPullSecret::from_metadata(&stored_metadata(&secret));
    assert_eq!(
        stored,
        StoredPullSecret {
            origin: Origin::Ours,
            hosts: ["Contoso.azurecr.io", "contoso.azurecr.io", "fabrikam.azurecr.io:443"]
                .map(|host| StoredHost {
                    host: host.into(),
                    lifetime: secret.credential(&login_server(host)).unwrap().lifetime
                })
                .into(),
            source_hash: Some(secret.source_hash()),
            untouched: true,
            uid: "u-1".to_owned(),
            resource_version: "42".to_owned(),
        }
    );
    assert!(stored.covers(secret.hosts(), "2026-11-24T08:00:00Z".parse().unwrap()));
}

#[test]
fn what_does_not_cover() {
    let now: Timestamp = "2026-11-24T08:00:00Z".parse().unwrap();
    let secret = two_hosts();
    let covers = |change: &dyn Fn(&mut ObjectMeta)| {
        let mut metadata = stored_metadata(&secret);
        change(&mut metadata);
        StoredPullSecret::from_metadata(&metadata).covers(secret.hosts(), now)
    };
    let annotate = |metadata: &mut ObjectMeta, key: &str, value: &str| {
        metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
    };
    assert!(covers(&|_| {}));
    assert!(covers(&|metadata| annotate(metadata, "other", "x")));
    assert!(!covers(&|metadata| metadata.labels = None), "not ours: no label");
    assert!(
        !covers(&|metadata| metadata
            .labels
            .get_or_insert_default()
            .extend([(MANAGED_BY_LABEL.to_owned(), "Helm".to_owned())])),
        "not ours: another's label"
    );
    assert!(!covers(&|metadata| annotate(metadata, HOSTS_ANNOTATION, "contoso.azurecr.io")), "a host is missing");
    assert!(
        !covers(&|metadata| annotate(
            metadata,
            HOSTS_ANNOTATION,
            "CONTOSO.azurecr.io,contoso.azurecr.io,fabrikam.azurecr.io:443"
        )),
        "another spelling does not count"
    );
    let now_and_later = "Contoso.azurecr.io=2026-11-24T07:00:00Z/2026-11-24T08:00:00Z,fabrikam.azurecr.io:443=";
    let later = "2026-11-24T09:00:00Z/2026-11-24T10:00:00Z";
    for (tokens, reason) in [
        (format!("{now_and_later}{later}"), "one expires now"),
        (format!("Contoso.azurecr.io={later},fabrikam.azurecr.io:443=soon"), "times that cannot be read"),
    ] {
        assert!(!covers(&|metadata| annotate(metadata, TOKENS_ANNOTATION, &tokens)), "{reason}");
        let mut metadata = stored_metadata(&secret);
        annotate(&mut metadata, TOKENS_ANNOTATION, &tokens);
        let other = [login_server("contoso.azurecr.io")];
        assert!(StoredPullSecret::from_metadata(&metadata).covers(&other, now), "{reason}, of another");
    }
    assert!(!covers(&|metadata| metadata.annotations = None), "no annotations");
}

/// Whoever may write annotations chooses how long they are.
#[test]
fn little_is_kept_of_what_somebody_else_wrote() {
    let kept = |change: &dyn Fn(&mut ObjectMeta)| {
        let mut metadata = stored_metadata(&two_hosts());
        let many: Vec<_> = (0..50_000).map(|number| format!("a{number}")).collect();
        let long = ["contoso.azurecr.io".to_owned(), "a".repeat(200_000)];
        let hash = ("x".repeat(200_000), SOURCE_HASH_ANNOTATION);
        let values = [(many.join(","), HOSTS_ANNOTATION), (long.join(","), HOSTS_ANNOTATION), hash];
        values.map(|(value, key)| {
            metadata.annotations.get_or_insert_default().insert(key.to_owned(), value);
            change(&mut metadata);
            let stored = StoredPullSecret::from_metadata(&metadata);
            let bytes = stored.hosts.iter().map(|host| host.host.len()).sum::<usize>()
                + stored.source_hash.map_or(0, |it| it.len());
            (bytes, stored.untouched)
        })
    };
    let ours = kept(&|_| {});
    assert!(ours.iter().all(|(bytes, _)| *bytes < 10_000), "{ours:?}");
    assert!(!ours[0].1 && !ours[1].1, "it is not what we wrote, so it is mended");
    let foreign = kept(&|metadata| metadata.labels = None);
    assert!(foreign.iter().all(|(bytes, _)| *bytes == 0), "{foreign:?}");
}

#[test]
fn a_pull_secret_is_untouched_while_we_own_data_and_hosts() {
    let all = [HOSTS_ANNOTATION, TOKENS_ANNOTATION, SOURCE_HASH_ANNOTATION];
    let annotated = |keys: &[&str]| json!({"f:metadata": {"f:annotations": annotations(keys)}});
    let hosts = annotated(&all);
    let data = json!({"f:data": {"f:.dockerconfigjson": {}}});
    let both = json!({"f:data": data["f:data"], "f:metadata": hosts["f:metadata"]});
    let labels = json!({"f:metadata": {"f:labels": {"f:team": {}}}});
    let other_data = json!({"f:data": {"f:other": {}}});
    let rows = [
        ("we alone", vec![owner(MANAGER, &both)], true),
        ("we, in two parts", vec![owner(MANAGER, &data), owner("acr-pull-injector-0a1b2c3d", &hosts)], true),
        ("another owns a label", vec![owner("kubectl-label", &labels), owner(MANAGER, &both)], true),
        ("another owns other data", vec![owner(MANAGER, &both), owner("kubectl", &other_data)], true),
        ("another who applied the same", vec![owner(MANAGER, &both), owner("argocd", &data)], true),
        ("another has the data", vec![owner(MANAGER, &hosts), owner("kubectl-edit", &data)], false),
        ("another has the hosts", vec![owner(MANAGER, &data), owner("kubectl-edit", &hosts)], false),
        ("another has the tokens", vec![owner(MANAGER, &data), owner(MANAGER, &annotated(&[all[0], all[2]]))], false),
        ("another has the hash", vec![owner(MANAGER, &data), owner(MANAGER, &annotated(&all[..2]))], false),
        ("nobody", vec![owner(MANAGER, &labels)], false),
        ("no managed fields", vec![], false),
    ];
    for (name, managed_fields, expected) in rows {
        let metadata = ObjectMeta { managed_fields: Some(managed_fields), ..ObjectMeta::default() };
        assert_eq!(StoredPullSecret::from_metadata(&metadata).untouched, expected, "{name}");
    }
}

fn any_pull_secret() -> impl Strategy<Value = PullSecret> {
    let host =
        "[a-zA-Z0-9]{5,12}(-[a-z0-9]{1,8})?\\.(azurecr\\.(io|cn|us)|eastus\\.geo\\.azurecr\\.io)(:[1-9][0-9]{0,3})?";
    let credentials = (host, "[^:]{1,20}", ".{1,40}")
        .prop_map(|(host, username, password)| (login_server(&host), credential(&username, &password, None)));
    proptest::collection::btree_map("[0-9]", credentials, 0..5)
        .prop_map(|entries| PullSecret::new(entries.into_values().collect()))
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(secret in any_pull_secret()) {
        let written = secret.docker_config_json();
        let read = PullSecret::parse(&written, |_| None, &LoginServerRule::default()).unwrap();
        prop_assert!(read.hosts().eq(secret.hosts()));
        prop_assert_eq!(read.docker_config_json(), written);
    }

    /// The kubelet takes user name and password from `auth`, cut at the first colon.
    #[test]
    fn auth_says_the_same_as_user_name_and_password(secret in any_pull_secret()) {
        let written: Value = serde_json::from_slice(&secret.docker_config_json()).unwrap();
        for login_server in secret.hosts() {
            let credential = secret.credential(login_server).unwrap();
            let auth = written["auths"][login_server.as_str()]["auth"].as_str().unwrap();
            let decoded = String::from_utf8(STANDARD.decode(auth).unwrap()).unwrap();
            prop_assert_eq!(decoded.split_once(':').unwrap(), (credential.username.as_str(), credential.password.expose()));
        }
    }

    #[test]
    fn reading_never_panics(stored in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = PullSecret::parse(&stored, |_| None, &LoginServerRule::default());
    }
}
