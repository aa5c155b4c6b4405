//! Objects in a storage outside of the controllers: a server that knows only the address and header fields of a grant.

use super::*;

/// The storage, and what it was asked for: first lines and header fields.
struct Elsewhere {
    at: String,
    heard: Arc<Lock<Vec<String>>>,
    grants: AtomicUsize,
}

/// Serves plain HTTP, and answers each request with the next of these statuses and texts, whatever it is.
async fn elsewhere(replies: &[(u16, &'static str, Option<&'static str>)]) -> Elsewhere {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let heard = Arc::new(Lock::new(Vec::new()));
    let (hears, replies) = (heard.clone(), Arc::new(Lock::new(replies.iter().copied().collect::<VecDeque<_>>())));
    tokio::spawn(async move {
        loop {
            let stream = listener.accept().await.unwrap().0;
            let (hears, replies) = (hears.clone(), replies.clone());
            let serve = service_fn(move |request: Request<Incoming>| {
                let (hears, replies) = (hears.clone(), replies.clone());
                async move {
                    let field =
                        |name: &str| request.headers().get(name).map_or("none", |value| value.to_str().unwrap());
                    hears.lock().unwrap().push(format!(
                        "{} {} {} {} {}",
                        request.method(),
                        request.uri(),
                        field("host"),
                        field("content-length"),
                        field("if-none-match")
                    ));
                    let _ = request.into_body().collect().await;
                    let (status, words, location) = replies.lock().unwrap().pop_front().unwrap();
                    let mut answer = Reply::Says(status, words).answer().await?;
                    if let Some(location) = location {
                        answer.headers_mut().insert("location", HeaderValue::from_static(location));
                    }
                    Ok::<_, io::Error>(answer)
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), serve));
        }
    });
    Elsewhere { at, heard, grants: AtomicUsize::new(0) }
}

#[async_trait]
impl AskGrants for Elsewhere {
    async fn ask(&self, _: &str, needs: Vec<v1::ObjectNeed>) -> Result<Vec<v1::ObjectGrant>, v1::Error> {
        let number = self.grants.fetch_add(1, Ordering::SeqCst);
        let url = format!("http://{}/bucket/{}?signature=secret{number}", self.at, needs[0].name);
        let headers = [("if-none-match".to_owned(), "*".to_owned())].into_iter().collect();
        Ok(vec![v1::ObjectGrant { url, headers, authorities_pem: String::new() }])
    }
}

impl Elsewhere {
    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }
}

async fn put(stage: &Stage, to: &Elsewhere, bytes: &'static [u8]) -> Result<(), trove_strategy::EngineError> {
    let storage = RunObjects::new(&stage.objects, to, "r");
    timeout(SOON, storage.put("00000000", Bytes::from_static(bytes))).await.expect("it ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_is_sent_what_its_grant_says_and_what_may_pass_is_tried_again() {
    let stage = stage(Limits::default()).await;
    let expired = "<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>";
    let to = elsewhere(&[
        (403, expired, None),
        (401, "401 Unauthorized: Temp URL invalid\n", None),
        (503, "<Error><Code>SlowDown</Code></Error>", None),
        (400, "<Error><Code>RequestTimeout</Code></Error>", None),
        (200, "", None),
        (201, "", None),
        (200, "12345", None),
    ])
    .await;
    put(&stage, &to, b"12345").await.unwrap();
    put(&stage, &to, b"").await.unwrap();
    let (storage, mut bytes) = (RunObjects::new(&stage.objects, &to, "r"), Vec::new());
    storage.get("00000000", 5, &mut bytes).await.unwrap();
    assert_eq!(bytes, b"12345");
    let heard = to.heard();
    let put =
        |number: usize, bytes: usize| format!("PUT /bucket/00000000?signature=secret{number} {} {bytes} *", to.at);
    assert_eq!(heard[..6], [put(0, 5), put(1, 5), put(2, 5), put(3, 5), put(4, 5), put(5, 0)]);
    assert!(heard[6].starts_with("GET /bucket/00000000?signature=secret6 "), "{}", heard[6]);
    assert_eq!(stage.heard.connections.load(Ordering::SeqCst), 0, "no controller was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_refuses_every_grant_is_given_up_and_no_address_is_told() {
    let stage = stage(Limits::default()).await;
    let to =
        elsewhere(&[(403, "<Error><Code>SignatureDoesNotMatch</Code><Signed>secret</Signed></Error>", None); 5]).await;
    let error = put(&stage, &to, b"12345").await.unwrap_err();
    let said = format!(
        "write it: 5 grants in a row were refused, the last one: {} answers 403 Forbidden: SignatureDoesNotMatch",
        to.at
    );
    assert_eq!((error.kind(), error.chain()), (Kind::Fatal, said));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_redirection_is_followed() {
    let stage = stage(Limits::default()).await;
    let to = elsewhere(&[(307, "", Some("http://127.0.0.1:1/bucket/00000000?signature=secret0"))]).await;
    let error = put(&stage, &to, b"12345").await.unwrap_err();
    let said = format!("write it: {} answers 307 Temporary Redirect", to.at);
    assert_eq!((error.kind(), error.chain()), (Kind::Fatal, said));
    assert_eq!(to.heard().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_did_not_sign_the_storages_certificate_keeps_the_grant_from_it() {
    let stage = stage(Limits { patience: Duration::from_millis(200), ..Limits::default() }).await;
    // The stage's server is known by another name and to another authority.
    let (_, other) = authority();
    for (authorities_pem, told) in [(other, "speak TLS with"), ("no certificate".to_owned(), "read the authorities")] {
        let grant = v1::ObjectGrant {
            url: format!("https://{}/bucket/00000000?signature=secret", stage.at),
            authorities_pem,
            ..v1::ObjectGrant::default()
        };
        let failure = stage.objects.put(&grant, large()).await.unwrap_err().to_string();
        assert!(failure.contains(told) && !failure.contains("secret"), "{failure}");
    }
    assert!(stage.heard.requests().is_empty());
}
