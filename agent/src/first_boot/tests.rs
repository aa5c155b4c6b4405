use std::os::unix::fs::PermissionsExt as _;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::config::Config;

const TOKEN: &str = "one-time-token-7f3a";

fn authority() -> String {
    rcgen::generate_simple_self_signed(vec!["controller".to_owned()]).unwrap().cert.pem()
}

fn document(instance: &str, generation: u64, token: &str) -> String {
    format!(
        "format = 1\ntoken = \"{token}\"\nauthority = '''\n{}'''\n[agent]\ninstance_id = \"{instance}\"\n\
         generation = {generation}\ndatastore = \"postgresql\"\ncontrollers = [\"192.0.2.10:8777\"]\n\
         address = \"192.0.2.20\"\nport = 5432\nmemory_mib = 2048\nvcpus = 2\nvolume_gib = 10\n",
        authority()
    )
}

const ONE: &str = "11111111-1111-4111-8111-111111111111";
const TWO: &str = "22222222-2222-4222-8222-222222222222";

/// A guest's /etc/trove-agent and a drive's directory.
struct Guest {
    directory: tempfile::TempDir,
}

impl Guest {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn etc(&self) -> PathBuf {
        self.directory.path().join("etc")
    }

    async fn boot(&self, document: &str) -> Result<String> {
        let data = self.directory.path().join("drive/openstack/latest");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("user_data"), document).unwrap();
        run(&Places::new(Some(self.directory.path().join("drive"))), &self.etc()).await
    }

    async fn refused(&self, document: &str) -> String {
        format!("{:#}", self.boot(document).await.unwrap_err())
    }

    /// No drive, and the metadata service at `address`.
    async fn boot_from(&self, address: String) -> Result<String> {
        let labels = self.directory.path().join("labels");
        run(&Places { given: None, labels, metadata: address }, &self.etc()).await
    }
}

