//! What narrows a client's stream: topics, event names and attributes. It never widens: who may see an event is for
//! its audience alone.

use super::EventName;
use super::address::Attributes;
use super::topic::TopicPattern;

/// What a client wants of what it may see. Every kind must match, any value of a kind; an empty kind matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Patterns of which the topic must match one.
    pub topics: Vec<TopicPattern>,
    /// Names of which the event must bear one.
    pub names: Vec<EventName>,
    /// Attributes, each with the values of which the event must bear one.
    pub attributes: Vec<(String, Vec<String>)>,
}

impl Filter {
    /// Whether it lets everything through.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty() && self.names.is_empty() && self.attributes.is_empty()
    }

    /// Whether it lets an event of this topic, name and attributes through.
    #[must_use]
    pub fn matches(&self, topic: &str, name: Option<&EventName>, attributes: &Attributes) -> bool {
        self.matches_name(name) && self.matches_attributes(attributes) && self.matches_topic(topic)
    }

    fn matches_name(&self, name: Option<&EventName>) -> bool {
        self.names.is_empty() || name.is_some_and(|name| self.names.contains(name))
    }

    fn matches_attributes(&self, attributes: &Attributes) -> bool {
        self.attributes.iter().all(|(name, wanted)| {
            attributes
                .get(name)
                .is_some_and(|value| wanted.iter().any(|one| one == value))
        })
    }

    fn matches_topic(&self, topic: &str) -> bool {
        self.topics.is_empty() || self.topics.iter().any(|pattern| pattern.matches(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Message;
    use crate::event::address::AddressRules;

    fn name(text: &str) -> EventName {
        text.parse().unwrap()
    }

    fn attributes(routing_key: &str) -> Attributes {
        let rules = AddressRules {
            user_header: String::new(),
            team_header: String::new(),
            channel_header: String::new(),
            tenant_header: String::new(),
            routing_keys: vec!["team.{team_id}.job.{job_id}.{step}".parse().unwrap()],
            user_field: None,
            team_field: None,
            broadcast_keys: Vec::new(),
        };
        let message = Message {
            position: None,
            routing_key: routing_key.to_owned(),
            headers: Vec::new(),
            kind: None,
            message_id: None,
            timestamp: None,
            expiration: None,
            redelivered: false,
            fault: None,
            body: bytes::Bytes::new(),
        };
        rules.address(&message).unwrap().attributes
    }

    #[test]
    fn an_empty_filter_lets_everything_through() {
        let filter = Filter::default();
        assert!(filter.is_empty());
        assert!(filter.matches("", None, &Attributes::default()));
        assert!(filter.matches("a.b", Some(&name("n")), &Attributes::default()));
    }

    #[test]
    fn every_kind_must_match_and_any_value_of_a_kind() {
        let topic = "team.7.job.9.done";
        let attributes = attributes(topic);
        let names = || vec![name("job.status"), name("job.log")];
        let jobs = |values: &[&str]| {
            let values = values.iter().map(|value| (*value).to_owned()).collect();
            vec![("job_id".to_owned(), values)]
        };
        let topics = |patterns: &[&str]| patterns.iter().map(|one| one.parse().unwrap()).collect();
        let all = Filter {
            topics: topics(&["x", "team.7.#"]),
            names: names(),
            attributes: jobs(&["8", "9"]),
        };
        assert!(!all.is_empty());
        assert!(all.matches(topic, Some(&name("job.log")), &attributes));
        assert!(!all.matches("team.8", Some(&name("job.log")), &attributes));
        assert!(!all.matches(topic, Some(&name("other")), &attributes));
        assert!(!all.matches(topic, None, &attributes));
        assert!(!all.matches(topic, Some(&name("job.log")), &Attributes::default()));

        let other_job = Filter {
            attributes: jobs(&["90"]),
            ..Filter::default()
        };
        assert!(!other_job.is_empty());
        assert!(!other_job.matches(topic, None, &attributes));

        let mut two = Filter {
            attributes: jobs(&["9"]),
            ..Filter::default()
        };
        two.attributes
            .push(("step".to_owned(), vec!["done".to_owned()]));
        assert!(two.matches(topic, None, &attributes));
        two.attributes
            .push(("host".to_owned(), vec!["done".to_owned()]));
        assert!(!two.matches(topic, None, &attributes));
    }
}
