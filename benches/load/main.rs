//! The webhook under load, over TLS: `cargo bench --bench load`.
//!
//! The program is the release binary, installed from its chart on a real control plane. In the same run the same load
//! goes to the least that could do the job: axum over TLS that only decodes the review, into a struct of a few fields or
//! into a `serde_json::Value`, and gives a constant answer; and, on request, to a handler in Go with a typed pod.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a bench prints, may end at once and say why, and has no public interface"
)]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "counts and times are far below the limits of f64"
)]

mod loops;
mod rounds;
mod targets;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use axum_handler::Decode;
use clap::Parser;
use control_plane::ControlPlane;
use installation::Error;
use measuring::{
    client,
    machine::{self, Cores},
    metrics,
    product::{self, Product},
    reviews::{NAMESPACE, Sample, samples},
};
use targets::Target;

/// Puts the webhook and the least that could do its job under the same load.
#[derive(Debug, Parser)]
#[command(name = "load", max_term_width = 100)]
struct Arguments {
    /// One short round of everything, to see that it works
    #[arg(long)]
    quick: bool,
    /// Also measure a handler in Go with a typed pod; takes Go
    #[arg(long)]
    go: bool,
    /// Rounds, in each of which all servers take their turn; the median of the rounds is shown, and all latencies of the
    /// open loop together
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds that each server is measured in a round
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Reviews a second in the open loop
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// Only reviews of this size: "2.5 KB", "8 KB", "100 KB" or "3 MiB"
    #[arg(long)]
    size: Option<String>,
    /// The program to measure instead of the one that cargo built for this bench
    #[arg(long)]
    program: Option<PathBuf>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    fn rounds(&self) -> usize {
        if self.quick { 1 } else { self.rounds }
    }

    fn round(&self) -> Duration {
        Duration::from_secs_f64(if self.quick { 0.5 } else { self.seconds })
    }

    /// For the open loop, all rounds together.
    fn long(&self) -> Duration {
        self.round() * if self.quick { 4 } else { 10 }
    }
}

fn main() -> ExitCode {
    measuring::run(|| {
        if std::env::args().nth(1).as_deref() == Some(axum_handler::COMMAND) {
            axum_handler::run(std::env::args().skip(1))
        } else {
            run(&Arguments::parse())
        }
    })
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    println!("{}", machine::description());
    let cores = Cores::divide()?;
    match &cores {
        Some(cores) => cores.leave_to_servers()?,
        None => println!("One core only: server and client share it, so requests a second say little."),
    }
    machine::wake_up_in_time();
    // After the cores are set, so that it and the control plane stay on theirs.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let directory = tempfile::tempdir()?;
    eprintln!("starting a control plane and installing the webhook");
    let program = arguments.program.as_deref().unwrap_or_else(|| Path::new(env!("CARGO_BIN_EXE_acr-pull-injector")));
    let running = runtime.block_on(start(program, directory.path(), cores.as_ref()))?;
    let Running { product, webhook, admin } = running;

    let mut samples = samples();
    samples.retain(|sample| arguments.size.as_ref().is_none_or(|size| size == sample.name));
    let answer = answer(&webhook, &samples)?;
    let address = || product.control_plane.new_pod_address();
    let mut targets = vec![webhook];
    for decode in [Decode::Typed, Decode::Value] {
        targets.push(Target::axum(decode, address(), directory.path(), cores.as_ref(), &answer)?);
    }
    if arguments.go {
        eprintln!("building the handler in Go");
        targets.push(Target::go(address(), directory.path(), cores.as_ref())?);
    }
    let before = metrics::of_replica(admin)?;
    rounds::measure(arguments, &targets, &samples)?;
    answered_from_memory(&before, &metrics::of_replica(admin)?)?;
    drop(targets);
    runtime.block_on(async { drop(product) });
    Ok(())
}

struct Running {
    product: Product,
    webhook: Target,
    admin: SocketAddr,
}

async fn start(program: &Path, directory: &Path, cores: Option<&Cores>) -> Result<Running, Error> {
    let mut program = program.to_owned();
    if let Some(cores) = cores {
        program = cores.server_program(&program, directory)?;
    }
    let product = Product::install(ControlPlane::builder(), &program, &[], 1).await?;
    product.create_namespace(NAMESPACE).await?;
    let replica = product.installation.take_oldest().ok_or("no replica runs")?;
    let admin = product::admin(&replica);
    let endpoint = product.endpoint(replica.webhook).await?;
    Ok(Running { product, webhook: Target::webhook(endpoint, replica)?, admin })
}

/// The webhook's answer to the first sample. The first request of all makes the pull secret.
fn answer(webhook: &Target, samples: &[Sample]) -> Result<Vec<u8>, Error> {
    let mut connection = webhook.endpoint.connect()?;
    let mut answers = Vec::new();
    for Sample { body, .. } in samples {
        let request = client::Endpoint::request(body);
        connection.exchange(&request)?;
        let answer = connection.exchange(&request)?.to_vec();
        let text = String::from_utf8_lossy(&answer);
        if !text.contains("\"patch\"") || text.contains("\"warnings\"") {
            return Err(format!("the webhook does not serve the review: {text}").into());
        }
        answers.push(answer);
    }
    answers.into_iter().next().ok_or_else(|| "there is no sample of this size".into())
}

/// Otherwise something else than the hot path was measured.
fn answered_from_memory(before: &str, after: &str) -> Result<(), Error> {
    let grown = |parts: &[&str]| metrics::sum(after, parts) - metrics::sum(before, parts);
    let (writes, answers) = (
        grown(&["acr_pull_injector_pull_secret_writes_total"]),
        grown(&["acr_pull_injector_admission_reviews_total", "\"injected\""]),
    );
    if writes > 0.0 || answers == 0.0 {
        return Err(format!("{writes} pull secrets were written, {answers} reviews answered").into());
    }
    println!("\nThe webhook answered {answers} reviews, all from memory.");
    Ok(())
}
