//! A proxy before an S3 server, of the kind that networks and throttling stores are: it answers
//! some requests with errors, cuts some bodies, never finishes others and turns bits around.

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
use tokio::task::{AbortHandle, JoinSet};

use crate::support::s3::S3Server;

const THOUSAND: u64 = 1_000;

/// Of a thousand requests, how many meet what. One request meets one fault at most.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    pub seed: u64,
    /// `500`, or `503` with `SlowDown`.
    pub errors: u64,
    /// Half of the body, then the end of the connection.
    pub cut: u64,
    /// Half of the body, then nothing for ever.
    pub stalled: u64,
    /// One bit of the body turned around, another one each time.
    pub flipped: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Good,
    Error(&'static str),
    Cut,
    Stalled,
    Flipped,
}

/// What the proxy was asked for, and what it did to it.
#[derive(Default)]
pub struct Seen {
    /// Whole answers by the last part of the object's key, for `GET` alone.
    pub served: BTreeMap<String, u32>,
    pub requests: u64,
    pub faults: u64,
}

pub struct Proxy {
    pub endpoint: String,
    pub seen: Arc<Mutex<Seen>>,
    faults: Arc<Mutex<Faults>>,
    task: AbortHandle,
}

impl Proxy {
    pub async fn start(server: &S3Server, faults: Faults) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::<Mutex<Seen>>::default();
        let origin = server.endpoint.strip_prefix("http://").unwrap().to_owned();
        let faults = Arc::new(Mutex::new(faults));
        let task = serve(listener, origin, Arc::clone(&faults), Arc::clone(&seen));
        let task = tokio::spawn(task);
        Self {
            endpoint,
            seen,
            faults,
            task: task.abort_handle(),
        }
    }

    /// Changes what requests meet from now on.
    pub fn set(&self, faults: Faults) {
        *self.faults.lock().unwrap() = faults;
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

async fn serve(
    listener: TcpListener,
    origin: String,
    faults: Arc<Mutex<Faults>>,
    seen: Arc<Mutex<Seen>>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (origin, seen) = (origin.clone(), Arc::clone(&seen));
        let faults = *faults.lock().unwrap();
        // A side that hangs up ends the connection with an error, which is its own affair.
        connections.spawn(async move { drop(pass(socket, &origin, faults, &seen).await) });
        while connections.try_join_next().is_some() {}
    }
}

impl Faults {
    fn fate(&self, request: u64) -> Fate {
        let word = keyed_number(self.seed, "fate", &[request]);
        let mut place = word % THOUSAND;
        let slow = word.is_multiple_of(7);
        let error = if slow {
            "503 Slow Down\r\ncontent-length: 34\r\n\r\n<Error><Code>SlowDown</Code></Error>"
        } else {
            "500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"
        };
        for (share, fate) in [
            (self.errors, Fate::Error(error)),
            (self.cut, Fate::Cut),
            (self.stalled, Fate::Stalled),
            (self.flipped, Fate::Flipped),
        ] {
            if place < share {
                return fate;
            }
            place -= share;
        }
        Fate::Good
    }
}

/// One request of a connection; the answer's end is the connection's.
async fn pass(
    mut client: TcpStream,
    origin: &str,
    faults: Faults,
    seen: &Mutex<Seen>,
) -> io::Result<()> {
    let head = read_head(&mut client).await?;
    let (line, headers) = head.split_once("\r\n").unwrap();
    let (number, fate) = {
        let mut seen = seen.lock().unwrap();
        seen.requests += 1;
        let fate = faults.fate(seen.requests);
        seen.faults += u64::from(fate != Fate::Good);
        (seen.requests as usize, fate)
    };
    if let Fate::Error(error) = fate {
        let answer = format!("HTTP/1.1 {error}");
        return client.write_all(answer.as_bytes()).await;
    }
    let mut server = TcpStream::connect(origin).await?;
    let request = format!("{line}\r\nconnection: close\r\n{headers}");
    server.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    let body = answer.windows(4).position(|end| end == b"\r\n\r\n");
    let body = body.map_or(answer.len(), |end| end + 4);
    let half = usize::midpoint(body, answer.len());
    match fate {
        Fate::Cut => return client.write_all(&answer[..half]).await,
        Fate::Stalled => {
            client.write_all(&answer[..half]).await?;
            // Until the client gives up.
            client.read_to_end(&mut Vec::new()).await?;
            return Ok(());
        }
        Fate::Flipped if body < answer.len() => {
            let place = body + number * 7_919 % (answer.len() - body);
            answer[place] ^= 4;
        }
        _ => {}
    }
    let path = line.split([' ', '?']).nth(1).unwrap_or_default();
    if let (true, Some((_, name))) = (line.starts_with("GET "), path.rsplit_once('/')) {
        let mut seen = seen.lock().unwrap();
        *seen.served.entry(name.to_owned()).or_default() += 1;
    }
    client.write_all(&answer).await
}

/// The head of a request that has no body.
async fn read_head(client: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    Ok(String::from_utf8(head).unwrap())
}
