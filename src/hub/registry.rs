//! Which audiences have a channel: those with events in memory or with listeners. The others cost nothing.

use std::collections::HashMap;
use std::sync::Arc;

use super::channel::Channel;
use crate::event::audience::Audience;

/// The channels there are, by audience.
#[derive(Debug, Default)]
pub(super) struct Registry {
    channels: HashMap<Audience, Arc<Channel>>,
}

impl Registry {
    /// The channel of `audience`, made if there was none.
    pub(super) fn channel(&mut self, audience: &Audience) -> Arc<Channel> {
        if let Some(channel) = self.channels.get(audience) {
            return Arc::clone(channel);
        }
        let channel = Arc::new(Channel::new(audience.clone()));
        self.channels.insert(audience.clone(), Arc::clone(&channel));
        channel
    }

    /// Whether anybody listens to `audience`.
    pub(super) fn has_listeners(&self, audience: &Audience) -> bool {
        self.channels
            .get(audience)
            .is_some_and(|channel| !channel.listeners().is_empty())
    }

    /// How many listen to `audience`.
    pub(super) fn listeners(&self, audience: &Audience) -> usize {
        self.channels
            .get(audience)
            .map_or(0, |channel| channel.listeners().len())
    }

    /// Forgets `channel` if it holds no event and nobody listens. One that is forgotten already may have a successor.
    pub(super) fn free_if_idle(&mut self, channel: &Arc<Channel>) {
        let is_known = || {
            self.channels
                .get(channel.audience())
                .is_some_and(|known| Arc::ptr_eq(known, channel))
        };
        if channel.is_idle() && is_known() {
            self.channels.remove(channel.audience());
        }
    }

    /// Every channel there is.
    pub(super) fn all(&self) -> Vec<Arc<Channel>> {
        self.channels.values().map(Arc::clone).collect()
    }

    /// Forgets every channel and returns them.
    pub(super) fn take(&mut self) -> Vec<Arc<Channel>> {
        self.channels.drain().map(|(_, channel)| channel).collect()
    }

    /// How many channels there are.
    pub(super) fn len(&self) -> usize {
        self.channels.len()
    }
}
