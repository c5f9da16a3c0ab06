use super::*;
use crate::telemetry::tests::Logged;

fn contoso() -> BTreeSet<LoginServer> {
    [crate::domain::image::LoginServerRule::default().parse("contoso.azurecr.io").unwrap()].into()
}

#[test]
fn delays_double_and_are_capped() {
    for (failures, longest) in [(0, 1), (1, 2), (2, 4), (8, 256), (9, 300), (40, 300), (u32::MAX, 300)] {
        let longest = Duration::from_secs(longest);
        for _ in 0..50 {
            let delay = delay(failures);
            assert!(delay <= longest && delay >= longest / 2, "{failures}: {delay:?}");
        }
    }
}

#[test]
fn only_what_can_never_succeed_is_given_up() {
    let refused = StoreError::Refused("exceeded quota".to_owned());
    for error in [refused, StoreError::Unavailable(String::new()), StoreError::Conflict, StoreError::NamespaceGone] {
        assert!(EnsureError::Store(error).may_pass());
    }
    assert!(!EnsureError::Foreign { name: String::new(), namespace: String::new() }.may_pass());
}

#[tokio::test]
async fn a_failure_that_goes_on_is_warned_of_once() {
    let (logged, _guard) = Logged::here();
    let queue = RetryQueue::new();
    queue.push("team-a", contoso());
    queue.push("team-b", contoso());
    let fail = |namespace, kind, reason: &str| {
        queue.tell(namespace, &Failure { kind, reason: reason.to_owned(), left: contoso() });
        queue.end(namespace, contoso());
    };
    for correlation_id in 0..5 {
        fail("team-a", "no_credential", &format!("Entra has a fault (correlation id {correlation_id})"));
    }
    fail("team-b", "no_credential", "Entra has a fault");
    fail("team-a", "refused", "exceeded quota");
    fail("team-a", "refused", "exceeded quota");
    let warned = |logged: &Logged| -> Vec<_> {
        let warnings = logged.lines().into_iter().filter(|line| line["level"] == "WARN");
        warnings.map(|line| (line["namespace"].clone(), line["reason"].clone())).collect()
    };
    let expected = [
        ("team-a", "Entra has a fault (correlation id 0)"),
        ("team-b", "Entra has a fault"),
        ("team-a", "exceeded quota"),
    ];
    assert_eq!(warned(&logged), expected.map(|(namespace, reason)| (namespace.into(), reason.into())));
    assert_eq!(logged.lines().len(), 8, "the others are there for whoever looks closer");

    // Once all was well, the same is news again.
    queue.end("team-a", BTreeSet::new());
    queue.push("team-a", contoso());
    fail("team-a", "refused", "exceeded quota");
    assert_eq!(warned(&logged).len(), 4);
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let queue = RetryQueue::new();
    for number in 0..MAX_PENDING + 5 {
        queue.push(&format!("namespace-{number}"), contoso());
    }
    assert_eq!(queue.waiting().namespaces.len(), MAX_PENDING);
}

#[tokio::test]
async fn what_waits_for_one_namespace_is_bounded() {
    let rule = crate::domain::image::LoginServerRule::default();
    let login_servers = |numbers: std::ops::Range<usize>| {
        numbers.map(|number| rule.parse(&format!("registry{number}.azurecr.io")).unwrap()).collect()
    };
    let queue = RetryQueue::new();
    queue.push("team-a", login_servers(0..100));
    queue.push("team-a", login_servers(50..110));
    queue.push("team-b", login_servers(0..1000));
    let count = |namespace: &str| queue.waiting().namespaces[namespace].login_servers.len();
    assert_eq!(count("team-a"), 110, "one that is known already takes no room");
    queue.push("team-a", login_servers(0..1000));
    assert_eq!([count("team-a"), count("team-b")], [MAX_LOGIN_SERVERS; 2]);
}

