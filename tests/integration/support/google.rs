//! Google's XML interface before a server that has the JSON one alone: writes and uploads in parts
//! are translated, everything else is passed on. Conditions are left to the server.

#![allow(
    clippy::unwrap_used,
    reason = "all of it is test code, also outside the functions that are marked as tests"
)]

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::support::http::{Request, answer, body, status};

const BOUNDARY: &str = "between-the-parts";

/// How a write is put to the server, version 1.54 of which forgets the condition of one of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// As a body of several parts, whose conditions hold.
    Conditional,
    /// As a plain body, whose conditions are ignored.
    Unconditional,
}

/// Translates until dropped.
pub struct GoogleXml {
    /// `host:port`.
    pub origin: String,
    task: AbortHandle,
}

/// The parts of uploads, by upload and number.
type Parts = BTreeMap<String, BTreeMap<u32, Vec<u8>>>;

struct Translator {
    origin: String,
    writes: Writes,
    parts: Mutex<Parts>,
    uploads: AtomicU64,
}

impl GoogleXml {
    pub async fn start(origin: &str, writes: Writes) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let own = listener.local_addr().unwrap().to_string();
        let translator = Arc::new(Translator {
            origin: origin.to_owned(),
            writes,
            parts: Mutex::default(),
            uploads: AtomicU64::new(0),
        });
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let translator = Arc::clone(&translator);
                // A side that hangs up ends the connection with an error, its own affair.
                connections.spawn(async move { drop(translator.serve(socket).await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            origin: own,
            task: task.abort_handle(),
        }
    }
}

impl Drop for GoogleXml {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Translator {
    async fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let mut request = Request::read(&mut client).await?;
        let upload = request.parameter("uploadId").map(str::to_owned);
        let reply = match (request.method.as_str(), upload) {
            ("PUT", Some(upload)) => self.take_part(&mut request, &upload),
            ("POST", None) => self.begin(),
            ("POST", Some(upload)) => {
                let parts = self.parts.lock().unwrap().remove(&upload);
                let Some(parts) = parts else {
                    let gone = answer("404 Not Found", "", "<Error>NoSuchUpload</Error>");
                    return client.write_all(&gone).await;
                };
                request.body = parts.into_values().flatten().collect();
                let written = self.write(&request).await?;
                match status(&written) {
                    200 => answer(
                        "200 OK",
                        "",
                        "<CompleteMultipartUploadResult><ETag>whole</ETag>\
                         </CompleteMultipartUploadResult>",
                    ),
                    _ => written,
                }
            }
            ("DELETE", Some(upload)) => {
                self.parts.lock().unwrap().remove(&upload);
                answer("204 No Content", "", "")
            }
            ("PUT", None) => self.write(&request).await?,
            _ => {
                request.headers.retain(|(name, _)| name != "host");
                let host = ("host".to_owned(), self.origin.clone());
                request.headers.push(host);
                request.send(&self.origin).await?
            }
        };
        client.write_all(&reply).await
    }

    fn begin(&self) -> Vec<u8> {
        let mut parts = self.parts.lock().unwrap();
        let upload = format!("upload-{}", self.uploads.fetch_add(1, Ordering::Relaxed));
        parts.insert(upload.clone(), BTreeMap::new());
        let text = format!(
            "<InitiateMultipartUploadResult><UploadId>{upload}</UploadId>\
             </InitiateMultipartUploadResult>"
        );
        answer("200 OK", "", &text)
    }

    fn take_part(&self, request: &mut Request, upload: &str) -> Vec<u8> {
        let number = request.parameter("partNumber").unwrap().parse().unwrap();
        match self.parts.lock().unwrap().get_mut(upload) {
            Some(parts) => {
                parts.insert(number, std::mem::take(&mut request.body));
                answer("200 OK", "etag: \"part\"\r\n", "")
            }
            None => answer("404 Not Found", "", "<Error>NoSuchUpload</Error>"),
        }
    }

    /// A whole object, by the condition of the request if it has one.
    async fn write(&self, request: &Request) -> io::Result<Vec<u8>> {
        let path = decoded(request.path());
        let (bucket, name) = path[1..].split_once('/').unwrap();
        let condition = match request.header("x-goog-if-generation-match") {
            Some(generation) => format!("&ifGenerationMatch={generation}"),
            None => String::new(),
        };
        let upload = format!("/upload/storage/v1/b/{bucket}/o?uploadType=");
        let (target, kind, body_sent) = match self.writes {
            Writes::Unconditional => (
                format!("{upload}media&name={}{condition}", name.replace('/', "%2F")),
                "application/octet-stream".to_owned(),
                request.body.clone(),
            ),
            Writes::Conditional => (
                format!("{upload}multipart{condition}"),
                format!("multipart/related; boundary={BOUNDARY}"),
                related(name, &request.body),
            ),
        };
        let json = Request {
            method: "POST".to_owned(),
            target,
            headers: vec![
                ("host".to_owned(), self.origin.clone()),
                ("content-type".to_owned(), kind),
            ],
            body: body_sent,
        };
        let reply = json.send(&self.origin).await?;
        if status(&reply) != 200 {
            return Ok(reply);
        }
        let said: Value = serde_json::from_slice(body(&reply)).unwrap();
        let (tag, generation) = (&said["etag"], &said["generation"]);
        let headers = format!(
            "etag: {tag}\r\nx-goog-generation: {}\r\n",
            generation.as_str().unwrap()
        );
        Ok(answer("200 OK", &headers, ""))
    }
}

fn related(name: &str, bytes: &[u8]) -> Vec<u8> {
    let metadata = json!({"name": name});
    let mut related = format!(
        "--{BOUNDARY}\r\ncontent-type: application/json\r\n\r\n{metadata}\r\n\
         --{BOUNDARY}\r\ncontent-type: application/octet-stream\r\n\r\n"
    )
    .into_bytes();
    related.extend(bytes);
    related.extend(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    related
}

fn decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let digits = str::from_utf8(&after[..2]).unwrap();
            bytes.push(u8::from_str_radix(digits, 16).unwrap());
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).unwrap()
}
