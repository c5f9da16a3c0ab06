//! Addresses and ports of one control plane, so that several can run at once.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::random;

/// A /20 of service addresses in 127.96.0.0/11 and a /20 of pod addresses in 127.128.0.0/11, ours alone on this machine.
#[derive(Debug)]
pub(crate) struct AddressRange {
    /// 0 to 511: the place of both ranges in their /11.
    index: u16,
    next_pod: AtomicU16,
    /// Listens on the range's last service address: that is what makes the range ours, and the kernel gives it back
    /// however the process ends.
    _reservation: TcpListener,
}

const RANGES: u16 = 512;
/// Any port that no Service has.
const RESERVATION_PORT: u16 = 10_009;
const ATTEMPTS: usize = 64;

impl AddressRange {
    pub(crate) fn reserve() -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..ATTEMPTS {
            let index = random::below(RANGES)?;
            let address = in_range(96, index, 0x0fff);
            match TcpListener::bind((address, RESERVATION_PORT)) {
                Ok(reservation) => return Ok(Self { index, next_pod: AtomicU16::new(0), _reservation: reservation }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// For the API server's `--service-cluster-ip-range`.
    pub(crate) fn services(&self) -> String {
        format!("{}/20", in_range(96, self.index, 0))
    }

    /// An address that no other pod of this instance was given (until 4000 of them have been).
    pub(crate) fn next_pod_address(&self) -> IpAddr {
        let number = self.next_pod.fetch_add(1, Ordering::Relaxed) % 4_000 + 1;
        IpAddr::V4(in_range(128, self.index, number))
    }
}

/// A port on 127.0.0.1 that nobody listens on. Outside the range that outgoing connections use (32768 and up), so that a
/// server that is stopped for a while finds its port free again.
pub(crate) fn free_port() -> io::Result<u16> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..ATTEMPTS {
        let port = 18_000 + random::below(14_000)?;
        match TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) {
            Ok(_) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Address `host` (12 bits) of the /20 number `index` (9 bits) of `127.<second>.0.0/11`.
fn in_range(second: u8, index: u16, host: u16) -> Ipv4Addr {
    let offset = u32::from(index) << 12 | u32::from(host);
    Ipv4Addr::from_bits(Ipv4Addr::new(127, second, 0, 0).to_bits() + offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_lie_side_by_side_in_loopback() {
        assert_eq!(in_range(96, 0, 1), Ipv4Addr::new(127, 96, 0, 1));
        assert_eq!(in_range(96, 1, 0), Ipv4Addr::new(127, 96, 16, 0));
        assert_eq!(in_range(96, 511, 0x0fff), Ipv4Addr::new(127, 127, 255, 255));
        assert_eq!(in_range(128, 511, 0x0fff), Ipv4Addr::new(127, 159, 255, 255));
    }

    #[test]
    fn no_two_instances_get_the_same_range() {
        let ranges: Vec<_> = (0..40).map(|_| AddressRange::reserve().unwrap()).collect();
        let mut services: Vec<_> = ranges.iter().map(AddressRange::services).collect();
        services.sort();
        services.dedup();
        assert_eq!(services.len(), ranges.len());
    }
}
