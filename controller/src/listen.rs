//! The addresses that the controller itself listens on. A tenant's program may have taken one while no controller ran: the
//! compute driver ends it.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Instant;

use crate::compute::Compute;
use crate::error::{Error, Result};

/// After a restart of the controller all agents and clients come at once.
const BACKLOG: u32 = 4096;
/// A connection that has ended keeps an address for a minute.
const LIMIT: Duration = Duration::from_secs(75);
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Listens on the address of an option.
///
/// # Errors
/// Internal: it is not there, or taken by what is no instance's.
pub async fn listen(compute: &dyn Compute, address: SocketAddr, option: &str) -> Result<TcpListener> {
    let attempt = || format!("listen on {address} ({option})");
    let begun = Instant::now();
    let mut again = false;
    loop {
        let error = match bind(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => error,
        };
        if error.kind() != ErrorKind::AddrInUse || begun.elapsed() > LIMIT {
            return Err(Error::internal(attempt(), error));
        }
        match compute.free_address(address, again).await {
            Ok(true) => {}
            Ok(false) => return Err(Error::internal(attempt(), error)),
            Err(who) => return Err(Error::internal(format!("{}: {error}", attempt()), who)),
        }
        if again {
            tokio::time::sleep(ASK_AGAIN).await;
        }
        again = true;
    }
}

/// Listens.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
