//! Random numbers from the operating system: tokens must not be guessable by other users of the machine.

use std::fs::File;
use std::io::{self, Read};

/// A random token of 128 bits, as lower case hex.
pub(crate) fn token() -> io::Result<String> {
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes()?)))
}

/// A random number below `limit`. The slight bias does not matter here: it only picks ports and addresses.
pub(crate) fn below(limit: u16) -> io::Result<u16> {
    let number = u64::from_ne_bytes(bytes()?) % u64::from(limit);
    Ok(u16::try_from(number).unwrap_or_default())
}

fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
