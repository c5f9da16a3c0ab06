//! Conditions of the templates that no single value stands for: each of them both ways.

use serde_json::{Value, json};

use crate::{
    EVERY_BUILT_IN_KIND, everything, find_null,
    render::{Objects, render, render_as},
};

const DEPLOYMENT: &str = "Deployment/acr-pull-injector";

fn pod(objects: &Objects) -> &Value {
    objects[DEPLOYMENT].pointer("/spec/template/spec").unwrap()
}

#[test]
fn what_is_set_to_null_is_left_out() {
    let everywhere = [
        ("strategy", "/spec/strategy"),
        ("podSecurityContext", "/spec/template/spec/securityContext"),
        ("nodeSelector", "/spec/template/spec/nodeSelector"),
        ("topologySpreadConstraints", "/spec/template/spec/topologySpreadConstraints"),
        ("resources", "/spec/template/spec/containers/0/resources"),
        ("securityContext", "/spec/template/spec/containers/0/securityContext"),
    ];
    let nulls: Vec<_> = everywhere.iter().map(|(value, _)| format!("{value}=null")).collect();
    let probes = "livenessProbe=null,readinessProbe=null,tolerations=null,affinity=null";
    let objects = render(&["--set", &nulls.join(","), "--set", probes]);
    let defaults = render(&[]);
    for (value, pointer) in everywhere {
        assert!(defaults[DEPLOYMENT].pointer(pointer).is_some(), "{value}");
        assert_eq!(objects[DEPLOYMENT].pointer(pointer), None, "{value}");
    }
    for (name, object) in &objects {
        assert_eq!(find_null(object, name), None);
    }
    let container = &pod(&objects)["containers"][0];
    assert_eq!(container["livenessProbe"], json!({"httpGet": {"path": "/livez", "port": "admin"}}));
    assert_eq!(container["readinessProbe"], json!({"httpGet": {"path": "/readyz", "port": "admin"}}));
}

/// As values.yaml says for `OpenShift`.
#[test]
fn a_user_can_be_left_to_the_cluster() {
    let objects = render(&["--set", "podSecurityContext.runAsUser=null,podSecurityContext.runAsGroup=null"]);
    let context = &pod(&objects)["securityContext"];
    assert_eq!(context["runAsNonRoot"], true);
    assert_eq!((context.get("runAsUser"), context.get("runAsGroup")), (None, None));
}

#[test]
fn pods_of_this_release_are_spread_unless_a_selector_says_otherwise() {
    let constraint = r#"topologySpreadConstraints=[{"topologyKey": "rack", "maxSkew": 1,
        "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": "others"}}}]"#;
    let selector = |objects: &Objects| pod(objects)["topologySpreadConstraints"][0]["labelSelector"].clone();
    assert_eq!(selector(&render(&["--set-json", constraint])), json!({"matchLabels": {"app": "others"}}));
    let defaults = render(&[]);
    assert_eq!(selector(&defaults), defaults[DEPLOYMENT]["spec"]["selector"]);
}

#[test]
fn a_release_that_says_what_it_is_gives_its_name_to_everything() {
    assert!(render_as("shop", "shop", &[]).contains_key("Deployment/shop-acr-pull-injector"));
    assert!(render_as("my-acr-pull-injector", "shop", &[]).contains_key("Deployment/my-acr-pull-injector"));
    let long = "a".repeat(53);
    let objects = render_as(&long, "shop", &[]);
    let names = objects.values().map(|object| object["metadata"]["name"].as_str().unwrap());
    assert!(names.into_iter().all(|name| name.len() <= 63), "{:?}", objects.keys());
}

