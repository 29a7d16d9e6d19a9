//! A publisher on lapin, with confirms, as a back end would be.

use std::collections::VecDeque;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, PublisherConfirm};

use super::Turns;
use crate::harness::Vhost;
use crate::stamp::Stamp;

/// How many messages are unconfirmed at once.
const WINDOW: usize = 500;

pub struct Amqp {
    _connection: Connection,
    channel: Channel,
    exchange: &'static str,
    /// The routing key, in which `{n}` is the event's number modulo `audiences`.
    topic: String,
    audiences: u64,
}

impl Amqp {
    pub async fn connect(
        vhost: &Vhost,
        exchange: &'static str,
        topic: &str,
        audiences: u64,
    ) -> Self {
        let connection = vhost.connect().await;
        let channel = connection.create_channel().await.expect("a channel");
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .expect("confirms");
        Self {
            _connection: connection,
            channel,
            exchange,
            topic: topic.to_owned(),
            audiences,
        }
    }

    pub async fn publish(&mut self, mut turns: Turns, bytes: usize) {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let properties = BasicProperties::default().with_delivery_mode(2);
        let mut confirms = VecDeque::with_capacity(WINDOW);
        while let Some(number) = turns.next().await {
            if confirms.len() == WINDOW {
                confirmed(confirms.pop_front().expect("a full window")).await;
            }
            let topic = self
                .topic
                .replace("{n}", &(number % self.audiences).to_string());
            let body = Stamp::now(number).body(bytes);
            let published = self.channel.basic_publish(
                self.exchange.into(),
                topic.into(),
                options,
                &body,
                properties.clone(),
            );
            confirms.push_back(published.await.expect("the broker takes a message"));
        }
        for confirm in confirms {
            confirmed(confirm).await;
        }
    }
}

async fn confirmed(confirm: PublisherConfirm) {
    let outcome = confirm.await.expect("the broker answers");
    assert!(
        matches!(outcome, Confirmation::Ack(None)),
        "a message was not taken: {outcome:?}"
    );
}
