//! Does anything grow? `cargo bench --bench soak`.
//!
//! Two replicas serve pods for a long time while all that changes in a cluster's life changes all the time: passwords,
//! tokens, the serving certificate, the leader, and namespaces. What each replica holds is written down every ten seconds,
//! and a verdict over it computed at the end. The program fails when the verdict does.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a bench prints and has no public interface"
)]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "counts and times are far below the limits of f64"
)]

mod cluster;
mod disturbances;
mod load;
mod record;
mod samples;
mod verdict;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use cluster::Cluster;
use installation::Error;
use measuring::machine;
use record::Record;
use samples::Sample;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use verdict::Due;

/// Serves pods for a long time and looks whether anything grows.
#[derive(Debug, Parser)]
#[command(name = "soak", max_term_width = 100)]
struct Arguments {
    /// How long
    #[arg(long, default_value_t = 20.0)]
    minutes: f64,
    /// Pods that are created through the API server each second
    #[arg(long, default_value_t = 200.0)]
    pods: f64,
    /// Reviews of captured pods that are sent to the replicas directly each second, beside the pods
    #[arg(long, default_value_t = 0.0)]
    reviews: f64,
    /// Namespaces that stay
    #[arg(long, default_value_t = 40)]
    namespaces: usize,
    /// Another build of the webhook
    #[arg(long, default_value = env!("CARGO_BIN_EXE_acr-pull-injector"), hide_default_value = true)]
    program: PathBuf,
    /// Also write a plot to this file (SVG)
    #[arg(long)]
    plot: Option<PathBuf>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// What changed last has this long to reach every pull secret.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    measuring::run_on_tokio(async || {
        let passed = run(&Arguments::parse()).await?;
        Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// Did it pass?
async fn run(arguments: &Arguments) -> Result<bool, Error> {
    println!("{}", machine::description());
    println!(
        "{} minutes, {} pods/s through the API server, {} reviews/s beside them, two replicas, all programs on all cores",
        arguments.minutes, arguments.pods, arguments.reviews
    );
    eprintln!("starting a control plane and installing the webhook");
    let cluster = Arc::new(Cluster::start(&arguments.program, arguments.namespaces).await?);
    let record = Arc::new(Record::default());
    let stop = CancellationToken::new();
    let mut work = JoinSet::new();
    load::start(&cluster, &record, &stop, arguments.pods, arguments.reviews, &mut work).await?;
    disturbances::start(&cluster, &record, &stop, &mut work);

    let started = Instant::now();
    let mut samples = observe(&cluster, &record, Duration::from_secs_f64(arguments.minutes * 60.0)).await?;
    stop.cancel();
    let seconds = started.elapsed().as_secs_f64();
    let due = Due { pods: arguments.pods * seconds, reviews: arguments.reviews * seconds };
    while let Some(ended) = work.join_next().await {
        ended??;
    }
    // With what was under way at the end.
    samples.push(Sample::take(started.elapsed(), &cluster, &record)?);
    let right = cluster.pull_secrets_become_right(SETTLE_LIMIT).await;
    println!("{}", samples::table(&samples));
    println!("{}", record.summary());
    if let Some(file) = &arguments.plot {
        std::fs::write(file, samples::plot(&samples))?;
    }
    let verdict = verdict::of(&samples, &due, &record, &right);
    println!("{verdict}");
    if !verdict.passes() {
        eprintln!("{}", cluster.last_log_lines());
    }
    Ok(verdict.passes())
}

async fn observe(cluster: &Cluster, record: &Record, duration: Duration) -> Result<Vec<Sample>, Error> {
    let started = Instant::now();
    let mut samples = Vec::new();
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + SAMPLE_EVERY, SAMPLE_EVERY);
    while started.elapsed() < duration {
        ticks.tick().await;
        let sample = Sample::take(started.elapsed(), cluster, record)?;
        eprintln!("{sample}");
        samples.push(sample);
    }
    Ok(samples)
}
