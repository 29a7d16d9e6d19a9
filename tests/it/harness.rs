//! `sse-bridge dev` as a child process, and what talks to it: the client of the tests against RabbitMQ, and sockets
//! where the bytes themselves are the point.

#![allow(dead_code, reason = "shared with the tests against a broker")]

#[path = "../broker/harness/deadline.rs"]
mod deadline;
#[path = "../broker/harness/secrets.rs"]
pub mod secrets;
#[path = "../broker/harness/http.rs"]
pub mod http;
#[path = "../broker/harness/event_stream.rs"]
mod event_stream;
#[path = "../broker/harness/client.rs"]
mod client;
#[path = "../broker/harness/key_server.rs"]
mod key_server;
#[path = "../broker/harness/authority.rs"]
mod authority;
#[path = "../broker/harness/collector.rs"]
pub mod collector;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit, setrlimit};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

pub use authority::{Authority, Identity};
pub use client::{Client, Silence};
pub use collector::Collector;
pub use deadline::{eventually, within};
pub use event_stream::{Event, EventStream, Item};
pub use http::Response;
pub use key_server::{KeyServer, http_answer, jwks};

/// How long anything may take that should be done at once: long enough for busy cores, short enough to find a hang.
pub const SOON: Duration = Duration::from_secs(20);

/// How a bridge is to be started: its environment, and nothing else from outside.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    environment: BTreeMap<String, String>,
    log_reader: LogReader,
}

/// How long somebody reads what a bridge logs.
#[derive(Clone, Copy, Debug, Default)]
enum LogReader {
    #[default]
    Stays,
    /// Closes the pipe once it is told where the bridge listens.
    Leaves,
}

