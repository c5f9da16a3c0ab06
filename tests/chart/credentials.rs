//! Credentials: each form of the values becomes a configuration that the program accepts, with its files mounted.

use acr_pull_injector::config::Configuration;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    SHORT_FORM, everything,
    render::{Objects, refuse, render},
    volume_mounted_at,
};

const TOKEN: [&str; 2] = ["--set", "servicePrincipal.existingSecret=sp,servicePrincipal.delivery=token"];
const EVERY_FORM: [&str; 2] = [
    "--set-json",
    r#"registries=[
        {"name": "password", "credential": {"servicePrincipal": {"existingSecret": "a"}}},
        {"name": "secret", "credential": {"servicePrincipal":
            {"existingSecret": "b", "delivery": "token", "clientId": "c", "tenantId": "contoso.example",
             "endDateTime": "2027-11-24T08:00:00Z"}}},
        {"name": "certificate", "credential": {"servicePrincipal":
            {"existingSecret": "d", "delivery": "token", "certificate": true, "certificatePassword": true}}},
        {"name": "files", "credential": {"servicePrincipal": {"delivery": "token", "clientIdFile": "/store/id",
            "tenantIdFile": "/store/tenant", "clientCertificateFile": "/store/pfx", "clientCertificatePasswordFile": "/store/p"}}},
        {"name": "store", "credential": {"servicePrincipal":
            {"clientId": "c", "clientSecretFile": "/store/secret", "endDateTimeFile": "/store/end"}}},
        {"name": "federated", "credential": {"workloadIdentity": {"tenantId": "t", "clientId": "c"}}},
        {"name": "elsewhere", "credential": {"workloadIdentity":
            {"tenantIdFile": "/store/t", "clientIdFile": "/store/c", "tokenFile": "/store/token"}}},
        {"name": "machine", "credential": {"managedIdentity": {}}},
        {"name": "user-assigned", "credential": {"managedIdentity": {"clientId": "c"}}},
        {"name": "scoped", "credential": {"static": {"existingSecret": "e"}}}
    ]"#,
];
/// What does not belong to one registry.
const OTHER_SETTINGS: [&str; 4] = [
    "--set",
    "azure.authorityHost=https://login.microsoftonline.us,azure.caBundle.configMapName=proxy-ca",
    "--set-json",
    r#"registries=[{"name": "a", "hosts": ["contoso.azurecr.us"], "credential": {"managedIdentity": {}}}]"#,
];

/// What the directory of a Secret's files is told apart by.
fn hash(secret: &str) -> String {
    format!("{:x}", Sha256::digest(secret))[..8].to_owned()
}

fn configuration(objects: &Objects) -> &Value {
    &objects["ConfigMap/acr-pull-injector"]["data"]["config.yaml"]
}

#[test]
fn the_program_accepts_every_configuration() {
    let forms = [
        "password",
        "secret",
        "certificate",
        "files",
        "store",
        "federated",
        "elsewhere",
        "machine",
        "user-assigned",
        "scoped",
    ];
    let cases = [
        (render(&[]), vec![]),
        (render(&SHORT_FORM), vec!["default"]),
        (render(&TOKEN), vec!["default"]),
        (render(&everything()), vec!["contoso", "fabrikam"]),
        (render(&EVERY_FORM), forms.to_vec()),
        (render(&OTHER_SETTINGS), vec!["a"]),
    ];
    for (objects, names) in cases {
        let text = configuration(&objects).to_string();
        let parsed = Configuration::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(parsed.rules.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>(), names);
        assert!(parsed.excluded_namespaces.contains("acr-pull-injector"));
    }
}

#[test]
fn the_defaults_of_the_chart_are_those_of_the_program() {
    let mut parsed = Configuration::parse(&configuration(&render(&[])).to_string()).unwrap();
    assert!(parsed.excluded_namespaces.remove("acr-pull-injector"));
    assert_eq!(parsed, Configuration::parse("").unwrap());
}

