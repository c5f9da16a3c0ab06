mod rotation;
pub(crate) mod world;

use std::collections::BTreeSet;

use tokio::sync::watch;

use self::world::{A, B, Case, Namespaces, lock};
use super::*;
use crate::{retry::RetryQueue, secrets::reconciler::Reconciler};

#[tokio::test]
async fn a_registry_that_is_gone_does_not_keep_the_tokens_of_another_from_being_renewed() {
    let case = Case::new();
    case.ensure("team", &[A, B]).await.unwrap();
    case.advance(91);
    case.azure.renew(B, case.now());
    case.advance(90);
    case.azure.lose(A);
    case.azure.renew(B, case.now());
    for _ in 0..5 {
        assert!(case.refresh("team").await.is_err(), "that a credential is missing must be known");
        assert_eq!(case.store.password("team", B), format!("{B} all {}", case.now()), "at {}", case.now());
        assert!(case.store.password("team", A).starts_with(A), "what may still be good stays");
        let writes = case.store.writes();
        assert!(case.refresh("team").await.is_err());
        assert_eq!(case.store.writes(), writes, "nothing is new");
        assert_eq!(case.reason("team"), Some(WriteReason::Renewal), "what has expired stays due");
        case.advance(91);
        assert_eq!(case.reason("team"), Some(WriteReason::Renewal));
        case.azure.renew(B, case.now());
    }
}

#[tokio::test]
async fn a_token_that_ends_first_is_renewed_beside_one_that_cannot_be() {
    let case = Case::new();
    case.advance(-20);
    case.azure.renew(B, case.now());
    case.advance(20);
    case.ensure("team", &[A, B]).await.unwrap();
    case.advance(91);
    case.azure.renew(B, case.now());
    case.refresh("team").await.unwrap();
    assert_eq!(case.store.password("team", B), format!("{B} all {}", case.now()));
}

#[tokio::test]
async fn a_new_token_is_written_while_another_of_the_same_age_cannot_be_renewed() {
    let case = Case::new();
    case.ensure("team", &[A, B]).await.unwrap();
    case.advance(91);
    // The registry of B is away, and its token is good for a while.
    case.azure.renew(A, case.now());
    case.refresh("team").await.unwrap();
    assert_eq!(case.store.password("team", A), format!("{A} all {}", case.now()));
    let writes = case.store.writes();
    case.refresh("team").await.unwrap();
    assert_eq!(case.store.writes(), writes, "nothing is new");
}

/// It was deleted, say, and a wildcard covers it.
#[tokio::test]
async fn a_registry_that_is_gone_for_good_costs_the_pods_of_another_nothing() {
    let case = Case::new();
    case.ensure("team", &[A, B]).await.unwrap();
    case.advance(91);
    case.azure.lose(B);
    case.azure.renew(A, case.now());
    for minutes in [0, 60, 60] {
        case.advance(minutes);
        let _ = case.refresh("team").await;
        assert!(case.ensurer.is_complete("team", [world::login_server(A)].iter()), "after {minutes} minutes more");
    }
    let before = (case.store.writes(), *lock(&case.store.reads), *lock(&case.azure.asked));
    case.ensure("team", &[A]).await.unwrap();
    assert_eq!((case.store.writes(), *lock(&case.store.reads), *lock(&case.azure.asked)), before);
    for _ in 0..5 {
        assert!(case.refresh("team").await.is_err());
        assert!(case.ensure("team", &[B]).await.is_err());
    }
    assert_eq!((case.store.writes(), *lock(&case.store.reads)), (before.0, before.1), "nobody has to look again");
    case.azure.renew(B, case.now());
    assert_eq!(case.reason("team"), Some(WriteReason::Renewal));
    case.refresh("team").await.unwrap();
    assert_eq!(case.store.password("team", B), format!("{B} all {}", case.now()), "it is back");
}

