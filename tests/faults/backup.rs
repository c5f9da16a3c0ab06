//! Somebody restores a backup of the cluster's data: what the replicas saw since never happened.

use std::{sync::Arc, time::Instant};

use crate::{
    api_server::{delete_pull_secret, opt_out, served, soon},
    progress::say,
    world::{Error, World, expect},
};

/// Resource versions go back. Whoever goes on watching from the newest that it saw is told nothing until they get there
/// again.
pub async fn what_happens_after_a_backup_was_restored_is_seen(world: Arc<World>) -> Result<(), Error> {
    let (deleted, opted_out) = (served(&world, 1).await?.remove(0), served(&world, 1).await?.remove(0));
    world.control_plane.back_up().await?;
    say("a backup was made");
    let last = served(&world, 40).await?.pop().ok_or("no namespace")?;
    let version_before = version(&world, &last).await?;
    world.control_plane.restore_backup().await?;
    let restored_at = Instant::now();
    say("the backup was restored");
    expect(world.pull_secret(&last).await?.is_none(), "the backup has what was made after it")?;

    delete_pull_secret(&world, &deleted).await?;
    opt_out(&world, &opted_out).await?;
    let what = "the deleted pull secret";
    soon(what, restored_at, || async { Ok(world.pull_secret(&deleted).await?.is_some()) }).await?;
    let what = "the pull secret of the namespace that opted out to go";
    soon(what, restored_at, || async { Ok(world.pull_secret(&opted_out).await?.is_none()) }).await?;
    let version = version(&world, &deleted).await?;
    expect(version < version_before, "versions have reached those of before, so this case has shown nothing")
}

async fn version(world: &World, namespace: &str) -> Result<u64, Error> {
    let secret = world.pull_secret(namespace).await?.ok_or("no pull secret")?;
    Ok(secret.metadata.resource_version.ok_or("no resource version")?.parse()?)
}
