//! Binds the addresses of the controller. A tenant's process may have bound one while no controller ran; the compute
//! driver kills such a process.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Instant;

use crate::compute::{Compute, ComputeError};
use crate::error::{Error, Result};

/// Backlog of listen(2). It is large because all agents and clients reconnect at once after a restart of the
/// controller.
const BACKLOG: u32 = 4096;
/// How long to try. A connection in TIME_WAIT blocks an address for a minute.
const LIMIT: Duration = Duration::from_secs(75);
/// First and greatest pause between two tries. Each asks the driver, which looks at every process of the machine.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const GREATEST_PAUSE: Duration = Duration::from_secs(2);

/// Listens on the address of a configuration option.
///
/// # Errors
/// Internal: the machine does not have the address, or a process that belongs to no instance has bound it.
pub async fn listen(compute: &dyn Compute, address: SocketAddr, option: &str) -> Result<TcpListener> {
    let listening = listen_freeing(address, |again| compute.free_address(address, again)).await;
    listening.map_err(|source| Error::internal(format!("listen on {address} ({option})"), source))
}

/// The same; `free` is [`Compute::free_address`].
async fn listen_freeing<F>(address: SocketAddr, free: impl Fn(bool) -> F) -> io::Result<TcpListener>
where
    F: Future<Output = std::result::Result<bool, ComputeError>>,
{
    let begun = Instant::now();
    let (mut again, mut pause) = (false, FIRST_PAUSE);
    loop {
        let error = match bind(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => error,
        };
        if error.kind() != ErrorKind::AddrInUse || begun.elapsed() > LIMIT {
            return Err(error);
        }
        match free(again).await {
            Ok(true) => {}
            Ok(false) => return Err(error),
            Err(who) => return Err(io::Error::other(format!("{error}: {who}"))),
        }
        if again {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(GREATEST_PAUSE);
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_that_nobody_can_be_named_for_is_asked_for_ever_less_often() {
        let taken = std::net::TcpListener::bind("127.201.9.6:0").unwrap();
        let (at, asked, begun) = (taken.local_addr().unwrap(), Cell::new(0), Instant::now());
        let nobody = |_| {
            asked.set(asked.get() + 1);
            std::future::ready(Ok(true))
        };
        let error = listen_freeing(at, nobody).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(begun.elapsed() > LIMIT && (40..60).contains(&asked.get()), "{} times", asked.get());
        // The first tries follow each other soon: whoever was ended may start itself again.
        let (begun, taken) = (Instant::now(), Cell::new(Some(taken)));
        let third = |_| {
            asked.set(asked.get() + 1);
            if asked.get() % 3 == 0 {
                drop(taken.take());
            }
            std::future::ready(Ok(true))
        };
        asked.set(0);
        listen_freeing(at, third).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        let somebody = |_| std::future::ready(Err(ComputeError::Fatal("cron, process 7, has it".to_owned())));
        let taken = std::net::TcpListener::bind("127.201.9.6:0").unwrap();
        let error = listen_freeing(taken.local_addr().unwrap(), somebody).await.unwrap_err();
        assert!(error.to_string().contains("cron, process 7, has it"), "{error}");
    }
}
