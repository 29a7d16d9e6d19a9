//! A collector of traces (OTLP/HTTP, protobuf): on loopback, it keeps what it is sent, and answers what a test wants.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;
use rustls::{ServerConnection, StreamOwned};

use super::authority::Identity;
use super::{SOON, eventually, secrets};

/// A collector, and all that it was sent so far.
pub struct Collector {
    scheme: &'static str,
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    connections: usize,
    requests: Vec<Request>,
    /// What is answered next; when that is used up, 200.
    answers: Vec<String>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// The request line and the headers, in lower case.
    pub head: String,
    body: Vec<u8>,
    /// Whether it was answered with a 200.
    is_taken: bool,
}

/// A span as a collector sees it.
#[derive(Clone, Debug)]
pub struct Span {
    pub name: String,
    pub kind: &'static str,
    pub trace: String,
    pub id: String,
    /// Empty at the root.
    pub parent: String,
    pub state: String,
    pub attributes: BTreeMap<String, String>,
    /// What describes the process.
    pub resource: BTreeMap<String, String>,
    /// The message of an error.
    pub error: Option<String>,
    pub nanoseconds: (u64, u64),
}

impl Collector {
    pub fn start() -> Self {
        Self::serve("http", converse)
    }

    /// Over TLS, with that certificate.
    pub fn start_over_tls(identity: &Identity) -> Self {
        let config = identity.server();
        Self::serve("https", move |socket, state| {
            let session = ServerConnection::new(Arc::clone(&config)).expect("a session");
            converse(StreamOwned::new(session, socket), state);
        })
    }

    fn serve(
        scheme: &'static str,
        each: impl Fn(TcpStream, &Mutex<State>) + Clone + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                lock(&shared).connections += 1;
                let (each, shared) = (each.clone(), Arc::clone(&shared));
                std::thread::spawn(move || each(socket, &shared));
            }
        });
        Self {
            scheme,
            address,
            state,
        }
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is to name.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// The next request is answered with this status, such as `503 Service Unavailable`, these headers, and this body.
    pub fn answer(&self, status: &str, headers: &str, body: &[u8]) {
        let body = String::from_utf8(body.to_vec()).expect("small numbers");
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        lock(&self.state).answers.push(answer);
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        lock(&self.state).connections
    }

    pub fn requests(&self) -> Vec<Request> {
        lock(&self.state).requests.clone()
    }

    /// All spans that were taken, in the order in which they came. Nothing that a bridge was told is in them.
    pub fn spans(&self) -> Vec<Span> {
        let requests = self.requests();
        let taken = requests.iter().filter(|request| request.is_taken);
        taken.flat_map(Request::spans).collect()
    }

    /// The spans, when there are as many of this name.
    pub async fn wait_for(&self, count: usize, name: &str) -> Vec<Span> {
        eventually(&format!("{count} spans `{name}`"), SOON, async || {
            let spans = self.spans();
            let named = spans.iter().filter(|span| span.name == name).count();
            (named >= count).then_some(spans)
        })
        .await
    }
}

/// The only span of this name.
pub fn sole<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let named: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    match named[..] {
        [span] => span,
        _ => panic!("{} spans `{name}` in {spans:#?}", named.len()),
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("nobody panics with it")
}

/// Answers requests until the other side has enough.
fn converse(socket: impl Read + Write, state: &Mutex<State>) {
    let mut socket = BufReader::new(socket);
    while let Some((head, body)) = read(&mut socket) {
        let answer = {
            let state = &mut *lock(state);
            let next = (!state.answers.is_empty()).then(|| state.answers.remove(0));
            let answer =
                next.unwrap_or_else(|| "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned());
            let is_taken = answer.starts_with("HTTP/1.1 200 ");
            state.requests.push(Request {
                head,
                body,
                is_taken,
            });
            answer
        };
        if socket.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn read(socket: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if socket.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))?;
    let mut body = vec![0; length.parse().ok()?];
    socket.read_exact(&mut body).ok()?;
    Some((head, body))
}

impl Request {
    fn spans(&self) -> Vec<Span> {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(
            secrets::find(&text),
            None,
            "a secret, a token or a body in a span"
        );
        let request = ExportTraceServiceRequest::decode(&*self.body).expect("OTLP");
        let mut spans = Vec::new();
        for process in request.resource_spans {
            let resource = attributes(process.resource.expect("a resource").attributes);
            for span in process.scope_spans.into_iter().flat_map(|scope| {
                assert_eq!(scope.scope.expect("a scope").name, "sse-bridge");
                scope.spans
            }) {
                let status = span.status.clone().unwrap_or_default();
                spans.push(Span {
                    kind: span.kind().as_str_name(),
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    state: span.trace_state,
                    attributes: attributes(span.attributes),
                    resource: resource.clone(),
                    error: (status.code == 2).then_some(status.message),
                    nanoseconds: (span.start_time_unix_nano, span.end_time_unix_nano),
                    name: span.name,
                });
            }
        }
        spans
    }
}

fn attributes(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes
        .into_iter()
        .map(|KeyValue { key, value, .. }| {
            let value = value.and_then(|value| value.value).expect("a value");
            (key, text(value))
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
