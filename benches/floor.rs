//! The floor: what it costs to give the same bytes to the same sockets with nothing else to do. One thread accepts, answers
//! with a head, and then calls `write(2)` once for each event and client. No broker, no choice, no queue, no history. Each
//! event is sent at once, or small ones gather in the kernel as Nagle's algorithm has it (RFC 9293 §3.7.4).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::publisher::{Load, Pace};
use super::stamp::Stamp;

/// The argument that makes this program the floor.
pub const ROLE: &str = "floor";

/// The process of the floor, as whoever measures holds it.
pub struct Floor {
    process: Child,
    answers: BufReader<std::process::ChildStdout>,
    pub address: SocketAddr,
}

impl Floor {
    /// Starts it, for so many clients.
    pub fn start(mut command: Command, clients: usize, gathers: bool) -> Self {
        command
            .args([ROLE, &clients.to_string(), &gathers.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = command.spawn().expect("this program starts again");
        let mut answers = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut line = String::new();
        answers
            .read_line(&mut line)
            .expect("it says where it listens");
        Self {
            process,
            answers,
            address: line.trim().parse().expect("an address"),
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Has it write events, and waits until it has.
    pub async fn publish(&mut self, first: u64, load: &Load) {
        let interval = match load.pace {
            Pace::PerSecond(rate) => 1_000_000_000 / rate,
            Pace::Window(_) => 0,
        };
        let order = format!("{first} {} {interval} {}\n", load.events, load.bytes);
        let input = self.process.stdin.as_mut().expect("it is piped");
        input.write_all(order.as_bytes()).expect("the floor runs");
        let mut line = String::new();
        let answers = &mut self.answers;
        tokio::task::block_in_place(|| answers.read_line(&mut line)).expect("the floor answers");
        assert_eq!(line, "done\n", "the floor ended");
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Accepts so many clients, and does what standard input tells it until that ends.
pub fn run(clients: &str, gathers: &str) {
    let clients = clients.parse().expect("a number");
    let gathers = gathers.parse().expect("true or false");
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    listener
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .expect("a port");
    listener.listen(4_096).expect("a listener");
    let listener = TcpListener::from(listener);
    println!("{}", listener.local_addr().expect("an address"));
    let mut sockets: Vec<TcpStream> = (0..clients).map(|_| accept(&listener, gathers)).collect();
    for order in std::io::stdin().lines() {
        let order = order.expect("text");
        let mut numbers = order
            .split(' ')
            .map(|number| number.parse::<u64>().expect("a number"));
        let mut next = || numbers.next().expect("four numbers");
        let (first, events, interval, bytes) = (next(), next(), next(), next());
        let began = Instant::now();
        for number in 0..events {
            let due = began + Duration::from_nanos(interval * number);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let frame = frame(
                Stamp::now(first + number),
                usize::try_from(bytes).expect("a length"),
            );
            for socket in &mut sockets {
                socket.write_all(&frame).expect("clients read");
            }
        }
        println!("done");
    }
}

fn accept(listener: &TcpListener, gathers: bool) -> TcpStream {
    let (mut socket, _) = listener.accept().expect("a client");
    socket.set_nodelay(!gathers).expect("a socket");
    let mut request = [0; 1_024];
    let length = socket.read(&mut request).expect("a request");
    assert!(
        request[..length].ends_with(b"\r\n\r\n"),
        "a request in one piece"
    );
    let head =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    socket.write_all(head).expect("a client");
    socket
}

/// The bytes that the bridge sends for such an event.
fn frame(stamp: Stamp, bytes: usize) -> Vec<u8> {
    let body = String::from_utf8(stamp.body(bytes)).expect("text");
    let event = format!("id: {}-{:08x}\ndata: {body}\n\n", stamp.number, 0);
    format!("{:X}\r\n{event}\r\n", event.len()).into_bytes()
}
