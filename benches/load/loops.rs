//! Ways to put load on a server. Each client thread has a connection of its own.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use installation::Error;
use measuring::client::{Connection, Endpoint};

/// How many were done in which time.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub count: usize,
    pub elapsed: Duration,
}

/// Every connection sends its next request when it has the answer to the one before.
pub fn closed(connections: &mut [Connection], request: &[u8], duration: Duration) -> Result<Work, Error> {
    let started = Instant::now();
    let send = |connection: &mut Connection| -> Result<usize, Error> {
        let mut count = 0;
        while started.elapsed() < duration {
            connection.exchange(request)?;
            count += 1;
        }
        Ok(count)
    };
    let count = thread::scope(|scope| {
        let threads: Vec<_> = connections.iter_mut().map(|connection| scope.spawn(|| send(connection))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a client thread panicked")).sum::<Result<usize, Error>>()
    })?;
    Ok(Work { count, elapsed: started.elapsed() })
}

/// Requests are sent at `times` after the start, which were fixed before (see [`arrivals`]). A latency counts from the time
/// at which the request was due, so a server that stalls pays for every request that had to wait, also for those that could
/// not even be sent.
pub fn open(connections: &mut [Connection], request: &[u8], times: &[Duration]) -> Result<Vec<Duration>, Error> {
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    let send = |connection: &mut Connection| -> Result<Vec<Duration>, Error> {
        let mut latencies = Vec::new();
        while let Some(due) = times.get(next.fetch_add(1, Ordering::Relaxed)) {
            thread::sleep(due.saturating_sub(started.elapsed()));
            connection.exchange(request)?;
            latencies.push(started.elapsed().saturating_sub(*due));
        }
        Ok(latencies)
    };
    let latencies = thread::scope(|scope| {
        let threads: Vec<_> = connections.iter_mut().map(|connection| scope.spawn(|| send(connection))).collect();
        let latencies = threads.into_iter().map(|thread| thread.join().expect("a client thread panicked"));
        latencies.collect::<Result<Vec<_>, Error>>()
    })?;
    Ok(latencies.concat())
}

/// A connection, one request, and again, in each of `clients` threads.
pub fn handshakes(endpoint: &Endpoint, request: &[u8], clients: usize, duration: Duration) -> Result<Work, Error> {
    let started = Instant::now();
    let open = || -> Result<usize, Error> {
        let mut count = 0;
        while started.elapsed() < duration {
            endpoint.connect()?.exchange(request)?;
            count += 1;
        }
        Ok(count)
    };
    let count = thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a client thread panicked")).sum::<Result<usize, Error>>()
    })?;
    Ok(Work { count, elapsed: started.elapsed() })
}

/// `rate` a second on average and as irregular as independent clients are (a Poisson process). The same times in every run
/// and for every server; `round` gives others.
pub fn arrivals(round: u64, rate: f64, duration: Duration) -> Vec<Duration> {
    let mut random = fastrand::Rng::with_seed(round);
    let mut time = 0.0;
    let arrival = std::iter::repeat_with(move || {
        time -= (1.0 - random.f64()).ln() / rate;
        Duration::from_secs_f64(time)
    });
    arrival.take_while(|time| *time < duration).collect()
}
