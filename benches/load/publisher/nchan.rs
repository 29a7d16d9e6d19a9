//! A publisher to nchan: one connection, so that the order is kept, with many requests on their way.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::Turns;
use crate::harness::{SOON, within};
use crate::stamp::Stamp;

pub struct Nchan {
    answers: Lines<BufReader<OwnedReadHalf>>,
    requests: OwnedWriteHalf,
    target: &'static str,
}

impl Nchan {
    pub async fn connect(address: SocketAddr, target: &'static str) -> Self {
        let socket = TcpStream::connect(address).await.expect("nginx listens");
        socket.set_nodelay(true).expect("a socket");
        let (answers, requests) = socket.into_split();
        Self {
            answers: BufReader::new(answers).lines(),
            requests,
            target,
        }
    }

    pub async fn publish(&mut self, mut turns: Turns, bytes: usize) {
        let Self {
            answers,
            requests,
            target,
        } = self;
        let publishing = async {
            let mut count = 0;
            while let Some(number) = turns.next().await {
                let body = Stamp::now(number).body(bytes);
                let mut request = format!(
                    "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                )
                .into_bytes();
                request.extend_from_slice(&body);
                requests
                    .write_all(&request)
                    .await
                    .expect("nginx takes a request");
                count += 1;
            }
            count
        };
        let mut publishing = std::pin::pin!(publishing);
        let (mut published, mut taken) = (None, 0);
        // Where an event does not reach all, all may be answered long before no more is published.
        while published != Some(taken) {
            let answer = tokio::select! {
                count = &mut publishing, if published.is_none() => {
                    published = Some(count);
                    continue;
                }
                answer = within("nginx answers", SOON, answers.next_line()) => answer,
            };
            let line = answer
                .expect("nginx answers")
                .expect("nginx keeps the publisher's connection");
            // An answer's body does not end with a line feed, so that the next answer begins on its last line.
            if let Some((_, status)) = line.split_once("HTTP/1.1 ") {
                assert!(status.starts_with("20"), "nginx answered {status}");
                taken += 1;
            }
        }
    }
}
