//! HTTP/1.1 as proxies of tests need it: one request of a connection, and the answer to it.

#![allow(
    clippy::unwrap_used,
    reason = "all of it is test code, also outside the functions that are marked as tests"
)]

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request with all of its body.
pub struct Request {
    pub method: String,
    /// Path and query, as they were sent.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub async fn read(client: &mut TcpStream) -> io::Result<Self> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let mut words = lines.next().unwrap().split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let headers = lines.filter_map(|line| line.split_once(": "));
        let mut request = Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: headers
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect(),
            body: Vec::new(),
        };
        let length = request.header("content-length").map_or("0", |text| text);
        request.body = vec![0; length.parse().unwrap()];
        client.read_exact(&mut request.body).await?;
        Ok(request)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    /// A parameter of the query; empty where it has no value.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        let mut pairs = query.split('&').map(|pair| match pair.split_once('=') {
            Some(pair) => pair,
            None => (pair, ""),
        });
        pairs.find(|(known, _)| *known == name).map(|pair| pair.1)
    }

    /// The request as it is sent on, for one answer that the end of the connection ends.
    pub fn head(&self) -> String {
        let kept = |name: &String| !["connection", "content-length"].contains(&name.as_str());
        let mut lines = vec![format!("{} {} HTTP/1.1", self.method, self.target)];
        let headers = self.headers.iter().filter(|(name, _)| kept(name));
        lines.extend(headers.map(|(name, value)| format!("{name}: {value}")));
        if ["PUT", "POST"].contains(&self.method.as_str()) {
            lines.push(format!("content-length: {}", self.body.len()));
        }
        lines.join("\r\n") + "\r\nconnection: close\r\n\r\n"
    }

    /// The whole answer of a server.
    pub async fn send(&self, origin: &str) -> io::Result<Vec<u8>> {
        let mut server = TcpStream::connect(origin).await?;
        server.write_all(self.head().as_bytes()).await?;
        server.write_all(&self.body).await?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).await?;
        Ok(answer)
    }
}

/// The status of an answer.
pub fn status(answer: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(&answer[..answer.len().min(16)]);
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The body of an answer that has a length.
pub fn body(answer: &[u8]) -> &[u8] {
    let end = answer.windows(4).position(|end| end == b"\r\n\r\n");
    &answer[end.map_or(answer.len(), |end| end + 4)..]
}

/// An answer in words of our own.
pub fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    )
    .into_bytes()
}
