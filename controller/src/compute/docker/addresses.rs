//! Which addresses each project has. The configured range is divided into networks of 256 addresses; in the first one is
//! the controllers' address, and each other belongs to one project at a time.
//!
//! The place of a host is in a file of its directory, from before its address is stored until the directory is removed: so
//! a network is taken while any host of the project may still come to be in it.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::compute::ComputeError;
use crate::ids::ProjectId;

/// Length of the prefix of one network.
const PREFIX: u8 = 24;
/// Hosts of one network. The other addresses are for what an operator adds by hand.
const MOST: usize = 200;
/// Number of random addresses that are tried, which are some of 254 with at most [`MOST`] taken.
const TRIES: usize = 1000;

/// Where a host is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) project: ProjectId,
    pub(super) address: Ipv4Addr,
}

impl Place {
    pub(super) fn network(&self) -> Ipv4Net {
        network(self.address)
    }
}

/// The network of an address.
fn network(address: Ipv4Addr) -> Ipv4Net {
    // The prefix is in range.
    Ipv4Net::new_assert(address, PREFIX).trunc()
}

/// This machine's address in a network: the first.
pub(super) fn gateway(network: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from_bits(network.network().to_bits() + 1)
}

/// The range of all networks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range(pub(super) Ipv4Net);

impl Range {
    /// The network with the controllers' address.
    pub(super) fn control(self) -> Ipv4Net {
        network(self.0.network())
    }

    /// Number of a network in the range.
    pub(super) fn index(self, network: Ipv4Net) -> u32 {
        network.network().to_bits().saturating_sub(self.0.network().to_bits()) >> (32 - PREFIX)
    }

    /// Chooses a network and an address for a host of the project. `places` are those of all other hosts; `others` are
    /// networks that the engine has besides.
    ///
    /// # Errors
    /// Fatal: all networks are taken.
    pub(super) fn choose(
        self,
        project: &ProjectId,
        places: &[Place],
        others: &[Ipv4Net],
    ) -> Result<Place, ComputeError> {
        let hosts = |network: Ipv4Net| places.iter().filter(move |place| place.network() == network);
        let is_own = |network: Ipv4Net| hosts(network).next().is_some_and(|place| place.project == *project);
        let own = places.iter().filter(|place| place.project == *project).map(Place::network);
        let has_room = |network: &Ipv4Net| is_own(*network) && hosts(*network).count() < MOST;
        let is_free = |network: &Ipv4Net| {
            let overlaps = |other: &Ipv4Net| other.contains(network) || network.contains(other);
            *network != self.control() && hosts(*network).next().is_none() && !others.iter().any(overlaps)
        };
        let mut all = self.0.subnets(PREFIX).into_iter().flatten();
        let Some(network) = own.into_iter().find(has_room).or_else(|| all.find(is_free)) else {
            return Err(ComputeError::Fatal(format!("every network of docker.address_range, {}, is taken", self.0)));
        };
        let first = network.network().to_bits();
        let draw = || Ipv4Addr::from_bits(first + rand::random_range(2..255));
        let is_taken = |address: &Ipv4Addr| places.iter().any(|place| place.address == *address);
        let address = std::iter::repeat_with(draw).take(TRIES).find(|address| !is_taken(address));
        let address =
            address.ok_or_else(|| ComputeError::Transient(format!("no free address of {network} was found")))?;
        Ok(Place { project: project.clone(), address })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(name: &str) -> ProjectId {
        ProjectId(name.to_owned())
    }

    #[test]
    fn each_project_has_networks_of_its_own_and_each_host_an_address() {
        let range = Range("10.9.0.0/22".parse().unwrap());
        let others = ["10.9.2.128/25".parse().unwrap(), "172.17.0.0/16".parse().unwrap()];
        let mut places = Vec::new();
        for _ in 0..MOST {
            let place = range.choose(&project("a"), &places, &others).unwrap();
            assert!(place.network() == "10.9.1.0/24".parse().unwrap() && !places.contains(&place), "{place:?}");
            assert!((2..255).contains(&place.address.octets()[3]));
            places.push(place);
        }
        places.push(range.choose(&project("b"), &places, &others).unwrap());
        assert_eq!(places.last().unwrap().network(), "10.9.3.0/24".parse().unwrap());
        assert_eq!(range.choose(&project("b"), &places, &others).unwrap().network(), "10.9.3.0/24".parse().unwrap());
        for full in ["a", "c"] {
            let error = range.choose(&project(full), &places, &others).unwrap_err();
            assert!(matches!(&error, ComputeError::Fatal(text) if text.contains("10.9.0.0/22")), "{error}");
        }
        assert_eq!(gateway(range.control()), Ipv4Addr::new(10, 9, 0, 1));
        assert_eq!(range.index("10.9.3.0/24".parse().unwrap()), 3);
    }
}
