//! The product on a real kube-apiserver, installed from its chart, with its own ServiceAccount.
//!
//! One control plane and one installation serve all cases. Cases that only create pods run side by side; those that
//! disturb the installation run alone.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::needless_pass_by_value,
    unreachable_pub,
    reason = "a test program may end at once and say why, and has no public interface"
)]

mod disruption;
mod endpoint;
mod healing;
mod injection;
mod life;
#[expect(dead_code, reason = "the faults use the rest")]
mod load;
mod permissions;
#[macro_use]
#[expect(dead_code, reason = "the other test programs use the rest")]
mod program;
mod registry;
mod upgrade;
mod upkeep;
mod world;

use std::{path::Path, process::ExitCode, sync::Arc};

use control_plane::ControlPlane;
use installation::Installation;
use libtest_mimic::Trial;
use tokio::runtime::Handle;

use crate::{
    program::{Case, Threads},
    world::{Error, World},
};

/// Values of the installation: four registries with credentials of their own.
pub fn settings() -> Vec<&'static str> {
    installation::set(&[
        "registries[0].name=contoso",
        "registries[0].hosts={contoso.azurecr.io,contoso.eastus.geo.azurecr.io}",
        "registries[0].credential.servicePrincipal.existingSecret=contoso",
        "registries[1].name=fabrikam",
        "registries[1].hosts={fabrikam.azurecr.io}",
        "registries[1].credential.static.existingSecret=fabrikam",
        "registries[2].name=rotating",
        "registries[2].hosts={rotating.azurecr.io}",
        "registries[2].credential.servicePrincipal.existingSecret=rotating",
        "registries[3].name=restricted",
        "registries[3].hosts={restricted.azurecr.io}",
        "registries[3].namespaces.matchLabels.team=restricted",
        "registries[3].credential.servicePrincipal.existingSecret=contoso",
        installation::service_port_setting(),
        "drainSeconds=5",
        // All that any part of the program ever logs: the last case looks for secrets in it.
        "log.level=trace",
        // Without it a reference can only come from the webhook; one case turns it on.
        "fallbackPolicy.enabled=false",
    ])
}

/// Cases that leave the installation alone.
fn side_by_side() -> Vec<(&'static str, Case)> {
    cases![
        injection::bare_pod,
        injection::pods_of_a_deployment,
        injection::image_of_an_init_container_only,
        injection::hosts_are_spelled_as_the_images_spell_them,
        injection::two_registries_with_their_own_credentials,
        injection::a_host_that_no_registry_covers_is_warned_about,
        injection::a_rule_for_other_namespaces_is_named_in_the_warning,
        injection::look_alike_hosts_get_nothing,
        injection::an_existing_list_keeps_its_order,
        injection::a_pod_that_names_the_pull_secret_gets_it_made,
        injection::the_list_of_the_service_account_stays,
        injection::an_opted_out_namespace_is_untouched,
        injection::an_opted_out_pod_is_untouched,
        injection::a_dry_run_writes_nothing,
        injection::a_mirror_pod_is_untouched,
        injection::a_foreign_secret_is_left_as_it_is,
        injection::a_terminating_namespace_is_not_tried_again,
        injection::twenty_new_namespaces_at_once,
        injection::the_first_pod_right_after_its_namespace,
        endpoint::excluded_and_unknown_namespaces_are_untouched,
        endpoint::malformed_reviews_get_400_and_a_reason,
        endpoint::other_objects_are_allowed_untouched,
        endpoint::large_reviews_are_answered,
        upkeep::an_edited_pull_secret_is_mended_in_place,
        upkeep::a_deleted_pull_secret_comes_back,
        upkeep::a_pull_secret_that_was_taken_over_is_left_alone,
        upkeep::opting_out_removes_the_pull_secret_and_opting_in_brings_it_back,
        upkeep::a_withdrawn_rule_takes_its_credential_back,
        life::tokens_are_renewed_over_a_day,
        life::a_restart_writes_nothing,
        life::pull_secrets_outlive_an_hour_without_azure,
        life::a_rotated_secret_is_taken_over,
        life::a_wrong_secret_does_not_take_a_good_token_away,
        life::a_pull_secret_of_passwords_does_not_expire,
        life::a_clock_that_jumps_stops_nothing,
        healing::a_read_corrects_what_is_remembered_of_a_namespace,
        healing::a_complaint_of_a_kubelet_has_the_pull_secret_made,
        healing::a_stuck_pod_is_told_so,
        healing::a_budget_protects_pods_that_run,
        registry::a_pod_pulls_with_the_password_of_a_service_principal,
        registry::two_registries_pull_with_one_pull_secret,
        registry::a_port_in_the_image_is_found_in_the_pull_secret,
        registry::a_digest_in_the_image_pulls,
        registry::a_token_of_the_registry_pulls,
        permissions::no_other_secret_can_be_read,
        permissions::nothing_but_a_pull_secret_can_be_written,
        permissions::a_foreign_secret_can_be_neither_written_nor_deleted,
    ]
}

