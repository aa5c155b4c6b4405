//! Where the enrolment document is looked for: a path that was given; or a config drive, and then the metadata service
//! of the cloud.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::rt::TokioIo;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::net::TcpStream;

/// What a config drive and the metadata service call the user-data.
const USER_DATA: &str = "openstack/latest/user_data";
const METADATA: &str = "169.254.169.254:80";
/// The label of a config drive; vfat has it in capitals.
const LABELS: [&str; 2] = ["config-2", "CONFIG-2"];
/// Nova's limit for user-data is 64 KiB.
const MOST_BYTES: usize = 64 << 10;
/// Without a metadata service the address does not answer at all.
const LIMIT: Duration = Duration::from_secs(5);

/// Where to look.
pub(crate) struct Places {
    /// The document, or a directory that is laid out as a config drive; nothing else is looked at when it is given.
    pub(crate) given: Option<PathBuf>,
    /// Directory in which devices have their labels as names.
    pub(crate) labels: PathBuf,
    /// Address of the metadata service, `host:port`.
    pub(crate) metadata: String,
}

impl Places {
    /// Those of a machine.
    pub(crate) fn new(given: Option<PathBuf>) -> Self {
        Self { given, labels: PathBuf::from("/dev/disk/by-label"), metadata: METADATA.to_owned() }
    }
}

/// A document that nobody has checked yet.
pub(super) struct Found {
    pub(super) text: String,
    /// For messages.
    pub(super) from: String,
}

/// The first document that is there.
pub(super) async fn find(places: &Places) -> Result<Found> {
    if let Some(path) = &places.given {
        let file = if path.is_dir() { path.join(USER_DATA) } else { path.clone() };
        let text = read(&file)?.with_context(|| format!("there is no {}", file.display()))?;
        return Ok(Found { text, from: file.display().to_string() });
    }
    let drive = LABELS.iter().map(|label| places.labels.join(label)).find(|device| device.exists());
    if let Some(device) = &drive {
        let read = on_drive(device).with_context(|| format!("read the config drive {}", device.display()))?;
        if let Some(text) = read {
            return Ok(Found { text, from: format!("the config drive {}", device.display()) });
        }
    }
    let from = format!("http://{}/{USER_DATA}", places.metadata);
    let asked = tokio::time::timeout(LIMIT, ask(&places.metadata)).await;
    let asked = asked.unwrap_or_else(|_| bail!("no answer within {} s", LIMIT.as_secs()));
    let text = asked.with_context(|| match drive {
        Some(_) => format!("the config drive has no user-data, and neither has {from}"),
        None => format!("there is no config drive, and no user-data at {from}"),
    })?;
    Ok(Found { text, from })
}

/// The contents of a file, `None` when it is absent.
fn read(file: &Path) -> Result<Option<String>> {
    let opened = match std::fs::File::open(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened,
    };
    let mut contents = Vec::new();
    let read = opened.and_then(|opened| opened.take(MOST_BYTES as u64 + 1).read_to_end(&mut contents));
    read.with_context(|| format!("read {}", file.display()))?;
    text(contents).with_context(|| format!("read {}", file.display())).map(Some)
}

fn text(contents: Vec<u8>) -> Result<String> {
    ensure!(contents.len() <= MOST_BYTES, "it has more than {MOST_BYTES} bytes");
    String::from_utf8(contents).ok().context("it is no text")
}

/// Mounts the drive, where only this process looks for it, and reads its user-data.
fn on_drive(device: &Path) -> Result<Option<String>> {
    let at = tempfile::Builder::new().prefix("trove-config-").tempdir_in("/run").context("make a directory")?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID;
    let mount = |kind: &str| mount(Some(device), at.path(), Some(kind), flags, None::<&str>);
    mount("iso9660").or_else(|_| mount("vfat")).context("mount it as iso9660 or vfat")?;
    let contents = read(&at.path().join(USER_DATA));
    umount2(at.path(), MntFlags::MNT_DETACH).context("unmount it")?;
    contents
}

/// Asks the metadata service.
async fn ask(address: &str) -> Result<String> {
    let stream = TcpStream::connect(address).await.context("connect")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let host = address.trim_end_matches(":80");
    let request = http::Request::get(format!("/{USER_DATA}")).header(http::header::HOST, host).body(String::new())?;
    let answer = sender.send_request(request).await?;
    ensure!(answer.status().is_success(), "the answer is {}", answer.status());
    let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await.ok();
    connection.abort();
    text(
        body.with_context(|| format!("the answer breaks off, or has more than {MOST_BYTES} bytes"))?
            .to_bytes()
            .to_vec(),
    )
}
