//! Where a cluster stands, and how near two places are.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::{Label, NameError};

/// `region/zone`, e.g. `us-east-1/a`. The zone is optional on input and empty places never match.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Locality {
    /// The region: a failure domain with its own power, network and people.
    pub region: Label,
    /// The zone within the region.
    pub zone: Option<Label>,
}

/// How near another cluster is, nearest first. The order is the order of failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proximity {
    /// The own cluster.
    SameCluster,
    /// Another cluster in the same zone.
    SameZone,
    /// Another zone of the same region.
    SameRegion,
    /// Another region.
    OtherRegion,
}

impl Proximity {
    /// Every level, nearest first.
    pub const ALL: [Self; 4] = [Self::SameCluster, Self::SameZone, Self::SameRegion, Self::OtherRegion];
}

impl Locality {
    /// How near another *cluster* at `other` is.
    #[must_use]
    pub fn proximity(&self, other: &Self) -> Proximity {
        if self.region != other.region {
            Proximity::OtherRegion
        } else if self.zone.is_some() && self.zone == other.zone {
            Proximity::SameZone
        } else {
            Proximity::SameRegion
        }
    }
}

impl FromStr for Locality {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once('/') {
            Some((region, zone)) => Ok(Self { region: region.parse()?, zone: Some(zone.parse()?) }),
            None => Ok(Self { region: text.parse()?, zone: None }),
        }
    }
}

impl TryFrom<String> for Locality {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Locality> for String {
    fn from(locality: Locality) -> String {
        locality.to_string()
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.zone {
            Some(zone) => write!(f, "{}/{zone}", self.region),
            None => write!(f, "{}", self.region),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearness_needs_a_known_zone() {
        let at = |text: &str| text.parse::<Locality>().expect("valid");
        assert_eq!(at("r/a").proximity(&at("r/a")), Proximity::SameZone);
        assert_eq!(at("r/a").proximity(&at("r/b")), Proximity::SameRegion);
        assert_eq!(at("r").proximity(&at("r")), Proximity::SameRegion);
        assert_eq!(at("r/a").proximity(&at("s/a")), Proximity::OtherRegion);
    }
}