#[test]
fn the_guard_lets_the_serving_certificate_pass_only_where_the_webhook_writes_it() {
    let conditions = |arguments: &[&str]| {
        let guard = render(arguments).remove("ValidatingAdmissionPolicy/acr-pull-injector-guard").unwrap();
        let conditions = guard["spec"]["matchConditions"].as_array().unwrap().clone();
        conditions.into_iter().map(|condition| condition["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(conditions(&[]), ["only-our-service-account", "not-the-serving-certificate"]);
    assert_eq!(conditions(&crate::values::OWN_CERTIFICATE), ["only-our-service-account"]);
}

#[test]
fn a_managed_identity_may_ask_its_machine_through_the_network_policy() {
    let egress = |credential: &str| {
        let registries = format!(r#"registries=[{{"name": "a", "credential": {credential}}}]"#);
        let policy = render(&["--set", "networkPolicy.enabled=true", "--set-json", &registries]);
        policy["NetworkPolicy/acr-pull-injector"]["spec"]["egress"].as_array().unwrap().clone()
    };
    let machine = json!({
        "ports": [{"port": 80, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "169.254.169.254/32"}}],
    });
    assert_eq!(egress(r#"{"managedIdentity": {}}"#).last(), Some(&machine));
    let others = egress(r#"{"static": {"existingSecret": "b"}}"#);
    assert!(!others.contains(&machine));
    assert_eq!(others.len(), 2, "names; the API server and Azure");
}

#[test]
fn the_cleanup_job_runs_where_and_how_the_webhook_does() {
    let objects = render(&[
        "--set",
        "cleanup.onUninstall=true,extraEnv[0].name=HTTPS_PROXY,extraEnv[0].value=http://proxy.example",
        "--set",
        "tolerations[0].operator=Exists,priorityClassName=critical,imagePullSecrets[0].name=own,image.tag=t",
    ]);
    let job = objects["Job/acr-pull-injector-cleanup"].pointer("/spec/template/spec").unwrap();
    for key in ["tolerations", "priorityClassName", "imagePullSecrets", "securityContext", "nodeSelector"] {
        assert!(job.get(key).is_some(), "{key}");
        assert_eq!(job[key], pod(&objects)[key], "{key}");
    }
    let container = |pod: &Value, key: &str| pod["containers"][0][key].clone();
    for key in ["image", "imagePullPolicy", "resources", "securityContext"] {
        assert_eq!(container(job, key), container(pod(&objects), key), "{key}");
    }
    assert_eq!(container(job, "env"), json!([{"name": "HTTPS_PROXY", "value": "http://proxy.example"}]));
    let without = render(&["--set", "cleanup.onUninstall=true"]);
    assert_eq!(without["Job/acr-pull-injector-cleanup"].pointer("/spec/template/spec/containers/0/env"), None);
}

/// On the node's network a node has room for one pod, so one more than there are nodes would never start.
#[test]
fn on_the_nodes_network_a_pod_goes_before_the_next_one_comes() {
    let strategy = |set: &str| render(&["--set", set])[DEPLOYMENT]["spec"]["strategy"]["rollingUpdate"].clone();
    let (added, replaced) = (json!({"maxUnavailable": 0, "maxSurge": 1}), json!({"maxUnavailable": 1, "maxSurge": 0}));
    assert_eq!(strategy("hostNetwork=false"), added);
    assert_eq!(strategy("hostNetwork=true"), replaced);
    assert_eq!(strategy("hostNetwork=true,replicaCount=1"), added, "the only one is not taken away");
    let own = strategy("hostNetwork=true,strategy.rollingUpdate.maxSurge=2");
    assert_eq!(own, json!({"maxUnavailable": 0, "maxSurge": 2}), "who says otherwise has it so");
    let recreate = render(&["--set", "hostNetwork=true,strategy.type=Recreate,strategy.rollingUpdate=null"]);
    assert_eq!(recreate[DEPLOYMENT]["spec"]["strategy"], json!({"type": "Recreate"}));
    assert_eq!(render(&["--set", "hostNetwork=true,strategy=null"])[DEPLOYMENT].pointer("/spec/strategy"), None);
}

#[test]
fn names_are_found_where_dns_listens_on_another_port() {
    let policy = render(&["--set", "networkPolicy.enabled=true"]);
    let ports = policy["NetworkPolicy/acr-pull-injector"].pointer("/spec/egress/0/ports").unwrap();
    let expected = [(53, "UDP"), (53, "TCP"), (5353, "UDP"), (5353, "TCP")];
    assert_eq!(ports, &json!(expected.map(|(port, protocol)| json!({"port": port, "protocol": protocol}))));
}

/// YAML takes a name of digits for a number, which Kubernetes refuses.
#[test]
fn a_name_of_digits_stays_text() {
    fn check(value: &Value, path: &str) -> usize {
        match value {
            Value::Object(fields) => fields.iter().map(|(key, value)| check(value, &format!("{path}/{key}"))).sum(),
            Value::Array(items) => items.iter().map(|value| check(value, path)).sum(),
            Value::String(text) => usize::from(text == "123"),
            other => {
                assert_ne!(other, &json!(123), "{path}");
                0
            }
        }
    }
    let names = "nameOverride=123,serviceAccount.name=123,webhook.configurationName=123,pullSecretName=123";
    let by_cert_manager = everything();
    for arguments in [&[][..], &EVERY_BUILT_IN_KIND, &by_cert_manager] {
        let arguments = [arguments, &["--set-string", names]].concat();
        let found: usize = render_as("123", "123", &arguments).iter().map(|(name, object)| check(object, name)).sum();
        assert!(found > 50, "{found}");
    }
}
