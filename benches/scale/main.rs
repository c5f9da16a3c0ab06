//! How the webhook grows with the cluster: `cargo bench --bench scale`.
//!
//! One control plane grows to more and more namespaces with a pull secret each. At each size: how fast pull secrets are
//! made, what a replica holds in memory, how long a fresh one takes to be ready, what it asks of the API server when it has
//! nothing to do, and how long a new password takes to be everywhere. One replica runs at a time.
//!
//! kube-controller-manager is left out: nothing else then works on namespaces and Secrets.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a bench prints and has no public interface"
)]
#![expect(clippy::cast_precision_loss, reason = "counts and times are far below the limits of f64")]

mod audit;
mod stage;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use audit::AuditLog;
use clap::Parser;
use control_plane::ControlPlane;
use installation::Error;
use measuring::{
    latencies::milliseconds,
    machine,
    plot::{self, Line, Scale as AxisScale},
    process::{self, mebibytes},
    product::Product,
    table::Table,
};
use stage::{Measured, Scale};

/// Measures the webhook in clusters of growing size.
#[derive(Debug, Parser)]
#[command(name = "scale", max_term_width = 100)]
struct Arguments {
    /// Numbers of namespaces, growing
    #[arg(long, value_delimiter = ',', default_value = "100,1000,10000")]
    namespaces: Vec<usize>,
    /// The chart's reconcile.writesPerSecond
    #[arg(long, default_value_t = 50)]
    writes_per_second: u16,
    /// Seconds for which a fresh replica is watched doing nothing
    #[arg(long, default_value_t = 30)]
    idle: u64,
    /// Also write a plot to this file (SVG)
    #[arg(long)]
    plot: Option<PathBuf>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    measuring::run_on_tokio(async || run(&Arguments::parse()).await)
}

async fn run(arguments: &Arguments) -> Result<(), Error> {
    println!("{}", machine::description());
    println!("one replica, {} background writes a second at most", arguments.writes_per_second);
    eprintln!("starting a control plane and installing the webhook");
    let program = PathBuf::from(env!("CARGO_BIN_EXE_acr-pull-injector"));
    let audit = AuditLog::new()?;
    let rate = format!("reconcile.writesPerSecond={}", arguments.writes_per_second);
    let control_plane = audit.kept_by(ControlPlane::builder());
    let product = Product::install(control_plane, &program, &[&rate], 1).await?;
    let replica = product.installation.take_oldest().ok_or("no replica runs")?.pod;
    let idle = Duration::from_secs(arguments.idle);
    let mut scale = Scale { product, program, audit, replica, namespaces: 0, passwords: 0, idle };
    let mut stages = Vec::new();
    for namespaces in &arguments.namespaces {
        stages.push(scale.stage(*namespaces).await?);
    }
    print(&stages);
    if let Some(file) = &arguments.plot {
        std::fs::write(file, plot(&stages))?;
    }
    Ok(())
}

fn print(stages: &[Measured]) {
    let mut size = Table::new(
        "Size",
        &["namespaces", "first pods/s", "MiB (peak) after making", "MiB (peak) fresh", "MiB (peak) after rewrite"],
    );
    let mut time = Table::new(
        "Time",
        &["namespaces", "start to ready ms", "rewrite s", "rewrites/s", "pods meanwhile p50 ms", "longest ms"],
    );
    let mut asked = Table::new(
        "Requests to the API server, by its audit log",
        &[
            "namespaces",
            "reads at the start and idle",
            "writes of pull secrets idle",
            "writes in the rewrite",
            "reads in the rewrite",
            "applies by the API server's metrics",
        ],
    );
    for stage in stages {
        let memory = |memory: process::Memory| format!("{} ({})", mebibytes(memory.resident), mebibytes(memory.peak));
        let namespaces = stage.namespaces.to_string();
        size.row([
            namespaces.clone(),
            format!("{:.0}", stage.made_per_second),
            memory(stage.memory_after_making),
            memory(stage.memory_fresh),
            memory(stage.memory_rewritten),
        ]);
        let rewrite = stage.rewrite.as_secs_f64();
        let served_first = |percent| {
            let latencies = stage.served_first.as_ref();
            latencies.map_or_else(|| "none".to_owned(), |latencies| milliseconds(latencies.percentile(percent)))
        };
        time.row([
            namespaces.clone(),
            format!("{:.0}", stage.start_to_ready.as_secs_f64() * 1000.0),
            format!("{rewrite:.1}"),
            format!("{:.0}", stage.namespaces as f64 / rewrite),
            served_first(50.0),
            served_first(100.0),
        ]);
        asked.row([
            namespaces,
            stage.idle.reads().to_string(),
            stage.idle.writes().to_string(),
            stage.rewriting.writes().to_string(),
            stage.rewriting.reads().to_string(),
            format!("{:.0}", stage.applied_by_metrics),
        ]);
    }
    println!("{size}{time}{asked}");
}

fn plot(stages: &[Measured]) -> String {
    let line = |name, value: fn(&Measured) -> f64| {
        let points = stages.iter().map(|stage| (stage.namespaces as f64, value(stage).max(0.001)));
        Line { name, points: points.collect() }
    };
    let lines = [
        line("memory of a fresh replica (MiB)", |stage| stage.memory_fresh.resident as f64 / 1024.0),
        line("start to ready (ms)", |stage| stage.start_to_ready.as_secs_f64() * 1000.0),
        line("new password everywhere (s)", |stage| stage.rewrite.as_secs_f64()),
    ];
    plot::svg("Growth with the cluster", "namespaces with a pull secret", AxisScale::Logarithmic, &lines)
}
