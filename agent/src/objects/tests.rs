//! The client against a server over mutual TLS on the loopback, which answers as it is told, or else keeps objects.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::sync::Mutex as Lock;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use http_body_util::StreamBody;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use trove_strategy::Kind;

use super::granted::{AskGrants, RunObjects};
use super::*;
use crate::backup::Storage as _;
use crate::backup::tests::{Tape, noise};
use crate::durable::Durable;

mod elsewhere;

const SOON: Duration = Duration::from_secs(30);

/// What the server does with a request, once it has read it whole.
#[derive(Clone)]
enum Reply {
    Says(u16, &'static str),
    Gives(Bytes),
    /// Says how many bytes there are and gives only some.
    GivesHalf(Bytes),
    /// Never answers.
    Hangs,
    /// Closes the connection without an answer.
    HangsUp,
    /// Stores what was sent, and does the same.
    StoresAndHangsUp,
}

type Answer = Response<StreamBody<BoxStream<'static, Result<Frame<Bytes>, io::Error>>>>;

fn answer(status: u16, length: usize, frames: Vec<Result<Frame<Bytes>, io::Error>>) -> Answer {
    let mut answer = Response::new(StreamBody::new(stream::iter(frames).boxed()));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer.headers_mut().insert(CONTENT_LENGTH, length.into());
    answer
}

impl Reply {
    async fn answer(self) -> io::Result<Answer> {
        match self {
            Self::Says(status, words) => {
                Ok(answer(status, words.len(), vec![Ok(Frame::data(Bytes::from_static(words.as_bytes())))]))
            }
            Self::Gives(bytes) => Ok(answer(200, bytes.len(), vec![Ok(Frame::data(bytes))])),
            Self::GivesHalf(bytes) => {
                let half = Ok(Frame::data(bytes.slice(..bytes.len() / 2)));
                Ok(answer(200, bytes.len(), vec![half, Err(io::Error::other("the disk broke"))]))
            }
            Self::Hangs => std::future::pending().await,
            Self::HangsUp | Self::StoresAndHangsUp => Err(io::Error::other("hung up")),
        }
    }
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq)]
struct Came {
    what: String,
    token: String,
    body: Bytes,
}

#[derive(Default)]
struct Heard {
    replies: Lock<VecDeque<Reply>>,
    requests: Lock<Vec<Came>>,
    connections: AtomicUsize,
    /// What is stored, by its path.
    stored: Lock<BTreeMap<String, Bytes>>,
    /// Which grants were asked for.
    asked: Lock<Vec<v1::ObjectNeed>>,
    refusals: Lock<VecDeque<v1::Error>>,
}

impl Heard {
    async fn serve(&self, request: Request<Incoming>) -> io::Result<Answer> {
        let (is_put, path) = (request.method() == Method::PUT, request.uri().path().to_owned());
        let token = request.headers()["authorization"].to_str().unwrap().to_owned();
        assert_eq!(request.headers()["host"], CONTROLLER_NAME);
        let what = format!("{} {}", request.method(), request.uri());
        let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        self.requests.lock().unwrap().push(Came { what, token, body: body.clone() });
        let told = self.replies.lock().unwrap().pop_front();
        if matches!(told, Some(Reply::StoresAndHangsUp)) {
            self.store(path.clone(), body.clone());
        }
        let reply = match told {
            Some(reply) => reply,
            None if is_put => self.store(path, body),
            None => {
                let stored = self.stored.lock().unwrap().get(&path).cloned();
                stored.map_or(Reply::Says(404, "no such object"), Reply::Gives)
            }
        };
        reply.answer().await
    }

    fn store(&self, path: String, body: Bytes) -> Reply {
        match self.stored.lock().unwrap().entry(path) {
            Entry::Occupied(_) => Reply::Says(412, "it exists"),
            Entry::Vacant(free) => {
                free.insert(body);
                STORED
            }
        }
    }

    fn replies(&self, replies: impl IntoIterator<Item = Reply>) {
        self.replies.lock().unwrap().extend(replies);
    }

