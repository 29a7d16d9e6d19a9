//! A server of keys (RFC 7517): on loopback, one answer for all, and a memory of what it was asked.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::{ServerConnection, Stream};
use serde_json::{Value, json};

use super::authority::Identity;

/// A server that answers every request with the same, until that is changed.
pub struct KeyServer {
    scheme: &'static str,
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    answer: String,
    /// The first lines of all requests so far.
    requests: Vec<String>,
}

impl KeyServer {
    pub fn start(answer: String) -> Self {
        Self::serve("http", answer, |mut socket, state| {
            take(&mut socket, state);
        })
    }

    /// Over TLS, with that certificate.
    pub fn start_over_tls(answer: String, identity: &Identity) -> Self {
        let config = identity.server();
        Self::serve("https", answer, move |mut socket, state| {
            let mut session = ServerConnection::new(Arc::clone(&config)).expect("a session");
            take(&mut Stream::new(&mut session, &mut socket), state);
            session.send_close_notify();
            // Whoever has read enough may have closed.
            let _ = session.write_tls(&mut socket);
        })
    }

    fn serve(
        scheme: &'static str,
        answer: String,
        each: impl Fn(TcpStream, &Mutex<State>) + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let requests = Vec::new();
        let state = Arc::new(Mutex::new(State { answer, requests }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let _ = socket.set_read_timeout(Some(Duration::from_secs(5)));
                each(socket, &shared);
            }
        });
        Self {
            scheme,
            address,
            state,
        }
    }

    /// From now on it answers this.
    pub fn answer(&self, answer: String) {
        self.state.lock().expect("nobody panics with it").answer = answer;
    }

    pub fn requests(&self) -> Vec<String> {
        let state = self.state.lock().expect("nobody panics with it");
        state.requests.clone()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("{}://{}/jwks", self.scheme, self.address)
    }
}

/// Reads a request, and answers it.
fn take(socket: &mut (impl Read + Write), state: &Mutex<State>) {
    let mut request = [0; 4096];
    let length = socket.read(&mut request).unwrap_or(0);
    if length == 0 {
        return;
    }
    let request = String::from_utf8_lossy(&request[..length]).into_owned();
    let mut state = state.lock().expect("nobody panics with it");
    let line = request.lines().next().unwrap_or_default();
    state.requests.push(line.to_owned());
    // Whoever has read enough may have closed.
    let _ = socket.write_all(state.answer.as_bytes());
}

/// The answer of a server that has these keys.
pub fn jwks(keys: &[Value]) -> String {
    http_answer("200 OK", &json!({"keys": keys}).to_string())
}

pub fn http_answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
