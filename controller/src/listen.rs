//! Binds the addresses of the controller. A tenant's process may have bound one while no controller ran; the compute
//! driver kills such a process.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Instant;

use crate::compute::Compute;
use crate::error::{Error, Result};

/// Backlog of listen(2). It is large because all agents and clients reconnect at once after a restart of the
/// controller.
const BACKLOG: u32 = 4096;
/// How long to try. A connection in TIME_WAIT blocks an address for a minute.
const LIMIT: Duration = Duration::from_secs(75);
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Listens on the address of a configuration option.
///
/// # Errors
/// Internal: the machine does not have the address, or a process that belongs to no instance has bound it.
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

pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