    fn requests(&self) -> Vec<Came> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

/// Every grant is another.
#[async_trait]
impl AskGrants for Heard {
    async fn ask(&self, run: &str, needs: Vec<v1::ObjectNeed>) -> Result<Vec<v1::ObjectGrant>, v1::Error> {
        if let Some(refusal) = self.refusals.lock().unwrap().pop_front() {
            return Err(refusal);
        }
        let mut asked = self.asked.lock().unwrap();
        let mut grant = |need: v1::ObjectNeed| {
            let url = format!("/objects/b/{run}/{}", need.name);
            asked.push(need);
            let headers = BTreeMap::from([("authorization".to_owned(), format!("Trove {}", asked.len()))]);
            v1::ObjectGrant { url, headers, authorities_pem: String::new() }
        };
        Ok(needs.into_iter().map(&mut grant).collect())
    }
}

struct Stage {
    heard: Arc<Heard>,
    objects: Objects,
    at: String,
    _scratch: tempfile::TempDir,
}

/// An authority, and its certificate.
fn authority() -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

fn server(issuer: &Issuer<'static, KeyPair>, authority: &str) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![CONTROLLER_NAME.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap().der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder().with_client_cert_verifier(verifier);
    let mut config = config.with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = vec![ALPN_OBJECTS.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// A server, a client with a certificate, and an address before the server's at which nobody listens.
async fn stage(limits: Limits) -> Stage {
    // Fails if another test has installed the process-wide provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let scratch = tempfile::tempdir().unwrap();
    let (issuer, authority) = authority();
    let tls = server(&issuer, &authority);
    let files = Durable::open(scratch.path()).unwrap();
    std::fs::write(scratch.path().join("driver.pem"), &authority).unwrap();
    let identity = Identity::open(files.clone(), &scratch.path().join("driver.pem")).unwrap();
    let request = CertificateSigningRequestDer::from(identity.request().unwrap());
    let request = CertificateSigningRequestParams::from_der(&request).unwrap();
    identity.accept(&request.signed_by(&issuer).unwrap().pem(), &authority).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let heard = Arc::new(Heard::default());
    let hears = heard.clone();
    tokio::spawn(async move {
        loop {
            let stream = listener.accept().await.unwrap().0;
            hears.connections.fetch_add(1, Ordering::SeqCst);
            let (tls, hears) = (tls.clone(), hears.clone());
            tokio::spawn(async move {
                let stream = tls.accept(stream).await.unwrap();
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(ALPN_OBJECTS));
                let service = service_fn(|request| hears.serve(request));
                // An answer that breaks off is an error here, too.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                Ok::<(), Infallible>(())
            });
        }
    });
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let assignments = Arc::new(AssignmentStore::open(files).unwrap());
    let objects = Objects::new(identity, assignments, vec![nobody, at.clone()], limits);
    Stage { heard, objects, at, _scratch: scratch }
}

impl Stage {
    async fn put(&self, bytes: &Bytes) -> Result<(), trove_strategy::EngineError> {
        let storage = RunObjects::new(&self.objects, &*self.heard, "r");
        timeout(SOON, storage.put("00000000", bytes.clone())).await.expect("it ends")
    }

    async fn get(&self, limit: u64) -> Result<Bytes, trove_strategy::EngineError> {
        let storage = RunObjects::new(&self.objects, &*self.heard, "r");
        let mut bytes = b"of an earlier try".to_vec();
        timeout(SOON, storage.get("00000000", limit, &mut bytes)).await.expect("it ends")?;
        Ok(bytes.into())
    }
}

fn large() -> Bytes {
    (0..3_000_001_u32).map(|n| n.to_le_bytes()[0]).collect::<Vec<_>>().into()
}

const STORED: Reply = Reply::Says(201, "");

#[tokio::test(flavor = "multi_thread")]
async fn objects_go_and_come_over_one_connection_each_by_a_grant_of_its_own() {
    let stage = stage(Limits::default()).await;
    stage.heard.replies([STORED, STORED, Reply::Gives(large()), Reply::Says(404, "no such object")]);
    stage.put(&large()).await.unwrap();
    stage.put(&Bytes::from_static(b"small")).await.unwrap();
    assert!(stage.get(3_000_001).await.unwrap() == large());
    let missing = stage.get(5).await.unwrap_err();
    assert_eq!((missing.kind(), missing.chain().as_str()), (Kind::Gone, "read it: it is not there"));
    let came = stage.heard.requests();
    let what: Vec<_> = came.iter().map(|came| came.what.as_str()).collect();
    let [put, get] = ["PUT /objects/b/r/00000000", "GET /objects/b/r/00000000"];
    assert_eq!(what, [put, put, get, get]);
    // The first grant went to the address at which nobody listens.
    let tokens: Vec<_> = came.iter().map(|came| came.token.as_str()).collect();
    assert_eq!(tokens, ["Trove 2", "Trove 3", "Trove 4", "Trove 5"]);
    assert!(came[0].body == large() && came[1].body == "small");
    let asked = stage.heard.asked.lock().unwrap().clone();
    let need =
        |access: v1::ObjectAccess, bytes| v1::ObjectNeed { name: "00000000".to_owned(), access: access.into(), bytes };
    assert_eq!(asked[1..3], [need(v1::ObjectAccess::Write, 3_000_001), need(v1::ObjectAccess::Write, 5)]);
    assert_eq!(asked[4], need(v1::ObjectAccess::Read, 0));
    assert_eq!(stage.heard.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_already_was_stored_only_where_an_answer_was_lost() {
    let stage = stage(Limits::default()).await;
    let exists = || Reply::Says(412, "it exists");
    stage.heard.replies([Reply::HangsUp, exists()]);
    stage.put(&large()).await.unwrap();
    stage.heard.replies([Reply::Says(500, "the disk broke"), exists()]);
    stage.put(&large()).await.unwrap();
    stage.heard.replies([Reply::Says(403, "expired"), exists()]);
    let error = stage.put(&large()).await.unwrap_err();
    let said = format!(
        "write it: an object of this name is there already ({} answers 412 Precondition Failed: it exists)",
        stage.at
    );
    assert_eq!((error.kind(), error.chain()), (Kind::Fatal, said));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_faults_are_tried_again_with_a_new_grant() {
    let stage = stage(Limits::default()).await;
    let transient = v1::Error { kind: v1::ErrorKind::Transient.into(), message: "the store is away".to_owned() };
    stage.heard.refusals.lock().unwrap().push_back(transient);
    stage.heard.replies([Reply::Says(403, "expired"), Reply::Says(500, "it broke"), Reply::Says(503, ""), STORED]);
    stage.put(&large()).await.unwrap();
    let half = Reply::GivesHalf(large());
    stage.heard.replies([Reply::Says(403, "used"), half, Reply::HangsUp, Reply::Gives(large())]);
    assert!(stage.get(3_000_001).await.unwrap() == large(), "half an object is none");
    let came = stage.heard.requests();
    assert_eq!(came.len(), 8);
    let mut tokens: Vec<_> = came.iter().map(|came| came.token.clone()).collect();
    tokens.dedup();
    assert_eq!(tokens.len(), 8, "no grant is used twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_a_request_and_slowness_does_not() {
    let silence = Duration::from_millis(500);
    let stage = stage(Limits { silence, ..Limits::default() }).await;
    stage.heard.replies([Reply::Hangs, STORED]);
    let begun = Instant::now();
    stage.put(&large()).await.unwrap();
    assert!(begun.elapsed() >= silence);
    assert_eq!(stage.heard.requests().len(), 2);
    let moved = Moved::default();
    let silent = moved.clone().silence(Duration::from_millis(400));
    let moving = async {
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            moved.now();
        }
    };
    let begun = Instant::now();
    tokio::join!(silent, moving);
    assert!(begun.elapsed() >= Duration::from_millis(1200));
}

#[tokio::test(flavor = "multi_thread")]
async fn patience_ends_with_what_was_tried_and_the_last_answer() {
    let stage = stage(Limits { patience: Duration::from_millis(400), ..Limits::default() }).await;
    stage.heard.replies(std::iter::repeat_n(Reply::Says(500, "the disk broke\nsecond line"), 100));
    let storage = RunObjects::new(&stage.objects, &*stage.heard, "r");
    let error = timeout(SOON, storage.put("00000000", large())).await.expect("it ends").unwrap_err();
    let text = error.chain();
    assert_eq!(error.kind(), Kind::Transient);
    let trouble = storage.trouble().unwrap();
    assert!(trouble.starts_with("write it: ") && text.ends_with(&trouble["write it: ".len()..]), "{trouble}");
    assert!(text.starts_with("write it: ") && text.contains(" tries in "), "{text}");
    let last = format!("{} answers 500 Internal Server Error: the disk broke", stage.at);
    assert!(text.ends_with(&last) || text.contains("Connection refused"), "{text}");
    assert!(!text.contains("Trove "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_try_can_mend_ends_at_once() {
    let stage = stage(Limits::default()).await;
    stage.heard.replies([Reply::Gives(large())]);
    let error = stage.get(3_000_000).await.unwrap_err();
    let said = "read it: it has 3000001 bytes, which are too many";
    assert_eq!((error.kind(), error.chain().as_str()), (Kind::Invalid, said));
    stage.heard.replies([Reply::Says(400, "what is that?")]);
    let error = stage.put(&large()).await.unwrap_err();
    assert!(error.kind() == Kind::Fatal && error.chain().contains("answers 400"), "{}", error.chain());
    stage.heard.replies([Reply::Says(507, "the disk is full"), STORED]);
    let error = stage.put(&large()).await.unwrap_err();
    let said = format!(
        "write it: the storage of backups is full ({} answers 507 Insufficient Storage: the disk is full)",
        stage.at
    );
    assert_eq!((error.kind(), error.chain()), (Kind::Fatal, said));
    stage.heard.replies.lock().unwrap().clear();
    let invalid = v1::Error { kind: v1::ErrorKind::Invalid.into(), message: "of another backup".to_owned() };
    stage.heard.refusals.lock().unwrap().push_back(invalid);
    let error = stage.get(1).await.unwrap_err();
    let said = "read it: the controller gives no access: of another backup";
    assert_eq!((error.kind(), error.chain().as_str()), (Kind::Invalid, said));
    for url in ["ftp://storage.example/o", "//storage.example/o", "https://u@storage.example/o", "no path", ""] {
        let grant = v1::ObjectGrant { url: url.to_owned(), ..v1::ObjectGrant::default() };
        let failure = stage.objects.put(&grant, large()).await.unwrap_err();
        assert!(
            matches!(failure, Failure::Unusable(_)) && !failure.to_string().contains("storage.example"),
            "{failure}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_taken_and_restored_over_connections_that_break() {
    let (stage, site) = (stage(Limits::default()).await, crate::backup::tests::stage());
    let storage = RunObjects::new(&stage.objects, &*stage.heard, "r");
    let tape = Tape::of(noise(5_000_000, 4));
    let faults = [Reply::Says(500, ""), Reply::StoresAndHangsUp, Reply::Says(403, "expired"), Reply::HangsUp];
    stage.heard.replies(faults);
    let backed_up = site.take_in(&tape, &storage, 1 << 20).await.unwrap();
    assert_eq!(storage.trouble(), None, "it was overcome");
    let stored = stage.heard.stored.lock().unwrap().clone();
    let names: Vec<_> = stored.keys().map(|path| path.trim_start_matches("/objects/b/r/")).collect();
    assert_eq!(names, ["00000000", "00000001", "00000002", "00000003", "00000004", "manifest.json"]);
    stage.heard.replies([
        Reply::Says(503, ""),
        Reply::HangsUp,
        Reply::GivesHalf(stored["/objects/b/r/manifest.json"].clone()),
    ]);
    let bytes = site.restore(&tape, &storage, &backed_up.manifest_sum).await.unwrap();
    assert!(bytes == 5_000_000 && *tape.restored.lock().unwrap() == noise(5_000_000, 4));
    stage.heard.stored.lock().unwrap().remove("/objects/b/r/00000003");
    let error = site.restore(&tape, &storage, &backed_up.manifest_sum).await.unwrap_err();
    let said = "segment 00000003 of backup b: read it: it is not there";
    assert_eq!((error.kind(), error.chain().as_str()), (Kind::Invalid, said));
}
