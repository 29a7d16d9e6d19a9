//! HTTP/1.1 by hand, so that a test sees the bytes and no client library decides for it.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{SOON, secrets, within};

/// The head of a response: status and headers.
#[derive(Debug, Clone)]
pub struct Head {
    pub status: u16,
    headers: Vec<(String, String)>,
}

impl Head {
    /// The value of the header of that name, in whichever case it was sent.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    fn parse(text: &str) -> Self {
        let mut lines = text.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|code| code.parse().ok());
        Self {
            status: status.unwrap_or_else(|| panic!("no HTTP status line: {text:?}")),
            headers: lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect(),
        }
    }
}

/// A whole response.
#[derive(Debug)]
pub struct Response {
    pub head: Head,
    pub body: String,
}

/// One request on a connection of its own.
pub async fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> std::io::Result<Response> {
    secrets::note_publication(body);
    let exchange = async {
        let mut socket = TcpStream::connect(address).await?;
        let mut all = headers.to_vec();
        let length = body.len().to_string();
        all.push(("Connection", "close"));
        all.push(("Content-Length", &length));
        socket
            .write_all(
                &[
                    encode_head(address, method, target, &all).as_bytes(),
                    body.as_bytes(),
                ]
                .concat(),
            )
            .await?;
        let (head, rest) = read_head(&mut socket).await?;
        let mut decoder = BodyDecoder::of(&head);
        let mut body = Vec::new();
        decoder.decode(&rest, &mut body);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = socket.read(&mut buffer).await?;
            if length == 0 {
                break;
            }
            decoder.decode(&buffer[..length], &mut body);
        }
        Ok(Response {
            head,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    };
    within(&format!("{method} {target}"), SOON, exchange).await
}

/// The bytes of a request's head.
pub fn encode_head(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> String {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    secrets::note_request(&head);
    head
}

/// Reads a response's head, and gives it with the bytes of the body that came along.
pub async fn read_head(socket: &mut TcpStream) -> std::io::Result<(Head, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            bytes.truncate(end);
            return Ok((Head::parse(&String::from_utf8_lossy(&bytes)), rest));
        }
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Takes the chunks of `Transfer-Encoding: chunked` (RFC 9112 §7.1) apart, in whichever pieces they arrive.
#[derive(Debug)]
pub enum BodyDecoder {
    /// Not chunked: the body is what comes until the end.
    Plain,
    /// In the line that gives the next chunk's size.
    Size(String),
    /// Inside a chunk, with so many bytes to come, the final CRLF included.
    Chunk(usize),
    /// After the last chunk.
    End,
}

impl BodyDecoder {
    pub fn of(head: &Head) -> Self {
        match head.header("Transfer-Encoding") {
            Some("chunked") => Self::Size(String::new()),
            _ => Self::Plain,
        }
    }

    /// Appends to `body` what `bytes` hold of it.
    pub fn decode(&mut self, mut bytes: &[u8], body: &mut Vec<u8>) {
        while let Some(&first) = bytes.first() {
            match self {
                Self::Plain => {
                    body.extend_from_slice(bytes);
                    return;
                }
                Self::End => return,
                Self::Size(line) => {
                    bytes = &bytes[1..];
                    if first != b'\n' {
                        line.push(char::from(first));
                        continue;
                    }
                    let digits = line.trim().split(';').next().unwrap_or_default();
                    let size = usize::from_str_radix(digits, 16)
                        .unwrap_or_else(|_| panic!("a chunk of size {line:?}"));
                    *self = if size == 0 {
                        Self::End
                    } else {
                        Self::Chunk(size + 2)
                    };
                }
                Self::Chunk(left) => {
                    let taken = bytes.len().min(*left);
                    let of_body = taken.min(left.saturating_sub(2));
                    body.extend_from_slice(&bytes[..of_body]);
                    bytes = &bytes[taken..];
                    *left -= taken;
                    if *left == 0 {
                        *self = Self::Size(String::new());
                    }
                }
            }
        }
    }

    /// Whether the body ended as HTTP wants it, rather than by a connection that broke.
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::Plain | Self::End)
    }
}
