//! Places of connections: so many in all, and so many for one address, so that one client cannot take them all.
//!
//! Loopback is not counted by address: a proxy on this machine speaks for everybody. An IPv6 client has a /64 to choose
//! addresses from (RFC 6177), so that is what counts as one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// The open connections; at most as many entries as there are places.
#[derive(Debug)]
pub struct Places {
    taken: Mutex<Taken>,
    most: usize,
    most_each: usize,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A place that is taken, given back when dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    counted: Option<IpAddr>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// For nobody.
    All,
    /// For this address.
    Address,
}

impl Places {
    /// `most` in all, `most_each` for one address.
    pub fn new(most: usize, most_each: usize) -> Arc<Self> {
        Arc::new(Self { taken: Mutex::default(), most, most_each })
    }

    /// Takes a place for a client at `ip`.
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn take(self: &Arc<Self>, ip: IpAddr) -> Result<Place, Full> {
        let counted = counted(ip);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= self.most {
            return Err(Full::All);
        }
        if let Some(address) = counted {
            let of_address = taken.by_address.get(&address).copied().unwrap_or_default();
            if of_address >= self.most_each {
                return Err(Full::Address);
            }
            taken.by_address.insert(address, of_address + 1);
        }
        taken.all += 1;
        Ok(Place { places: self.clone(), counted })
    }

    fn give_back(&self, counted: Option<IpAddr>) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        let Some(address) = counted else { return };
        match taken.by_address.get_mut(&address) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(taken.by_address.remove(&address)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.give_back(self.counted);
    }
}

/// What a client's address counts as; `None`: it is not counted.
fn counted(ip: IpAddr) -> Option<IpAddr> {
    match ip.to_canonical() {
        ip if ip.is_loopback() => None,
        IpAddr::V6(ip) => Some(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into()),
        ip => Some(ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_in_all_and_by_address_and_given_back() {
        let places = Places::new(4, 2);
        let take = |ip: &str| places.take(ip.parse().unwrap());
        let first = take("192.0.2.1").unwrap();
        let _second = take("::ffff:192.0.2.1").unwrap();
        assert_eq!(take("192.0.2.1").unwrap_err(), Full::Address, "mapped or not, it is one address");
        let third = take("2001:db8::1").unwrap();
        let _fourth = take("2001:db8::2").unwrap();
        assert_eq!(take("192.0.2.2").unwrap_err(), Full::All);
        drop(third);
        assert!(take("2001:db8:0:0:ffff::3").is_ok(), "given back");
        drop(first);
        assert!(take("192.0.2.1").is_ok());
        assert_eq!(places.taken.lock().unwrap().by_address.len(), 2, "who is gone is forgotten");
    }

    #[test]
    fn loopback_is_counted_in_all_only() {
        let places = Places::new(3, 1);
        let held: Vec<_> =
            ["127.0.0.1", "127.0.0.2", "::1"].map(|ip| places.take(ip.parse().unwrap())).into();
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(places.take([127, 0, 0, 1].into()).unwrap_err(), Full::All);
    }
}
