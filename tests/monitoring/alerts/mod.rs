//! One case for each alert: it is quiet, what it names is broken, it fires, and the thing is mended.

pub mod background;
pub mod certificate;
pub mod credentials;
pub mod webhook;

use crate::{
    prometheus::Alert,
    world::{Error, World, eventually},
};

/// Waits until the alert neither waits nor fires: it may still do so because of the case before. While it does, its firing
/// would show nothing.
async fn quiet(world: &World, alert: &str) -> Result<(), Error> {
    eventually(&format!("{alert} to be quiet before anything is broken"), || async {
        Ok(found(world, alert).await?.is_empty().then_some(()))
    })
    .await
}

/// Waits until the alert fires.
async fn fires(world: &World, alert: &str) -> Result<(), Error> {
    fires_as(world, alert, "").await
}

/// Waits until the alert fires with this severity; an empty one stands for any.
async fn fires_as(world: &World, alert: &str, severity: &str) -> Result<(), Error> {
    eventually(&format!("{alert} to fire {severity}"), || async {
        let found = found(world, alert).await?;
        let severe = |found: &Alert| severity.is_empty() || found.severity == severity;
        Ok(found.iter().any(|found| found.state == "firing" && severe(found)).then_some(()))
    })
    .await
}

/// Waits until the alert is quiet again, for those that say how things are now rather than what happened.
async fn calms_down(world: &World, alert: &str) -> Result<(), Error> {
    eventually(&format!("{alert} to end"), || async { Ok(found(world, alert).await?.is_empty().then_some(())) }).await
}

async fn found(world: &World, alert: &str) -> Result<Vec<Alert>, Error> {
    let alerts = world.prometheus.alerts().await?;
    Ok(alerts.into_iter().filter(|found| found.name == alert).collect())
}
