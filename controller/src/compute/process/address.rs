//! Loopback addresses, one an instance.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, TcpListener};

use crate::compute::ComputeError;

/// So many random addresses are not all taken one by one.
const TRIES: u32 = 8;

/// A part of 127.0.0.0/8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    base: u32,
    bits: u32,
}

impl Range {
    /// Reads `a.b.c.d/n`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text} is no part of 127.0.0.0/8 with at least 16 addresses, such as 127.64.0.0/10");
        let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let bits: u32 = bits.parse().map_err(|_| wrong())?;
        if !address.is_loopback() || !(8..=28).contains(&bits) {
            return Err(wrong());
        }
        Ok(Self { base: u32::from(address) & (u32::MAX << (32 - bits)), bits })
    }

    /// A random address that looks like a host's.
    fn draw(self) -> Ipv4Addr {
        loop {
            let host: u32 = rand::random::<u32>() >> self.bits;
            let address = Ipv4Addr::from(self.base | host);
            // .0 and .255 look like a network's; 127.0.0.1 is everybody's.
            if !matches!(address.octets(), [_, _, _, 0 | 255] | [127, 0, 0, 1]) {
                return address;
            }
        }
    }
}

/// A random address on which `port` is free now: it is bound as an engine will bind it.
pub(crate) fn choose(range: Range, port: u16) -> Result<IpAddr, ComputeError> {
    for _ in 0..TRIES {
        let address = range.draw();
        match TcpListener::bind((address, port)) {
            Ok(_) => return Ok(address.into()),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => {
                return Err(ComputeError::Fatal(format!("port {port} of address {address} cannot be bound: {error}")));
            }
        }
    }
    Err(ComputeError::Fatal(format!(
        "port {port} is taken on every loopback address: a server on this machine listens on the wildcard address; \
         stop it or bind it to one address"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_parts_of_the_loopback_network() {
        assert_eq!(Range::parse("127.64.3.4/10").unwrap(), Range { base: 0x7f40_0000, bits: 10 });
        for wrong in ["10.0.0.0/8", "127.0.0.0/7", "127.0.0.0/29", "127.0.0.0", "127.0.0/8", "::1/128", "127.0.0.0/x"] {
            assert!(Range::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn drawn_addresses_stay_in_the_range() {
        let range = Range::parse("127.99.7.240/28").unwrap();
        for _ in 0..1000 {
            let [a, b, c, d] = range.draw().octets();
            assert_eq!([a, b, c], [127, 99, 7]);
            assert!((240..255).contains(&d));
        }
    }

    #[test]
    fn a_server_on_the_wildcard_address_takes_the_port_everywhere() {
        let range = Range::parse("127.0.0.0/8").unwrap();
        let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = everywhere.local_addr().unwrap().port();
        let error = choose(range, port).unwrap_err();
        assert!(matches!(&error, ComputeError::Fatal(text) if text.contains("wildcard")), "{error}");
        drop(everywhere);
        let one = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let address = choose(range, port).expect("one address is not all");
        TcpListener::bind((address, port)).expect("it is free");
        drop(one);
    }
}
