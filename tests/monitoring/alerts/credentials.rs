//! What is stored, and what Azure gives for it.

use std::{sync::Arc, time::Duration};

use serde_json::json;

use jiff::{SignedDuration, Timestamp};

use super::{calms_down, fires, fires_as, quiet};
use crate::world::{Error, World};

/// A key is taken out of the stored credential.
pub async fn unreadable(world: Arc<World>) -> Result<(), Error> {
    quiet(&world, "AcrPullInjectorCredentialUnreadable").await?;
    world.change_secret("contoso", json!({"data": {"clientSecret": null}})).await?;
    fires(&world, "AcrPullInjectorCredentialUnreadable").await?;
    world.change_secret("contoso", json!({"stringData": {"clientSecret": "password-0"}})).await?;
    calms_down(&world, "AcrPullInjectorCredentialUnreadable").await
}

/// A secret is stored that Entra does not take.
pub async fn refresh_fails(world: Arc<World>) -> Result<(), Error> {
    quiet(&world, "AcrPullInjectorRefreshFails").await?;
    world.change_secret_of_application("not-a-secret", false).await?;
    fires(&world, "AcrPullInjectorRefreshFails").await?;
    world.change_secret_of_application("secret-1", true).await
}

/// A registry gives tokens that end before the alert's half hour.
pub async fn expires(world: Arc<World>) -> Result<(), Error> {
    quiet(&world, "AcrPullInjectorCredentialExpires").await?;
    let registry = world.azure.registry("short");
    registry.set_token_life(Duration::from_secs(20 * 60));
    world.change_secret_of_application("secret-2", true).await?;
    fires(&world, "AcrPullInjectorCredentialExpires").await?;
    registry.set_token_life(Duration::from_secs(3 * 60 * 60));
    world.change_secret_of_application("secret-3", true).await?;
    calms_down(&world, "AcrPullInjectorCredentialExpires").await
}

/// The operator states that the secret ends in 20 days, then in 3, then in a year.
pub async fn service_principal_expires(world: Arc<World>) -> Result<(), Error> {
    quiet(&world, "AcrPullInjectorServicePrincipalExpires").await?;
    state_the_end(&world, 20).await?;
    fires_as(&world, "AcrPullInjectorServicePrincipalExpires", "warning").await?;
    state_the_end(&world, 3).await?;
    fires_as(&world, "AcrPullInjectorServicePrincipalExpires", "critical").await?;
    state_the_end(&world, 365).await?;
    calms_down(&world, "AcrPullInjectorServicePrincipalExpires").await
}

/// Writes beside the stored password that it ends in so many days.
pub async fn state_the_end(world: &World, days: i64) -> Result<(), Error> {
    let end = Timestamp::now() + SignedDuration::from_hours(24 * days);
    world.change_secret("contoso", json!({"stringData": {"endDateTime": end.to_string()}})).await
}
