//! A private RabbitMQ: its own node, ports, folder and epmd, on loopback only, with a virtual host for each test.
//!
//! Most tests share one node ([`RabbitMq::shared`]) and have a virtual host of it to themselves; a test that kills or
//! stops the broker starts its own.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions, ExchangeDeleteOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use sse_bridge::event::id::{EventId, Mark, Position};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::StreamExt;

use super::{Authority, Producer, SOON, eventually, run, within};

/// Debian's folder of RabbitMQ. The wrappers in `/usr/sbin` would switch user and folder.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// Who may do everything in every virtual host.
pub const USER: &str = "bridge";
/// The password of every virtual host: recognisable, so that a test can look for it where it must not be, and with a
/// slash, so that a URL has to bear it encoded.
pub const PASSWORD: &str = "pass/word-that-nobody-prints";
const PASSWORD_ENCODED: &str = "pass%2Fword-that-nobody-prints";

/// A node takes 5 seconds to start on an idle machine; several at once on two busy cores take longer.
const START_LIMIT: Duration = Duration::from_secs(300);

/// A node and its data.
pub struct RabbitMq {
    folder: PathBuf,
    port: u16,
    /// Where it listens besides, if it does.
    second_door: Option<Door>,
    /// The lines of the configuration that bring users and virtual hosts, where they are not the harness's own.
    definitions: Option<String>,
    process: Option<Child>,
    vhosts: usize,
    vhosts_taken: AtomicUsize,
}

/// A way in that is not plain AMQP.
struct Door {
    port: u16,
    /// The lines of the configuration that open it.
    configuration: String,
    /// The plugins that it takes, as an Erlang list.
    plugins: &'static str,
}

