use super::*;

fn login_servers() -> LoginServerRule {
    LoginServerRule::new(vec!["localhost".parse().unwrap()])
}

fn rule(name: &str, hosts: &[&str], names: &[&str]) -> RegistryRule {
    RegistryRule {
        name: name.parse().unwrap(),
        hosts: hosts.iter().map(|host| HostPattern::parse(host, &login_servers()).unwrap()).collect(),
        namespaces: NamespaceSelector { names: names.iter().map(ToString::to_string).collect(), ..Default::default() },
    }
}

fn namespace(name: &str, labels: &[(&str, &str)]) -> Namespace {
    let labels = labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    Namespace { name: name.to_owned(), labels, terminating: false }
}

/// `+name`: granted by that rule, `-name`: refused by it, empty: no rule.
fn grant(rules: &RegistryRules, host: &str, namespace_name: &str) -> String {
    match rules.grant(&login_servers().parse(host).unwrap(), &namespace(namespace_name, &[])) {
        Grant::Granted(rule) => format!("+{}", rule.name),
        Grant::Refused(rule) => format!("-{}", rule.name),
        Grant::NoRule => String::new(),
    }
}

#[test]
fn the_most_specific_host_wins_whatever_the_order() {
    let mut rules = vec![
        rule("wildcard", &["*.azurecr.io"], &[]),
        rule("host", &["Contoso.azurecr.io"], &[]),
        rule("port", &["contoso.azurecr.io:8443"], &[]),
    ];
    for _ in 0..2 {
        let rules_in_order = RegistryRules::new(login_servers(), rules.clone()).unwrap();
        for (host, expected) in [
            ("contoso.azurecr.io", "+host"),
            ("CONTOSO.azurecr.io", "+host"),
            ("contoso.azurecr.io:443", "+host"),
            ("contoso.azurecr.io:8443", "+port"),
            ("contoso.azurecr.io:08443", "+port"),
            ("fabrikam.azurecr.io", "+wildcard"),
            ("fabrikam.AZURECR.io:443", "+wildcard"),
            ("contoso.eastus.geo.azurecr.io", "+wildcard"),
            ("contoso.azurecr.cn", ""),
            ("contoso.localhost:8443", ""),
        ] {
            assert_eq!(grant(&rules_in_order, host, "team-a"), expected, "{host}");
        }
        rules.reverse();
    }
}

#[test]
fn the_first_rule_of_a_level_that_serves_the_namespace_wins() {
    let rules = vec![
        rule("wildcard", &["*.azurecr.io"], &[]),
        rule("for-b", &["contoso.azurecr.io"], &["b"]),
        rule("for-a-and-b", &["contoso.azurecr.io"], &["a", "b"]),
        rule("port-for-c", &["contoso.azurecr.io:8443"], &["c"]),
    ];
    let rules = RegistryRules::new(login_servers(), rules).unwrap();
    for (host, namespace_name, expected) in [
        ("contoso.azurecr.io", "a", "+for-a-and-b"),
        ("contoso.azurecr.io", "b", "+for-b"),
        ("contoso.azurecr.io", "c", "-for-b"),
        ("contoso.azurecr.io:8443", "c", "+port-for-c"),
        ("contoso.azurecr.io:8443", "a", "-port-for-c"),
        ("fabrikam.azurecr.io", "c", "+wildcard"),
    ] {
        assert_eq!(grant(&rules, host, namespace_name), expected, "{host} in {namespace_name}");
    }
}

#[test]
fn a_rule_counts_with_its_most_specific_host() {
    let rules =
        vec![rule("wildcard", &["*.azurecr.io"], &[]), rule("both", &["*.azurecr.io", "contoso.azurecr.io"], &[])];
    let rules = RegistryRules::new(login_servers(), rules).unwrap();
    assert_eq!(grant(&rules, "contoso.azurecr.io", "a"), "+both");
    assert_eq!(grant(&rules, "fabrikam.azurecr.io", "a"), "+wildcard");
}

#[test]
fn rules_that_do_not_fit_together() {
    let twice = vec![rule("a", &["*.azurecr.io"], &[]), rule("a", &["*.azurecr.cn"], &[])];
    let error = RegistryRules::new(login_servers(), twice).unwrap_err();
    assert_eq!(error, RegistryRulesError::DuplicateName("a".parse().unwrap()));
    let error = RegistryRules::new(login_servers(), vec![rule("a", &[], &[])]).unwrap_err();
    assert_eq!(error, RegistryRulesError::NoHost("a".parse().unwrap()));
}

