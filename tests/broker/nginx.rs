//! Behind nginx, by the configuration that `deploy/nginx` has: what a browser gets through it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::harness::{
    Authority, Bridge, Client, Item, Message, Producer, RabbitMq, SOON, Setup, Silence, command,
    eventually, free_port, new_folder, request, within,
};

/// What an event may take that is held up by nobody, on a machine that does other things too.
const AT_ONCE: Duration = Duration::from_secs(3);

/// What curl says of an HTTP/2 stream that did not end in order (`CURLE_HTTP2_STREAM`).
const STREAM_WAS_RESET: i32 = 92;

/// An nginx of its own, with the configuration of `deploy/nginx`, in front of one port.
struct Nginx {
    process: Child,
    authority: Authority,
    address: SocketAddr,
    folder: PathBuf,
}

impl Nginx {
    async fn before(bridge: u16) -> Self {
        let authority = Authority::new();
        let identity = authority.sign("nginx", &["events.example.com"], 2090);
        let (folder, port) = (new_folder("nginx"), free_port());
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nginx/sse-bridge.conf");
        let mut server = fs::read_to_string(shipped).expect("the configuration");
        for (shipped, here) in [
            ("listen 443 ", format!("listen 127.0.0.1:{port} ")),
            (
                "server 127.0.0.1:8080;",
                format!("server 127.0.0.1:{bridge};"),
            ),
            (
                "/etc/ssl/events.example.com.pem",
                identity.certificate.display().to_string(),
            ),
            (
                "/etc/ssl/events.example.com.key",
                identity.key.display().to_string(),
            ),
        ] {
            assert_eq!(server.matches(shipped).count(), 1, "{shipped}");
            server = server.replace(shipped, &here);
        }
        fs::write(folder.join("sse-bridge.conf"), server).expect("a file");
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {kind};\n"))
            .concat();
        // One process, so that nothing of it is left when the test is killed.
        let main = format!(
            "daemon off; master_process off; pid nginx.pid; error_log nginx.log info;
             events {{ worker_connections 4096; }}
             http {{ access_log off; {temporary} include sse-bridge.conf; }}"
        );
        fs::write(folder.join("nginx.conf"), main).expect("a file");
        let process = command("/usr/sbin/nginx")
            .args(["-c", "nginx.conf", "-e", "nginx.log", "-p"])
            .arg(&folder)
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx starts; `make setup` installs it");
        let nginx = Self {
            process,
            authority,
            address: ([127, 0, 0, 1], port).into(),
            folder,
        };
        eventually("nginx listens", SOON, async || {
            TcpStream::connect(nginx.address).await.ok().map(drop)
        })
        .await;
        nginx
    }

    /// A port that leads into nginx over TLS, as a browser at `source` would come: what is here speaks in the clear.
    async fn entry(&self, source: [u8; 4]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let entry = listener.local_addr().expect("an address");
        let config = self.authority.client(&["http/1.1"], &[&TLS12, &TLS13]);
        let (connector, address) = (TlsConnector::from(config), self.address);
        let connector = Arc::new(connector);
        tokio::spawn(async move {
            while let Ok((mut inside, _)) = listener.accept().await {
                let connector = Arc::clone(&connector);
                tokio::spawn(async move {
                    let socket = TcpSocket::new_v4()?;
                    socket.bind((IpAddr::from(source), 0).into())?;
                    let socket = socket.connect(address).await?;
                    let name = ServerName::try_from("events.example.com").expect("a name");
                    let mut outside = connector.connect(name, socket).await?;
                    tokio::io::copy_bidirectional(&mut inside, &mut outside).await
                });
            }
        });
        entry
    }

    /// Somebody else's client, which speaks HTTP/2.
    fn curl(&self, target: &str) -> Command {
        let port = self.address.port();
        let mut curl = command("curl");
        curl.args(["--silent", "--http2", "--cacert"])
            .arg(self.authority.file())
            .arg("--resolve")
            .arg(format!("events.example.com:{port}:127.0.0.1"))
            .arg(format!("https://events.example.com:{port}{target}"));
        curl
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.join("nginx.log"));
            eprintln!("nginx wrote:\n{}", log.unwrap_or_default());
        }
    }
}

