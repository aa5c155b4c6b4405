//! memcached: an engine without accounts, without a volume and without a client program, which forgets all at its end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trove_strategy::{
    Applied, Command, Datastore, Directory, Engine, EngineError, FirstStart, Health, Host, Identity, Installation,
    Kind, Metric, Parameter, ParameterType, Parameters, Settings, Site, StartMode, StartSpec,
};

/// What can be set: the parameter, the option of the command line, the least and the greatest value, the default.
const PARAMETERS: [(&str, &str, u64, u64, u64); 2] =
    [("item_size_max", "-I", 1024, 1 << 30, 1 << 20), ("maxconns", "-c", 16, 65_536, 1024)];

/// The datastore named `memcached`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memcached;

#[async_trait]
impl Datastore for Memcached {
    fn identity(&self) -> Identity {
        let mut identity = Identity::new("memcached", 11211);
        identity.tls = false;
        identity.volatile = true;
        identity.volume = false;
        identity
    }

    async fn installations(&self, host: &dyn Host, bindir: Option<&Path>) -> Result<Vec<Installation>, EngineError> {
        let bindir = bindir.map_or_else(|| PathBuf::from("/usr/bin"), Path::to_owned);
        let program = bindir.join("memcached");
        if !host.has_program(&program).await? {
            return Ok(Vec::new());
        }
        // `memcached 1.6.18`
        let said = host.run(Command::engine(program).arg("--version")).await?.stdout;
        let version = said.split_whitespace().nth(1).unwrap_or_default().to_owned();
        let major = version.split('.').next().unwrap_or_default().to_owned();
        Ok(vec![Installation::new(version, major, bindir)])
    }

    fn engine(&self) -> &dyn Engine {
        self
    }

    fn parameters(&self) -> Option<&dyn Parameters> {
        Some(self)
    }
}

/// A value of the settings as the command line has it, within its range.
fn checked(name: &str, value: &Value) -> Result<(&'static str, u64), EngineError> {
    let refused = |reason: String| EngineError::new(Kind::Invalid, format!("the parameter {name:?}: {reason}"));
    let known = PARAMETERS.into_iter().find(|(known, ..)| *known == name);
    let (_, option, min, max, _) = known.ok_or_else(|| refused("there is none of this name".to_owned()))?;
    let number = value.as_u64().filter(|number| (min..=max).contains(number));
    Ok((option, number.ok_or_else(|| refused(format!("it is a number from {min} to {max}")))?))
}

/// What the server says to a command of one line, up to its last line.
async fn ask(site: &Site, command: &str, last: &str) -> Result<String, EngineError> {
    let failed = |reason: String| EngineError::new(Kind::Transient, format!("ask for {command:?}: {reason}"));
    let exchange = async {
        let mut said = String::new();
        let mut buffer = [0; 4096];
        // A server that was started for the agent alone listens at the socket, else nobody does.
        let mut stream: Box<dyn Stream> = match site.host.connect(&Directory::Run.join("private.sock")).await {
            Ok(stream) => Box::new(stream),
            Err(_) => Box::new(tokio::net::TcpStream::connect((site.address, site.port)).await?),
        };
        stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        while !said.ends_with(&format!("{last}\r\n")) {
            match stream.read(&mut buffer).await? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => said.push_str(&String::from_utf8_lossy(&buffer[..n])),
            }
        }
        Ok::<_, std::io::Error>(said)
    };
    let answer = tokio::time::timeout(Duration::from_millis(1500), exchange).await;
    answer.map_err(|_| failed("no answer".to_owned()))?.map_err(|error| failed(error.to_string()))
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for T {}

/// `STAT name value`, line by line.
async fn statistics(site: &Site, command: &str) -> Result<BTreeMap<String, String>, EngineError> {
    let said = ask(site, command, "END").await?;
    let pair = |line: &str| {
        let (name, value) = line.strip_prefix("STAT ")?.split_once(' ')?;
        Some((name.to_owned(), value.to_owned()))
    };
    Ok(said.lines().filter_map(pair).collect())
}