#[tokio::test]
async fn a_login_server_whose_token_stands_in_a_pull_secret_is_not_made_up() {
    let case = Case::new();
    case.ensure("team", &[A]).await.unwrap();
    assert!(lock(&case.azure.vouched).is_empty());
    let _ = case.ensure("team", &["madeup.azurecr.io"]).await;
    assert_eq!(*lock(&case.azure.vouched), BTreeSet::from([A.to_owned()]));
    lock(&case.azure.vouched).clear();
    case.store.edit("team");
    case.refresh("team").await.unwrap();
    assert!(lock(&case.azure.vouched).is_empty(), "what somebody edited vouches for nothing");
}

/// An entry is given to other namespaces, with a credential for them, while its credential is being asked for.
#[tokio::test(start_paused = true)]
async fn while_the_configuration_is_replaced_no_credential_goes_anywhere() {
    for is_swapped_before in [true, false] {
        let case = Case::new();
        let before = case.ensurer.settings.load_full();
        let mut after = (*before).clone();
        let rules = after.rules.iter().filter(|rule| rule.name.as_str() != "all").cloned().collect();
        after.rules = crate::domain::registry::RegistryRules::new(after.rules.login_servers().clone(), rules).unwrap();
        *lock(&case.azure.pause) = std::time::Duration::from_secs(1);
        *lock(&case.azure.rules) = Some(if is_swapped_before { &after } else { &before }.rules.clone());
        let swap = async {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            *lock(&case.azure.rules) = Some(after.rules.clone());
        };
        let (ensured, ()) = tokio::join!(case.ensure("team", &[A]), swap);
        let error = ensured.unwrap_err();
        assert!(error.may_pass() && error.to_string().contains("is being replaced"), "{error}");
        case.ensurer.settings.store(Arc::new(after));
        case.ensure("team", &[A]).await.unwrap();
        assert_eq!(case.store.writes(), 0, "it was not granted any more");
    }
}

#[tokio::test]
async fn who_says_that_a_pull_secret_is_missing_is_believed_rather_than_memory() {
    let case = Case::new();
    for (name, reason) in [("a", WriteReason::Heal), ("b", WriteReason::Repair)] {
        case.ensure(name, &[A]).await.unwrap();
        lock(&case.store.lost).insert(name.to_owned());
        let writes = case.store.writes();
        let wanted = BTreeMap::from([(world::login_server(A), "all".parse().unwrap())]);
        let ensure = async || case.ensurer.ensure(&world::namespace(name), &wanted, reason).await;
        ensure().await.unwrap();
        assert_eq!(case.store.writes(), writes + 1, "{reason:?}");
        ensure().await.unwrap();
        assert_eq!(case.store.writes(), writes + 1, "{reason:?}: it is there");
    }
}

#[tokio::test]
async fn an_outage_writes_nothing() {
    let case = Case::new();
    case.ensure("team", &[A, B]).await.unwrap();
    let writes = case.store.writes();
    case.azure.lose(A);
    case.azure.lose(B);
    case.advance(100);
    assert!(case.refresh("team").await.is_err());
    assert_eq!(case.store.writes(), writes);
}

#[tokio::test]
async fn what_is_asked_for_one_namespace_is_bounded() {
    let case = Case::new();
    let hosts: Vec<_> = (0..1000).map(|number| format!("registry{number}.azurecr.io")).collect();
    let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
    let error = case.ensure("team", &hosts).await.unwrap_err();
    assert!(error.to_string().contains("more than 128 login servers"), "{error}");
    assert_eq!(*lock(&case.azure.asked), MAX_LOGIN_SERVERS);
}

