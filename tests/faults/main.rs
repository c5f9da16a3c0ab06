//! What breaks around the product, one thing after the other, while pods keep coming: none is lost, none is admitted
//! without its reference while a webhook can be reached, and every pull secret is right in the end.
//!
//! The control plane is this program's own, since cases stop its API server and its etcd. Cases that have the installation
//! for themselves run one by one, and each leaves two replicas behind. Those that leave it alone, and wait most of the time,
//! run beside the first of them.

#![expect(
    clippy::expect_used,
    clippy::print_stderr,
    clippy::needless_pass_by_value,
    unreachable_pub,
    reason = "a test program may end at once and say why, and has no public interface"
)]

mod abuse;
mod api_server;
mod azure;
mod backup;
mod burst;
mod certificate_files;
mod certificates;
mod edge;
mod election;
mod line;
#[path = "../e2e/load.rs"]
#[expect(dead_code, reason = "the end-to-end tests use the rest")]
mod load;
mod log;
#[path = "../e2e/program.rs"]
#[macro_use]
#[expect(dead_code, reason = "the end-to-end tests use the rest")]
mod program;
mod progress;
mod replicas;
mod slow_clients;
#[path = "../e2e/upkeep.rs"]
#[expect(dead_code, reason = "the end-to-end tests use the rest")]
mod upkeep;
#[path = "../e2e/world.rs"]
#[expect(dead_code, reason = "the end-to-end tests use the rest")]
mod world;

use std::{path::Path, process::ExitCode, sync::Arc};

use control_plane::ControlPlane;
use installation::Installation;
use libtest_mimic::Trial;
use tokio::{runtime::Handle, sync::Mutex};

use crate::{
    program::{Case, Threads},
    world::{Error, World},
};

/// Cases that leave the installation and the API server alone, and wait most of the time.
fn beside() -> Vec<(&'static str, Case)> {
    cases![
        election::whoever_holds_the_lease_is_not_believed_the_time,
        election::a_lead_that_cannot_be_renewed_is_kept_for_a_moment_and_not_announced,
        election::a_slow_api_server_has_a_leader,
    ]
}

/// What those of [`beside`] run beside: cases that leave the API server alone and wait most of the time too, altogether for
/// longer.
fn calm() -> Vec<(&'static str, Case)> {
    cases![
        certificate_files::the_last_good_pair_serves_whatever_is_written,
        certificates::a_new_certificate_and_a_new_authority_fail_no_call,
    ]
}

/// Cases that have all for themselves.
fn alone() -> Vec<(&'static str, Case)> {
    cases![
        replicas::a_killed_replica_costs_no_pod,
        replicas::a_rolling_update_fails_no_call,
        replicas::a_leader_killed_in_the_middle_of_a_rewrite_costs_no_pod,
        edge::ten_thousand_idle_connections_cost_no_pod,
        edge::clients_that_never_read_cost_no_pod,
        edge::no_descriptor_left_costs_no_pod,
        slow_clients::slow_clients_cost_no_pod,
        abuse::garbage_costs_no_pod,
        abuse::unusual_requests_are_refused_and_cost_no_pod,
        abuse::a_review_of_countless_login_servers_costs_no_pod,
        burst::a_pod_in_each_of_500_new_namespaces,
        azure::azure_costs_no_pod_and_recovery_is_by_itself,
        api_server::a_restart_of_the_api_server_loses_nothing,
        api_server::etcd_gone_for_a_while_loses_nothing,
        api_server::a_minute_without_the_api_server_is_bridged_from_memory,
        api_server::what_happened_in_a_forgotten_history_is_found,
        backup::what_happens_after_a_backup_was_restored_is_seen,
        log::a_log_that_takes_nothing_holds_up_no_pod,
        log::nothing_is_written_to_a_file,
    ]
}

