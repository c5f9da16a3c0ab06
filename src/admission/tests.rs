use std::time::Duration;

use super::*;
use crate::{
    ensure::tests::world::{A, B, Case, Namespaces, lock},
    telemetry::tests::Logged,
};

pub(crate) type InMemory =
    Admission<crate::ensure::tests::world::Azure, crate::ensure::tests::world::Memory, Namespaces>;

pub(crate) fn admission(case: &Case) -> Arc<InMemory> {
    Arc::new(Admission {
        ensurer: case.ensurer.clone(),
        namespaces: Arc::default(),
        retries: RetryQueue::new(),
        settings: case.ensurer.settings.clone(),
        waiting: Waiting::default(),
        events: Events::none(),
        lifecycle: Lifecycle::new(),
        metrics: Arc::default(),
    })
}

fn review(namespace: &str, hosts: &[&str]) -> String {
    let containers: Vec<_> = hosts.iter().map(|host| format!(r#"{{"image":"{host}/app"}}"#)).collect();
    let containers = containers.join(",");
    format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"1","kind":{{"version":"v1",
        "kind":"Pod"}},"operation":"CREATE","namespace":"{namespace}","object":{{"metadata":{{"name":"web"}},"spec":{{"containers":[{containers}]}}}}}}}}"#
    )
}

/// The outcome and the warnings.
pub(crate) async fn answer(admission: &InMemory, namespace: &str, hosts: &[&str]) -> (&'static str, Vec<String>) {
    let answer = admission.answer(review(namespace, hosts).as_bytes()).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let warnings = body["response"]["warnings"].as_array().cloned().unwrap_or_default();
    (answer.outcome, warnings.iter().map(|warning| warning.as_str().unwrap().to_owned()).collect())
}

#[test]
fn a_name_is_joined_once_wherever_it_stands() {
    assert_eq!(super::join(["b", "a", "b"].into_iter()), "a,b");
}

#[tokio::test]
async fn a_burst_of_pods_in_a_new_namespace_costs_one_flight() {
    let case = Case::new();
    *lock(&case.azure.pause) = Duration::from_millis(200);
    let admission = admission(&case);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let pods = futures_util::future::join_all((0..5000).map(|_| answer(&admission, "team", &[A])));
    let most = async {
        let mut most = 0;
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            most = most.max(tasks() - before);
        }
        most
    };
    let (answers, most) = tokio::join!(pods, most);
    assert!(answers.iter().all(|answer| *answer == ("injected", Vec::new())), "{:?}", answers.first());
    assert_eq!((most, case.store.writes(), *lock(&case.azure.asked)), (1, 1, 1), "tasks, writes, credentials");
    assert_eq!(tasks(), before, "the task ends with the flight");
}

#[tokio::test]
async fn a_pod_is_told_of_its_own_login_servers_only() {
    let case = Case::new();
    let admission = admission(&case);
    assert_eq!(answer(&admission, "team", &[A]).await.0, "injected");
    case.azure.lose(A);
    assert_eq!(answer(&admission, "team", &[B]).await, ("injected", Vec::new()), "A is not its own");
    assert!(case.store.password("team", A).starts_with(A), "what works is kept");
    let late = (
        "injected_before_pull_secret",
        vec!["acr-pull-injector: no credential for registry all: it is away".to_owned()],
    );
    assert_eq!(answer(&admission, "new", &[A, B]).await, late);
    assert_eq!(answer(&admission, "new", &[B]).await, ("injected", Vec::new()));
    // The token of A that is kept has run out, and a pod that wants A cannot pull with it.
    case.advance(181);
    case.azure.renew(B, case.now());
    assert_eq!(answer(&admission, "team", &[A, B]).await, late);
}

#[tokio::test]
async fn pods_that_want_something_else_share_the_next_flight() {
    let case = Case::new();
    *lock(&case.azure.pause) = Duration::from_millis(50);
    case.azure.lose(A);
    let admission = admission(&case);
    let pods = (0..300).map(|number| answer(&admission, "team", if number % 3 == 0 { &[A] } else { &[B] }));
    let answers = futures_util::future::join_all(pods).await;
    for (number, (outcome, warnings)) in answers.iter().enumerate() {
        let is_late = number % 3 == 0;
        assert_eq!((*outcome == "injected", warnings.is_empty()), (!is_late, !is_late), "{number}: {warnings:?}");
    }
    assert_eq!((case.store.writes(), *lock(&case.azure.asked)), (1, 2));
}

