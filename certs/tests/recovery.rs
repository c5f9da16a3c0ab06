//! From every stored state to a leaf that serves, and the conditions of each step.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod verification;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use certs::{
    Lifetimes,
    issue::{carry_out, create_authority, issue_leaf},
    plan::{AuthorityReason, LeafReason, PublishedBundle, Step, next_step, serving_leaf},
    stored::{AUTHORITIES, Authority, LEAF_CERTIFICATE, LEAF_KEY, StoredCertificates},
};
use jiff::Timestamp;
use verification::{certificates, hours, names, start, verify};

/// Carries out all steps at one moment; the last state must be at rest.
fn settle(
    mut stored: StoredCertificates,
    published: &PublishedBundle,
    now: Timestamp,
) -> (StoredCertificates, Vec<Step>) {
    let mut steps = Vec::new();
    loop {
        let step = next_step(&stored, published, &names(), &Lifetimes::default(), now);
        if step == Step::Wait {
            return (stored, steps);
        }
        carry_out(&step, &mut stored, "webhook", &Lifetimes::default(), now).unwrap();
        steps.push(step);
        assert!(steps.len() < 20, "does not settle: {steps:?}");
    }
}

fn healthy() -> StoredCertificates {
    let (stored, steps) = settle(StoredCertificates::default(), &PublishedBundle::NoWebhook, start());
    assert_eq!(steps.len(), 3, "{steps:?}");
    stored
}

fn reparse(stored: &StoredCertificates, change: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) -> StoredCertificates {
    let mut data = stored.render().unwrap();
    change(&mut data);
    StoredCertificates::parse(&data)
}

#[test]
fn what_is_rendered_is_read_back() {
    let stored = healthy();
    assert_eq!(reparse(&stored, |_| {}), stored);
    assert!(!format!("{stored:?}").contains("PRIVATE"));
}

type Damage = Box<dyn FnOnce(&mut BTreeMap<String, Vec<u8>>)>;

