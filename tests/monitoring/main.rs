//! A real Prometheus scrapes the program and the API server, with the chart's own alerts loaded: for each alert the thing that
//! it names is broken until it fires, and every query of the dashboard gives something.

#![expect(
    clippy::expect_used,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test program may end at once and say why, and has no public interface"
)]

mod alerts;
mod dashboard;
mod panels;
#[path = "../e2e/program.rs"]
#[expect(dead_code, unused_macros, reason = "the end-to-end tests use the rest")]
mod program;
mod prometheus;
mod world;

use std::{collections::BTreeSet, path::Path, process::ExitCode, sync::Arc, time::Duration};

use libtest_mimic::Trial;
use tokio::runtime::Handle;

use crate::{
    program::{Case, Threads},
    world::{Error, World},
};

/// Prometheus looks this often.
const INTERVAL: Duration = Duration::from_secs(1);

macro_rules! case {
    ($($path:ident)::+) => {
        (|world| Box::pin($($path)::+(world))) as Case
    };
}

/// Alerts in an order in which each is quiet when its turn comes: what breaks for one must not fire one that follows.
fn alerts() -> Vec<(&'static str, Case)> {
    vec![
        ("AcrPullInjectorPatchRejected", case!(alerts::webhook::patch_rejected)),
        ("AcrPullInjectorFailClosed", case!(alerts::webhook::fail_closed)),
        ("AcrPullInjectorFailOpen", case!(alerts::webhook::fail_open)),
        ("AcrPullInjectorCredentialUnreadable", case!(alerts::credentials::unreadable)),
        ("AcrPullInjectorRefreshFails", case!(alerts::credentials::refresh_fails)),
        ("AcrPullInjectorCredentialExpires", case!(alerts::credentials::expires)),
        ("AcrPullInjectorServicePrincipalExpires", case!(alerts::credentials::service_principal_expires)),
        ("AcrPullInjectorNoLeader", case!(alerts::background::no_leader)),
        ("AcrPullInjectorReloadRefused", case!(alerts::background::reload_refused)),
        ("AcrPullInjectorWritesFail", case!(alerts::background::writes_fail)),
        ("AcrPullInjectorStuckPods", case!(alerts::background::stuck_pods)),
        ("AcrPullInjectorServingCertificateExpires", case!(alerts::certificate::serving_certificate_expires)),
        ("AcrPullInjectorServingCertificateAuthorityExpires", case!(alerts::certificate::authority_expires)),
        ("AcrPullInjectorDown", case!(alerts::webhook::down)),
    ]
}

/// All cases, by name: the alerts, one that compares them with the chart's, and the dashboard.
fn cases() -> Vec<(String, Case)> {
    let alerts = alerts().into_iter().map(|(alert, case)| (format!("alerts::{alert}"), case));
    let first = ("alerts::none_is_left_out".to_owned(), case!(none_is_left_out));
    let last = ("panels::every_query_gives_something".to_owned(), case!(panels::every_query_gives_something));
    [first].into_iter().chain(alerts).chain([last]).collect()
}

fn main() -> ExitCode {
    let program = Path::new(env!("CARGO_BIN_EXE_acr-pull-injector"));
    let start = || World::start(program, &["heal.evictStuckPods=true"], INTERVAL);
    // One after the other, in their order.
    program::run(Threads::OneByOne, start, trials, |world| world.installation.logs())
}

fn trials(runtime: &Handle, world: Option<&Arc<World>>) -> Vec<Trial> {
    let trial = |(name, case): (String, Case)| {
        let (handle, world) = (runtime.clone(), world.cloned());
        Trial::test(name, move || Ok(handle.block_on(case(world.ok_or("listed only")?))?))
    };
    cases().into_iter().map(trial).collect()
}

/// Every alert of the chart has a case here.
async fn none_is_left_out(world: Arc<World>) -> Result<(), Error> {
    let loaded = world.prometheus.rules().await?;
    let cases: BTreeSet<String> = alerts().into_iter().map(|(alert, _)| alert.to_owned()).collect();
    if loaded == cases {
        Ok(())
    } else {
        Err(format!("the chart has {loaded:?}, cases are there for {cases:?}").into())
    }
}
