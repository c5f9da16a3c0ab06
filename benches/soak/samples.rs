//! What the replicas hold at one moment, and all moments as a table and a plot.

use std::{
    fmt, fs, io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use installation::{Error, Replica};
use measuring::{
    latencies::{Latencies, milliseconds},
    metrics,
    plot::{self, Line, Scale},
    process::{Process, mebibytes},
    table::Table,
};

use crate::{
    cluster::{Cluster, admin},
    record::{Record, Window},
};

/// One moment.
#[derive(Clone, Debug)]
pub struct Sample {
    pub at: Duration,
    pub replicas: Vec<Held>,
    pub window: Window,
}

/// What one replica holds.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Resident, in KiB.
    pub memory: u64,
    /// Connections to the webhook. The API server opens more when answers are slow, and keeps them for a while, so they say
    /// nothing of the replica. Each is a descriptor and a task.
    pub connections: usize,
    /// Those of connections to the webhook left out.
    pub descriptors: usize,
    pub threads: usize,
    /// Those of connections to the webhook left out.
    pub tasks: f64,
}

impl Sample {
    pub fn take(at: Duration, cluster: &Cluster, record: &Record) -> Result<Self, Error> {
        let replicas = cluster.replicas.iter().map(Held::by).collect::<Result<_, _>>()?;
        Ok(Self { at, replicas, window: record.take_window() })
    }

    pub fn minutes(&self) -> f64 {
        self.at.as_secs_f64() / 60.0
    }
}

impl Held {
    fn by(replica: &Replica) -> Result<Self, Error> {
        let process = replica.pod.id();
        let connections = connections_to(replica.webhook)?;
        // The connection that asks counts as a task and as a descriptor, each time alike.
        let text = metrics::of_replica(admin(replica))?;
        Ok(Self {
            memory: Process(process).memory()?.resident,
            connections,
            descriptors: entries(process, "fd")?.saturating_sub(connections),
            threads: entries(process, "task")?,
            tasks: metrics::sum(&text, &["acr_pull_injector_tasks"]) - connections as f64,
        })
    }
}

/// Established connections with this address at our end, by `/proc/net/tcp`.
fn connections_to(address: SocketAddr) -> io::Result<usize> {
    const ESTABLISHED: &str = "01";
    let IpAddr::V4(ip) = address.ip() else { return Err(io::ErrorKind::Unsupported.into()) };
    // The kernel writes the address as a number of the machine.
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port());
    let table = fs::read_to_string("/proc/net/tcp")?;
    let is_one = |line: &&str| {
        let fields: Vec<_> = line.split_ascii_whitespace().skip(1).take(3).collect();
        fields.first() == Some(&local.as_str()) && fields.get(2) == Some(&ESTABLISHED)
    };
    Ok(table.lines().filter(is_one).count())
}

fn entries(process: u32, folder: &str) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{process}/{folder}"))?.count())
}

impl fmt::Display for Sample {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:5.1} min:", self.minutes())?;
        for held in &self.replicas {
            let Held { connections, descriptors, threads, tasks, .. } = held;
            let memory = mebibytes(held.memory);
            write!(
                formatter,
                " [{memory} MiB, {connections} connections, {descriptors} descriptors, {threads} threads, {tasks} tasks]"
            )?;
        }
        let of = |latencies: &Latencies| {
            let [p50, p99] = [50.0, 99.0].map(|percent| milliseconds(latencies.percentile(percent)));
            format!("{} p50 {p50} p99 {p99} ms", latencies.count())
        };
        write!(formatter, " pods {}, reviews {}", of(&self.window.pods), of(&self.window.reviews))
    }
}

/// At most about this many rows are printed.
const ROWS: usize = 20;

pub fn table(samples: &[Sample]) -> Table {
    let mut table = Table::new(
        "Two replicas over time",
        &[
            "minute",
            "MiB",
            "connections",
            "other descriptors",
            "threads",
            "other tasks",
            "pods p50 ms",
            "pods p99 ms",
            "reviews p50 ms",
            "reviews p99 ms",
        ],
    );
    for sample in samples.iter().skip(samples.len().div_ceil(ROWS) - 1).step_by(samples.len().div_ceil(ROWS)) {
        let both = |value: fn(&Held) -> String| sample.replicas.iter().map(value).collect::<Vec<_>>().join(" + ");
        let latency = |latencies: &Latencies, percent| {
            if latencies.count() == 0 { "-".to_owned() } else { milliseconds(latencies.percentile(percent)) }
        };
        table.row([
            format!("{:.1}", sample.minutes()),
            both(|held| mebibytes(held.memory)),
            both(|held| held.connections.to_string()),
            both(|held| held.descriptors.to_string()),
            both(|held| held.threads.to_string()),
            both(|held| held.tasks.to_string()),
            latency(&sample.window.pods, 50.0),
            latency(&sample.window.pods, 99.0),
            latency(&sample.window.reviews, 50.0),
            latency(&sample.window.reviews, 99.0),
        ]);
    }
    table
}

pub fn plot(samples: &[Sample]) -> String {
    let line = |name, value: &dyn Fn(&Sample) -> f64| {
        let points = samples.iter().map(|sample| (sample.minutes(), value(sample)));
        Line { name, points: points.filter(|(_, value)| *value > 0.0).collect() }
    };
    let sum = |value: fn(&Held) -> f64| move |sample: &Sample| sample.replicas.iter().map(value).sum();
    let latency = |of: fn(&Window) -> &Latencies, percent| {
        move |sample: &Sample| of(&sample.window).percentile(percent).as_secs_f64() * 1000.0
    };
    let lines = [
        line("memory of both (MiB)", &sum(|held| held.memory as f64 / 1024.0)),
        line("descriptors of both", &sum(|held| held.descriptors as f64)),
        line("tasks of both", &sum(|held| held.tasks)),
        line("pod, median (ms)", &latency(|window| &window.pods, 50.0)),
        line("review, median (ms)", &latency(|window| &window.reviews, 50.0)),
        line("review, p99 (ms)", &latency(|window| &window.reviews, 99.0)),
    ];
    let drawn: Vec<Line> = lines.into_iter().filter(|line| !line.points.is_empty()).collect();
    plot::svg("Soak", "minutes", Scale::Linear, &drawn)
}
