//! Counters in Prometheus' text format.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Longer than any answer takes: what hangs shall end the bench.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The metrics that a replica shows on its admin port.
pub fn of_replica(admin: SocketAddr) -> io::Result<String> {
    get(admin, "/metrics")
}

/// The body of a plain HTTP answer, whatever its status, after its head.
pub fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut socket = TcpStream::connect_timeout(&address, TIMEOUT)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    Ok(text)
}

/// The sum of all samples whose line holds each of `parts`.
pub fn sum(text: &str, parts: &[&str]) -> f64 {
    let lines = text.lines().filter(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
