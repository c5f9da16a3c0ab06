//! What a pull secret that stands in a namespace needs, seen from its metadata.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{
    decision::{Settings, opted_out},
    image::LoginServer,
    pull_secret::{Lifetime, Origin, StoredPullSecret},
    registry::{Grant, Namespace, RegistryName},
};

/// What is to be done with a pull secret. The order is that of urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Upkeep {
    /// Take away what the namespace may not have any more.
    Withdraw,
    /// Put right what somebody changed.
    Repair,
    /// Replace a token before it expires.
    Renew,
}

/// What this pull secret needs now; `None` when it is right, or not ours, or goes away with its namespace.
pub fn upkeep(stored: &StoredPullSecret, namespace: &Namespace, settings: &Settings, now: Timestamp) -> Option<Upkeep> {
    if stored.origin == Origin::Foreign || namespace.terminating {
        return None;
    }
    if settings.excludes(&namespace.name) || opted_out(namespace) {
        return Some(Upkeep::Withdraw);
    }
    if !stored.untouched {
        return Some(Upkeep::Repair);
    }
    if held(stored, namespace, settings).len() < stored.hosts.len() {
        return Some(Upkeep::Withdraw);
    }
    let is_due = |lifetime: Lifetime| {
        !lifetime.is_good(now)
            || now >= lifetime.renew_at + spread(&namespace.name, lifetime.expires_at.duration_since(lifetime.renew_at))
    };
    stored.hosts.iter().filter_map(|host| host.lifetime).any(is_due).then_some(Upkeep::Renew)
}

/// The login servers that the pull secret holds and that the namespace is still granted, each with the rule that does.
pub fn held(
    stored: &StoredPullSecret,
    namespace: &Namespace,
    settings: &Settings,
) -> BTreeMap<LoginServer, RegistryName> {
    let login_servers = stored.hosts.iter().filter_map(|host| settings.rules.login_servers().parse(&host.host).ok());
    granted(login_servers, namespace, settings)
}

/// Those of the login servers that the namespace is granted, each with the rule that does.
pub fn granted(
    login_servers: impl Iterator<Item = LoginServer>,
    namespace: &Namespace,
    settings: &Settings,
) -> BTreeMap<LoginServer, RegistryName> {
    if settings.excludes(&namespace.name) || opted_out(namespace) {
        return BTreeMap::new();
    }
    login_servers
        .filter_map(|login_server| match settings.rules.grant(&login_server, namespace) {
            Grant::Granted(rule) => Some((login_server, rule.name.clone())),
            Grant::Refused(_) | Grant::NoRule => None,
        })
        .collect()
}

