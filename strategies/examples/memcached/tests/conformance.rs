//! memcached passes the suite, and docs/plugin-guide.md shows it as it is.

#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "it looks for a program of the system")]

use anyhow::{Result, ensure};
use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use trove_conformance::{Login, Session, Tenant};
use trove_memcached::Memcached;
use trove_strategy::Site;

struct Tcp;
struct Open(TcpStream);

#[async_trait]
impl Tenant for Tcp {
    async fn connect(&self, site: &Site, _login: &Login) -> Result<Box<dyn Session>> {
        Ok(Box::new(Open(TcpStream::connect((site.address, site.port)).await?)))
    }
}

#[async_trait]
impl Session for Open {
    async fn ask(&mut self) -> Result<()> {
        self.0.write_all(b"set a 0 0 1\r\nx\r\n").await?;
        let mut said = [0; 8];
        self.0.read_exact(&mut said).await?;
        ensure!(&said == b"STORED\r\n", "{}", String::from_utf8_lossy(&said));
        Ok(())
    }
}

#[tokio::test]
async fn memcached_passes_the_suite() -> Result<()> {
    if !std::path::Path::new("/usr/bin/memcached").exists() {
        println!("skipped: memcached is not installed (make setup installs it)");
        return Ok(());
    }
    let report = trove_conformance::run(&Memcached, &Tcp).await?;
    let accounts = ["refuses_strangers", "databases", "users", "root"];
    let data = ["speaks_tls", "keeps_what_was_written", "backup", "point_in_time"];
    ensure!(report.skipped == [accounts, data].concat(), "skipped: {:?}", report.skipped);
    ensure!(report.passed.contains(&"lets_everybody_in"), "{:?}", report.passed);
    Ok(())
}

#[test]
fn the_guide_shows_the_example_as_it_is() {
    let guide = include_str!("../../../../docs/plugin-guide.md");
    for (file, text) in [("Cargo.toml", include_str!("../Cargo.toml")), ("src/lib.rs", include_str!("../src/lib.rs"))] {
        assert!(guide.contains(text.trim_end()), "docs/plugin-guide.md does not show {file} as it is");
    }
}