/// Values of the installation.
pub fn settings() -> Vec<&'static str> {
    installation::set(&[
        "registries[0].name=contoso",
        "registries[0].hosts={contoso.azurecr.io}",
        "registries[0].credential.servicePrincipal.existingSecret=contoso",
        "registries[1].name=rotating",
        "registries[1].hosts={rotating.azurecr.io}",
        "registries[1].credential.servicePrincipal.existingSecret=rotating",
        installation::service_port_setting(),
        // Only the webhook shall make references, but in the cases that say otherwise.
        "fallbackPolicy.enabled=false",
        "drainSeconds=5",
        "log.level=debug",
    ])
}

fn main() -> ExitCode {
    // As many as run beside each other.
    let threads = Threads::SideBySide(beside().len() + 1);
    program::run(threads, install, trials, logs)
}

fn logs(world: &World) -> String {
    let logs = world.installation.logs();
    logs.lines().filter(|line| !line.contains("\"level\":\"DEBUG\"")).collect::<Vec<_>>().join("\n")
}

fn trials(runtime: &Handle, world: Option<&Arc<World>>) -> Vec<Trial> {
    let turn = Arc::new(Mutex::new(()));
    let trial = |(name, case): (&'static str, Case), place: Place| {
        let (handle, world, turn) = (runtime.clone(), world.cloned(), turn.clone());
        Trial::test(name, move || {
            let world = world.ok_or("listed only")?;
            handle.block_on(async {
                if place == Place::Alone {
                    let _alone = world.undisturbed.write().await;
                    return run_on_installation(name, case, &world).await;
                }
                let _shared = world.undisturbed.read().await;
                if place == Place::Calm {
                    let _turn = turn.lock().await;
                    run_on_installation(name, case, &world).await
                } else {
                    run(name, case, &world).await
                }
            })?;
            Ok(())
        })
    };
    let places = [(beside(), Place::Beside), (calm(), Place::Calm), (alone(), Place::Alone)];
    places
        .into_iter()
        .flat_map(|(cases, place)| cases.into_iter().map(move |case| (case, place)))
        .map(|(case, place)| trial(case, place))
        .collect()
}

/// Where a case stands among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Beside,
    Calm,
    Alone,
}

async fn run(name: &str, case: Case, world: &Arc<World>) -> Result<(), Error> {
    progress::say(name);
    // A task of its own, so that a panic is an error like any other.
    tokio::spawn(case(world.clone())).await.map_err(Error::from).flatten()
}

async fn run_on_installation(name: &str, case: Case, world: &Arc<World>) -> Result<(), Error> {
    let outcome = run(name, case, world).await;
    if let Err(error) = &outcome {
        // The replicas end below, and their logs with them.
        eprintln!("{name}: {error}\n--- logs of its replicas ---\n{}\n---", logs(world));
    }
    // The next case begins with what it expects, however this one ended.
    let ready = if outcome.is_ok() { complete(world).await } else { replicas::start_over(world).await };
    if let Err(error) = &ready {
        progress::say(format!("what {name} left could not be put back: {error}"));
    }
    outcome.and(ready)
}

/// Two replicas run.
async fn complete(world: &World) -> Result<(), Error> {
    while world.installation.webhooks().len() < 2 {
        world.installation.start_replica(&world.control_plane).await?;
    }
    Ok(())
}

async fn install() -> Result<World, Error> {
    let control_plane = ControlPlane::builder().controller_manager(true).start().await?;
    let client = control_plane.client();
    installation::create_credentials(
        &client,
        &[
            ("contoso", &[("clientId", "contoso-app"), ("clientSecret", "contoso-password")]),
            ("rotating", &[("clientId", "rotating-app"), ("clientSecret", "password-1")]),
        ],
    )
    .await?;
    let program = Path::new(env!("CARGO_BIN_EXE_acr-pull-injector"));
    let installation = Installation::install(&control_plane, program, &settings(), 2).await?;
    Ok(World::new(control_plane, installation))
}