/// A host that the chart lets through and the program does not would keep new pods from starting.
#[test]
fn the_chart_and_the_program_agree_on_login_servers() {
    let hash = format!("contoso-{}.azurecr.io", "a".repeat(55));
    let long_hash = format!("contoso-{}.azurecr.io", "a".repeat(56));
    let longest = format!("{}.azurecr.io", "a".repeat(50));
    let too_long = format!("{}.azurecr.io", "a".repeat(51));
    let good = [
        "*.azurecr.io",
        "*.azurecr.us",
        "*.example.org",
        "Contoso.azurecr.io",
        "contoso.azurecr.cn:8443",
        "contoso-a1b2.azurecr.io",
        "contoso.eastus.geo.azurecr.io",
        "contoso-a1b2.eastus.geo.azurecr.us",
        "r.example.org",
        "r-1.example.org:65535",
        &hash,
        &longest,
    ];
    let bad = [
        "four.azurecr.io",
        "con-toso-x.azurecr.io",
        "contoso.data.azurecr.io",
        "contoso.eastus.azurecr.io",
        "privatelink.azurecr.io",
        "PrivateLink.example.org",
        "contoso.azurecr.io:65536",
        "contoso.azurecr.io:0",
        "a.b.example.org",
        "example.org",
        "azurecr.io",
        &long_hash,
        &too_long,
    ];
    let registries = |hosts: &[&str]| json!([{"name": "a", "hosts": hosts, "credential": {"managedIdentity": {}}}]);
    let suffix = r#"azure.extraSuffixes=["example.org"]"#;
    let objects = render(&["--set-json", &format!("registries={}", registries(&good)), "--set-json", suffix]);
    Configuration::parse(&configuration(&objects).to_string()).unwrap();
    for host in bad {
        let registries = registries(&[host]);
        let message = refuse(&["--set-json", &format!("registries={registries}"), "--set-json", suffix]);
        assert!(message.contains(&format!("hosts: {host} is no login server")), "{host}: {message}");
        let stated = json!({"registries": registries, "azure": {"extraSuffixes": ["example.org"]}});
        assert!(Configuration::parse(&stated.to_string()).is_err(), "the program takes {host}");
    }
}

#[test]
fn every_file_of_the_configuration_is_mounted_and_may_be_missing() {
    let mut found = 0;
    for objects in [render(&SHORT_FORM), render(&TOKEN), render(&everything()), render(&EVERY_FORM)] {
        let pod = objects["Deployment/acr-pull-injector"].pointer("/spec/template/spec").unwrap();
        for registry in configuration(&objects)["registries"].as_array().unwrap() {
            let credential = registry["credential"].as_object().unwrap().values().next().unwrap();
            let files = credential.as_object().unwrap().iter().filter(|(key, _)| key.ends_with("File"));
            for (key, file) in files.filter(|(_, file)| !file.as_str().unwrap().starts_with("/store/")) {
                let (directory, file_name) = file.as_str().unwrap().rsplit_once('/').unwrap();
                assert_eq!(format!("{file_name}File"), *key);
                let volume = volume_mounted_at(pod, directory);
                assert!(volume["secret"]["optional"] == true || volume["projected"].is_object(), "{volume}");
                found += 1;
            }
        }
    }
    assert_eq!(found, 3 + 4 + 5 + (3 + 1 + 4 + 1 + 2), "each form has its files");
}

#[test]
fn each_form_reads_its_own_keys() {
    let objects = render(&EVERY_FORM);
    let credential = |index: usize| configuration(&objects)["registries"][index]["credential"].clone();
    let file = |entry: &str, key: &str| format!("/etc/acr-pull-injector/credentials/{entry}/{key}");
    let [password, secret, certificate] = [("password", "a"), ("secret", "b"), ("certificate", "d")]
        .map(|(entry, secret)| move |key: &str| file(&format!("{entry}/{}", hash(secret)), key));
    assert_eq!(
        credential(1)["servicePrincipal"],
        json!({
            "delivery": "token", "clientId": "c", "tenantId": "contoso.example", "endDateTime": "2027-11-24T08:00:00Z",
            "clientSecretFile": secret("clientSecret"),
        })
    );
    assert_eq!(credential(0)["servicePrincipal"]["endDateTimeFile"], password("endDateTime"));
    assert_eq!(
        credential(2)["servicePrincipal"],
        json!({
            "delivery": "token", "clientIdFile": certificate("clientId"),
            "tenantIdFile": certificate("tenantId"),
            "clientCertificateFile": certificate("clientCertificate"),
            "clientCertificatePasswordFile": certificate("clientCertificatePassword"),
        })
    );
    assert_eq!(
        credential(5)["workloadIdentity"],
        json!({"tenantId": "t", "clientId": "c", "tokenFile": file("federated", "token")})
    );
    assert_eq!(credential(7), json!({"managedIdentity": {}}));
}

