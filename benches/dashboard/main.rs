//! A picture of the dashboard: `cargo bench --profile dev --bench dashboard -- --svg docs/dashboard.svg`.
//!
//! A real Prometheus scrapes the webhook on a real control plane while pods come and things go wrong. Then each panel of the
//! chart's dashboard asks Prometheus as Grafana does, and what it answers is drawn.

#![expect(clippy::print_stderr, unreachable_pub, reason = "a bench prints and has no public interface")]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "seconds of a run and points of a picture are far below the limits of f64"
)]

#[path = "../../tests/monitoring/alerts/mod.rs"]
#[expect(dead_code, reason = "only what breaks things is of use here")]
mod alerts;
mod axis;
#[path = "../../tests/monitoring/dashboard.rs"]
mod dashboard;
mod drawing;
mod happenings;
#[path = "../../tests/monitoring/prometheus.rs"]
#[expect(dead_code, reason = "the tests of the alerts use the rest")]
mod prometheus;
#[path = "../../tests/monitoring/world.rs"]
mod world;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use drawing::Drawn;
use world::{Error, World};

/// Prometheus looks this often, and the picture has a point for each time.
const INTERVAL: Duration = Duration::from_secs(2);

/// Draws the dashboard from the metrics of a run.
#[derive(Debug, Parser)]
#[command(name = "dashboard", max_term_width = 100)]
struct Arguments {
    /// Length of the run in seconds
    #[arg(long, default_value_t = 390)]
    seconds: u32,
    /// The picture
    #[arg(long, default_value = "docs/dashboard.svg")]
    svg: PathBuf,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    measuring::run_on_tokio(async || run(&Arguments::parse()).await)
}

async fn run(arguments: &Arguments) -> Result<(), Error> {
    eprintln!("starting a control plane, Prometheus and the webhook");
    let program = Path::new(env!("CARGO_BIN_EXE_acr-pull-injector"));
    let world = Arc::new(World::start(program, &["heal.evictStuckPods=true"], INTERVAL).await?);
    eprintln!("running for {} s", arguments.seconds);
    let started = jiff::Timestamp::now().as_second() as f64;
    let seconds = f64::from(arguments.seconds);
    let marks = happenings::run(&world, seconds).await?;
    let panels = panels(&world, started, seconds).await?;
    std::fs::write(&arguments.svg, drawing::draw(&panels, &marks, seconds))?;
    eprintln!("{} is drawn", arguments.svg.display());
    Ok(())
}

/// Rows, and panels with what Prometheus answers for the time of the run.
async fn panels(world: &World, started: f64, seconds: f64) -> Result<Vec<Drawn>, Error> {
    let definition = dashboard::definition()?;
    let rows = definition["panels"].as_array().into_iter().flatten().filter(|panel| panel["type"] == "row");
    let mut drawn: Vec<Drawn> = rows.map(|row| Drawn { definition: row.clone(), lines: Vec::new() }).collect();
    let past = Duration::from_secs_f64(seconds);
    for panel in dashboard::panels(&definition, &world.prometheus, INTERVAL, INTERVAL).await? {
        let mut lines = Vec::new();
        for target in &panel.targets {
            for series in world.prometheus.query_range(&target.expression, past, INTERVAL).await? {
                let values = series.values.iter().map(|(at, value)| (at - started, *value));
                let within = values.filter(|(at, _)| (0.0..=seconds).contains(at));
                lines.push((target.name(&series)?, within.collect()));
            }
        }
        drawn.push(Drawn { definition: panel.definition, lines });
    }
    Ok(drawn)
}
