//! Loopback addresses, one for each instance.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, TcpListener};

use ipnet::Ipv4Net;

use crate::compute::ComputeError;

/// Number of random addresses that are tried.
const TRIES: u32 = 8;

/// A random host address of the range.
fn draw(range: Ipv4Net) -> Ipv4Addr {
    loop {
        let address = Ipv4Addr::from(rand::random_range(u32::from(range.network())..=u32::from(range.broadcast())));
        // Addresses that end in .0 or .255 look like network and broadcast addresses; 127.0.0.1 is used by others.
        if !matches!(address.octets(), [_, _, _, 0 | 255] | [127, 0, 0, 1]) {
            return address;
        }
    }
}

/// A random address on which `port` is free now. This is tested by binding it as an engine will.
pub(crate) fn choose(range: Ipv4Net, port: u16) -> Result<IpAddr, ComputeError> {
    for _ in 0..TRIES {
        let address = draw(range);
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
    fn drawn_addresses_stay_in_the_range() {
        let range = "127.99.7.240/28".parse().unwrap();
        for _ in 0..1000 {
            let [a, b, c, d] = draw(range).octets();
            assert_eq!([a, b, c], [127, 99, 7]);
            assert!((240..255).contains(&d));
        }
    }

    #[test]
    fn a_server_on_the_wildcard_address_takes_the_port_everywhere() {
        let range = "127.0.0.0/8".parse().unwrap();
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
