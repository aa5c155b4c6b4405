//! Tests of objects: over real TLS with real certificates, and on a real directory.

mod check;
mod deletion;
mod grants;
mod requests;
mod strangers;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use trove_proto::backup::{FORMAT, MANIFEST_NAME, Manifest, Segment, segment_name};
use trove_proto::v1;

use super::directory::{Directory, Place};
use super::grants::Access;
use super::storage::Storage;
use super::{Objects, Patience};
use crate::agents::GrantObjects as _;
use crate::agents::tests::fake::{Identity, dial};
use crate::agents::tests::{Controller, Key};
use crate::authority::{AgentName, CertificateRequest};
use crate::config::Config;
use crate::ids::{BackupId, InstanceId};
use crate::seal::Seal;

const RUN: &str = "0123456789abcdef0123456789abcdef";
const OTHER_RUN: &str = "fedcba9876543210fedcba9876543210";
const SOON: Duration = Duration::from_secs(20);

/// A directory without a server.
struct Stored {
    scratch: TempDir,
    objects: Objects,
    backup: BackupId,
}

impl Stored {
    fn new() -> Self {
        Self::with(|_| (), Patience::USUAL)
    }

    fn with(change: impl FnOnce(&mut Config), patience: Patience) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        change(&mut config);
        let directory = scratch.path().join("objects");
        let storage = Storage::Directory(Directory::open(directory, None).unwrap());
        let objects = Objects::with(storage, Seal::new(&[3; 32]), &config, patience);
        Self { scratch, objects, backup: BackupId::random() }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.scratch.path().join("objects").join(below)
    }

    /// Every file of the directory but the one that names it, by its path below, sorted.
    fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        let mut open = vec![self.path("")];
        while let Some(next) = open.pop() {
            for entry in std::fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    files.push(path.strip_prefix(self.path("")).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        files.retain(|file| file != "storage");
        files.sort();
        files
    }

    /// Stores a file as a request would have.
    fn plant(&self, run: &str, name: &str, bytes: &[u8]) {
        let run = self.path(&format!("{}/{run}", self.backup));
        std::fs::create_dir_all(&run).unwrap();
        std::fs::write(run.join(name), bytes).unwrap();
    }

    /// Stores a backup of two segments in this run; returns its manifest's sum.
    fn plant_backup(&self, run: &str) -> String {
        let segment = |number: usize, bytes: &[u8]| {
            self.plant(run, &segment_name(number), bytes);
            let blake3 = blake3::hash(bytes).to_hex().to_string();
            Segment { name: segment_name(number), bytes: bytes.len() as u64, blake3 }
        };
        let manifest = Manifest {
            format: FORMAT,
            backup: self.backup.to_string(),
            run: run.to_owned(),
            datastore: "engine".to_owned(),
            version: "1.2".to_owned(),
            major: "1".to_owned(),
            recipients: vec!["age1x".to_owned()],
            position: None,
            parent: None,
            checkpoint: None,
            memory_bytes: None,
            data_bytes: 9,
            data_blake3: "00".to_owned(),
            segments: vec![segment(0, &[7; 100_000]), segment(1, &[8; 100_000])],
        };
        let text = manifest.to_json().unwrap();
        self.plant(run, MANIFEST_NAME, &text);
        blake3::hash(&text).to_hex().to_string()
    }
}

/// Grants to write an object of so many bytes.
fn write(name: &str, bytes: u64) -> v1::ObjectNeed {
    v1::ObjectNeed { name: name.to_owned(), access: v1::ObjectAccess::Write.into(), bytes }
}

fn read(name: &str) -> v1::ObjectNeed {
    v1::ObjectNeed { name: name.to_owned(), access: v1::ObjectAccess::Read.into(), bytes: 0 }
}

fn authorization(grant: &v1::ObjectGrant) -> &str {
    &grant.headers["authorization"]
}

/// The agents' port of a controller, with objects, and an instance.
struct World {
    controller: Controller,
    stored: Stored,
    instance: InstanceId,
}

impl World {
    async fn new() -> Self {
        Self::with(|_| (), Patience::USUAL).await
    }

    async fn with(change: impl FnOnce(&mut Config), patience: Patience) -> Self {
        let stored = Stored::with(change, patience);
        let controller = Controller::serving(stored.objects.clone()).await;
        let instance = controller.instance(2).await;
        Self { controller, stored, instance }
    }