impl RabbitMq {
    /// The node that tests share, started by the first that asks.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<RabbitMq> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::start_new(180, None)).await
    }

    /// A node for one test, which may do with it what it likes.
    pub async fn private() -> Self {
        Self::start_new(2, None).await
    }

    /// As [`RabbitMq::private`], listening over TLS too, with a certificate of this authority for these names.
    pub async fn private_with_tls(authority: &Authority, names: &[&str]) -> Self {
        let identity = authority.sign("rabbitmq", names, 2090);
        let port = run::free_port();
        let configuration = format!(
            "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\nssl_options.verify = verify_none\n",
            authority.file().display(),
            identity.certificate.display(),
            identity.key.display()
        );
        let door = Door {
            port,
            configuration,
            plugins: "[].",
        };
        Self::start_new(2, Some(door)).await
    }

    /// As [`RabbitMq::private`], with STOMP over WebSockets too.
    #[allow(dead_code, reason = "the benchmarks use it")]
    pub async fn private_with_web_stomp() -> Self {
        let port = run::free_port();
        let door = Door {
            port,
            configuration: format!(
                "stomp.listeners.tcp = none\nweb_stomp.tcp.ip = 127.0.0.1\nweb_stomp.tcp.port = {port}\n\
                 web_stomp.ws_opts.idle_timeout = 3600000\n"
            ),
            plugins: "[rabbitmq_web_stomp].",
        };
        Self::start_new(2, Some(door)).await
    }

    /// As [`RabbitMq::private`], with these lines of configuration in place of those that make the harness's user and virtual hosts.
    pub async fn private_with_definitions(configuration: String) -> Self {
        let mut node = Self::new(2, None);
        node.definitions = Some(configuration);
        node.begin().await
    }

    async fn start_new(vhosts: usize, second_door: Option<Door>) -> Self {
        Self::new(vhosts, second_door).begin().await
    }

    fn new(vhosts: usize, second_door: Option<Door>) -> Self {
        Self {
            folder: run::new_folder("rabbitmq"),
            port: run::free_port(),
            second_door,
            definitions: None,
            process: None,
            vhosts,
            vhosts_taken: AtomicUsize::new(0),
        }
    }

    async fn begin(mut self) -> Self {
        self.write_files();
        self.start().await;
        self
    }

    /// A virtual host that no other test has.
    pub fn vhost(&self) -> Vhost {
        let number = self.vhosts_taken.fetch_add(1, Ordering::Relaxed);
        assert!(
            number < self.vhosts,
            "more virtual hosts are asked for than the node was started with"
        );
        Vhost {
            name: format!("test-{number}"),
            port: self.port,
        }
    }

    /// The virtual host that a RabbitMQ has from the start, unless it was given definitions of others: the harness makes none.
    pub fn default_vhost(&self) -> Vhost {
        Vhost {
            name: "%2F".to_owned(),
            port: self.port,
        }
    }

    /// Where the node listens over TLS, or for WebSockets.
    pub fn second_port(&self) -> u16 {
        let door = self.second_door.as_ref();
        door.expect("a node with a second door").port
    }

    #[allow(dead_code, reason = "the benchmarks use it")]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the node is running").id()
    }

    /// Where the node listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts the node, on the data it left.
    pub async fn start(&mut self) {
        assert!(self.process.is_none(), "the node is running");
        LazyLock::force(&EPMD);
        let deadline = Instant::now() + START_LIMIT;
        let mut child = self.spawn();
        loop {
            if self.answers().await {
                break;
            }
            if child.try_wait().expect("a child can be asked").is_some() {
                // Once in a while the name of a node that was just killed is still taken.
                child = self.spawn();
            }
            if Instant::now() > deadline {
                child.kill().expect("a child can be killed");
                panic!(
                    "RabbitMQ did not start within {START_LIMIT:?}:\n{}",
                    self.log_tail()
                );
            }
            sleep(Duration::from_millis(50)).await;
        }
        self.process = Some(child);
    }

    /// Ends the node as a power cut would. Its port is closed when this returns.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the node is running");
        process.kill().expect("a child can be killed");
        process.wait().expect("a child can be waited for");
    }

    /// Ends the node as an operator would.
    pub async fn stop(&mut self) {
        let mut process = self.process.take().expect("the node is running");
        kill_process(Pid::from_child(&process), Signal::TERM).expect("a child can be signalled");
        eventually("RabbitMQ stops", START_LIMIT, async || {
            process.try_wait().expect("a child can be asked")
        })
        .await;
    }

    /// Runs `rabbitmqctl` against the node, and gives what it says. Takes a second or two.
    pub async fn control(&self, arguments: &[&str]) -> String {
        let mut command = run::command("/usr/lib/rabbitmq/bin/rabbitmqctl");
        self.environment(&mut command)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let running = tokio::task::spawn_blocking(move || command.output());
        let output = running.await.expect("no panic").expect("rabbitmqctl runs");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn write_files(&self) {
        let vhosts: Vec<_> = (0..self.vhosts)
            .map(|number| format!("test-{number}"))
            .collect();
        let definitions = json!({
            "users": [{"name": USER, "password": PASSWORD, "tags": "administrator"}],
            "vhosts": vhosts.iter().map(|name| json!({"name": name})).collect::<Vec<_>>(),
            "permissions": vhosts.iter().map(|name| json!({
                "user": USER, "vhost": name, "configure": ".*", "write": ".*", "read": ".*",
            })).collect::<Vec<_>>(),
        });
        let definitions_file = self.folder.join("definitions.json");
        fs::create_dir_all(self.folder.join("home")).expect("a folder");
        fs::write(&definitions_file, definitions.to_string()).expect("a file");
        let door = self.second_door.as_ref();
        let plugins = door.map_or("[].", |door| door.plugins);
        fs::write(self.folder.join("enabled_plugins"), plugins).expect("a file");
        let ours = || format!("load_definitions = {}", definitions_file.display());
        let configuration = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\nloopback_users = none\n{}\n{}",
            self.port,
            self.definitions.clone().unwrap_or_else(ours),
            door.map_or("", |door| &door.configuration)
        );
        fs::write(self.folder.join("rabbitmq.conf"), configuration).expect("a file");
    }

    fn spawn(&self) -> Child {
        let output = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("output"))
            .expect("a file");
        let mut command = run::command(SERVER);
        self.environment(&mut command)
            .stdout(output.try_clone().expect("a file"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{SERVER}: {error}; `make setup` installs RabbitMQ"))
    }

    /// What RabbitMQ's own scripts must know to find this node and no other.
    fn environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let path = |name: &str| self.folder.join(name);
        command
            .env("HOME", path("home"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_NODENAME", format!("sse-bridge-{}-{}@localhost", std::process::id(), self.port))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", run::free_port().to_string())
            .env("RABBITMQ_MNESIA_BASE", path("mnesia"))
            .env("RABBITMQ_LOG_BASE", path("log"))
            .env("RABBITMQ_CONFIG_FILE", path("rabbitmq"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", path("advanced"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins"))
            .env("RABBITMQ_PID_FILE", path("pid"))
            .env("ERL_EPMD_PORT", EPMD.port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            // The script then becomes the Erlang machine instead of watching over it, so that our child is the broker.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            // Schedulers that spin while they wait would take the two cores from the tests.
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none",
            )
    }

    /// Whether the listener greets, which it does when the virtual hosts are there.
    async fn answers(&self) -> bool {
        let greeting = async {
            let mut socket = TcpStream::connect(("127.0.0.1", self.port)).await?;
            socket.write_all(b"AMQP\x00\x00\x09\x01").await?;
            socket.read_u8().await
        };
        // 1 is the type of a method frame: `connection.start`.
        matches!(timeout(Duration::from_secs(5), greeting).await, Ok(Ok(1)))
    }

    fn log_tail(&self) -> String {
        let mut text = fs::read_to_string(self.folder.join("output")).unwrap_or_default();
        for entry in fs::read_dir(self.folder.join("log"))
            .into_iter()
            .flatten()
            .flatten()
        {
            text.push_str(&fs::read_to_string(entry.path()).unwrap_or_default());
        }
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
        // What is left of it goes with the run's folder.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// This run's epmd, which outlives the nodes that register with it and is ended with the run.
static EPMD: LazyLock<Epmd> = LazyLock::new(|| {
    let port = run::free_port();
    let process = run::command("epmd")
        .args(["-port", &port.to_string()])
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("epmd starts; `make setup` installs it with RabbitMQ");
    Epmd {
        port,
        _process: process,
    }
});

struct Epmd {
    port: u16,
    _process: Child,
}

/// A virtual host: a broker of its own, as far as a test can see.
#[derive(Clone, Debug)]
pub struct Vhost {
    name: String,
    port: u16,
}

impl Vhost {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its AMQP URL, user and password included.
    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// As [`Vhost::url`], by way of something else that listens on `port`.
    pub fn url_at(&self, port: u16) -> String {
        format!(
            "amqp://{USER}:{PASSWORD_ENCODED}@127.0.0.1:{port}/{}",
            self.name
        )
    }

    /// As [`Vhost::url`], over TLS, for a host by one of its names.
    pub fn tls_url(&self, host: &str, port: u16) -> String {
        format!(
            "amqps://{USER}:{PASSWORD_ENCODED}@{host}:{port}/{}",
            self.name
        )
    }

    /// A connection that is not the bridge's.
    pub async fn connect(&self) -> Connection {
        let properties = ConnectionProperties::default().with_connection_name("test".into());
        let url = self.url();
        within(
            "a connection to RabbitMQ",
            SOON,
            Connection::connect(&url, properties),
        )
        .await
        .expect("RabbitMQ takes the connection")
    }

    /// A connection that publishes.
    pub async fn producer(&self) -> Producer {
        Producer::connect(self).await
    }

    /// Deletes a queue under whoever uses it.
    pub async fn delete_queue(&self, queue: &str) {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        channel
            .queue_delete(queue.into(), QueueDeleteOptions::default())
            .await
            .expect("the queue is deleted");
    }

    /// An Erlang expression that does something for each consumer of a queue, and is how many those were. In `action`, `Q` is
    /// the queue, `C` the channel, `T` the consumer's tag.
    pub fn each_consumer(&self, queue: &str, action: &str) -> String {
        let name = self.name();
        format!(
            "length([{action} || {{{{Q = {{resource, <<\"{name}\">>, queue, <<\"{queue}\">>}}, C, T}}, _, _, _, _, _, _}} <- ets:tab2list(consumer_created), is_process_alive(C)])"
        )
    }

    /// An Erlang expression that deletes a stream after RabbitMQ has forgotten who reads it, so that nobody is told.
    pub fn deletion_that_nobody_is_told(&self, stream: &str) -> String {
        let forget = self.each_consumer(
            stream,
            "{T, gen_server2:cast(C, {queue_event, Q, eol}), sys:get_state(C)}",
        );
        let name = self.name();
        format!(
            "{forget}, {{ok, S}} = rabbit_amqqueue:lookup({{resource, <<\"{name}\">>, queue, <<\"{stream}\">>}}), rabbit_amqqueue:delete(S, false, false, <<\"nobody\">>)."
        )
    }

    /// Deletes an exchange under whoever uses it.
    pub async fn delete_exchange(&self, exchange: &str) {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        channel
            .exchange_delete(exchange.into(), ExchangeDeleteOptions::default())
            .await
            .expect("the exchange is deleted");
    }

    /// Declares a durable queue that the bridge has not declared, to be in its way.
    pub async fn declare_queue(&self, queue: &str, kind: &str) {
        self.declare_queue_with(queue, kind, &[]).await;
    }

    /// The same, with more arguments.
    pub async fn declare_queue_with(&self, queue: &str, kind: &str, more: &[(&str, AMQPValue)]) {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        let mut arguments = FieldTable::default();
        for (name, value) in more {
            arguments.insert((*name).into(), value.clone());
        }
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
        channel
            .queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments)
            .await
            .expect("a queue");
    }

    /// How many messages and how many consumers a queue has, if it is there.
    pub async fn queue(&self, queue: &str) -> Option<(u32, u32)> {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let queue = channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await
            .ok()?;
        Some((queue.message_count(), queue.consumer_count()))
    }

    /// Takes the first message of a queue that is not there yet.
    pub async fn take_once_declared(&self, queue: &str) -> Taken {
        eventually(&format!("{queue} is declared"), SOON, async || {
            self.queue(queue).await
        })
        .await;
        self.take(queue, 1).await.remove(0)
    }

    /// The bodies that a stream holds, from its first record to the first with this body.
    pub async fn stream_up_to(&self, stream: &str, last: &str) -> Vec<String> {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        channel
            .basic_qos(1000, BasicQosOptions::default())
            .await
            .expect("a prefetch");
        let mut arguments = FieldTable::default();
        arguments.insert(
            "x-stream-offset".into(),
            AMQPValue::LongString("first".into()),
        );
        let options = BasicConsumeOptions::default();
        let mut records = channel
            .basic_consume(stream.into(), "".into(), options, arguments)
            .await
            .expect("a stream");
        let mut bodies = Vec::new();
        while bodies.last().is_none_or(|body| body != last) {
            let record = within("the next record of the stream", SOON, records.next())
                .await
                .expect("no end")
                .expect("a record");
            record
                .ack(BasicAckOptions::default())
                .await
                .expect("an acknowledgement");
            bodies.push(String::from_utf8_lossy(&record.data).into_owned());
        }
        bodies
    }

    /// All that a stream holds: from its first record to the one with this message id, and what may follow that.
    pub async fn stream_records(&self, stream: &str, last: &str) -> Vec<StreamRecord> {
        /// How long nothing more comes after the last, where nobody publishes any more.
        const QUIET: Duration = Duration::from_secs(1);
        const PREFETCH: u16 = 1000;
        let connection = self.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        channel
            .basic_qos(PREFETCH, BasicQosOptions::default())
            .await
            .expect("a prefetch");
        let mut arguments = FieldTable::default();
        arguments.insert(
            "x-stream-offset".into(),
            AMQPValue::LongString("first".into()),
        );
        let options = BasicConsumeOptions::default();
        let mut deliveries = channel
            .basic_consume(stream.into(), "".into(), options, arguments)
            .await
            .expect("a stream");
        let mut records = Vec::new();
        let mut is_last = false;
        loop {
            let limit = if is_last { QUIET } else { SOON };
            let delivery = match timeout(limit, deliveries.next()).await {
                Ok(delivery) => delivery.expect("no end").expect("a record"),
                Err(_) if is_last => return records,
                Err(_) => panic!("{stream} has no {last} after {} records", records.len()),
            };
            let record = StreamRecord::of(&delivery);
            is_last |= record.message_id.as_deref() == Some(last);
            records.push(record);
            if is_last || records.len().is_multiple_of(usize::from(PREFETCH / 2)) {
                let options = BasicAckOptions { multiple: true };
                delivery.ack(options).await.expect("an acknowledgement");
            }
        }
    }

    /// Takes all that is in a queue now.
    pub async fn take_all(&self, queue: &str) -> Vec<Taken> {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        let mut taken = Vec::new();
        let options = BasicGetOptions { no_ack: true };
        while let Some(message) = channel
            .basic_get(queue.into(), options)
            .await
            .expect("the queue is there")
        {
            taken.push(Taken::of(&message.delivery));
        }
        taken
    }

    /// Takes `count` messages out of a queue, which must come within [`SOON`].
    pub async fn take(&self, queue: &str, count: usize) -> Vec<Taken> {
        let connection = self.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        let mut taken = Vec::new();
        eventually(&format!("{count} messages in {queue}"), SOON, async || {
            while taken.len() < count {
                let found = channel
                    .basic_get(queue.into(), BasicGetOptions::default())
                    .await
                    .expect("the queue is there");
                let message = found?;
                message
                    .ack(BasicAckOptions::default())
                    .await
                    .expect("an acknowledgement");
                taken.push(Taken::of(&message.delivery));
            }
            Some(())
        })
        .await;
        taken
    }
}

/// A record of a stream, as a consumer sees it that is not the bridge.
#[derive(Debug)]
pub struct StreamRecord {
    pub offset: u64,
    /// The id that its event has for clients.
    pub id: String,
    pub message_id: Option<String>,
}

impl StreamRecord {
    fn of(delivery: &Delivery) -> Self {
        let headers = delivery.properties.headers().clone().unwrap_or_default();
        let offset = headers
            .inner()
            .iter()
            .find_map(|(name, value)| match value {
                AMQPValue::LongLongInt(offset) if name.as_str() == "x-stream-offset" => {
                    u64::try_from(*offset).ok()
                }
                _ => None,
            });
        let offset = offset.expect("every record of a stream says where it stands");
        let message_id = delivery.properties.message_id().as_ref();
        let message_id = message_id.map(ToString::to_string);
        let position = Position::new(offset);
        let mark = Mark::of_record(
            position,
            delivery.routing_key.as_str(),
            message_id.as_deref(),
            *delivery.properties.timestamp(),
            &delivery.data,
        );
        Self {
            offset,
            id: EventId { position, mark }.to_string(),
            message_id,
        }
    }
}

/// A message that was taken out of a queue.
#[derive(Debug)]
pub struct Taken {
    pub body: String,
    pub topic: String,
    pub message_id: Option<String>,
    headers: FieldTable,
}

impl Taken {
    fn of(message: &Delivery) -> Self {
        let message_id = message.properties.message_id().as_ref();
        Self {
            body: String::from_utf8_lossy(&message.data).into_owned(),
            topic: message.routing_key.to_string(),
            message_id: message_id.map(ToString::to_string),
            headers: message.properties.headers().clone().unwrap_or_default(),
        }
    }

    /// A header's value as text, integers in decimal.
    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self
            .headers
            .inner()
            .iter()
            .find(|(own, _)| own.as_str() == name)?;
        match value {
            AMQPValue::LongString(text) => Some(text.to_string()),
            AMQPValue::ShortString(text) => Some(text.to_string()),
            AMQPValue::LongLongInt(number) => Some(number.to_string()),
            AMQPValue::LongInt(number) => Some(number.to_string()),
            AMQPValue::LongUInt(number) => Some(number.to_string()),
            AMQPValue::Timestamp(number) => Some(number.to_string()),
            other => Some(format!("{other:?}")),
        }
    }
}