impl Setup {
    #[expect(
        clippy::needless_pass_by_value,
        reason = "`set(name, 5)` reads better than `set(name, &5)`"
    )]
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.insert(name.to_owned(), value.to_string());
        self
    }

    /// Nobody reads its log any more once it listens.
    pub fn let_go_of_the_log(mut self) -> Self {
        self.log_reader = LogReader::Leaves;
        self
    }

    /// Starts `dev` and waits until it is ready.
    pub async fn start(&self) -> Bridge {
        let bridge = self.start_command("dev").await;
        eventually("the bridge is ready", SOON, async || {
            (bridge.get("/readyz").await.head.status == 200).then_some(())
        })
        .await;
        bridge
    }

    /// Starts `dev` and waits until it listens, without a connection: for what speaks over TLS, which this harness does not,
    /// and for what counts connections.
    pub async fn start_listening(&self) -> Bridge {
        self.start_command("dev").await
    }

    /// Starts `serve`, open to all, with a broker that is not there, and waits until it listens.
    pub async fn start_without_broker(self) -> Bridge {
        self.set("AUTH_MODE", "none").start_serve().await
    }

    /// Starts `serve`, with the login that was set and a broker that is not there, and waits until it listens.
    pub async fn start_serve(self) -> Bridge {
        let mut setup = self.set(
            "RABBITMQ_URL",
            format!("amqp://127.0.0.1:{}", closed_port()),
        );
        let admin = setup.environment.entry("ADMIN_BIND".to_owned());
        admin.or_insert_with(|| "127.0.0.1:0".to_owned());
        setup.start_command("serve").await
    }

    async fn start_command(&self, command: &str) -> Bridge {
        let mut process = Process::spawn(self, &[command], "");
        let public = eventually("the bridge listens", SOON, async || {
            if let Some(status) = process.child.try_wait().expect("a child can be asked") {
                panic!("the bridge ended at its start: {status}");
            }
            process.address()
        })
        .await;
        Bridge { process, public }
    }

    /// Runs a command, such as `check`, to its end.
    pub async fn run(&self, arguments: &[&str], input: &str) -> Finished {
        let mut process = Process::spawn(self, arguments, input);
        let code = process.wait(SOON).await;
        Finished {
            code,
            stdout: process.stdout.text(),
            stderr: process.stderr.text(),
        }
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A running `sse-bridge dev`. Killed when dropped.
pub struct Bridge {
    process: Process,
    /// Where clients connect.
    pub public: SocketAddr,
}

impl Bridge {
    /// `dev` on any free port, logging for machines; everything else as a user would find it.
    pub fn dev() -> Setup {
        Setup::default()
            .set("HTTP_BIND", "127.0.0.1:0")
            .set("LOG_FORMAT", "json")
    }

    /// Where `serve` has its admin listener.
    pub fn admin(&self) -> SocketAddr {
        self.process
            .listener("admin")
            .expect("serve has an admin listener")
    }

    pub async fn get(&self, target: &str) -> Response {
        self.request("GET", target, &[], "").await
    }

    /// One request on a connection of its own.
    pub async fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response {
        http::request(self.public, method, target, headers, body)
            .await
            .expect("the bridge answers")
    }

    /// Publishes an event, which must be taken.
    pub async fn publish(&self, event: &Value) {
        let answer = self
            .request("POST", "/publish", &[], &event.to_string())
            .await;
        assert_eq!(answer.head.status, 202, "{event}: {}", answer.body);
    }

    /// Waits until the hub has all that was published so far: 202 says only that the exchange has it.
    pub async fn settle(&self) {
        let mut probe = Client::connect(self, "channel=probe&broadcast=false").await;
        self.publish(&event("channel.probe", Value::Null)).await;
        probe.events(1).await;
    }

    /// A connection over which many events are published one after the other.
    pub async fn producer(&self) -> Producer {
        Producer {
            raw: Raw::connect(self.public).await,
        }
    }

    /// One series, by its name and labels as they are printed: `sse_bridge_connections{transport="sse"}`.
    pub async fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").await.body;
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
            .and_then(|value| value.parse().ok())
            .unwrap_or_else(|| panic!("no series {series} in:\n{text}"))
    }

    /// Waits until a series has this value.
    pub async fn wait_metric(&self, series: &str, value: f64) {
        self.wait_metric_where(series, |current| current == value)
            .await;
    }

    /// Waits until a series has a value that pleases.
    pub async fn wait_metric_where(&self, series: &str, pleases: impl Fn(f64) -> bool) {
        eventually(&format!("{series} as it should be"), SOON, async || {
            pleases(self.metric(series).await).then_some(())
        })
        .await;
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process.child), signal).expect("the bridge is running");
    }

    /// Leaves it so many descriptors besides those that it has open now.
    pub fn leave_descriptors(&self, more: u64) {
        let id = self.process.child.id();
        let open = std::fs::read_dir(format!("/proc/{id}/fd")).expect("its descriptors");
        let limit = Some(open.count() as u64 + more);
        let limit = Rlimit {
            current: limit,
            maximum: limit,
        };
        let pid = Pid::from_child(&self.process.child);
        prlimit(Some(pid), Resource::Nofile, limit).expect("a lower limit may be set");
    }

    /// Waits for it to end by itself; its exit code, if it was no signal that ended it.
    pub async fn wait_exit(&mut self, limit: Duration) -> Option<i32> {
        self.process.wait(limit).await
    }

    /// All that it wrote to stdout and stderr so far.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// The first log line that has this message, when it comes.
    pub async fn log_line(&self, message: &str) -> Value {
        self.log_line_where(|line| {
            line["fields"]["message"]
                .as_str()
                .is_some_and(|text| text.contains(message))
        })
        .await
    }

    /// The first log line that pleases, when it comes.
    pub async fn log_line_where(&self, pleases: impl Fn(&Value) -> bool) -> Value {
        eventually("a line in the log", SOON, async || {
            self.process.logs().find(|line| pleases(line))
        })
        .await
    }
}

/// An event as `POST /publish` takes it, for whoever its topic addresses.
pub fn event(topic: &str, data: impl Into<Value>) -> Value {
    json!({"topic": topic, "data": data.into()})
}

/// One HTTP connection that publishes.
pub struct Producer {
    raw: Raw,
}

