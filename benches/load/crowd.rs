//! The process of the clients: thousands of them on one thread and one epoll, told by [`Order`]s on standard input what
//! to do. It costs as little as it can, because it shares the machine with what it measures.

use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};

use super::client::{Client, Reader};
use super::orders::{Answer, Connect, Connected, Order};
use super::tally::Tally;
use super::usage;

/// What marks standard input among the clients' numbers.
const ORDERS: u64 = u64::MAX;

/// Does what it is told until standard input ends.
pub fn run() {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
    let input = std::io::stdin();
    epoll::add(&epoll, &input, EventData::new_u64(ORDERS), EventFlags::IN)
        .expect("standard input is a pipe");
    let mut crowd = Crowd {
        epoll,
        clients: Vec::new(),
        ids_of_ended: HashMap::new(),
        tally: Tally::default(),
        connecting: None,
        told: 0,
        wanted: None,
        reader: Reader::new(),
    };
    let mut begun = VecDeque::new();
    let mut ready = Vec::with_capacity(1024);
    loop {
        let patience = crowd.patience();
        epoll::wait(&crowd.epoll, spare_capacity(&mut ready), patience.as_ref())
            .expect("clients or orders");
        for event in ready.drain(..) {
            let (number, flags) = (event.data.u64(), event.flags);
            if number != ORDERS {
                crowd.look_after(usize::try_from(number).expect("a client's number"), flags);
                continue;
            }
            let mut bytes = [0; 16 * 1024];
            let length =
                rustix::io::read(input.as_fd(), &mut bytes).expect("standard input is there");
            if length == 0 {
                return;
            }
            begun.extend(&bytes[..length]);
            while let Some(end) = begun.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = begun.drain(..=end).collect();
                crowd.obey(serde_json::from_slice(&line).expect("an order"));
            }
        }
        crowd.proceed();
    }
}

struct Crowd {
    epoll: OwnedFd,
    /// By their numbers. `None` where a connection has ended.
    clients: Vec<Option<Client>>,
    /// The last event ids of those whose connections have ended.
    ids_of_ended: HashMap<usize, Vec<u8>>,
    tally: Tally,
    connecting: Option<Connecting>,
    /// The number of complete events that was told last.
    told: u64,
    /// How many deliveries a report waits for, and until when.
    wanted: Option<(u64, Instant)>,
    reader: Reader,
}

struct Connecting {
    order: Connect,
    /// The ids that they bring.
    ids: HashMap<usize, Vec<u8>>,
    deadline: Instant,
    first: Instant,
    last: Instant,
    served: usize,
    last_served: Instant,
}

impl Crowd {
    fn obey(&mut self, order: Order) {
        match order {
            Order::Connect(order) => {
                let mut ids = std::mem::take(&mut self.ids_of_ended);
                for (number, client) in self.clients.drain(..).enumerate() {
                    ids.extend(client.map(|client| (number, client.id().to_vec())));
                }
                if !order.resume {
                    ids.clear();
                }
                let now = Instant::now();
                self.connecting = Some(Connecting {
                    deadline: now + Duration::from_millis(order.within_ms),
                    order,
                    ids,
                    first: now,
                    last: now,
                    served: 0,
                    last_served: now,
                });
            }
            Order::Count { first, recipients } => {
                self.tally = Tally::new(first, recipients);
                self.told = first;
            }
            Order::Report {
                deliveries,
                within_ms,
            } => {
                self.wanted = Some((
                    deliveries,
                    Instant::now() + Duration::from_millis(within_ms),
                ));
            }
        }
    }

    /// How long there is nothing to do but for clients and orders.
    fn patience(&self) -> Option<Timespec> {
        let begins = |connecting: &Connecting| self.clients.len() < connecting.order.clients;
        if self.connecting.as_ref().is_some_and(begins) {
            return Some(Timespec::default());
        }
        let connecting = self
            .connecting
            .as_ref()
            .map(|connecting| connecting.deadline);
        let deadline = connecting
            .into_iter()
            .chain(self.wanted.map(|(_, until)| until))
            .min()?;
        let left = deadline.saturating_duration_since(Instant::now());
        Some(left.try_into().expect("a short time"))
    }

    fn look_after(&mut self, number: usize, flags: EventFlags) {
        // One that ended may have been ready for two things, and numbers of clients of before may be taken again.
        let Some(client) = self.clients.get_mut(number).and_then(Option::as_mut) else {
            return;
        };
        let (was_served, data) = (client.is_served(), EventData::new_u64(number as u64));
        let mut outcome = Ok(());
        if flags.contains(EventFlags::OUT) {
            outcome = client.write();
            epoll::modify(&self.epoll, client.socket(), data, EventFlags::IN)
                .expect("a client's socket");
        }
        if outcome.is_ok() && flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            outcome = client.read(&mut self.reader, &mut self.tally);
        }
        if let Some(connecting) = self
            .connecting
            .as_mut()
            .filter(|_| client.is_served() && !was_served)
        {
            connecting.served += 1;
            connecting.last_served = Instant::now();
            if number % 100 < connecting.order.slow_percent {
                epoll::delete(&self.epoll, client.socket()).expect("a client's socket");
            }
        }
        if let Err(error) = outcome {
            self.tally.ended(&error);
            self.ids_of_ended.insert(number, client.id().to_vec());
            self.clients[number] = None;
        }
    }

    /// Goes on with what was ordered.
    fn proceed(&mut self) {
        if let Some(connecting) = &mut self.connecting {
            let begun = self.clients.len();
            for number in begun
                ..connecting
                    .order
                    .clients
                    .min(begun + connecting.order.at_once)
            {
                let id = connecting.ids.get(&number).map_or(&[][..], Vec::as_slice);
                let client = Client::connect(number, &connecting.order, id).expect("a socket");
                let data = EventData::new_u64(number as u64);
                epoll::add(&self.epoll, client.socket(), data, EventFlags::OUT)
                    .expect("a client's socket");
                self.clients.push(Some(client));
                connecting.last = Instant::now();
                if number == 0 {
                    connecting.first = connecting.last;
                }
            }
            if connecting.served == connecting.order.clients
                || Instant::now() >= connecting.deadline
            {
                let nanoseconds =
                    |time: Duration| u64::try_from(time.as_nanos()).expect("a short time");
                answer(&Answer::Connected(Connected {
                    served: connecting.served,
                    first_end: self.tally.first_end(),
                    connecting_ns: nanoseconds(connecting.last - connecting.first),
                    serving_ns: nanoseconds(
                        connecting
                            .last_served
                            .saturating_duration_since(connecting.last),
                    ),
                }));
                self.connecting = None;
            }
        }
        if self.tally.complete() > self.told {
            self.told = self.tally.complete();
            answer(&Answer::Complete(self.told));
        }
        if let Some((deliveries, deadline)) = self.wanted
            && (self.tally.deliveries() >= deliveries || Instant::now() >= deadline)
        {
            self.wanted = None;
            answer(&Answer::Report(self.tally.report(usage::own_cpu_ns())));
        }
    }
}

fn answer(answer: &Answer) {
    let mut line = serde_json::to_vec(answer).expect("JSON");
    line.push(b'\n');
    let mut output = std::io::stdout().lock();
    output
        .write_all(&line)
        .and_then(|()| output.flush())
        .expect("somebody reads");
}
