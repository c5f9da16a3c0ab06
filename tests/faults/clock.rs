//! The clock of a node is set.

use std::sync::Arc;

use crate::{
    life,
    load::Load,
    progress::say,
    world::{Error, World},
};

/// The parts of a replica run in this process on a clock that jumps, beside the installed product.
pub async fn a_clock_that_jumps_costs_no_pod(world: Arc<World>) -> Result<(), Error> {
    let load = Load::start(&world).await?;
    life::a_clock_that_jumps_stops_nothing(world.clone()).await?;
    let outcome = load.finish().await?;
    say(format!("{outcome:?}"));
    Ok(())
}