impl Producer {
    pub async fn publish(&mut self, event: &Value) {
        let body = event.to_string();
        secrets::note_publication(&body);
        self.raw
            .send(
                format!(
                    "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                )
                .as_bytes(),
            )
            .await;
        let (head, body) = self.raw.response().await;
        assert!(head.starts_with("HTTP/1.1 202 "), "{head}{body}");
    }
}

/// A socket, and what came over it so far.
pub struct Raw {
    socket: TcpStream,
    received: Vec<u8>,
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        let socket = within("a connection", SOON, TcpStream::connect(address)).await;
        Self::over(socket.expect("the bridge listens"))
    }

    /// Connects from another address of loopback, as another client would.
    pub async fn connect_from(source: IpAddr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .bind((source, 0).into())
            .expect("an address of loopback");
        Self::over(socket.connect(address).await.expect("the bridge listens"))
    }

    fn over(socket: TcpStream) -> Self {
        socket.set_nodelay(true).expect("a socket's option");
        Self {
            socket,
            received: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        secrets::note_request(&String::from_utf8_lossy(bytes));
        within("a socket takes bytes", SOON, self.socket.write_all(bytes))
            .await
            .expect("the bridge reads");
    }

    /// Sends as long as the other side takes it.
    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        within("a socket takes bytes", SOON, self.socket.write_all(bytes)).await
    }

    /// Takes what came up to the end of the next `pattern`, which must come soon, whatever else comes.
    pub async fn until(&mut self, pattern: &[u8]) -> String {
        let what = String::from_utf8_lossy(pattern).into_owned();
        within(&format!("{what:?}"), SOON, self.read_until(pattern)).await
    }

    async fn read_until(&mut self, pattern: &[u8]) -> String {
        loop {
            let found = self
                .received
                .windows(pattern.len())
                .position(|window| window == pattern);
            if let Some(start) = found {
                let rest = self.received.split_off(start + pattern.len());
                let taken = std::mem::replace(&mut self.received, rest);
                return String::from_utf8(taken).expect("UTF-8");
            }
            let more = self.read().await;
            assert!(
                more,
                "the bridge closed before {:?}: {:?}",
                String::from_utf8_lossy(pattern),
                String::from_utf8_lossy(&self.received)
            );
        }
    }

    /// Takes the next `count` bytes.
    pub async fn exactly(&mut self, count: usize) -> String {
        while self.received.len() < count {
            assert!(self.read().await, "the bridge closed too early");
        }
        let rest = self.received.split_off(count);
        String::from_utf8(std::mem::replace(&mut self.received, rest)).expect("UTF-8")
    }

    /// Takes everything until the bridge closes.
    pub async fn rest(&mut self) -> String {
        within("the end", SOON, async { while self.read().await {} }).await;
        String::from_utf8(std::mem::take(&mut self.received)).expect("UTF-8")
    }

    /// As [`Raw::rest`], whatever it is.
    pub async fn rest_bytes(&mut self) -> Vec<u8> {
        within("the end", SOON, async { while self.read().await {} }).await;
        std::mem::take(&mut self.received)
    }

    /// Head and body of a response with a `Content-Length`, after which the connection goes on.
    pub async fn response(&mut self) -> (String, String) {
        let head = self.until(b"\r\n\r\n").await;
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .expect("a length");
        let body = self.exactly(length.parse().expect("a number")).await;
        (head, body)
    }

    /// Whether there was more before the end.
    async fn read(&mut self) -> bool {
        let read = self.socket.read_buf(&mut self.received);
        // A reset is an end like another here.
        within("bytes, or the end", SOON, read).await.unwrap_or(0) > 0
    }
}

/// A connection for which the kernel holds little that was not read.
pub async fn small_socket(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("an option");
    socket.connect(address).await.expect("the bridge listens")
}

/// Reads until a checkpoint pleases: the events and the other checkpoints that came before it. Heartbeats go on for
/// ever, so that there is a deadline for all of it.
pub async fn until_checkpoint(
    client: &mut Client,
    pleases: impl Fn(&str) -> bool,
) -> (Vec<Event>, Vec<String>) {
    let (mut events, mut checkpoints) = (Vec::new(), Vec::new());
    let reading = async {
        loop {
            match client.next_item(SOON).await.expect("a heartbeat") {
                Item::Event(event) => events.push(event),
                Item::Checkpoint(id) if pleases(&id) => return,
                Item::Checkpoint(id) => checkpoints.push(id),
                Item::Retry(_) | Item::Comment(_) => {}
            }
        }
    };
    within("a checkpoint that pleases", SOON, reading).await;
    (events, checkpoints)
}