#[tokio::test]
async fn what_waits_for_all_namespaces_is_bounded_and_each_has_a_share() {
    let rule = crate::domain::image::LoginServerRule::default();
    let many: BTreeSet<_> = (0..200).map(|number| rule.parse(&format!("madeup{number}.azurecr.io")).unwrap()).collect();
    let queue = RetryQueue::new();
    let names: Vec<_> = (0..1_000).map(|number| format!("namespace-{number}")).collect();
    for name in &names {
        queue.push(name, many.clone());
    }
    queue.push("team-a", contoso());
    // Panics unless the running count is right.
    let counted = || {
        let waiting = queue.waiting();
        let counted: usize = waiting.namespaces.values().map(|pending| pending.login_servers.len()).sum();
        assert_eq!(waiting.login_servers, counted);
        counted
    };
    let most = MAX_LOGIN_SERVERS_PENDING + MAX_LOGIN_SERVERS + FIRST_LOGIN_SERVERS * names.len();
    assert!((MAX_LOGIN_SERVERS_PENDING..most).contains(&counted()), "{}", counted());
    assert_eq!(queue.waiting().namespaces["team-a"].login_servers, contoso(), "whoever names few has its place");
    queue.hurry();
    while let Some((namespace, login_servers)) = queue.begin_due() {
        counted();
        let is_done = login_servers.len() % 2 == 0;
        queue.end(&namespace, if is_done { BTreeSet::new() } else { login_servers });
    }
    assert_eq!(counted(), 1);
    assert_eq!(queue.waiting().namespaces.keys().collect::<Vec<_>>(), ["team-a"]);
}

#[tokio::test]
async fn hurry_makes_everything_due() {
    let queue = RetryQueue::new();
    queue.push("team-a", contoso());
    assert!(queue.begin_due().is_none());
    queue.hurry();
    assert!(queue.begin_due().is_some());
    queue.hurry();
    assert!(queue.begin_due().is_none(), "one attempt at a time");
    queue.end("team-a", contoso());
    assert!(queue.begin_due().is_some(), "what changed during an attempt counts for the next one");
}

#[tokio::test(start_paused = true)]
async fn pods_that_come_during_an_attempt_do_not_shorten_the_pause_after_it() {
    let rule = crate::domain::image::LoginServerRule::default();
    let of = |hosts: &[&str]| hosts.iter().map(|host| rule.parse(host).unwrap()).collect::<BTreeSet<_>>();
    let queue = RetryQueue::new();
    queue.push("team-a", of(&["contoso.azurecr.io"]));
    for failures in 1..=12 {
        tokio::time::advance(LONGEST_DELAY).await;
        let (namespace, login_servers) = queue.begin_due().unwrap();
        queue.push("team-a", of(&["fabrikam.azurecr.io"]));
        queue.end(&namespace, login_servers);
        let wait = queue.next_due().unwrap() - Instant::now();
        assert!(wait >= delay_limit(failures) / 2, "{failures} failures: the next attempt is only {wait:?} away");
    }
    tokio::time::advance(LONGEST_DELAY).await;
    let (namespace, login_servers) = queue.begin_due().unwrap();
    assert_eq!(login_servers, of(&["contoso.azurecr.io", "fabrikam.azurecr.io"]));
    queue.push("team-a", of(&["fabrikam.azurecr.io"]));
    queue.end(&namespace, BTreeSet::new());
    assert!(queue.next_due().unwrap() - Instant::now() <= FIRST_DELAY, "the obstacle is gone");
    tokio::time::advance(FIRST_DELAY).await;
    let (namespace, login_servers) = queue.begin_due().unwrap();
    assert_eq!(login_servers, of(&["fabrikam.azurecr.io"]));
    queue.end(&namespace, BTreeSet::new());
    assert!(queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_recovery_makes_due_comes_in_turn() {
    let queue = RetryQueue::new();
    for number in 0..200 {
        queue.push(&format!("team-{number}"), contoso());
        queue.end(&format!("team-{number}"), contoso());
    }
    for pending in queue.waiting().namespaces.values_mut() {
        pending.next = Next::after(20);
    }
    queue.hurry_in_turn(50);
    let mut begun = Vec::new();
    for _ in 0..5 {
        let due = std::iter::from_fn(|| queue.begin_due()).count();
        begun.push(due);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(begun, [1, 50, 50, 50, 49]);
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_many_comes_in_turn() {
    let queue = RetryQueue::new();
    queue.push_in_turn((0..200).map(|number| (format!("team-{number}"), contoso())), 50);
    let mut begun = Vec::new();
    for _ in 0..5 {
        begun.push(std::iter::from_fn(|| queue.begin_due()).count());
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(begun, [1, 50, 50, 50, 49]);
}
