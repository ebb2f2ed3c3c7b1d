//! A proxy before a store's server, of the kind that networks and throttling stores are: it answers
//! some requests with errors, cuts some bodies, never finishes others, turns bits around, loses
//! answers, and says of some writes that they were made.

#![allow(
    clippy::unwrap_used,
    reason = "all of it is test code, also outside the functions that are marked as tests"
)]

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use cohort::corpus::random::keyed_number;
use cohort::store::settings::StoreSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::support::http::{Request, answer, body};
use crate::support::s3::S3Server;

const THOUSAND: u64 = 1_000;

/// Of a thousand requests, how many meet what. One request meets one fault at most.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    pub seed: u64,
    /// `500`, or `503` with `SlowDown`, or `429` with `Retry-After`.
    pub errors: u64,
    /// Half of the answer, then the end of the connection.
    pub cut: u64,
    /// Half of the answer, then nothing for ever.
    pub stalled: u64,
    /// One bit of the answer turned around, another one each time.
    pub flipped: u64,
    /// What was asked is done, and the connection ends without an answer, or with `500`.
    pub lost: u64,
    /// The connection to the server ends in the middle of what is written.
    pub torn: u64,
    /// A whole object that is not written, though the answer says so.
    pub lies: u64,
    /// What is written arrives with one bit turned around, or with zeros in its second half. Its
    /// length stays: a server that signs it would refuse the request.
    pub altered: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    Good,
    Error,
    Cut,
    Stalled,
    Flipped,
    Lost,
    Torn,
    Lie,
    Altered,
}

/// What the proxy was asked for, and what it did to it.
#[derive(Default)]
pub struct Seen {
    /// Whole answers by the last part of the object's key, for `GET` alone.
    pub served: BTreeMap<String, u32>,
    pub requests: u64,
    pub faults: u64,
    pub met: BTreeMap<Fate, u64>,
}

pub struct Proxy {
    pub endpoint: String,
    pub seen: Arc<Mutex<Seen>>,
    faults: Arc<Mutex<Faults>>,
    requests: watch::Receiver<u64>,
    /// Connections that are being served.
    open: watch::Receiver<u64>,
    task: AbortHandle,
}

/// What the connections share.
struct Shared {
    /// `host:port` of the server.
    origin: String,
    seen: Arc<Mutex<Seen>>,
    requests: watch::Sender<u64>,
    open: watch::Sender<u64>,
}

impl Proxy {
    pub async fn start(server: &S3Server, faults: Faults) -> Self {
        let origin = server.endpoint.strip_prefix("http://").unwrap();
        Self::before(origin, faults).await
    }

    /// Before any server, by its `host:port`.
    pub async fn before(origin: &str, faults: Faults) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::<Mutex<Seen>>::default();
        let faults = Arc::new(Mutex::new(faults));
        let (counted, requests) = watch::channel(0);
        let (opened, open) = watch::channel(0);
        let shared = Arc::new(Shared {
            origin: origin.to_owned(),
            seen: Arc::clone(&seen),
            requests: counted,
            open: opened,
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&faults), shared));
        Self {
            endpoint,
            seen,
            faults,
            requests,
            open,
            task: task.abort_handle(),
        }
    }

    /// `host:port`.
    pub fn origin(&self) -> &str {
        self.endpoint.strip_prefix("http://").unwrap()
    }

    /// Changes what requests meet from now on.
    pub fn set(&self, faults: Faults) {
        *self.faults.lock().unwrap() = faults;
    }

    /// Waits until so many more requests have come.
    pub async fn requests(&self, more: u64) {
        let mut requests = self.requests.clone();
        let end = *requests.borrow() + more;
        drop(requests.wait_for(|requests| *requests >= end).await);
    }

    /// Waits until everything that was sent so far has come to its end, also what a client that
    /// died has sent.
    pub async fn quiet(&self) {
        let last = Request {
            method: "GET".to_owned(),
            target: "/".to_owned(),
            headers: vec![("host".to_owned(), self.origin().to_owned())],
            body: Vec::new(),
        };
        // Connections are taken one after the other: with this one all before it are counted.
        drop(last.send(self.origin()).await);
        drop(self.open.clone().wait_for(|open| *open == 0).await);
    }

    /// The settings of a store at a prefix of the server's bucket, behind this proxy.
    pub fn settings(&self, server: &S3Server, prefix: &str) -> StoreSettings {
        StoreSettings {
            endpoint: Some(self.endpoint.clone()),
            ..server.settings(prefix)
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, faults: Arc<Mutex<Faults>>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        let faults = *faults.lock().unwrap();
        shared.open.send_modify(|open| *open += 1);
        connections.spawn(async move {
            // A side that hangs up ends the connection with an error, which is its own affair.
            drop(pass(socket, faults, &shared).await);
            shared.open.send_modify(|open| *open -= 1);
        });
        while connections.try_join_next().is_some() {}
    }
}