#[test]
fn host_patterns() {
    for (text, shown) in [
        ("contoso.azurecr.io", "contoso.azurecr.io"),
        ("Contoso.AzureCR.io:0443", "contoso.azurecr.io:443"),
        ("contoso.localhost:5443", "contoso.localhost:5443"),
        ("*.azurecr.io", "*.azurecr.io"),
        ("*.AZURECR.us", "*.azurecr.us"),
        ("*.localhost", "*.localhost"),
    ] {
        assert_eq!(HostPattern::parse(text, &login_servers()).unwrap().to_string(), shown);
    }
    for (text, part_of_the_message) in [
        ("*", "*.azurecr.io, *.azurecr.cn, *.azurecr.us, *.localhost"),
        ("*.example.com", "*.azurecr.io"),
        ("*.geo.azurecr.io", "*.azurecr.io"),
        ("con*.azurecr.io", "*.azurecr.io"),
        ("*.azurecr.io:443", "*.azurecr.io"),
        ("registry.example.com", "azure.extraSuffixes"),
        ("contoso.azurecr.io/app", "host name"),
        ("", "host name"),
    ] {
        let message = HostPattern::parse(text, &login_servers()).unwrap_err().to_string();
        assert!(message.contains(part_of_the_message) && message.contains(&format!("{text:?}")), "{message}");
    }
}

#[test]
fn registry_names() {
    for name in ["a", "contoso", "contoso-2", &"a".repeat(63)] {
        assert_eq!(name.parse::<RegistryName>().unwrap().as_str(), name);
    }
    for name in ["", "-a", "a-", "A", "a_b", "a.b", "a b", "ä", &"a".repeat(64)] {
        assert!(name.parse::<RegistryName>().is_err(), "{name:?}");
    }
}

#[test]
fn label_requirements_mean_what_they_mean_in_kubernetes() {
    let requirement = |operator, values: &[&str]| {
        LabelRequirement::new("tier".to_owned(), operator, values.iter().map(ToString::to_string).collect())
    };
    for (operator, values, with_front, with_back, without) in [
        (LabelOperator::In, vec!["front", "middle"], true, false, false),
        (LabelOperator::NotIn, vec!["front", "middle"], false, true, true),
        (LabelOperator::Exists, vec![], true, true, false),
        (LabelOperator::DoesNotExist, vec![], false, false, true),
    ] {
        let selector = NamespaceSelector {
            match_expressions: vec![requirement(operator, &values).unwrap()],
            ..NamespaceSelector::default()
        };
        let matches = |labels: &[(&str, &str)]| selector.matches(&namespace("a", labels));
        let actual = (matches(&[("tier", "front")]), matches(&[("tier", "back")]), matches(&[("other", "front")]));
        assert_eq!(actual, (with_front, with_back, without), "{operator:?}");
    }
    assert_eq!(requirement(LabelOperator::In, &[]), Err(LabelRequirementError::NoValues("tier".to_owned())));
    assert_eq!(requirement(LabelOperator::NotIn, &[]), Err(LabelRequirementError::NoValues("tier".to_owned())));
    assert_eq!(requirement(LabelOperator::Exists, &["a"]), Err(LabelRequirementError::Values("tier".to_owned())));
    assert_eq!(requirement(LabelOperator::DoesNotExist, &["a"]), Err(LabelRequirementError::Values("tier".to_owned())));
}

#[test]
fn all_parts_of_a_namespace_selector_must_match() {
    assert!(NamespaceSelector::default().matches(&namespace("a", &[])), "the default is every namespace");
    let selector = NamespaceSelector {
        names: BTreeSet::from(["a".to_owned(), "b".to_owned()]),
        match_labels: BTreeMap::from([("team".to_owned(), "payments".to_owned())]),
        match_expressions: vec![
            LabelRequirement::new("legacy".to_owned(), LabelOperator::DoesNotExist, BTreeSet::new()).unwrap(),
        ],
    };
    for (name, labels, expected) in [
        ("a", vec![("team", "payments")], true),
        ("c", vec![("team", "payments")], false),
        ("a", vec![("team", "search")], false),
        ("a", vec![], false),
        ("a", vec![("team", "payments"), ("legacy", "")], false),
    ] {
        assert_eq!(selector.matches(&namespace(name, &labels)), expected, "{name} {labels:?}");
    }
}
