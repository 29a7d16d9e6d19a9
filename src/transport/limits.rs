//! How many streams there may be, of one user, of one address and in all, and how many connections of one address.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts places, which are streams or connections, by holder. Cheap to clone: all clones count together.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    bounds: Bounds,
    /// Places taken now, by holder; holders without any are not in it. Only holders under a limit are counted.
    open: Arc<Mutex<HashMap<Holder, usize>>>,
}

/// How many places there are; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// In all.
    pub in_all: usize,
    /// For one user.
    pub per_user: usize,
    /// For one address.
    pub per_address: usize,
}

/// Who holds a place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Anybody,
    User(String),
    Address(ClientAddress),
}

/// A client's address as limits count it: of IPv6 its network of 64 bits, as that is what one client is given, and it may
/// choose among all addresses in it (RFC 4291 §2.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddress(IpAddr);

impl ClientAddress {
    /// As who is at `address` is counted.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A place of a user and an address, given back when dropped.
#[derive(Debug, Default)]
pub struct Seat {
    limits: Limits,
    /// By whom it is counted.
    holders: Vec<Holder>,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// That of all together.
    InAll,
    /// That of one user.
    User,
    /// That of one address.
    Address,
}

impl Limits {
    /// Nobody holds a place yet.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            open: Arc::default(),
        }
    }

    /// Takes a place for `user`, if that is known, at `address`.
    ///
    /// # Errors
    /// [`Full`] says which limit is reached; then no place is taken.
    pub fn take(&self, user: Option<&str>, address: ClientAddress) -> Result<Seat, Full> {
        let Bounds {
            in_all,
            per_user,
            per_address,
        } = self.bounds;
        let user = user.map(|user| (Holder::User(user.to_owned()), per_user, Full::User));
        let holders = [
            (Holder::Address(address), per_address, Full::Address),
            (Holder::Anybody, in_all, Full::InAll),
        ];
        let limited = user.into_iter().chain(holders);
        let limited: Vec<_> = limited.filter(|(_, limit, _)| *limit > 0).collect();
        let mut open = self.open();
        for (holder, limit, full) in &limited {
            if open.get(holder).is_some_and(|count| count >= limit) {
                return Err(*full);
            }
        }
        let holders: Vec<Holder> = limited.into_iter().map(|(holder, ..)| holder).collect();
        for holder in &holders {
            *open.entry(holder.clone()).or_default() += 1;
        }
        drop(open);
        let limits = self.clone();
        Ok(Seat { limits, holders })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Holder, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.limits.open();
        for holder in &self.holders {
            if let Some(count) = open.get_mut(holder) {
                *count -= 1;
                if *count == 0 {
                    open.remove(holder);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: ClientAddress = ClientAddress(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));

    fn limits(in_all: usize, per_user: usize, per_address: usize) -> Limits {
        Limits::new(Bounds {
            in_all,
            per_user,
            per_address,
        })
    }

    #[test]
    fn a_place_that_is_given_back_can_be_taken_again() {
        let limits = limits(0, 1, 0);
        let seat = limits.take(Some("42"), HOME).unwrap();
        assert_eq!(limits.take(Some("42"), HOME).unwrap_err(), Full::User);
        limits.take(Some("43"), HOME).unwrap();
        drop(seat);
        limits.take(Some("42"), HOME).unwrap();
    }

    #[test]
    fn who_is_refused_for_one_limit_is_counted_by_no_other() {
        let elsewhere = ClientAddress::of("192.0.2.1".parse().unwrap());
        let limits = limits(3, 1, 2);
        let _first = limits.take(Some("42"), HOME).unwrap();
        assert_eq!(limits.take(Some("42"), HOME).unwrap_err(), Full::User);
        let second = limits.take(Some("43"), HOME).unwrap();
        assert_eq!(limits.take(Some("44"), HOME).unwrap_err(), Full::Address);
        let _third = limits.take(Some("44"), elsewhere).unwrap();
        assert_eq!(limits.take(None, elsewhere).unwrap_err(), Full::InAll);
        drop(second);
        limits.take(Some("45"), elsewhere).unwrap();
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_ipv4_inside_ipv6_is_ipv4() {
        for (one, other, same) in [
            ("2001:db8::1", "2001:db8::ffff:1:2:3", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
            ("192.0.2.1", "192.0.2.2", false),
        ] {
            let of = |text: &str| ClientAddress::of(text.parse().unwrap());
            assert_eq!(of(one) == of(other), same, "{one} {other}");
        }
    }

    #[test]
    fn no_limit_counts_nobody() {
        let limits = limits(0, 0, 0);
        let _seats: Vec<_> = (0..100)
            .map(|_| limits.take(Some("42"), HOME).unwrap())
            .collect();
        assert!(limits.open.lock().unwrap().is_empty());
    }
}
