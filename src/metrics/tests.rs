use super::*;
use crate::admission::StoreError;

#[test]
fn what_happens_rarely_stands_at_zero_before_it_does() {
    let text = Metrics::new().encode(0, None);
    for line in [
        "acr_pull_injector_configuration_reloads_total{outcome=\"refused\"} 0",
        "acr_pull_injector_evictions_total{outcome=\"evicted\"} 0",
        "acr_pull_injector_events_total{outcome=\"recorded\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn every_write_of_a_pull_secret_counts_from_zero() {
    let written = |text: &str| text.lines().filter(|line| line.contains("pull_secret_writes_total{")).count();
    let metrics = Metrics::new();
    let before = written(&metrics.encode(0, None));
    for reason in WriteReason::ALL.map(WriteReason::as_label) {
        metrics.pull_secret_written(reason, "written");
        for error in [
            StoreError::Conflict,
            StoreError::NamespaceGone,
            StoreError::Immutable(String::new()),
            StoreError::Refused(String::new()),
            StoreError::Unavailable(String::new()),
        ] {
            metrics.pull_secret_written(reason, error.as_label());
        }
    }
    let text = metrics.encode(0, None);
    assert_eq!(written(&text), before, "{text}");
    assert!(!text.contains("writes_total{reason=\"heal\",outcome=\"refused\"} 0"), "{text}");
}

#[test]
fn counters_carry_the_names_that_dashboards_use() {
    let metrics = Metrics::new();
    metrics.admission_reviewed("injected", Duration::from_micros(80));
    metrics.pull_secret_written("admission", "written");
    metrics.credential_readable("contoso", false);
    metrics.leading(true);
    metrics.configuration_refused(true);
    metrics.stuck_pods(4);
    metrics.eviction("held");
    metrics.event("dropped");
    metrics.tasks_alive(7);
    let moment = |second| Some(jiff::Timestamp::from_second(second).unwrap());
    metrics.serving_certificate_authority_expiry(moment(1_900_000_000));
    for registry in ["contoso", "fabrikam", "removed"] {
        metrics.service_principal_expiry(registry, moment(1_800_000_000));
    }
    metrics.service_principal_expiry("fabrikam", None);
    metrics.registry_removed("removed");
    let text = metrics.encode(3, None);
    for line in [
        "acr_pull_injector_stuck_pods 4",
        "acr_pull_injector_evictions_total{outcome=\"held\"} 1",
        "acr_pull_injector_events_total{outcome=\"dropped\"} 1",
        "acr_pull_injector_admission_reviews_total{outcome=\"injected\"} 1",
        "acr_pull_injector_admission_duration_seconds_bucket{le=\"0.0001\"} 1",
        "acr_pull_injector_admission_duration_seconds_bucket{le=\"0.00005\"} 0",
        "acr_pull_injector_pull_secret_writes_total{reason=\"admission\",outcome=\"written\"} 1",
        "acr_pull_injector_pull_secrets 3",
        "acr_pull_injector_tasks 7",
        "acr_pull_injector_leader 1",
        "acr_pull_injector_log_lines_dropped_total 0",
        "acr_pull_injector_configuration_refused 1",
        "acr_pull_injector_registry_credential_readable{registry=\"contoso\"} 0",
        "acr_pull_injector_serving_certificate_expiry_timestamp_seconds 0.0",
        "acr_pull_injector_serving_certificate_authority_expiry_timestamp_seconds 1900000000.0",
        "acr_pull_injector_service_principal_credential_expiry_timestamp_seconds{registry=\"contoso\"} 1800000000.0",
        concat!("acr_pull_injector_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    for forgotten in ["fabrikam", "removed"] {
        assert!(!text.contains(forgotten), "{text}");
    }
}
