//! One client: a socket that asks once, reads, and tells what it hears. It never waits; whoever holds it says when the socket is ready.

use std::io::{self, ErrorKind, IoSliceMut, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::sockopt::{IpBindAddressNoPort, ReceiveTimestampns};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use socket2::{Domain, Socket, Type};

use super::event_stream::{self, EventStream};
use super::orders::{Connect, Protocol, Served};
use super::stamp::{self, Stamp};
use super::tally::Tally;
use super::web_stomp::{self, WebStomp};

/// How many addresses of this machine the clients come from, so that the ports of none run out.
const SOURCES: usize = 16;

pub struct Client {
    socket: TcpStream,
    /// What is to be sent and has not been.
    unsent: Vec<u8>,
    protocol: Wire,
    /// The number after that of the newest event that it has.
    next: u64,
    /// The newest event id.
    id: Vec<u8>,
    served: bool,
}

enum Wire {
    Sse(EventStream, Served),
    WebStomp(WebStomp, Box<Login>),
}

/// What a client of Web-STOMP sends in its turn.
struct Login {
    connect: Vec<u8>,
    subscribe: Vec<u8>,
}

/// What reading takes, shared by all clients.
pub struct Reader {
    buffer: Vec<u8>,
    control: Vec<u8>,
}

impl Reader {
    pub fn new() -> Self {
        Self {
            buffer: vec![0; 256 * 1024],
            control: nix::cmsg_space!(nix::sys::time::TimeSpec),
        }
    }

    /// What a socket has, and when the last of it arrived.
    fn read(&mut self, socket: &TcpStream) -> io::Result<(&[u8], u64)> {
        let mut parts = [IoSliceMut::new(&mut self.buffer)];
        let control = Some(self.control.as_mut_slice());
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, control, MsgFlags::empty())?;
        let arrived = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::ScmTimestampns(time) => {
                u64::try_from(Duration::from(time).as_nanos()).ok()
            }
            _ => None,
        });
        let length = message.bytes;
        Ok((&self.buffer[..length], arrived.unwrap_or_else(stamp::now)))
    }
}

impl Client {
    /// Begins to connect.
    pub fn connect(number: usize, order: &Connect, id: &[u8]) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        setsockopt(&socket, ReceiveTimestampns, &true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        let source = Ipv4Addr::new(
            127,
            0,
            0,
            u8::try_from(2 + number % SOURCES).expect("a few"),
        );
        socket.bind(&SocketAddr::V4(SocketAddrV4::new(source, 0)).into())?;
        match socket.connect(&order.address.into()) {
            Err(error) if error.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32) => {
                return Err(error);
            }
            _ => {}
        }
        let address = order.address.to_string();
        let named = |text: &str| text.replace("{n}", &number.to_string());
        let (unsent, protocol) = match &order.protocol {
            Protocol::Sse { target, served } => {
                let last = match String::from_utf8_lossy(id) {
                    id if id.is_empty() => String::new(),
                    id => format!("Last-Event-ID: {id}\r\n"),
                };
                let request = format!(
                    "GET {} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n{last}\r\n",
                    named(target)
                );
                (
                    request.into_bytes(),
                    Wire::Sse(EventStream::default(), *served),
                )
            }
            Protocol::WebStomp {
                vhost,
                user,
                password,
                destination,
            } => {
                let login = Login {
                    connect: web_stomp::connect(vhost, user, password),
                    subscribe: web_stomp::subscribe(&named(destination)),
                };
                (
                    web_stomp::handshake(&address),
                    Wire::WebStomp(WebStomp::default(), Box::new(login)),
                )
            }
        };
        Ok(Self {
            socket: socket.into(),
            unsent,
            protocol,
            next: 0,
            id: Vec::new(),
            served: false,
        })
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub fn id(&self) -> &[u8] {
        &self.id
    }

    pub fn is_served(&self) -> bool {
        self.served
    }

    /// Sends what is to be sent.
    pub fn write(&mut self) -> io::Result<()> {
        let sent = self.socket.write(&self.unsent)?;
        if sent < self.unsent.len() {
            return Err(ErrorKind::WriteZero.into());
        }
        self.unsent = Vec::new();
        Ok(())
    }

    /// Reads what has come. An error, the end of the stream too, is the end of this client.
    pub fn read(&mut self, reader: &mut Reader, tally: &mut Tally) -> io::Result<()> {
        let (bytes, arrived) = match reader.read(&self.socket) {
            Ok(([], _)) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let Self {
            protocol,
            next,
            id,
            served,
            unsent,
            ..
        } = self;
        let (mut ids, mut gaps, mut refused) = (0, 0, None);
        let mut event = |body: &[u8]| {
            let Some(stamp) = Stamp::read(body) else {
                return;
            };
            if stamp.number < *next {
                tally.out_of_order(stamp);
            } else {
                tally.delivered(stamp, arrived);
                *next = stamp.number + 1;
            }
        };
        match protocol {
            Wire::Sse(stream, by) => {
                stream.take(bytes, |said| match said {
                    event_stream::Said::Status(200) => *served |= *by == Served::Head,
                    event_stream::Said::Status(status) => refused = Some(status),
                    event_stream::Said::Data(body) => {
                        event(body);
                        *served |= *by == Served::Event;
                    }
                    event_stream::Said::Id(new) => {
                        id.clear();
                        id.extend_from_slice(new);
                        *served |= *by == Served::Id;
                        ids += 1;
                    }
                    event_stream::Said::Event(name) => gaps += u64::from(name == b"bridge.gap"),
                });
            }
            Wire::WebStomp(stream, login) => stream.take(bytes, |said| match said {
                web_stomp::Said::Status(101) => unsent.extend_from_slice(&login.connect),
                web_stomp::Said::Connected => unsent.extend_from_slice(&login.subscribe),
                web_stomp::Said::Receipt => *served = true,
                web_stomp::Said::Message(body) => event(body),
                web_stomp::Said::Status(status) => refused = Some(status),
                web_stomp::Said::Other(_) => {}
            }),
        }
        tally.heard(ids, gaps);
        if let Some(status) = refused {
            return Err(io::Error::other(format!("the server answered {status}")));
        }
        if self.unsent.is_empty() {
            Ok(())
        } else {
            self.write()
        }
    }
}