/// Cases that disturb the installation, or that must not be disturbed themselves.
fn alone() -> Vec<(&'static str, Case)> {
    cases![
        disruption::a_pod_without_such_an_image_costs_no_call,
        disruption::a_changed_password_reaches_every_pull_secret,
        upkeep::an_immutable_pull_secret_is_made_anew,
        upkeep::a_changed_configuration_takes_effect_and_a_bad_one_does_not,
        upkeep::a_rewrite_survives_the_death_of_its_leader,
        registry::a_rotated_password_pulls_until_it_is_revoked,
        disruption::two_replicas_adding_registries_at_once_lose_none,
        disruption::a_rolling_restart_under_load_fails_no_call,
        upgrade::an_upgrade_and_a_rollback_under_load_lose_no_pod,
        disruption::pods_are_admitted_while_the_webhook_is_dead,
        endpoint::many_large_reviews_at_once_are_bounded,
        disruption::a_second_signal_ends_a_replica_at_once,
        disruption::a_removed_ca_bundle_comes_back,
        healing::a_pull_secret_that_lacks_what_a_pod_waits_for_gets_it,
        healing::stuck_pods_come_back_with_the_pull_secret,
        healing::the_first_round_evicts_nothing,
        disruption::an_upgrade_keeps_the_ca_bundle,
        permissions::no_password_is_in_the_logs,
    ]
}

/// Cases for features that the API server has only in newer versions.
fn for_version(minor: u32) -> Vec<(&'static str, Case)> {
    // Image volumes are on by default from 1.35.
    if minor >= 35 { cases![injection::image_volume_only] } else { Vec::new() }
}

/// As [`alone`], for features that the API server has only in newer versions.
fn alone_for_version(minor: u32) -> Vec<(&'static str, Case)> {
    // Mutating admission policies are generally available from 1.36.
    if minor >= 36 { cases![disruption::the_fallback_policy_serves_while_the_webhook_is_dead] } else { Vec::new() }
}

fn main() -> ExitCode {
    // The cases wait for the API server most of the time.
    program::run(Threads::SideBySide(8), install, trials, |world| world.installation.logs())
}

fn trials(runtime: &Handle, world: Option<&Arc<World>>) -> Vec<Trial> {
    let minor = world.map_or(u32::MAX, |world| world.control_plane.version().minor);
    let trial = |(name, case): (&'static str, Case), exclusive: bool| {
        let (handle, world) = (runtime.clone(), world.cloned());
        Trial::test(name, move || {
            let world = world.ok_or("listed only")?;
            handle.block_on(async {
                if exclusive {
                    let _alone = world.undisturbed.write().await;
                    case(world.clone()).await
                } else {
                    let _shared = world.undisturbed.read().await;
                    case(world.clone()).await
                }
            })?;
            Ok(())
        })
    };
    let shared = side_by_side().into_iter().chain(for_version(minor)).map(|case| trial(case, false));
    shared.chain(alone().into_iter().chain(alone_for_version(minor)).map(|case| trial(case, true))).collect()
}

async fn install() -> Result<World, Error> {
    let control_plane = ControlPlane::builder().controller_manager(true).start().await?;
    let client = control_plane.client();
    installation::create_credentials(
        &client,
        &[
            ("contoso", &[("clientId", "contoso-app"), ("clientSecret", "contoso-password")]),
            ("fabrikam", &[("username", "fabrikam-token"), ("password", "fabrikam-password")]),
            ("rotating", &[("clientId", "rotating-app"), ("clientSecret", "password-1")]),
        ],
    )
    .await?;
    let program = Path::new(env!("CARGO_BIN_EXE_acr-pull-injector"));
    let installation = Installation::install(&control_plane, program, &settings(), 2).await?;
    let world = World::new(control_plane, installation);
    permissions::wait_for_the_guard(&world).await?;
    Ok(world)
}