/// A bridge that believes nginx, on a port that is known before it starts.
fn behind(vhost: &crate::harness::Vhost, port: u16) -> Setup {
    Bridge::on(vhost)
        .set("HTTP_BIND", format!("127.0.0.1:{port}"))
        .set("HTTP_TRUSTED_PROXIES", "127.0.0.1")
        .set("SSE_HEARTBEAT_SECONDS", 1)
}

async fn publish(producer: &Producer, data: &str) {
    producer.publish(Message::to("team.7.n", data)).await;
}

#[tokio::test]
async fn behind_nginx_events_heartbeats_and_last_ids_pass_at_once_for_many_clients() {
    let vhost = RabbitMq::shared().await.vhost();
    let port = free_port();
    let bridge = behind(&vhost, port).start().await;
    let nginx = Nginx::before(port).await;
    let entry = nginx.entry([127, 0, 0, 2]).await;
    let producer = vhost.producer().await;
    let mut client = Client::connect_with(entry, "team_id=7", &[])
        .await
        .subscribed()
        .await;
    assert_eq!(
        client.head.header("Content-Type"),
        Some("text/event-stream")
    );
    for number in 0..5 {
        let began = Instant::now();
        publish(&producer, &number.to_string()).await;
        assert_eq!(client.data(1).await, [number.to_string()]);
        let took = began.elapsed();
        assert!(took < AT_ONCE, "{took:?}");
    }
    for _ in 0..2 {
        let heartbeat = client.next_item(SOON).await;
        assert!(
            matches!(heartbeat, Ok(Item::Checkpoint(_) | Item::Comment(_))),
            "{heartbeat:?}"
        );
    }

    let mut curl = nginx
        .curl("/events?team_id=7")
        .args(["--no-buffer", "--dump-header", "-"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl starts");
    let output = BufReader::new(curl.stdout.take().expect("a pipe"));
    let streams = r#"sse_bridge_connections{transport="sse"}"#;
    bridge.wait_metric(streams, |open| open == 2.0).await;
    publish(&producer, "\"by curl\"").await;
    let reading = tokio::task::spawn_blocking(move || {
        let mut lines = output.lines().map_while(Result::ok);
        let first = lines.next().unwrap_or_default();
        (first, lines.any(|line| line == "data: \"by curl\""))
    });
    let (first, came) = within("an event at curl", SOON, reading)
        .await
        .expect("no panic");
    assert!(first.starts_with("HTTP/2 200"), "{first}");
    assert!(came);
    curl.kill().expect("it runs");
    curl.wait().expect("it ends");
    client.data(1).await;

    // A client that returns gets what it missed.
    let id = client.last_id().to_owned();
    drop(client);
    bridge.wait_metric(streams, |open| open == 0.0).await;
    publish(&producer, "\"missed\"").await;
    let returned = [("Last-Event-ID", id.as_str())];
    let mut client = Client::connect_with(entry, "team_id=7", &returned).await;
    assert_eq!(client.data(1).await, ["\"missed\""]);

    let mut clients = vec![client];
    for _ in 0..300 {
        let client = Client::connect_with(entry, "team_id=7", &[]).await;
        clients.push(client.subscribed().await);
    }
    for number in 0..10 {
        publish(&producer, &number.to_string()).await;
    }
    for client in &mut clients {
        let expected: Vec<String> = (0..10).map(|number| number.to_string()).collect();
        assert_eq!(client.data(10).await, expected);
    }
    drop(clients);
    bridge.wait_metric(streams, |open| open == 0.0).await;
}

#[tokio::test]
async fn behind_nginx_a_client_is_who_nginx_says_whatever_it_says_itself() {
    let vhost = RabbitMq::shared().await.vhost();
    let port = free_port();
    let _bridge = behind(&vhost, port)
        .set("HTTP_MAX_CONNECTIONS_PER_IP", 1)
        .start()
        .await;
    let nginx = Nginx::before(port).await;
    let one = nginx.entry([127, 0, 0, 2]).await;
    let other = nginx.entry([127, 0, 0, 3]).await;
    let _first = Client::connect_with(one, "team_id=7", &[])
        .await
        .subscribed()
        .await;
    let spoofed = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("Forwarded", "for=203.0.113.9"),
        ("X-Real-IP", "203.0.113.9"),
    ];
    for header in spoofed {
        let refused = Client::try_connect(one, "team_id=7", &[header]).await;
        let status = refused.err().map(|answer| answer.head.status);
        assert_eq!(status, Some(429), "{header:?}");
    }
    // Nobody can take another's place, either.
    let taken = [("X-Forwarded-For", "127.0.0.2")];
    let _second = Client::connect_with(other, "team_id=7", &taken)
        .await
        .subscribed()
        .await;
}

#[tokio::test]
async fn behind_nginx_publishing_goes_over_kept_connections_and_a_chunked_body_arrives_with_its_length()
 {
    let vhost = RabbitMq::shared().await.vhost();
    let port = free_port();
    let bridge = behind(&vhost, port)
        .set("AUTH_MODE", "token")
        .set("AUTH_TOKEN", "a-token-of-a-test-0123456789abcdef")
        .start()
        .await;
    let nginx = Nginx::before(port).await;
    let entry = nginx.entry([127, 0, 0, 2]).await;
    let bearer = ("Authorization", "Bearer a-token-of-a-test-0123456789abcdef");
    let mut client = Client::connect_with(entry, "team_id=7", &[bearer])
        .await
        .subscribed()
        .await;
    let body = |number: u32| format!(r#"{{"topic":"team.7.n","data":{number}}}"#);
    for number in 0..50 {
        let answer = request(entry, "POST", "/publish", &[bearer], &body(number)).await;
        assert_eq!(answer.expect("an answer").head.status, 202);
    }
    // One for the stream, one or two for all of that, and whoever asks.
    let sockets = bridge.metric("sse_bridge_sockets").await;
    assert!(sockets <= 4.0, "{sockets}");
    let chunked = nginx
        .curl("/publish")
        .args(["--http1.1", "--header", "Transfer-Encoding: chunked"])
        .args(["--header", &format!("{}: {}", bearer.0, bearer.1)])
        .args(["--data", &body(50), "--write-out", "%{http_code}"])
        .output()
        .expect("curl starts");
    assert_eq!(String::from_utf8_lossy(&chunked.stdout), "202");
    let expected: Vec<String> = (0..=50).map(|number| number.to_string()).collect();
    assert_eq!(client.data(51).await, expected);
}

#[tokio::test]
async fn behind_nginx_a_drain_is_told_and_clients_come_back_to_who_listens_next() {
    let vhost = RabbitMq::shared().await.vhost();
    let port = free_port();
    let setup = behind(&vhost, port);
    let mut bridge = setup.start().await;
    let nginx = Nginx::before(port).await;
    let entry = nginx.entry([127, 0, 0, 2]).await;
    let producer = vhost.producer().await;
    let mut clients = Vec::new();
    // nginx would keep the connection for another request, and the end is to be seen.
    let close = [("Connection", "close")];
    for _ in 0..20 {
        let client = Client::connect_with(entry, "team_id=7", &close).await;
        clients.push(client.subscribed().await);
    }
    publish(&producer, "1").await;
    for client in &mut clients {
        assert_eq!(client.data(1).await, ["1"]);
    }
    bridge.signal(Signal::TERM);
    for client in &mut clients {
        let (items, silence) = client.until_end(SOON).await;
        assert_eq!(silence, Silence::Ended, "{items:?}");
        let Some(Item::Event(bye)) = items.last() else {
            panic!("no farewell: {items:?}");
        };
        assert_eq!(bye.name, "bridge.bye");
    }
    assert_eq!(bridge.wait_exit(SOON).await.code(), Some(0));

    // While nobody is there nginx says nothing, not even 502, after which an EventSource would not come back.
    let nobody = request(entry, "GET", "/events?team_id=7", &[], "").await;
    assert!(nobody.is_err(), "{nobody:?}");
    let nobody = nginx.curl("/events?team_id=7").output();
    let nobody = nobody.expect("curl starts");
    assert_eq!(nobody.status.code(), Some(STREAM_WAS_RESET));
    assert!(nobody.stdout.is_empty());
    publish(&producer, "2").await;
    let _bridge = setup.start().await;
    for client in clients {
        let mut client = client.reconnect().await;
        assert_eq!(client.data(1).await, ["2"]);
    }
}
