//! What is measured, in which order, and the tables of it.
//!
//! The servers take turns within each round, so that what else the machine does meets all of them alike.

use std::{io, time::Duration};

use installation::Error;
use measuring::{
    client::{Connection, Endpoint},
    latencies::{Latencies, milliseconds},
    process::{Memory, mebibytes, own_cpu_time},
    reviews::Sample,
    table::Table,
};

use crate::{
    Arguments,
    loops::{self, Work},
    targets::Target,
};

const CONNECTIONS: [usize; 3] = [1, 8, 32];
const OPEN_LOOP_CONNECTIONS: usize = 32;
const HANDSHAKE_CLIENTS: usize = 8;
/// A round is measured so often before its threads are found too restless.
const ATTEMPTS: usize = 5;
const WARM_UP: Duration = Duration::from_millis(300);

/// Measures all targets and prints the tables. The first target is compared with the others.
pub fn measure(arguments: &Arguments, targets: &[Target], samples: &[Sample]) -> Result<(), Error> {
    let mut memory = memory_table(targets);
    memory.row(memory_row("idle", targets, |target| Ok(target.idle))?);
    let typical = samples.iter().find(|sample| sample.name == "8 KB").or_else(|| samples.first()).ok_or("no sample")?;
    // First, as the kernel starts a connection by what it remembers of those before, which a queue makes look slow.
    handshakes(arguments, targets, typical)?;
    closed_loop(arguments, targets, samples, &mut memory)?;
    open_loop(arguments, targets, typical)?;
    println!("{memory}");
    Ok(())
}

/// What one server did in one round.
#[derive(Clone, Copy, Debug)]
struct Measured {
    per_second: f64,
    /// CPU time of the server for each, in microseconds.
    cpu: f64,
    /// The share of the time in which the server used its core, in percent.
    busy: f64,
}

/// Measures again when a thread of the server has begun or ended meanwhile.
fn observed(target: &Target, mut work: impl FnMut() -> Result<Work, Error>) -> Result<Measured, Error> {
    for _ in 0..ATTEMPTS {
        let before = target.process.cpu_time()?;
        let work = work()?;
        let Some(cpu) = target.process.cpu_time()?.since(&before) else {
            eprintln!("{}: its threads have changed, this is measured again", target.name);
            continue;
        };
        let (cpu, count, elapsed) = (cpu.as_secs_f64(), work.count as f64, work.elapsed.as_secs_f64());
        return Ok(Measured { per_second: count / elapsed, cpu: cpu * 1e6 / count, busy: cpu / elapsed * 100.0 });
    }
    Err(format!("{}: its threads have changed {ATTEMPTS} times in a row", target.name).into())
}

/// Whose turn it is in a round: another order each time, the same in every run, so that none always follows the same one.
fn turns(round: usize, targets: &[Target]) -> Vec<usize> {
    let mut turns: Vec<usize> = (0..targets.len()).collect();
    fastrand::Rng::with_seed(round as u64).shuffle(&mut turns);
    turns
}

fn closed_loop(arguments: &Arguments, targets: &[Target], samples: &[Sample], memory: &mut Table) -> Result<(), Error> {
    let mut rates = compared(
        "Closed loop: reviews a second; axum Value keeps the order of fields (serde_json's preserve_order)",
        &["review", "connections"],
        targets,
        "/s",
    );
    let title = "Closed loop: CPU time of the server for each review; axum Value keeps the order of fields";
    let mut costs = compared(title, &["review", "connections"], targets, "µs");
    for sample in samples {
        let request = Endpoint::request(&sample.body);
        for target in targets {
            target.process.forget_peak()?;
        }
        for count in CONNECTIONS {
            eprintln!("closed loop, {}, {count} connections", sample.name);
            let mut opened = targets.iter().map(|target| connect(target, count)).collect::<Result<Vec<_>, _>>()?;
            for connections in &mut opened {
                loops::closed(connections, &request, WARM_UP)?;
            }
            let mut measured = vec![Vec::new(); targets.len()];
            for round in 0..arguments.rounds() {
                for turn in turns(round, targets) {
                    let connections = &mut opened[turn];
                    let closed = || loops::closed(connections, &request, arguments.round());
                    measured[turn].push(observed(&targets[turn], closed)?);
                }
            }
            let of_each =
                |field: fn(&Measured) -> f64| measured.iter().map(|all| median(all, field)).collect::<Vec<_>>();
            let first = [sample.name.to_owned(), count.to_string()];
            rates.row(cells(&first, &of_each(|measured| measured.per_second), |ours, theirs| ours / theirs, 0));
            let busy = [format!("{:.0}", median(&measured[0], |measured| measured.busy))];
            let cost = cells(&first, &of_each(|measured| measured.cpu), |ours, theirs| theirs / ours, 1);
            costs.row(cost.into_iter().chain(busy));
        }
        memory.row(memory_row(sample.name, targets, |target| target.process.memory())?);
    }
    println!("{rates}{costs}");
    Ok(())
}