#[tokio::test]
async fn what_a_rule_names_has_its_place_in_a_full_pull_secret() {
    let case = Case::new();
    let made_up: Vec<_> = (0..MAX_LOGIN_SERVERS).map(|number| format!("aaaaa{number}.azurecr.io")).collect();
    for host in &made_up {
        case.azure.renew(host, case.now());
    }
    case.ensure("team", &made_up.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
    assert!(case.ensure("team", &[B]).await.unwrap_err().to_string().contains("more than 128 login servers"));
    let mut settings = (*case.ensurer.settings.load_full()).clone();
    let mut rules: Vec<_> = settings.rules.iter().cloned().collect();
    let login_servers = settings.rules.login_servers().clone();
    let named = crate::domain::registry::HostPattern::parse(A, &login_servers).unwrap();
    rules.extend(rules.last().cloned());
    let last = rules.last_mut().unwrap();
    (last.name, last.hosts) = ("named".parse().unwrap(), vec![named]);
    settings.rules = crate::domain::registry::RegistryRules::new(login_servers, rules).unwrap();
    case.ensurer.settings.store(Arc::new(settings));
    let wanted = BTreeMap::from([(world::login_server(A), "named".parse().unwrap())]);
    case.ensurer.ensure(&world::namespace("team"), &wanted, WriteReason::Admission).await.unwrap();
    assert!(case.store.password("team", A).starts_with(A));
    assert_eq!(case.store.stored("team").unwrap().hosts.len(), MAX_LOGIN_SERVERS);
    let other_spelling = BTreeMap::from([(world::login_server("Contoso.azurecr.io"), "named".parse().unwrap())]);
    let error = case.ensurer.ensure(&world::namespace("team"), &other_spelling, WriteReason::Admission).await;
    assert!(error.is_err(), "spellings are without number");
}

#[tokio::test]
async fn a_registry_that_is_away_does_not_hold_up_the_others() {
    let case = Case::new();
    for number in 0..10 {
        case.ensure(&format!("a-{number}"), &[A]).await.unwrap();
    }
    case.ensure("b", &[B]).await.unwrap();
    case.advance(130);
    // The token of A is good for a while, and there is no newer one.
    case.azure.renew(B, case.now());
    let reconciler = Reconciler::new(case.ensurer.clone(), Arc::<Namespaces>::default(), RetryQueue::new());
    let (_leads, leader) = watch::channel(true);
    for _ in 0..6 {
        reconciler.tick(&leader).await;
    }
    assert_eq!(case.store.password("b", B), format!("{B} all {}", case.now()));
    case.azure.renew(A, case.now());
    case.advance(1);
    for _ in 0..6 {
        reconciler.tick(&leader).await;
    }
    let renewed = (0..10).filter(|number| case.reason(&format!("a-{number}")).is_none()).count();
    assert_eq!(renewed, 10, "all follow soon after the registry is back");
}

#[tokio::test]
async fn other_labels_bring_the_credential_of_another_rule() {
    let case = Case::new();
    case.ensure("team", &[A]).await.unwrap();
    let namespaces = Arc::<Namespaces>::default();
    let reconciler = Reconciler::new(case.ensurer.clone(), namespaces.clone(), RetryQueue::new());
    let (_leads, leader) = watch::channel(true);
    let mut writes = case.store.writes();
    for (label, rule, is_other) in
        [(("team", "mine"), "all", false), (("team", "special"), "special", true), (("other", "label"), "all", true)]
    {
        reconciler.heed_labels();
        *lock(&namespaces.labels) = BTreeMap::from([(label.0.to_owned(), label.1.to_owned())]);
        reconciler.heed_labels();
        reconciler.tick(&leader).await;
        assert!(case.store.password("team", A).contains(&format!(" {rule} ")), "{label:?}");
        writes += usize::from(is_other);
        assert_eq!(case.store.writes(), writes, "{label:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_namespace_whose_write_gets_no_answer_does_not_hold_up_the_others() {
    let case = Case::new();
    let silent: Vec<_> = (0..40).map(|number| format!("a-{number:02}")).collect();
    for name in silent.iter().map(String::as_str).chain(["b", "c"]) {
        case.ensure(name, &[A]).await.unwrap();
    }
    let writes = case.store.writes();
    lock(&case.store.silent).extend(silent);
    case.advance(130);
    case.azure.renew(A, case.now());
    let settings = case.ensurer.settings.load_full();
    let mut settings = (*settings).clone();
    settings.limits.writes_per_second = 50;
    case.ensurer.settings.store(Arc::new(settings));
    let (_leads, leader) = watch::channel(true);
    let (_announce, changes) = watch::channel(0);
    let namespaces = Arc::<Namespaces>::default();
    let (retries, shutdown) = (RetryQueue::new(), tokio_util::sync::CancellationToken::new());
    let reconciler = Reconciler::new(case.ensurer.clone(), namespaces.clone(), retries.clone());
    let reconciling = tokio::spawn(reconciler.run(leader, changes, shutdown.clone()));
    let retrying =
        retries.clone().run(case.ensurer.clone(), namespaces, case.ensurer.settings.clone(), shutdown.clone());
    let retrying = tokio::spawn(retrying);
    let started = tokio::time::Instant::now();
    while case.store.writes() < writes + 2 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        assert!(started.elapsed().as_secs() < 6, "the reconciler waits for what gets no answer");
    }
    for number in 0..40 {
        let name = format!("late-{number:02}");
        lock(&case.store.silent).insert(name.clone());
        retries.push(&name, [world::login_server(A)].into());
    }
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    retries.push("d", [world::login_server(A)].into());
    let started = tokio::time::Instant::now();
    while case.store.stored("d").is_none() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        assert!(started.elapsed().as_secs() < 6, "the retries wait for what gets no answer");
    }
    shutdown.cancel();
    reconciling.await.unwrap();
    retrying.await.unwrap();
}

/// Another API server has not heard yet that the namespace was made anew.
#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_said_to_go_away_is_tried_again_while_it_is_there() {
    let case = Case::new();
    let (retries, namespaces) = (RetryQueue::new(), Arc::<Namespaces>::default());
    lock(&case.store.refused).insert("team".to_owned());
    let error = case.ensure("team", &[A]).await.unwrap_err();
    retries.push("team", error.left([world::login_server(A)].iter()));
    let shutdown = tokio_util::sync::CancellationToken::new();
    let (ensurer, settings) = (case.ensurer.clone(), case.ensurer.settings.clone());
    let running = tokio::spawn(retries.clone().run(ensurer, namespaces.clone(), settings, shutdown.clone()));
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    assert_eq!(case.store.writes(), 0);
    lock(&case.store.refused).clear();
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(case.store.writes(), 1, "it is there");

    *lock(&namespaces.are_terminating) = true;
    lock(&case.store.refused).insert("other".to_owned());
    retries.push("other", [world::login_server(A)].into());
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    assert!(retries.is_empty(), "the API server says so itself");
    shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn once_a_write_is_taken_again_nothing_waits_out_its_pause() {
    let case = Case::new();
    case.ensure("stale", &[A]).await.unwrap();
    case.advance(130);
    case.azure.renew(A, case.now());
    lock(&case.store.silent).extend(["stale", "first", "second"].map(str::to_owned));
    let (retries, namespaces) = (RetryQueue::new(), Arc::<Namespaces>::default());
    let (_leads, leader) = watch::channel(true);
    let (_announce, changes) = watch::channel(0);
    let (ensurer, settings) = (case.ensurer.clone(), case.ensurer.settings.clone());
    let shutdown = tokio_util::sync::CancellationToken::new();
    let reconciler = Reconciler::new(ensurer.clone(), namespaces.clone(), retries.clone());
    let reconciling = tokio::spawn(reconciler.run(leader, changes, shutdown.clone()));
    let retrying = tokio::spawn(retries.clone().run(ensurer, namespaces, settings, shutdown.clone()));
    for name in ["first", "second"] {
        retries.push(name, [world::login_server(A)].into());
    }
    let minutes = |minutes: u64| tokio::time::sleep(std::time::Duration::from_secs(60 * minutes));
    // The clock of the reconciler stands still, so it would never try again by itself.
    minutes(30).await;
    assert_eq!((case.reason("stale"), retries.is_empty()), (Some(WriteReason::Renewal), false));
    lock(&case.store.silent).clear();
    let writes = case.store.writes();
    case.ensure("another", &[A]).await.unwrap();
    // An attempt that began before waits for its answer for 15 s.
    tokio::time::sleep(std::time::Duration::from_secs(22)).await;
    for name in ["first", "second"] {
        assert!(case.store.stored(name).is_some(), "{name} waits on");
    }
    assert_eq!((case.reason("stale"), case.store.writes()), (None, writes + 4));
    shutdown.cancel();
    reconciling.await.unwrap();
    retrying.await.unwrap();
}
