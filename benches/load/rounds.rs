//! What is measured, in which order, and the tables of it.
//!
//! The servers take turns within each round, so that what else the machine does meets all of them alike.

use std::time::Duration;

use crate::{
    Arguments,
    client::{Connection, Endpoint},
    latencies::milliseconds,
    loops::{self, Work},
    process::{mebibytes, own_cpu_time},
    product::Error,
    reviews::Sample,
    table::Table,
    targets::Target,
};

const CONNECTIONS: [usize; 3] = [1, 8, 32];
const OPEN_LOOP_CONNECTIONS: usize = 32;
const HANDSHAKE_CLIENTS: usize = 8;
const WARM_UP: Duration = Duration::from_millis(300);

/// Measures all targets and prints the tables. The first target is compared with the others.
pub fn measure(arguments: &Arguments, targets: &[Target], samples: &[Sample]) -> Result<(), Error> {
    let mut memory = memory_table(targets);
    memory.row(memory_row("idle", targets)?);
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

fn observed(target: &Target, work: impl FnOnce() -> Result<Work, Error>) -> Result<Measured, Error> {
    let before = target.process.cpu_time()?;
    let work = work()?;
    let cpu = target.process.cpu_time()?.saturating_sub(before).as_secs_f64();
    let (count, elapsed) = (work.count as f64, work.elapsed.as_secs_f64());
    Ok(Measured { per_second: count / elapsed, cpu: cpu * 1e6 / count, busy: cpu / elapsed * 100.0 })
}

fn closed_loop(arguments: &Arguments, targets: &[Target], samples: &[Sample], memory: &mut Table) -> Result<(), Error> {
    let mut rates = compared("Closed loop: reviews a second", &["review", "connections"], targets, "/s");
    let mut costs =
        compared("Closed loop: CPU time of the server for each review", &["review", "connections"], targets, "µs");
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
            for _ in 0..arguments.rounds() {
                for ((target, connections), measured) in targets.iter().zip(&mut opened).zip(&mut measured) {
                    measured.push(observed(target, || loops::closed(connections, &request, arguments.round()))?);
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
        memory.row(memory_row(sample.name, targets)?);
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
    for target in targets {
        eprintln!("open loop, {}", target.name);
        let mut connections = connect(target, OPEN_LOOP_CONNECTIONS)?;
        loops::closed(&mut connections, &request, WARM_UP)?;
        let latencies = loops::open(&mut connections, &request, arguments.rate, arguments.long())?;
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
        for ((target, measured), of_client) in targets.iter().zip(&mut measured).zip(&mut of_client) {
            measured.push(observed(target, || {
                let before = own_cpu_time()?;
                let work = open(target, arguments.round())?;
                let cpu = own_cpu_time()?.saturating_sub(before).as_secs_f64();
                of_client.push(cpu * 1e6 / work.count as f64);
                Ok(work)
            })?);
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

fn memory_row(after: &str, targets: &[Target]) -> Result<Vec<String>, Error> {
    let mut cells = vec![after.to_owned()];
    for target in targets {
        let memory = target.process.memory()?;
        cells.extend([mebibytes(memory.resident), mebibytes(memory.peak)]);
    }
    Ok(cells)
}
