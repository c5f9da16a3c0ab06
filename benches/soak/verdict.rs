//! Is it flat? Computed, so that nobody has to look at a plot.

use std::fmt;

use crate::{
    record::Record,
    samples::{Held, Sample},
};
use measuring::{latencies::Latencies, table::Table};

/// Growth of a replica's memory in the second half that still counts as none, in MiB. The allocator returns memory late;
/// a leak of 100 bytes for each of 200 pods a second would make 11 MiB in the ten minutes of a second half.
const MEMORY_GROWTH_MAX: f64 = 2.0;
/// The same of descriptors, threads and tasks: a connection more or less is none.
const COUNT_GROWTH_MAX: f64 = 8.0;
/// How many times as long as in the first half the median window of the last quarter may take.
const LATENCY_FACTOR_MAX: f64 = 2.0;
/// And this much longer in any case, in milliseconds: other programs run on the machine.
const LATENCY_ALLOWANCE: f64 = 5.0;

/// So much of what was due must be served, in percent: what the load could not even begin is missing.
const SERVED_MIN: f64 = 95.0;

/// So many reviews of a thousand may be answered before the pull secret is up to date, since the API server took longer
/// than a pod may wait. What stood there goes on to pull.
const LATE_PER_THOUSAND_MAX: f64 = 5.0;

/// How much the load had to send until it was stopped.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    pub pods: f64,
    pub reviews: f64,
}

type LatenciesOf = fn(&Sample) -> &Latencies;

/// What was judged and how.
#[derive(Clone, Debug, Default)]
pub struct Verdict(Vec<Judged>);

#[derive(Clone, Debug)]
struct Judged {
    what: String,
    found: String,
    bound: String,
    passes: bool,
}

impl Verdict {
    pub fn passes(&self) -> bool {
        self.0.iter().all(|judged| judged.passes)
    }

    fn add(&mut self, what: impl Into<String>, found: impl Into<String>, bound: impl Into<String>, passes: bool) {
        self.0.push(Judged { what: what.into(), found: found.into(), bound: bound.into(), passes });
    }

    /// Judges the growth over the second half, by the straight line that fits best.
    fn growth(&mut self, what: String, samples: &[Sample], value: impl Fn(&Sample) -> f64, bound: f64) {
        let half = &samples[samples.len() / 2..];
        let points: Vec<_> = half.iter().map(|sample| (sample.minutes(), value(sample))).collect();
        let growth = growth(&points);
        let mean = points.iter().map(|(_, value)| value).sum::<f64>() / points.len().max(1) as f64;
        self.add(what, format!("{growth:+.2} (mean {mean:.1})"), format!("< {bound}"), growth < bound);
    }

    fn latency(&mut self, what: &str, samples: &[Sample], of: LatenciesOf, percent: f64) {
        let median = |samples: &[Sample]| {
            let windows = samples.iter().map(of).filter(|latencies| latencies.count() > 0);
            let mut values: Vec<f64> =
                windows.map(|latencies| latencies.percentile(percent).as_secs_f64() * 1000.0).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied()
        };
        let (first, last) = (median(&samples[..samples.len() / 2]), median(&samples[samples.len() * 3 / 4..]));
        let (Some(first), Some(last)) = (first, last) else {
            let what = format!("p{percent} of {what} in the last quarter, ms");
            return self.add(what, "not measured in both halves", "measured", false);
        };
        let bound = first * LATENCY_FACTOR_MAX + LATENCY_ALLOWANCE;
        let what = format!("p{percent} of {what} in the last quarter, ms (first half {first:.2})");
        self.add(what, format!("{last:.2}"), format!("< {bound:.1}"), last < bound);
    }
}

/// The last sample is of the end, when only what was under way has still been served. `pull_secrets` tells of each that is wrong.
pub fn of(samples: &[Sample], due: &Due, record: &Record, pull_secrets: &[String]) -> Verdict {
    let mut verdict = Verdict::default();
    for number in 0..samples.first().map_or(0, |sample| sample.replicas.len()) {
        let of = |value: fn(&Held) -> f64| move |sample: &Sample| value(&sample.replicas[number]);
        let replica = number + 1;
        let mut growth = |what: &str, value, bound| {
            verdict.growth(format!("replica {replica}: growth of {what}"), samples, of(value), bound);
        };
        growth("memory, MiB", |held| held.memory as f64 / 1024.0, MEMORY_GROWTH_MAX);
        growth("threads", |held| held.threads as f64, COUNT_GROWTH_MAX);
    }
    // Whoever leads holds some more, and the lead moves.
    let of_both = |value: fn(&Held) -> f64| move |sample: &Sample| sample.replicas.iter().map(value).sum();
    let mut growth = |what: &str, value| {
        let what = format!("both replicas: growth of {what}, connections left out");
        verdict.growth(what, samples, of_both(value), COUNT_GROWTH_MAX);
    };
    growth("descriptors", |held| held.descriptors as f64);
    growth("tasks", |held| held.tasks);
    let kinds: [(_, _, LatenciesOf); 2] =
        [("pods", due.pods, |sample| &sample.window.pods), ("reviews", due.reviews, |sample| &sample.window.reviews)];
    for (what, due, latencies) in kinds.into_iter().filter(|(_, due, _)| *due > 0.0) {
        for percent in [50.0, 99.0] {
            verdict.latency(what, samples, latencies, percent);
        }
        let under_load = samples.split_last().map_or(samples, |(_, before)| before);
        let empty = under_load.iter().map(latencies).filter(|latencies| latencies.count() == 0).count();
        verdict.add(format!("samples without {what}"), empty.to_string(), "0", empty == 0);
        let served = samples.iter().map(latencies).map(Latencies::count).sum::<usize>();
        let share = served as f64 * 100.0 / due;
        let found = format!("{share:.1} ({served})");
        verdict.add(
            format!("{what} served of {due:.0} due, %"),
            found,
            format!(">= {SERVED_MIN}"),
            share >= SERVED_MIN,
        );
    }
    let reviews = samples.iter().map(|sample| sample.window.reviews.count()).sum::<usize>();
    let late = record.late_reviews() as f64 * 1000.0 / reviews.max(1) as f64;
    let bound = format!("< {LATE_PER_THOUSAND_MAX}");
    verdict.add("reviews of a thousand that could not wait", format!("{late:.2}"), bound, late < LATE_PER_THOUSAND_MAX);
    let faults = record.faults();
    verdict.add("pods lost, or without what they need", faults.to_string(), "0", faults == 0);
    let wrong = pull_secrets.len();
    let first = pull_secrets.first().map(|first| format!(": {first}")).unwrap_or_default();
    verdict.add("pull secrets wrong at the end", format!("{wrong}{first}"), "0", wrong == 0);
    verdict
}

/// How much the straight line of least squares rises from the first to the last of these.
fn growth(points: &[(f64, f64)]) -> f64 {
    let count = points.len().max(1) as f64;
    let (mean_x, mean_y) =
        points.iter().fold((0.0, 0.0), |(x_sum, y_sum), (x, y)| (x_sum + x / count, y_sum + y / count));
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let span = points.last().map_or(0.0, |last| last.0) - points.first().map_or(0.0, |first| first.0);
    if variance > 0.0 { covariance / variance * span } else { 0.0 }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new("Verdict", &["what", "found", "bound", "passes"]);
        for Judged { what, found, bound, passes } in &self.0 {
            table.row([what.clone(), found.clone(), bound.clone(), if *passes { "yes" } else { "NO" }.to_owned()]);
        }
        write!(formatter, "{table}")
    }
}