#[async_trait]
impl Engine for Memcached {
    async fn initialise(&self, _site: &Site) -> Result<FirstStart, EngineError> {
        Ok(FirstStart::Normal)
    }

    async fn configure(&self, _site: &Site, settings: &Settings) -> Result<(), EngineError> {
        // All of it is on the command line.
        settings.parameters.iter().try_for_each(|(name, value)| checked(name, value).map(drop))
    }

    fn start_spec(&self, site: &Site, settings: &Settings, mode: StartMode) -> StartSpec {
        let mut args = vec!["-m".to_owned(), (site.size.memory_mib * 8 / 10).to_string()];
        for (option, number) in settings.parameters.iter().filter_map(|(name, value)| checked(name, value).ok()) {
            args.extend([option.to_owned(), number.to_string()]);
        }
        if mode == StartMode::Normal {
            args.extend(["-U", "0", "-l", &format!("{}:{}", site.address, site.port)].map(str::to_owned));
        } else {
            let socket = site.path(&Directory::Run.join("private.sock"));
            args.extend(["-s".to_owned(), socket.to_string_lossy().into_owned()]);
        }
        StartSpec::new(site.installation.bindir.join("memcached"), args)
    }

    async fn forget_earlier_life(&self, site: &Site) -> Result<(), EngineError> {
        Ok(site.host.remove(&Directory::Run.join("private.sock")).await?)
    }

    async fn secure(&self, _site: &Site) -> Result<(), EngineError> {
        // There are no accounts.
        Ok(())
    }

    async fn probe(&self, site: &Site) -> Result<Health, EngineError> {
        let said = ask(site, "version", "").await?;
        Ok(Health::new(said.trim().trim_start_matches("VERSION ")))
    }

    async fn metrics(&self, site: &Site) -> Result<Vec<Metric>, EngineError> {
        const NAMES: [(&str, &str); 4] = [
            ("connections", "curr_connections"),
            ("key_hits_total", "get_hits"),
            ("key_misses_total", "get_misses"),
            ("memory_used_bytes", "bytes"),
        ];
        let all = statistics(site, "stats").await?;
        let metric = |(name, known)| Some(Metric::new(name, all.get(known)?.parse().ok()?));
        Ok(NAMES.into_iter().filter_map(metric).collect())
    }

    async fn reload(&self, site: &Site, _settings: &Settings) -> Result<(), EngineError> {
        // It reads no file; that it answers is all there is to verify.
        self.probe(site).await.map(drop)
    }
}

#[async_trait]
impl Parameters for Memcached {
    async fn describe(&self, _site: &Site) -> Result<Vec<Parameter>, EngineError> {
        let described = PARAMETERS.into_iter().map(|(name, _, min, max, default)| {
            let mut parameter = Parameter::new(name, ParameterType::Integer);
            (parameter.min, parameter.max) = (Some(min.into()), Some(max.into()));
            parameter.default = Some(default.to_string());
            parameter.restart_required = true;
            parameter
        });
        Ok(described.collect())
    }

    async fn values(&self, site: &Site) -> Result<Vec<(String, String)>, EngineError> {
        let all = statistics(site, "stats settings").await?;
        Ok(all.into_iter().filter(|(name, _)| PARAMETERS.iter().any(|(known, ..)| known == name)).collect())
    }

    async fn check(&self, _site: &Site, values: &BTreeMap<String, Value>) -> Result<(), EngineError> {
        values.iter().try_for_each(|(name, value)| checked(name, value).map(drop))
    }

    async fn apply(&self, site: &Site, settings: &Settings) -> Result<BTreeMap<String, Applied>, EngineError> {
        let current = statistics(site, "stats settings").await?;
        let mut became = BTreeMap::new();
        for (name, _, _, _, default) in PARAMETERS {
            let chosen = settings.parameters.get(name);
            let wanted = chosen.map_or(Some(default), Value::as_u64);
            if current.get(name).and_then(|now| now.parse().ok()) != wanted {
                became.insert(name.to_owned(), Applied::NeedsRestart);
            } else if chosen.is_some() {
                became.insert(name.to_owned(), Applied::Live);
            }
        }
        Ok(became)
    }
}