#[tokio::test]
async fn what_memory_says_of_a_namespace_leaves_no_pod_out() {
    let case = Case::new();
    let admission = admission(&case);
    lock(&admission.namespaces.labels).insert(review::OPT_OUT_LABEL.to_owned(), review::OPT_OUT_VALUE.to_owned());
    assert_eq!(answer(&admission, "team", &[A]).await, ("injected", Vec::new()), "the label was taken away");
    assert!(case.store.stored("team").is_some());
}

#[tokio::test]
async fn what_waits_for_the_next_flight_is_bounded() {
    let case = Case::new();
    *lock(&case.azure.pause) = Duration::from_millis(100);
    let admission = admission(&case);
    let host = |number: usize| format!("registry{number}.azurecr.io");
    let pods = (0..20).map(async |pod| {
        let hosts: Vec<_> = (0..100).map(|number| host(pod * 100 + number)).collect();
        answer(&admission, "team", &hosts.iter().map(String::as_str).collect::<Vec<_>>()).await
    });
    let (answers, most) = tokio::join!(futures_util::future::join_all(pods), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        admission.waiting.waited_for()
    });
    assert!((256..356).contains(&most), "{most} login servers wait for the next flight");
    assert!(answers.iter().all(|(outcome, _)| *outcome == "injected_before_pull_secret"));
    let late = |(_, warnings): &&(_, Vec<String>)| warnings[0].contains("takes longer than a pod may wait");
    assert_eq!(answers.iter().filter(late).count(), 16, "all but those of the first flight and the next");
    assert_eq!(answer(&admission, "team", &[A]).await.0, "injected", "whatever was made up before");
}

/// The keys of a line, without those that every line has.
fn keys(line: &serde_json::Value) -> BTreeSet<&str> {
    let common = ["timestamp", "level", "message", "target"];
    line.as_object().unwrap().keys().map(String::as_str).filter(|key| !common.contains(key)).collect()
}

#[tokio::test]
async fn a_review_is_one_line_at_debug_and_a_write_one_at_info() {
    let (logged, _guard) = Logged::here();
    let case = Case::new();
    let admission = admission(&case);
    assert_eq!(answer(&admission, "team", &[A]).await.0, "injected");
    assert_eq!(answer(&admission, "team", &[A]).await.0, "injected");
    assert_eq!(answer(&admission, "team", &["docker.io"]).await.0, "no_registry_image");
    let lines = logged.lines();
    let of = |message: &str| lines.iter().filter(|line| line["message"] == message).collect::<Vec<_>>();
    let (answered, written) = (of("admission review answered"), of("pull secret written"));
    assert_eq!((answered.len(), written.len(), lines.len()), (3, 1, 4), "{lines:?}");
    for line in answered {
        assert_eq!(line["level"], "DEBUG");
        assert_eq!(keys(line), ["uid", "namespace", "name", "operation", "outcome", "milliseconds"].into());
        assert_eq!(
            (&line["uid"], &line["namespace"], &line["operation"]),
            (&"1".into(), &"team".into(), &"CREATE".into())
        );
    }
    let expected = ["namespace", "name", "operation", "reason", "outcome", "milliseconds", "hosts"];
    assert_eq!((&written[0]["level"], keys(written[0])), (&"INFO".into(), expected.into()));
    assert_eq!((&written[0]["name"], &written[0]["operation"]), (&"acr-pull-secret".into(), &"create".into()));
    // Neither what the pod is made of nor the password, which begins with the host and the rule.
    let text = format!("{lines:?}");
    assert!(!text.contains("containers") && !text.contains(&format!("{A}/app")) && !text.contains(&format!("{A} all")));
}

#[tokio::test]
async fn the_audit_log_learns_the_rule_the_hosts_and_whether_the_pull_secret_was_there() {
    let case = Case::new();
    let admission = admission(&case);
    let annotations = async |review: String| {
        let answer = admission.answer(review.as_bytes()).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        body["response"]["auditAnnotations"].clone()
    };
    let expected =
        |hosts: &str, state: &str| serde_json::json!({"hosts": hosts, "registries": "all", "pull-secret": state});
    let dry_run = review("team", &[A]).replace("\"operation\"", "\"dryRun\":true,\"operation\"");
    assert_eq!(annotations(dry_run).await, expected(A, "not made: dry run"));
    assert_eq!(annotations(review("team", &[A])).await, expected(A, "made"));
    assert_eq!(annotations(review("team", &[A, "docker.io"])).await, expected(A, "present"));
    case.azure.lose(B);
    assert_eq!(annotations(review("team", &[B, A])).await, expected(&format!("{A},{B}"), "pending"));
    assert_eq!(annotations(review("team", &["docker.io"])).await, serde_json::Value::Null);
}
