//! Servers that stand in for the clouds, as processes: `scripts/setup-emulators` fetches them, or
//! variables name others. A process ends with its test, also with one that is killed.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "helpers of tests fail as tests do; a test may look for an optional tool"
)]

use std::env;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cohort::store::Store;
use cohort::store::backend::{Credentials, MissingFolder};
use cohort::store::settings::StoreSettings;
use tempfile::TempDir;

use crate::support::http::{Request, status};
use crate::support::process::poll;

const BUCKET: &str = "cohort-test";

/// An emulator that runs until it is dropped.
pub struct Emulator {
    /// A shell that ends the server when its input ends.
    child: Child,
    folder: TempDir,
}

/// The program that a variable names, or that the script fetched; says so where neither is there.
fn program(variable: &str, fetched: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(".emulators");
    let named = env::var(variable).map(PathBuf::from);
    let found = named.unwrap_or_else(|_| root.join(fetched));
    if found.exists() {
        return Some(found);
    }
    crate::support::skipped(&format!(
        "no {}: scripts/setup-emulators fetches it, {variable} names another",
        found.display()
    ));
    None
}

impl Emulator {
    fn start(program: &Path, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let child = Command::new("sh")
            .args(["-c", "\"$@\" & server=$!; read -r _; kill $server", "sh"])
            .arg(program)
            .args(arguments)
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// Azurite, Microsoft's emulator of Azure Blob Storage.
pub struct Azurite {
    /// `host:port`.
    pub origin: String,
    _emulator: Emulator,
}

/// The one account that Azurite has, with the key that its documentation gives.
const ACCOUNT: &str = "devstoreaccount1";
const ACCESS_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// That account's signature over all rights until 2099, to make a container with.
const SIGNATURE: &str = "sv=2023-11-03&ss=b&srt=sco&sp=rwdlac&se=2099-01-01T00:00:00Z\
                         &spr=https,http&sig=nsrJAUgiS3hXizSAbHEsbG1XlRWKTs393EGiAjeY4%2Bs%3D";

impl Azurite {
    pub async fn start() -> Option<Self> {
        let azurite = "azurite/node_modules/.bin/azurite-blob";
        let program = program("COHORT_AZURITE", azurite)?;
        let emulator = Emulator::start(
            &program,
            &[
                "--inMemoryPersistence",
                "--silent",
                "--disableTelemetry",
                "--skipApiVersionCheck",
                "--blobHost",
                "127.0.0.1",
                "--blobPort",
                "0",
            ],
        );
        let origin = poll("Azurite listens", || {
            let log = emulator.log();
            let (_, address) = log.split_once("listens on http://")?;
            address.lines().next().map(str::to_owned)
        });
        let made = Request {
            method: "PUT".to_owned(),
            target: format!("/{ACCOUNT}/{BUCKET}?restype=container&{SIGNATURE}"),
            headers: vec![("host".to_owned(), origin.clone())],
            body: Vec::new(),
        };
        let answer = made.send(&origin).await.unwrap();
        assert_eq!(status(&answer), 201, "{}", String::from_utf8_lossy(&answer));
        Some(Self {
            origin,
            _emulator: emulator,
        })
    }

    /// The settings of a store at a prefix, behind a server of that origin.
    pub fn settings(origin: &str, prefix: &str) -> StoreSettings {
        StoreSettings {
            endpoint: Some(format!("http://{origin}/{ACCOUNT}")),
            allow_http: true,
            ..StoreSettings::at(format!("az://{BUCKET}/{prefix}"))
        }
    }

    pub fn open(settings: &StoreSettings) -> Store {
        let credentials = Credentials::AzureKey {
            account: ACCOUNT.to_owned(),
            access_key: ACCESS_KEY.to_owned(),
        };
        Store::open_as(settings, &credentials, MissingFolder::Refuse).unwrap()
    }

    /// The variables that give a child process its credentials.
    pub fn environment() -> [(&'static str, &'static str); 2] {
        [
            ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT),
            ("AZURE_STORAGE_ACCOUNT_KEY", ACCESS_KEY),
        ]
    }
}

/// fake-gcs-server, an emulator of Google Cloud Storage. It takes writes of Google's JSON interface
/// alone, and stores use the XML one: see [`crate::support::google`].
pub struct FakeGcs {
    /// `host:port`.
    pub origin: String,
    _emulator: Emulator,
}

impl FakeGcs {
    pub async fn start() -> Option<Self> {
        let program = program("COHORT_FAKE_GCS_SERVER", "fake-gcs-server")?;
        // It cannot choose a port itself.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        drop(listener);
        let origin = format!("127.0.0.1:{port}");
        let emulator = Emulator::start(
            &program,
            &[
                "-backend",
                "memory",
                "-scheme",
                "http",
                "-host",
                "127.0.0.1",
                "-port",
                &port,
                "-public-host",
                &origin,
                "-log-level",
                "error",
            ],
        );
        poll("fake-gcs-server listens", || {
            std::net::TcpStream::connect(&origin).ok()
        });
        let bucket = Request {
            method: "POST".to_owned(),
            target: "/storage/v1/b?project=test".to_owned(),
            headers: vec![
                ("host".to_owned(), origin.clone()),
                ("content-type".to_owned(), "application/json".to_owned()),
            ],
            body: format!("{{\"name\": \"{BUCKET}\"}}").into_bytes(),
        };
        let answer = bucket.send(&origin).await.unwrap();
        assert_eq!(status(&answer), 200, "{}", emulator.log());
        Some(Self {
            origin,
            _emulator: emulator,
        })
    }

    /// The settings of a store at a prefix, behind a server of that origin.
    pub fn settings(origin: &str, prefix: &str) -> StoreSettings {
        StoreSettings {
            endpoint: Some(format!("http://{origin}")),
            allow_http: true,
            anonymous: true,
            ..StoreSettings::at(format!("gs://{BUCKET}/{prefix}"))
        }
    }

    pub fn open(settings: &StoreSettings) -> Store {
        Store::open_as(settings, &Credentials::Environment, MissingFolder::Refuse).unwrap()
    }
}
