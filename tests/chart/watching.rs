//! Alerts and the dashboard: complete, about this release, and about metrics that exist.

use std::{collections::BTreeSet, path::Path};

use serde_json::Value;

use crate::{
    everything,
    render::{Objects, chart_directory, render, render_as},
};

const OPERATOR: [&str; 4] =
    ["--api-versions", "monitoring.coreos.com/v1", "--set", "metrics.prometheusRule.enabled=true"];

fn alerts(objects: &Objects, name: &str) -> Vec<Value> {
    let rule = &objects[&format!("PrometheusRule/{name}")];
    rule.pointer("/spec/groups/0/rules").unwrap().as_array().unwrap().clone()
}

#[test]
fn every_alert_says_what_is_wrong_how_bad_it_is_and_where_to_read_on() {
    for alert in alerts(&render(&OPERATOR), "acr-pull-injector") {
        let name = alert["alert"].as_str().unwrap();
        let annotation = |key: &str| alert["annotations"][key].as_str().unwrap_or_default().to_owned();
        assert!(annotation("summary").len() > 20 && annotation("description").len() > 60, "{name}");
        assert!(annotation("runbook_url").ends_with(&format!("/docs/runbooks.md#{}", name.to_lowercase())), "{name}");
        assert!(["critical", "warning"].map(Value::from).contains(&alert["labels"]["severity"]), "{name}");
    }
}

#[test]
fn alerts_are_about_the_release_they_belong_to() {
    let objects = render_as("one", "namespace-one", &OPERATOR);
    for alert in alerts(&objects, "one-acr-pull-injector") {
        let text = alert.to_string();
        assert!(!text.contains("RELEASE_NAMESPACE"), "{text}");
        let expression = alert["expr"].as_str().unwrap();
        for (at, _) in expression.match_indices("acr_pull_injector_") {
            let selector = expression[at..].split_once('{').unwrap().1;
            assert!(selector.starts_with(r#"namespace="namespace-one""#), "{expression}");
        }
    }
}

#[test]
fn every_alert_has_a_unit_test_and_a_runbook() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = std::fs::read_to_string(directory.join("tests/chart/alerts.yaml")).unwrap();
    let runbooks = std::fs::read_to_string(directory.join("docs/runbooks.md")).unwrap();
    for alert in alerts(&render(&OPERATOR), "acr-pull-injector") {
        let name = alert["alert"].as_str().unwrap();
        assert!(
            tests.lines().any(|line| line.trim() == format!("alertname: {name}")),
            "{name}: tests/chart/alerts.yaml"
        );
        assert!(runbooks.lines().any(|line| line.trim_start_matches('#').trim() == name), "{name}: docs/runbooks.md");
    }
}

#[test]
fn the_dashboard_is_json_and_every_panel_asks_something() {
    let objects = render(&everything());
    let text = objects["ConfigMap/acr-pull-injector-dashboard"]["data"]["acr-pull-injector.json"].as_str().unwrap();
    let dashboard: Value = serde_json::from_str(text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let asking: Vec<_> = panels.iter().filter(|panel| panel["type"] != "row").collect();
    assert!(asking.len() > 10);
    for panel in asking {
        assert!(panel["description"].as_str().unwrap().len() > 10, "{}", panel["title"]);
        assert!(panel["targets"][0]["expr"].is_string(), "{}", panel["title"]);
    }
}

/// What Prometheus adds to the names that the program registers.
const ENDINGS: [&str; 5] = ["_total", "_seconds_bucket", "_info", "_timestamp_seconds", ""];

#[test]
fn every_metric_of_ours_that_is_asked_for_exists() {
    let files = chart_directory().join("files");
    let asked =
        ["alerts.yaml", "dashboard.json"].map(|name| std::fs::read_to_string(files.join(name)).unwrap()).concat();
    let source = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/metrics.rs")).unwrap();
    let names: BTreeSet<_> = asked
        .split("acr_pull_injector_")
        .skip(1)
        .map(|rest| rest.split(|letter: char| !letter.is_ascii_lowercase() && letter != '_').next().unwrap())
        .collect();
    assert!(names.len() >= 11, "{names:?}");
    for name in names {
        let registered = |ending: &&str| {
            let stem = name.strip_suffix(*ending);
            let whole = [name, stem.unwrap_or(name)];
            stem.is_some() && whole.iter().any(|name| source.contains(&format!("\"{name}\"")))
        };
        assert!(ENDINGS.iter().any(registered), "src/metrics.rs registers no acr_pull_injector_{name}");
    }
}