#[tokio::test]
async fn the_files_are_written_closed_to_others_and_the_agent_reads_them() {
    let guest = Guest::new();
    let said = guest.boot(&document(ONE, 3, TOKEN)).await.unwrap();
    assert!(said.contains(ONE) && said.contains("generation 3"), "{said}");
    for name in ["agent.toml", "authority.pem", "token"] {
        let mode = std::fs::metadata(guest.etc().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{name}");
    }
    assert_eq!(std::fs::metadata(guest.etc()).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(std::fs::read_to_string(guest.etc().join("token")).unwrap(), TOKEN);
    let config = Config::read(&guest.etc().join("agent.toml")).unwrap();
    assert_eq!(config.instance_id.to_string(), ONE);
    assert_eq!(config.token_file, guest.etc().join("token"));
    assert_eq!(config.volume_dir, Path::new("/var/lib/trove-data"));
    assert_eq!(config.engine_uid, Some(2000));
}

#[tokio::test]
async fn a_used_token_does_not_come_back_at_the_next_boot() {
    let guest = Guest::new();
    let document = document(ONE, 1, TOKEN);
    guest.boot(&document).await.unwrap();
    std::fs::remove_file(guest.etc().join("token")).unwrap();
    guest.boot(&document).await.unwrap();
    assert!(!guest.etc().join("token").exists());
}

#[tokio::test]
async fn a_newer_document_of_the_same_guest_is_taken() {
    let guest = Guest::new();
    guest.boot(&document(ONE, 1, TOKEN)).await.unwrap();
    guest.boot(&document(ONE, 2, "another")).await.unwrap();
    assert_eq!(std::fs::read_to_string(guest.etc().join("token")).unwrap(), "another");
    assert_eq!(Config::read(&guest.etc().join("agent.toml")).unwrap().generation, 2);
}

#[tokio::test]
async fn a_document_of_another_guest_or_of_an_older_generation_changes_nothing() {
    let guest = Guest::new();
    guest.boot(&document(ONE, 2, TOKEN)).await.unwrap();
    let said = guest.refused(&document(TWO, 3, "another")).await;
    assert!(said.contains(ONE) && said.contains(TWO), "{said}");
    let said = guest.refused(&document(ONE, 1, "another")).await;
    assert!(said.contains("generation 1"), "{said}");
    assert_eq!(std::fs::read_to_string(guest.etc().join("token")).unwrap(), TOKEN);
}

#[tokio::test]
async fn a_guest_whose_agent_had_other_options_becomes_no_other() {
    let guest = Guest::new();
    guest.boot(&document(ONE, 2, TOKEN)).await.unwrap();
    let configuration = guest.etc().join("agent.toml");
    let text = std::fs::read_to_string(&configuration).unwrap();
    std::fs::write(&configuration, format!("of_a_later_agent = 1\n{text}")).unwrap();
    let said = guest.refused(&document(TWO, 3, "another")).await;
    assert!(said.contains(ONE) && said.contains(TWO), "{said}");
}

#[tokio::test]
async fn a_malformed_document_is_refused_with_a_sentence_and_without_its_token() {
    let whole = document(ONE, 1, TOKEN);
    let cases = [
        ("#cloud-config\npackages: [nginx]\n".to_owned(), "is no TOML: line 2"),
        (whole.replace(&format!("\"{TOKEN}\""), &format!("\"{TOKEN}")), "is no TOML: line 2"),
        (whole.replace("format = 1", "format = 2"), "`format = 1`"),
        (whole.replace("token = ", "tokens = "), "has no `token`"),
        (whole.replace(TOKEN, "two words"), "token"),
        (whole.replace(&format!("\"{TOKEN}\""), "7349"), "`token` that is no text"),
        (whole.replace("CERTIFICATE", "NOTE"), "`authority`"),
        (whole.replace("[agent]", "[agents]"), "[agent]"),
        (whole.replace("format = 1", "format = 1\nsurprise = 1"), "surprise"),
        (whole.replace("port = 5432", "port = 99999"), "port"),
        (whole.replace("port = 5432", "ports = 5432"), "ports"),
        (whole.replace(ONE, "me"), "instance_id"),
    ];
    for (document, expected) in cases {
        let guest = Guest::new();
        let said = guest.refused(&document).await;
        assert!(said.contains(expected), "{expected}: {said}");
        assert!(!said.contains(TOKEN) && !said.contains("7349"), "{said}");
        assert!(!guest.etc().join("agent.toml").exists(), "{expected}");
    }
}

#[tokio::test]
async fn no_document_is_an_error_at_the_first_boot_only() {
    let guest = Guest::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap().to_string();
    drop(listener);
    let said = format!("{:#}", guest.boot_from(nobody.clone()).await.unwrap_err());
    assert!(said.contains("no config drive") && said.contains("user_data"), "{said}");
    guest.boot(&document(ONE, 1, TOKEN)).await.unwrap();
    let said = guest.boot_from(nobody).await.unwrap();
    assert!(said.contains("stay") && said.contains("no config drive") && said.contains("refused"), "{said}");
    let given = Places::new(Some(guest.directory.path().join("nowhere")));
    let said = format!("{:#}", run(&given, &guest.etc()).await.unwrap_err());
    assert!(said.contains("there is no ") && said.contains("nowhere"), "{said}");
}

/// Answers one request and gives back what was asked.
async fn serve(answer: String) -> (String, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = vec![0; 4096];
        let length = stream.read(&mut asked).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&asked[..length]).into_owned()
    });
    (address, served)
}

#[tokio::test]
async fn the_metadata_service_is_asked_when_there_is_no_drive() {
    let guest = Guest::new();
    let document = document(ONE, 1, TOKEN);
    let (address, served) =
        serve(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{document}", document.len())).await;
    guest.boot_from(address).await.unwrap();
    assert!(served.await.unwrap().starts_with("GET /openstack/latest/user_data HTTP/1.1\r\n"));
    assert_eq!(std::fs::read_to_string(guest.etc().join("token")).unwrap(), TOKEN);
}

#[tokio::test]
async fn an_answer_without_user_data_or_too_long_is_refused() {
    let long = "x".repeat(70_000);
    let cases = [
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(), "404"),
        (format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{long}", long.len()), "65536 bytes"),
    ];
    for (answer, expected) in cases {
        let (address, _served) = serve(answer).await;
        let said = format!("{:#}", Guest::new().boot_from(address).await.unwrap_err());
        assert!(said.contains(expected), "{said}");
    }
}