fn open_loop(arguments: &Arguments, targets: &[Target], sample: &Sample) -> Result<(), Error> {
    let mut table = Table::new(
        "Open loop: latency in ms, from the time at which a review was due",
        &["server", "review", "reviews a second", "p50", "p99", "p99.9", "longest"],
    );
    let request = Endpoint::request(&sample.body);
    let mut opened = Vec::new();
    for target in targets {
        let mut connections = connect(target, OPEN_LOOP_CONNECTIONS)?;
        loops::closed(&mut connections, &request, WARM_UP)?;
        opened.push(connections);
    }
    let mut latencies = vec![Vec::new(); targets.len()];
    let duration = arguments.long() / arguments.rounds() as u32;
    for round in 0..arguments.rounds() {
        eprintln!("open loop, round {}", round + 1);
        for turn in turns(round, targets) {
            let arrivals = loops::arrivals(round as u64, arguments.rate, duration);
            latencies[turn].extend(loops::open(&mut opened[turn], &request, &arrivals)?);
        }
    }
    for (target, latencies) in targets.iter().zip(latencies) {
        let latencies = Latencies::new(latencies);
        let per_second = latencies.count() as f64 / arguments.long().as_secs_f64();
        let percentiles = [50.0, 99.0, 99.9, 100.0].map(|percent| milliseconds(latencies.percentile(percent)));
        let first = [target.name.to_owned(), sample.name.to_owned(), format!("{per_second:.0}")];
        table.row(first.into_iter().chain(percentiles));
    }
    println!("{table}");
    Ok(())
}

fn handshakes(arguments: &Arguments, targets: &[Target], sample: &Sample) -> Result<(), Error> {
    let mut table = Table::new(
        "New connections: a full TLS handshake and one review each",
        &["server", "review", "a second", "CPU µs each", "core busy %", "client's CPU µs each"],
    );
    let request = Endpoint::request(&sample.body);
    let open = |target: &Target, duration| loops::handshakes(&target.endpoint, &request, HANDSHAKE_CLIENTS, duration);
    for target in targets {
        open(target, WARM_UP)?;
    }
    let mut measured = vec![Vec::new(); targets.len()];
    let mut of_client = vec![Vec::new(); targets.len()];
    for round in 0..arguments.rounds() {
        eprintln!("handshakes, round {}", round + 1);
        for turn in turns(round, targets) {
            let mut cost = 0.0;
            let handshakes = || {
                let before = own_cpu_time()?;
                let work = open(&targets[turn], arguments.round())?;
                let cpu = own_cpu_time()?.saturating_sub(before).as_secs_f64();
                cost = cpu * 1e6 / work.count as f64;
                Ok(work)
            };
            measured[turn].push(observed(&targets[turn], handshakes)?);
            of_client[turn].push(cost);
        }
    }
    for ((target, measured), of_client) in targets.iter().zip(&measured).zip(of_client) {
        table.row([
            target.name.to_owned(),
            sample.name.to_owned(),
            format!("{:.0}", median(measured, |measured| measured.per_second)),
            format!("{:.0}", median(measured, |measured| measured.cpu)),
            format!("{:.0}", median(measured, |measured| measured.busy)),
            format!("{:.0}", middle(of_client)),
        ]);
    }
    println!("{table}");
    Ok(())
}

fn connect(target: &Target, count: usize) -> Result<Vec<Connection>, Error> {
    (0..count).map(|_| target.endpoint.connect()).collect()
}

fn median(measured: &[Measured], field: fn(&Measured) -> f64) -> f64 {
    middle(measured.iter().map(field).collect())
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// A table with a column for each target, and one for its ratio to the first.
fn compared(title: &'static str, first: &[&str], targets: &[Target], unit: &str) -> Table {
    let mut columns: Vec<String> = first.iter().map(|column| (*column).to_owned()).collect();
    for (number, target) in targets.iter().enumerate() {
        columns.push(format!("{} {unit}", target.name));
        if number > 0 {
            columns.push(format!("times {}", target.name));
        }
    }
    if unit == "µs" {
        columns.push("webhook's core busy %".to_owned());
    }
    Table::new(title, &columns.iter().map(String::as_str).collect::<Vec<_>>())
}

/// `ratio` says how many times as good the first value is as another.
fn cells(first: &[String], values: &[f64], ratio: fn(f64, f64) -> f64, digits: usize) -> Vec<String> {
    let mut cells = first.to_vec();
    for (number, value) in values.iter().enumerate() {
        cells.push(format!("{value:.digits$}"));
        if number > 0 {
            cells.push(format!("{:.2}", ratio(values[0], *value)));
        }
    }
    cells
}

fn memory_table(targets: &[Target]) -> Table {
    let of_each = targets.iter().flat_map(|target| ["resident", "peak"].map(|what| format!("{} {what}", target.name)));
    let columns: Vec<String> = std::iter::once("after".to_owned()).chain(of_each).collect();
    Table::new("Memory in MiB", &columns.iter().map(String::as_str).collect::<Vec<_>>())
}

fn memory_row(
    after: &str,
    targets: &[Target],
    memory: impl Fn(&Target) -> io::Result<Memory>,
) -> Result<Vec<String>, Error> {
    let mut cells = vec![after.to_owned()];
    for target in targets {
        let memory = memory(target)?;
        cells.extend([mebibytes(memory.resident), mebibytes(memory.peak)]);
    }
    Ok(cells)
}