/// What all tests at one time open at most, those with thousands of clients among them.
const MANY_FILES: u64 = 10_000;

/// Raises the limit of open files, which bridges inherit, as far as it may be: that must be far enough.
pub fn may_open_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    assert!(
        most >= MANY_FILES,
        "this test opens thousands of files, and only {most} may be: raise the hard limit to {MANY_FILES} (ulimit -Hn)"
    );
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("as many files as may be");
}

/// A TCP port of loopback that refuses connections. It is bound as long as the tests run, so that nobody else gets it.
pub fn closed_port() -> u16 {
    static BOUND: LazyLock<Socket> = LazyLock::new(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("a port");
        socket
    });
    let address = BOUND.local_addr().expect("an address").as_socket();
    address.expect("an address of IPv4").port()
}

/// A child process whose output is collected as it comes.
struct Process {
    child: Child,
    /// Where it runs: an empty folder, so that no `.env` is found.
    _folder: TempDir,
    stdout: Output,
    stderr: Output,
}

/// What a child wrote to one of its pipes.
struct Output {
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Process {
    fn spawn(setup: &Setup, arguments: &[&str], input: &str) -> Self {
        use std::io::Write;
        secrets::note_settings(&setup.environment);
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Nothing of the developer's own (`RUST_LOG`, `SSE_RETRY_MS`) is to decide a test.
        let mut child = Command::new(env!("CARGO_BIN_EXE_sse-bridge"))
            .args(arguments)
            .env_clear()
            .envs(&setup.environment)
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the bridge starts");
        // One that has no use for its input may have ended before it got it.
        let _ = child
            .stdin
            .take()
            .expect("stdin is a pipe")
            .write_all(input.as_bytes());
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let stdout = Output::of(stdout, LogReader::Stays);
        let stderr = child.stderr.take().expect("stderr is a pipe");
        let stderr = Output::of(stderr, setup.log_reader);
        Self {
            child,
            _folder: folder,
            stdout,
            stderr,
        }
    }

    async fn wait(&mut self, limit: Duration) -> Option<i32> {
        let child = &mut self.child;
        let status = eventually("the bridge ends", limit, async || {
            child.try_wait().expect("a child can be asked")
        })
        .await;
        self.read_to_the_end();
        status.code()
    }

    fn read_to_the_end(&mut self) {
        for output in [&mut self.stdout, &mut self.stderr] {
            if let Some(reader) = output.reader.take() {
                reader.join().expect("a reader does not panic");
            }
        }
    }

    fn output(&self) -> String {
        format!("{}{}", self.stdout.text(), self.stderr.text())
    }

    fn logs(&self) -> impl Iterator<Item = Value> {
        let text = self.stderr.text();
        let lines: Vec<Value> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        lines.into_iter()
    }

    /// The address in the line that says where it listens.
    fn address(&self) -> Option<SocketAddr> {
        self.listener("public")
    }

    /// The address of one of the listeners, once it is told.
    fn listener(&self, which: &str) -> Option<SocketAddr> {
        self.logs()
            .find(|line| line["fields"]["message"] == "listening")?["fields"][which]
            .as_str()?
            .parse()
            .ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.read_to_the_end();
        // Its log alone: what it writes to stdout may be a token that was asked for.
        secrets::search(&self.stderr.text());
        if std::thread::panicking() {
            eprintln!("the bridge wrote:\n{}", self.output());
        }
    }
}

impl Output {
    fn of(pipe: impl Read + Send + 'static, log_reader: LogReader) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let collected = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let is_last =
                    matches!(log_reader, LogReader::Leaves) && line.contains("\"listening\"");
                collected
                    .lock()
                    .expect("nobody panics with the lines")
                    .push(line);
                if is_last {
                    break;
                }
            }
        });
        Self {
            lines,
            reader: Some(reader),
        }
    }

    fn text(&self) -> String {
        let lines = self.lines.lock().expect("a reader does not panic");
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}
