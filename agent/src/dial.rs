//! Dialling a controller: TCP, TLS 1.3 under a protocol name, and the delays between tries.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use trove_proto::CONTROLLER_NAME;

use crate::identity::Identity;

const FIRST_DELAY: Duration = Duration::from_millis(200);
const LAST_DELAY: Duration = Duration::from_secs(10);
/// Time limit for TCP and TLS together.
pub const LIMIT: Duration = Duration::from_secs(10);

/// Exponential backoff with full jitter, so that agents do not all reconnect at once when a controller comes back.
pub struct Backoff {
    ceiling: Duration,
    dice: StdRng,
}

impl Backoff {
    /// The delays are derived from `seed`, which must differ from agent to agent.
    pub fn new(seed: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        Self { ceiling: FIRST_DELAY, dice: StdRng::seed_from_u64(hasher.finish()) }
    }

    pub fn next_delay(&mut self) -> Duration {
        let delay = self.ceiling.mul_f64(self.dice.random());
        self.ceiling = (self.ceiling * 2).min(LAST_DELAY);
        delay
    }

    /// Starts again with the shortest delay.
    pub fn reset(&mut self) {
        self.ceiling = FIRST_DELAY;
    }
}

/// Connects with TLS and checks the controller's certificate.
pub async fn dial(address: &str, identity: &Identity, alpn: &[u8]) -> Result<TlsStream<TcpStream>> {
    let config = identity.client(alpn)?;
    let all = async {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true).context("set up the connection")?;
        let name = ServerName::try_from(CONTROLLER_NAME).context("the controller's name")?;
        let connected = TlsConnector::from(config).connect(name, stream).await;
        connected.with_context(|| format!("speak TLS with {address}"))
    };
    tokio::time::timeout(LIMIT, all).await.with_context(|| format!("{address} did not answer within 10 s"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_their_cap_and_begin_anew() {
        let mut backoff = Backoff::new("seed");
        for _ in 0..20 {
            assert!(backoff.next_delay() <= LAST_DELAY);
        }
        assert_eq!(backoff.ceiling, LAST_DELAY);
        backoff.reset();
        assert!(backoff.next_delay() <= FIRST_DELAY);
    }
}
