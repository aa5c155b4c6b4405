//! Lists all TCP sockets of the machine, by sock_diag(7). Unlike /proc/net/tcp, that includes sockets that are bound
//! and do not listen; and it includes those that no process has open at the moment, as they are in transit in a socket
//! message.

#![allow(clippy::disallowed_methods, reason = "a socket is read like a file")]

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink, socket_with};

/// SOCK_DIAG_BY_FAMILY.
const BY_FAMILY: u16 = 20;
/// NLM_F_REQUEST and NLM_F_DUMP.
const ALL: u16 = 0x301;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const TCP: u8 = 6;
const HEADER: usize = 16;
/// Size of struct inet_diag_msg, the least that an answer has.
const ANSWER: usize = 72;

/// Local address and owner of each socket. Kernels before 6.8 leave out those that are only bound.
pub(super) fn sockets() -> io::Result<Vec<(SocketAddr, u32)>> {
    let mut all = Vec::new();
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::SOCK_DIAG))?;
        let mut socket = File::from(socket);
        socket.write_all(&request(u8::try_from(family.as_raw()).map_err(io::Error::other)?))?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let got = socket.read(&mut buffer)?;
            if read(&buffer[..got], &mut all)? {
                break;
            }
        }
    }
    Ok(all)
}

fn request(family: u8) -> Vec<u8> {
    // struct nlmsghdr, then struct inet_diag_req_v2, whose last 48 bytes (the id of one socket) stay zero.
    let mut bytes = Vec::with_capacity(HEADER + 56);
    bytes.extend(72_u32.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(ALL.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, TCP, 0, 0]);
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend([0; 48]);
    bytes
}

/// Parses the messages of one datagram. Returns whether the last one was among them.
fn read(mut bytes: &[u8], all: &mut Vec<(SocketAddr, u32)>) -> io::Result<bool> {
    let misread = || io::Error::new(ErrorKind::InvalidData, "what the kernel says of sockets is not understood");
    while let Some(header) = bytes.first_chunk::<HEADER>() {
        let length = usize::try_from(u32::from_ne_bytes([header[0], header[1], header[2], header[3]]));
        let length = length.map_err(io::Error::other)?;
        let body = bytes.get(HEADER..length).ok_or_else(misread)?;
        match u16::from_ne_bytes([header[4], header[5]]) {
            DONE => return Ok(true),
            ERROR => {
                let number = body.first_chunk::<4>().map_or(0, |number| i32::from_ne_bytes(*number));
                return Err(io::Error::from_raw_os_error(-number));
            }
            BY_FAMILY => all.push(parse(body).ok_or_else(misread)?),
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Parses a struct inet_diag_msg: family; 3 bytes; port; remote port; address and remote address, 16 bytes each; 12
/// bytes; 12 bytes; user id.
fn parse(body: &[u8]) -> Option<(SocketAddr, u32)> {
    let body = body.first_chunk::<ANSWER>()?;
    let port = u16::from_be_bytes([body[4], body[5]]);
    let address = <[u8; 16]>::try_from(&body[8..24]).ok()?;
    let ip = if u16::from(body[0]) == AddressFamily::INET.as_raw() {
        IpAddr::from(Ipv4Addr::new(address[0], address[1], address[2], address[3]))
    } else {
        IpAddr::from(Ipv6Addr::from(address))
    };
    let uid = u32::from_ne_bytes(<[u8; 4]>::try_from(&body[64..68]).ok()?);
    Some((SocketAddr::new(ip, port), uid))
}

#[cfg(test)]
mod tests {
    use rustix::net::{bind, getsockname, socket};

    use super::*;

    #[test]
    fn sockets_that_listen_and_that_are_only_bound_are_seen() {
        let listener = std::net::TcpListener::bind("127.201.9.8:0").unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        assert!(sockets().unwrap().contains(&(listener.local_addr().unwrap(), uid)));
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
        if (numbers.next(), numbers.next()) >= (Some(6), Some(8)) {
            let bound = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            bind(&bound, &"127.201.9.8:0".parse::<SocketAddr>().unwrap()).unwrap();
            let at = SocketAddr::try_from(getsockname(&bound).unwrap()).unwrap();
            assert!(sockets().unwrap().contains(&(at, uid)), "{at}");
        }
    }
}
