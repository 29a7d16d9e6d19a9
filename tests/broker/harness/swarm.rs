//! Clients in their thousands, in one process.

use tokio::task::JoinSet;

use super::{Bridge, Client, LONG, within};

/// Many clients with one query.
pub struct Swarm {
    clients: Vec<Client>,
}

impl Swarm {
    /// Connects `count` clients at once, and waits until all are subscribed.
    pub async fn connect(bridge: &Bridge, count: usize, query: &str) -> Self {
        let mut connecting = JoinSet::new();
        for _ in 0..count {
            let query = query.to_owned();
            let address = bridge.public;
            connecting.spawn(async move {
                Client::connect_with(address, &query, &[])
                    .await
                    .subscribed()
                    .await
            });
        }
        Self {
            clients: within("all clients are connected", LONG, connecting.join_all()).await,
        }
    }

    /// Waits until every client has received an event with this data as its next, and nothing else before it.
    pub async fn each_receives(&mut self, data: &str) {
        let mut receiving = JoinSet::new();
        for mut client in self.clients.drain(..) {
            let expected = data.to_owned();
            receiving.spawn(async move {
                let event = client.event().await;
                assert_eq!(event.data, expected);
                client
            });
        }
        self.clients = within("all clients received the event", LONG, receiving.join_all()).await;
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.clients.len()
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        self.clients.drain(..).for_each(Client::reset);
    }
}