/// Up to a fifth of the time that is left when a renewal falls due, by the name of the namespace: all pull secrets with one
/// token fall due in the same instant, and this keeps them from being written in the same minute.
fn spread(namespace_name: &str, left: SignedDuration) -> SignedDuration {
    // FNV-1a, folded: it only has to scatter names that are alike, the same way on every replica.
    let hash = namespace_name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let share = i32::from(hash.to_le_bytes().into_iter().fold(0, |share, byte| share ^ byte));
    left.max(SignedDuration::ZERO) * share / (5 * 256)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        decision::Limits,
        image::LoginServerRule,
        pull_secret::StoredHost,
        registry::{HostPattern, NamespaceSelector, RegistryRule, RegistryRules},
    };

    fn settings() -> Settings {
        let login_servers = LoginServerRule::default();
        let rule = |name: &str, host: &str, team: Option<&str>| RegistryRule {
            name: name.parse().unwrap(),
            hosts: vec![HostPattern::parse(host, &login_servers).unwrap()],
            namespaces: NamespaceSelector {
                match_labels: team.map(|team| ("team".to_owned(), team.to_owned())).into_iter().collect(),
                ..NamespaceSelector::default()
            },
        };
        let rules =
            vec![rule("contoso", "contoso.azurecr.io", None), rule("fabrikam", "fabrikam.azurecr.io", Some("b"))];
        Settings {
            pull_secret_name: "acr-pull-secret".parse().unwrap(),
            excluded_namespaces: BTreeSet::from(["ours".to_owned()]),
            rules: RegistryRules::new(login_servers, rules).unwrap(),
            limits: Limits::default(),
        }
    }

    fn stored(hosts: &[&str]) -> StoredPullSecret {
        stored_until(hosts, None)
    }

    fn stored_until(hosts: &[&str], lifetime: Option<Lifetime>) -> StoredPullSecret {
        StoredPullSecret {
            origin: Origin::Ours,
            hosts: hosts.iter().map(|&host| StoredHost { host: host.into(), lifetime }).collect(),
            source_hash: None,
            untouched: true,
            uid: "u".to_owned(),
            resource_version: "1".to_owned(),
        }
    }

    fn namespace(name: &str, labels: &[(&str, &str)]) -> Namespace {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Namespace { name: name.to_owned(), labels, terminating: false }
    }

    fn at(time: &str) -> Timestamp {
        format!("2026-11-24T{time}Z").parse().unwrap()
    }

    #[test]
    fn every_reason_and_its_absence() {
        let team_b = namespace("team-b", &[("team", "b")]);
        let opted_out = namespace("team-a", &[("acr-pull-injector.io/inject", "disabled")]);
        let contoso = stored(&["contoso.azurecr.io"]);
        let both = stored(&["contoso.azurecr.io", "fabrikam.azurecr.io"]);
        let foreign = StoredPullSecret { origin: Origin::Foreign, untouched: false, ..contoso.clone() };
        let touched = StoredPullSecret { untouched: false, ..contoso.clone() };
        let terminating = Namespace { terminating: true, ..opted_out.clone() };
        let rows = [
            ("right", &contoso, &namespace("team-a", &[]), None),
            ("right, both granted", &both, &team_b, None),
            ("foreign", &foreign, &opted_out, None),
            ("terminating", &contoso, &terminating, None),
            ("opted out", &contoso, &opted_out, Some(Upkeep::Withdraw)),
            ("excluded", &contoso, &namespace("ours", &[]), Some(Upkeep::Withdraw)),
            ("one rule withdrawn", &both, &namespace("team-a", &[]), Some(Upkeep::Withdraw)),
            ("a host that is none", &stored(&["evil.example"]), &team_b, Some(Upkeep::Withdraw)),
            ("touched", &touched, &namespace("team-a", &[]), Some(Upkeep::Repair)),
            ("touched and opted out", &touched, &opted_out, Some(Upkeep::Withdraw)),
        ];
        for (name, stored, namespace, expected) in rows {
            assert_eq!(upkeep(stored, namespace, &settings(), at("08:00:00")), expected, "{name}");
        }
    }

    #[test]
    fn a_token_is_renewed_when_due_and_well_before_it_expires() {
        let lifetime = Lifetime { renew_at: at("10:00:00"), expires_at: at("11:30:00") };
        let stored = stored_until(&["contoso.azurecr.io"], Some(lifetime));
        let due = |name: &str, time: &str| upkeep(&stored, &namespace(name, &[]), &settings(), at(time));
        let names: Vec<_> = (0..500).map(|number| format!("team-{number}")).collect();
        let count = |time| names.iter().filter(|name| due(name, time) == Some(Upkeep::Renew)).count();
        assert_eq!(count("09:59:59"), 0);
        assert!((150..350).contains(&count("10:09:00")), "{} of 500 after half of the spread", count("10:09:00"));
        assert_eq!(count("10:18:00"), 500, "all are due after a fifth of the hour and a half that is left");
    }

    #[test]
    fn what_has_expired_is_renewed_whatever_else_its_annotations_say() {
        for (renew_at, time) in [("11:29:59", "11:30:00"), ("23:00:00", "11:30:00"), ("23:00:00", "10:00:00")] {
            let lifetime = Lifetime { renew_at: at(renew_at), expires_at: at("11:30:00") };
            let stored = stored_until(&["contoso.azurecr.io"], Some(lifetime));
            let needed = upkeep(&stored, &namespace("team-a", &[]), &settings(), at(time));
            assert_eq!(needed, Some(Upkeep::Renew), "to be renewed at {renew_at}, and it is {time}");
        }
    }

    #[test]
    fn what_a_clock_wrote_that_was_set_back_is_renewed() {
        // Of a token of three hours, as late as chance may have it.
        let lifetime = Lifetime { renew_at: at("11:39:00"), expires_at: at("13:00:00") };
        let stored = stored_until(&["contoso.azurecr.io"], Some(lifetime));
        let needed = |time: &str| upkeep(&stored, &namespace("team-a", &[]), &settings(), at(time));
        assert_eq!(needed("10:00:00"), None, "it was made just now");
        assert_eq!(needed("09:40:00"), None, "by a clock that is some minutes ahead");
        assert_eq!(needed("08:00:00"), Some(Upkeep::Renew), "two hours later by a right clock");
        assert!(
            !stored.covers([&LoginServerRule::default().parse("contoso.azurecr.io").unwrap()], at("08:00:00")),
            "a pod that comes has it rewritten"
        );
    }

    #[test]
    fn only_what_is_granted_is_held() {
        let both = stored(&["contoso.azurecr.io", "fabrikam.azurecr.io"]);
        let held = |namespace: &Namespace| {
            held(&both, namespace, &settings()).into_keys().map(|host| host.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(held(&namespace("team-a", &[])), ["contoso.azurecr.io"]);
        assert_eq!(held(&namespace("team-b", &[("team", "b")])), ["contoso.azurecr.io", "fabrikam.azurecr.io"]);
        assert!(held(&namespace("kube-system", &[])).is_empty());
    }
}