/// A pod of before an upgrade reads the new configuration, but its volumes are those that it began with.
#[test]
fn another_secret_stands_in_another_directory() {
    let directory = |secret: &str| {
        let credential = format!("registries[0].credential.static.existingSecret={secret}");
        let objects = render(&["--set", "registries[0].name=payments", "--set", &credential]);
        let file = &configuration(&objects)["registries"][0]["credential"]["static"]["passwordFile"];
        let directory = file.as_str().unwrap().strip_suffix("/password").unwrap().to_owned();
        let pod = objects["Deployment/acr-pull-injector"].pointer("/spec/template/spec").unwrap();
        assert_eq!(volume_mounted_at(pod, &directory)["secret"]["secretName"], secret);
        directory
    };
    assert_ne!(directory("payments-sp"), directory("public-sp"));
    assert_eq!(directory("payments-sp"), directory("payments-sp"));
}

#[test]
fn a_workload_identity_gets_a_token_for_entra() {
    let audience = |arguments: &[&str]| {
        let objects = render(arguments);
        let pod = objects["Deployment/acr-pull-injector"].pointer("/spec/template/spec").unwrap();
        let volume = volume_mounted_at(pod, "/etc/acr-pull-injector/credentials/federated");
        volume.pointer("/projected/sources/0/serviceAccountToken").unwrap().clone()
    };
    let token = json!({"audience": "api://AzureADTokenExchange", "expirationSeconds": 3600, "path": "token"});
    assert_eq!(audience(&EVERY_FORM), token);
    let other = r#"registries=[{"name": "federated", "credential": {"workloadIdentity":
        {"tenantId": "t", "clientId": "c", "audience": "api://AzureADTokenExchangeChina"}}}]"#;
    assert_eq!(audience(&["--set-json", other])["audience"], "api://AzureADTokenExchangeChina");
}

#[test]
fn a_tenant_is_read_from_the_secret_only_where_it_is_needed() {
    let credential = |arguments: &[&str]| {
        let objects = render(arguments);
        configuration(&objects).pointer("/registries/0/credential/servicePrincipal").unwrap().clone()
    };
    assert_eq!(credential(&SHORT_FORM).get("tenantIdFile"), None);
    assert_eq!(
        credential(&TOKEN)["tenantIdFile"],
        format!("/etc/acr-pull-injector/credentials/default/{}/tenantId", hash("sp"))
    );
    let stated = credential(&[&TOKEN[..], &["--set", "servicePrincipal.tenantId=contoso.example"]].concat());
    assert_eq!((stated.get("tenantIdFile"), &stated["tenantId"]), (None, &json!("contoso.example")));
}

#[test]
fn certificates_to_trust_are_mounted() {
    for (name, kind, key) in [("configMapName", "configMap", "name"), ("secretName", "secret", "secretName")] {
        let objects = render(&["--set", &format!("azure.caBundle.{name}=proxy,azure.caBundle.key=bundle.pem")]);
        assert_eq!(configuration(&objects)["azure"]["caFile"], "/etc/acr-pull-injector/ca/bundle.pem");
        let pod = objects["Deployment/acr-pull-injector"].pointer("/spec/template/spec").unwrap();
        let volume = volume_mounted_at(pod, "/etc/acr-pull-injector/ca");
        assert_eq!((&volume[kind][key], &volume[kind]["optional"]), (&json!("proxy"), &json!(true)));
    }
}