impl Faults {
    fn fate(&self, word: u64, request: &Request) -> Fate {
        let mut place = word % THOUSAND;
        let writes = ["PUT", "POST"].contains(&request.method.as_str());
        for (share, fate) in [
            (self.errors, Fate::Error),
            (self.cut, Fate::Cut),
            (self.stalled, Fate::Stalled),
            (self.flipped, Fate::Flipped),
            (self.lost, Fate::Lost),
            (self.torn, Fate::Torn),
            (self.lies, Fate::Lie),
            (self.altered, Fate::Altered),
        ] {
            if place < share {
                let possible = match fate {
                    Fate::Torn | Fate::Altered => writes && !request.body.is_empty(),
                    Fate::Lie => request.method == "PUT" && !request.target.contains('?'),
                    _ => true,
                };
                return if possible { fate } else { Fate::Good };
            }
            place -= share;
        }
        Fate::Good
    }
}

fn error(word: u64) -> Vec<u8> {
    if word.is_multiple_of(14) {
        let busy = "retry-after: 1\r\n";
        answer("429 Too Many Requests", busy, "")
    } else if word.is_multiple_of(7) {
        answer("503 Slow Down", "", "<Error><Code>SlowDown</Code></Error>")
    } else {
        answer("500 Internal Server Error", "", "")
    }
}

/// One request of a connection; the answer's end is the connection's.
async fn pass(mut client: TcpStream, faults: Faults, shared: &Shared) -> io::Result<()> {
    let mut request = Request::read(&mut client).await?;
    let (number, word, fate) = {
        let mut seen = shared.seen.lock().unwrap();
        seen.requests += 1;
        let word = keyed_number(faults.seed, "fate", &[seen.requests]);
        let fate = faults.fate(word, &request);
        seen.faults += u64::from(fate != Fate::Good);
        *seen.met.entry(fate).or_default() += 1;
        shared.requests.send_replace(seen.requests);
        (seen.requests as usize, word, fate)
    };
    match fate {
        Fate::Error => return client.write_all(&error(word)).await,
        Fate::Lie => {
            let lie = answer("200 OK", "etag: \"made-up\"\r\n", "");
            return client.write_all(&lie).await;
        }
        Fate::Torn => {
            let mut server = TcpStream::connect(&shared.origin).await?;
            server.write_all(request.head().as_bytes()).await?;
            let half = &request.body[..request.body.len() / 2];
            return server.write_all(half).await;
        }
        Fate::Altered if word.is_multiple_of(2) => {
            let half = request.body.len() / 2;
            request.body[half..].fill(0);
        }
        Fate::Altered => {
            let place = number * 7_919 % request.body.len();
            request.body[place] ^= 4;
        }
        _ => {}
    }
    let mut reply = request.send(&shared.origin).await?;
    let head = reply.len() - body(&reply).len();
    let half = usize::midpoint(head, reply.len());
    match fate {
        Fate::Lost if word.is_multiple_of(2) => return Ok(()),
        Fate::Lost => {
            let lost = answer("500 Internal Server Error", "", "");
            return client.write_all(&lost).await;
        }
        Fate::Cut => return client.write_all(&reply[..half]).await,
        Fate::Stalled => {
            client.write_all(&reply[..half]).await?;
            // Until the client gives up.
            client.read_to_end(&mut Vec::new()).await?;
            return Ok(());
        }
        Fate::Flipped if head < reply.len() => {
            let place = head + number * 7_919 % (reply.len() - head);
            reply[place] ^= 4;
        }
        _ => {}
    }
    if let ("GET", Some((_, name))) = (request.method.as_str(), request.path().rsplit_once('/')) {
        let mut seen = shared.seen.lock().unwrap();
        *seen.served.entry(name.to_owned()).or_default() += 1;
    }
    client.write_all(&reply).await
}
