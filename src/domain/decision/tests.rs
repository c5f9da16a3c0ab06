use super::*;
use crate::{
    image::LoginServerRule,
    registry::{HostPattern, NamespaceSelector, RegistryRule},
    review,
};

fn settings() -> Settings {
    let login_servers = LoginServerRule::default();
    let rule = |name: &str, host: &str, names: &[&str]| RegistryRule {
        name: name.parse().unwrap(),
        hosts: vec![HostPattern::parse(host, &login_servers).unwrap()],
        namespaces: NamespaceSelector { names: names.iter().map(ToString::to_string).collect(), ..Default::default() },
    };
    let rules = vec![rule("contoso", "contoso.azurecr.io", &[]), rule("fabrikam", "fabrikam.azurecr.io", &["team-b"])];
    Settings {
        pull_secret_name: "acr-pull-secret".parse().unwrap(),
        excluded_namespaces: BTreeSet::from(["acr-pull-injector".to_owned()]),
        rules: RegistryRules::new(login_servers, rules).unwrap(),
        limits: Limits::default(),
    }
}

fn pod_json(images: &[&str], metadata: &str) -> String {
    let containers: Vec<String> = images.iter().map(|image| format!("{{\"image\":{image:?}}}")).collect();
    format!("{{\"metadata\":{{{metadata}}},\"spec\":{{\"containers\":[{}]}}}}", containers.join(","))
}

fn step_1(images: &[&str], metadata: &str, namespace_name: &str) -> Result<BTreeSet<LoginServer>, SkipReason> {
    let json = pod_json(images, metadata);
    let Ok(pod) = review::parse_pod(&json) else { panic!("{json}") };
    login_servers(&pod, namespace_name, &settings())
}

#[test]
fn step_1_collects_login_servers_once_each_as_spelled() {
    let images = [
        "nginx",
        "contoso.azurecr.io/b",
        "contoso.azurecr.io/a:v1",
        "Contoso.azurecr.io/a",
        "contoso.azurecr.io:443/a",
        "unknown.azurecr.io/a",
        "contoso.azurecr.io/NOT-AN-IMAGE",
    ];
    let found = step_1(&images, "", "team-a").unwrap();
    assert_eq!(
        found.iter().map(LoginServer::as_str).collect::<Vec<_>>(),
        ["Contoso.azurecr.io", "contoso.azurecr.io", "contoso.azurecr.io:443", "unknown.azurecr.io"]
    );
}