#[test]
fn every_damaged_state_leads_to_a_leaf_that_serves_and_then_to_rest() {
    let garbage = |key: &'static str| {
        move |data: &mut BTreeMap<String, Vec<u8>>| drop(data.insert(key.into(), b"\xffx".to_vec()))
    };
    let other = healthy().render().unwrap();
    let states: Vec<(&str, Damage)> = vec![
        ("empty", Box::new(BTreeMap::clear)),
        ("no leaf", Box::new(|data| drop(data.remove(LEAF_CERTIFICATE)))),
        ("no leaf key", Box::new(|data| drop(data.remove(LEAF_KEY)))),
        ("no authorities", Box::new(|data| drop(data.remove(AUTHORITIES)))),
        ("garbage leaf", Box::new(garbage(LEAF_CERTIFICATE))),
        ("garbage leaf key", Box::new(garbage(LEAF_KEY))),
        ("garbage authorities", Box::new(garbage(AUTHORITIES))),
        (
            "half a record",
            Box::new(|data| drop(data.insert(AUTHORITIES.into(), br#"[{"certificate":1},{}]"#.to_vec()))),
        ),
        (
            "another key",
            Box::new({
                let key = other[LEAF_KEY].clone();
                move |data| drop(data.insert(LEAF_KEY.into(), key))
            }),
        ),
        (
            "a leaf of another authority",
            Box::new({
                let other = other.clone();
                move |data| {
                    data.insert(LEAF_KEY.into(), other[LEAF_KEY].clone());
                    data.insert(LEAF_CERTIFICATE.into(), other[LEAF_CERTIFICATE].clone());
                }
            }),
        ),
        (
            "the authorities of another",
            Box::new(move |data| drop(data.insert(AUTHORITIES.into(), other[AUTHORITIES].clone()))),
        ),
    ];
    for (what, damage) in states {
        let damaged = reparse(&healthy(), damage);
        assert!(serving_leaf(&damaged, start()).is_err(), "{what} is no damage");
        for published in [PublishedBundle::Unknown, PublishedBundle::NoWebhook] {
            let (healed, _) = settle(damaged.clone(), &published, start());
            let leaf = serving_leaf(&healed, start()).unwrap_or_else(|reason| panic!("{what}: {reason:?}"));
            assert!(verify(leaf, &healed.bundle_pem(), start()), "{what}");
        }
    }
}

#[test]
fn years_without_a_running_replica_are_recovered_at_once() {
    let (stored, steps) = settle(healthy(), &PublishedBundle::NoWebhook, start() + hours(3 * 365 * 24));
    assert!(matches!(steps[0], Step::CreateAuthority { reason: AuthorityReason::NoneUsable }), "{steps:?}");
    assert!(matches!(steps[2], Step::IssueLeaf { authority: 1, reason: LeafReason::NotValidNow, .. }), "{steps:?}");
    assert_eq!(stored.authorities.len(), 2, "the old authority stays for the overlap");
    let (stored, _) = settle(stored, &PublishedBundle::NoWebhook, start() + hours(3 * 365 * 24 + 25));
    assert_eq!(stored.authorities.len(), 1);
}

#[test]
fn a_clock_that_was_years_ahead_is_recovered_from() {
    let ahead = start() + hours(10 * 365 * 24);
    let (stored, _) = settle(StoredCertificates::default(), &PublishedBundle::NoWebhook, ahead);
    let (stored, _) = settle(stored, &PublishedBundle::NoWebhook, start());
    assert!(serving_leaf(&stored, start()).is_ok());
    assert!(stored.authorities.iter().all(|authority| authority.published_at.unwrap() <= start()));
}

#[test]
fn a_renamed_service_gets_both_names_until_the_renewal() {
    let authority = healthy().authorities;
    let old_name = BTreeSet::from(["old.own.svc".to_owned()]);
    let leaf = issue_leaf(&authority[0], &old_name, &Lifetimes::default(), start()).unwrap();
    let renamed = StoredCertificates { authorities: authority, leaf: Some(leaf) };
    let (stored, steps) = settle(renamed, &PublishedBundle::NoWebhook, start());
    assert!(matches!(steps[..], [Step::IssueLeaf { reason: LeafReason::DnsNames, .. }]), "{steps:?}");
    let both: BTreeSet<String> = names().union(&old_name).cloned().collect();
    assert_eq!(*stored.leaf.as_ref().unwrap().dns_names(), both);
    // The release with the old name is content, so the two do not undo each other.
    assert_eq!(next_step(&stored, &PublishedBundle::Unknown, &old_name, &Lifetimes::default(), start()), Step::Wait);
    let (renewed, _) = settle(stored, &PublishedBundle::NoWebhook, start() + hours(61 * 24));
    assert_eq!(*renewed.leaf.unwrap().dns_names(), names());
}

#[test]
fn a_leaf_is_renewed_after_two_thirds_of_its_life() {
    let stored = healthy();
    let step =
        |hour| next_step(&stored, &PublishedBundle::Unknown, &names(), &Lifetimes::default(), start() + hours(hour));
    assert_eq!(step(60 * 24 - 1), Step::Wait);
    assert!(matches!(step(60 * 24), Step::IssueLeaf { authority: 0, reason: LeafReason::Renewal, .. }));
}

#[test]
fn an_authority_that_no_webhook_has_yet_never_signs_while_the_old_one_lives() {
    let now = start() + hours(24);
    let mut stored = healthy().without_authority_keys();
    stored.authorities.push(create_authority("webhook", &Lifetimes::default(), now).unwrap());
    for day in 1..89 {
        let now = start() + hours(24 * day);
        assert_eq!(next_step(&stored, &PublishedBundle::Unknown, &names(), &Lifetimes::default(), now), Step::Wait);
    }
    // Its end is near and nobody can publish: then it signs, because nothing else can be served.
    let step = next_step(&stored, &PublishedBundle::Unknown, &names(), &Lifetimes::default(), start() + hours(24 * 90));
    assert!(matches!(step, Step::IssueLeaf { authority: 1, reason: LeafReason::NotValidNow, .. }), "{step:?}");
}

#[test]
fn an_authority_signs_only_an_overlap_after_it_was_published() {
    let mut stored = healthy().without_authority_keys();
    stored.authorities.push(create_authority("webhook", &Lifetimes::default(), start()).unwrap());
    let (stored, steps) = settle(stored, &PublishedBundle::NoWebhook, start());
    assert_eq!(steps, [Step::MarkPublished { authority: 1 }]);
    let (stored, steps) = settle(stored, &PublishedBundle::NoWebhook, start() + hours(23));
    assert!(steps.is_empty(), "{steps:?}");
    let (stored, steps) = settle(stored, &PublishedBundle::NoWebhook, start() + hours(24));
    assert!(matches!(steps[..], [Step::IssueLeaf { authority: 1, reason: LeafReason::NewAuthority, .. }]), "{steps:?}");
    let (stored, steps) = settle(stored, &PublishedBundle::NoWebhook, start() + hours(47));
    assert!(steps.is_empty(), "{steps:?}");
    let (_, steps) = settle(stored, &PublishedBundle::NoWebhook, start() + hours(48));
    assert_eq!(steps, [Step::RetireAuthority { authority: 0 }]);
}

#[test]
fn a_successor_that_fell_out_of_the_bundle_does_not_sign() {
    let mut stored = healthy().without_authority_keys();
    stored.authorities.push(create_authority("webhook", &Lifetimes::default(), start()).unwrap());
    stored.authorities[1].published_at = Some(start());
    let only_the_old = PublishedBundle::Certificates(HashSet::from([stored.authorities[0].der().clone()]));
    let (stored, steps) = settle(stored, &only_the_old, start() + hours(48));
    assert!(steps.is_empty(), "{steps:?}");
    let both = PublishedBundle::Certificates(certificates(&stored.bundle_pem()));
    let step = next_step(&stored, &both, &names(), &Lifetimes::default(), start() + hours(48));
    assert!(matches!(step, Step::IssueLeaf { authority: 1, reason: LeafReason::NewAuthority, .. }), "{step:?}");
}

#[test]
fn a_heap_of_authorities_is_cut_but_never_the_one_in_use() {
    let mut stored = healthy();
    let in_use = stored.authorities[0].der().clone();
    for _ in 0..9 {
        stored.authorities.push(create_authority("webhook", &Lifetimes::default(), start()).unwrap());
    }
    let (stored, _) = settle(stored, &PublishedBundle::NoWebhook, start());
    assert_eq!(stored.authorities.len(), 6);
    assert_eq!(*stored.authorities[stored.issuer().unwrap()].der(), in_use);
}

#[test]
fn an_authority_whose_key_does_not_fit_cannot_sign() {
    let first = create_authority("webhook", &Lifetimes::default(), start()).unwrap();
    let stored = StoredCertificates { authorities: vec![first], leaf: None };
    let data = stored.render().unwrap();
    let records: serde_json::Value = serde_json::from_slice(&data[AUTHORITIES]).unwrap();
    let certificate = records[0]["certificate"].as_str().unwrap().to_owned();
    let other_key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let authority = Authority::parse(certificate, Some(other_key)).unwrap();
    assert!(!authority.can_sign(start()));
}