    /// Without what a writer does when another run begins.
    async fn to_write(&self, run: &str, name: &str, bytes: u64) -> v1::ObjectGrant {
        let place = Place::new(self.stored.backup, run, name).unwrap();
        self.stored.objects.inner.grants.issue(Access::Write, &place, bytes, self.instance).unwrap()
    }

    async fn to_read(&self, run: &str, name: &str) -> v1::ObjectGrant {
        let reader = self.stored.objects.reader(HashMap::from([(run.to_owned(), self.stored.backup)]), self.instance);
        reader.grant(run, &[read(name)]).await.unwrap().remove(0)
    }

    fn identity(&self, instance: InstanceId, generation: u64) -> Identity {
        let key = Key::new();
        let request = CertificateRequest::parse(&key.csr_der).unwrap();
        let name = AgentName { instance, generation };
        key.with(&self.controller.authorities.sign_agent(&request, name, Duration::from_secs(3600)).unwrap())
    }

    async fn dial(&self, identity: Identity) -> std::io::Result<TlsStream<TcpStream>> {
        let pem = self.controller.authorities.agents_pem();
        dial(self.controller.address, pem, Some(identity), trove_proto::ALPN_OBJECTS).await
    }

    /// A connection for text that a client would not send.
    async fn raw(&self) -> TlsStream<TcpStream> {
        self.dial(self.identity(self.instance, 2)).await.unwrap()
    }

    /// The head of a PUT.
    fn head(grant: &v1::ObjectGrant, more: &str) -> String {
        let token = authorization(grant);
        format!("PUT {} HTTP/1.1\r\nhost: controller\r\nauthorization: {token}\r\n{more}\r\n\r\n", grant.url)
    }

    async fn connect(&self, instance: InstanceId) -> Client {
        let stream = self.dial(self.identity(instance, 2)).await.unwrap();
        let (send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Client { send }
    }

    async fn put(&self, grant: &v1::ObjectGrant, bytes: Vec<u8>) -> StatusCode {
        self.connect(self.instance).await.put(grant, bytes).await
    }

    async fn get(&self, grant: &v1::ObjectGrant) -> (StatusCode, Vec<u8>) {
        self.connect(self.instance).await.get(grant).await
    }
}

/// One connection of an agent.
struct Client {
    send: SendRequest<Full<Bytes>>,
}

impl Client {
    async fn ask(&mut self, method: Method, url: &str, token: Option<&str>, body: Vec<u8>) -> (StatusCode, Vec<u8>) {
        let mut request = Request::builder().method(method).uri(url).header("host", "controller");
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let asked = async {
            self.send.ready().await.unwrap();
            let response: Response<Incoming> = self.send.send_request(request).await.unwrap();
            let status = response.status();
            (status, response.into_body().collect().await.unwrap().to_bytes().to_vec())
        };
        tokio::time::timeout(SOON, asked).await.expect("an answer")
    }

    async fn put(&mut self, grant: &v1::ObjectGrant, bytes: Vec<u8>) -> StatusCode {
        self.ask(Method::PUT, &grant.url, Some(authorization(grant)), bytes).await.0
    }

    async fn get(&mut self, grant: &v1::ObjectGrant) -> (StatusCode, Vec<u8>) {
        self.ask(Method::GET, &grant.url, Some(authorization(grant)), Vec::new()).await
    }
}

/// What comes until the other side closes the connection.
async fn rest(stream: &mut TlsStream<TcpStream>) -> String {
    let mut bytes = Vec::new();
    // An end without TLS's goodbye is one as well.
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("an end");
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn say(stream: &mut TlsStream<TcpStream>, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}

#[test]
fn a_key_pair_opens_what_is_encrypted_to_it_and_the_operators_are_recipients_too() {
    let offline = age::x25519::Identity::generate().to_public().to_string();
    let mut config = Config::default();
    config.backups.recipients = vec![offline.clone()];
    let (key, other) = (Objects::new_key(), Objects::new_key());
    assert_ne!(key.recipient, other.recipient);
    let recipient: age::x25519::Recipient = key.recipient.parse().unwrap();
    let sealed = age::encrypt(&recipient, b"data").unwrap();
    let identity = |key: &super::Key| -> age::x25519::Identity {
        secrecy::ExposeSecret::expose_secret(&key.identity).parse().unwrap()
    };
    assert_eq!(age::decrypt(&identity(&key), &sealed).unwrap(), b"data");
    assert!(age::decrypt(&identity(&other), &sealed).is_err());
    assert_eq!(Objects::recipients(&config, &key.recipient), [key.recipient.clone(), offline.clone()]);
    assert_eq!(Objects::recipients(&config, &offline), [offline]);
}