#[test]
fn step_1_looks_at_so_many_images_and_no_more() {
    let other = r#"{"image":"nginx"},{"image":""},{},"#;
    for (containers, init_containers, is_seen) in
        [(999, 0, true), (1000, 0, false), (500, 499, true), (500, 500, false)]
    {
        let volumes = r#""volumes":[{},{"image":{"reference":"contoso.azurecr.io/a"}}]"#;
        let init_containers = format!(r#""initContainers":[{}{{}}]"#, other.repeat(init_containers));
        let containers = format!(r#""containers":[{}{{}}]"#, other.repeat(containers));
        let json = format!(r#"{{"spec":{{{volumes},{init_containers},{containers}}}}}"#);
        let found = login_servers(&review::parse_pod(&json).unwrap(), "team-a", &settings());
        assert_eq!(found.is_ok(), is_seen, "{found:?}");
    }
}

#[test]
fn step_1_looks_at_so_many_login_servers_and_no_more() {
    let images = |count: usize| (0..count).map(|number| format!("registry{number}.azurecr.io/a")).collect::<Vec<_>>();
    for (count, expected, is_warned) in [(255, 255, false), (256, 256, true), (20_000, 256, true)] {
        let images = images(count);
        let found = step_1(&images.iter().map(String::as_str).collect::<Vec<_>>(), "", "team-a").unwrap();
        assert_eq!(found.len(), expected, "{count}");
        assert!(found.iter().all(|host| host.as_str().len() <= "registry255.azurecr.io".len()), "the first are taken");

        let review =
            review::parse(include_bytes!("../../../tests/fixtures/review-create-replicaset-pod.json")).unwrap();
        let review::Subject::PodCreation(pod) = &review.subject else { panic!() };
        let decision = decide(found, &namespace("team-a"), &settings());
        let response = decision.respond(Response::allowed(&review), pod, &settings());
        let first = response.warnings()[0].as_str();
        assert_eq!(first.contains("only the first 256 login servers of a pod are looked at"), is_warned, "{first}");
        assert!(response.warnings().len() <= 32, "{} warnings", response.warnings().len());
    }
}

#[test]
fn step_1_leaves_some_pods_alone() {
    let acr = ["contoso.azurecr.io/app"];
    let mirror = r#""annotations":{"kubernetes.io/config.mirror":"x"}"#;
    let opted_out = r#""labels":{"acr-pull-injector.io/inject":"disabled"}"#;
    for (name, images, metadata, namespace_name, expected) in [
        ("kube-system is excluded though not listed", &acr[..], "", "kube-system", SkipReason::ExcludedNamespace),
        ("listed namespace", &acr[..], "", "acr-pull-injector", SkipReason::ExcludedNamespace),
        ("mirror pod", &acr[..], mirror, "team-a", SkipReason::MirrorPod),
        ("opted out pod", &acr[..], opted_out, "team-a", SkipReason::PodOptedOut),
        ("other images", &["nginx", "mcr.microsoft.com/a"][..], "", "team-a", SkipReason::NoRegistryImage),
        ("no image", &[][..], "", "team-a", SkipReason::NoRegistryImage),
    ] {
        assert_eq!(step_1(images, metadata, namespace_name), Err(expected), "{name}");
    }
    let references = "{},".repeat(1000);
    let json = format!(
        r#"{{"spec":{{"containers":[{{"image":"contoso.azurecr.io/app"}}],"imagePullSecrets":[{references}{{}}]}}}}"#
    );
    let pod = review::parse_pod(&json).unwrap();
    assert_eq!(login_servers(&pod, "team-a", &settings()), Err(SkipReason::TooManyPullSecrets));
}

fn hosts(hosts: &[&str]) -> BTreeSet<LoginServer> {
    hosts.iter().map(|host| LoginServerRule::default().parse(host).unwrap()).collect()
}

fn namespace(name: &str) -> Namespace {
    Namespace { name: name.to_owned(), ..Namespace::default() }
}

fn ungranted(host: &str, rule: Option<&str>) -> Ungranted {
    Ungranted {
        login_server: LoginServerRule::default().parse(host).unwrap(),
        rule: rule.map(|rule| rule.parse().unwrap()),
    }
}

#[test]
fn step_2_divides_what_is_granted_from_what_is_not() {
    let login_servers = hosts(&["contoso.azurecr.io", "fabrikam.azurecr.io", "unknown.azurecr.io"]);
    let Decision::Inject(injection) = decide(login_servers, &namespace("team-a"), &settings()) else { panic!() };
    let granted: Vec<_> = injection.granted.iter().map(|(host, rule)| (host.as_str(), rule.as_str())).collect();
    assert_eq!(granted, [("contoso.azurecr.io", "contoso")]);
    assert_eq!(
        injection.ungranted,
        [ungranted("fabrikam.azurecr.io", Some("fabrikam")), ungranted("unknown.azurecr.io", None)]
    );
}

#[test]
fn step_2_skips_when_nothing_is_granted() {
    assert_eq!(
        decide(hosts(&["fabrikam.azurecr.io"]), &namespace("team-a"), &settings()),
        Decision::Skip(SkipReason::NothingGranted(vec![ungranted("fabrikam.azurecr.io", Some("fabrikam"))]))
    );
    assert!(matches!(decide(hosts(&["fabrikam.azurecr.io"]), &namespace("team-b"), &settings()), Decision::Inject(_)));
}

#[test]
fn step_2_respects_the_namespace() {
    let decide = |namespace: &Namespace| decide(hosts(&["contoso.azurecr.io"]), namespace, &settings());
    let mut team_a = namespace("team-a");
    team_a.labels.insert(OPT_OUT_LABEL.to_owned(), "disabled".to_owned());
    assert_eq!(decide(&team_a), Decision::Skip(SkipReason::NamespaceOptedOut));
    team_a.labels.insert(OPT_OUT_LABEL.to_owned(), "enabled".to_owned());
    assert!(matches!(decide(&team_a), Decision::Inject(_)));
    team_a.terminating = true;
    assert_eq!(decide(&team_a), Decision::Skip(SkipReason::NamespaceTerminating));
}

#[test]
fn a_warning_names_host_rule_and_remedy() {
    assert_eq!(
        ungranted("fabrikam.azurecr.io", Some("fabrikam")).to_string(),
        "no pull secret for fabrikam.azurecr.io: registry fabrikam does not serve this namespace; see its namespaces setting"
    );
    assert_eq!(
        ungranted("unknown.azurecr.io", None).to_string(),
        "no pull secret for unknown.azurecr.io: no registry covers it; add it to the hosts of one"
    );
}

#[test]
fn the_answer_carries_the_patch_and_a_warning_for_what_is_not_granted() {
    let review = review::parse(include_bytes!("../../../tests/fixtures/review-create-replicaset-pod.json")).unwrap();
    let review::Subject::PodCreation(pod) = &review.subject else { panic!() };
    let respond = |namespace_name: &str| {
        let login_servers = login_servers(pod, namespace_name, &settings()).unwrap();
        let response = Response::allowed(&review);
        let answer = decide(login_servers, &namespace(namespace_name), &settings()).respond(response, pod, &settings());
        (answer.patch().is_some(), answer.warnings().to_vec())
    };
    assert_eq!(respond("team-b"), (true, vec![]));
    let warning = Warning::new(format!("acr-pull-injector: {}", ungranted("fabrikam.azurecr.io", Some("fabrikam"))));
    assert_eq!(respond("team-a"), (true, vec![warning.clone()]));

    let nothing_granted = SkipReason::NothingGranted(vec![ungranted("fabrikam.azurecr.io", Some("fabrikam"))]);
    let answer = Decision::Skip(nothing_granted).respond(Response::allowed(&review), pod, &settings());
    assert_eq!((answer.patch(), answer.warnings()), (None, &[warning][..]));
    let answer = Decision::Skip(SkipReason::NamespaceOptedOut).respond(Response::allowed(&review), pod, &settings());
    assert_eq!((answer.patch(), answer.warnings()), (None, &[][..]));
}
