//! Source of a connection.

use std::net::IpAddr;

use axum::http::HeaderMap;
use ipnet::Ipv6Net;

/// What counts as one client for limits: an IPv4 address, or an IPv6 /64, which is usually one customer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

impl Source {
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Net::new_assert(address, 64).network().into(),
            address @ IpAddr::V4(_) => address,
        })
    }
}

/// The source that a proxy names, which is the last entry of `X-Forwarded-For`, since the proxy itself appends that
/// one. Without such an entry, the proxy itself.
pub fn behind_proxy(headers: &HeaderMap, proxy: Source) -> Source {
    let last = headers.get_all("x-forwarded-for").iter().next_back();
    let last = last.and_then(|value| value.to_str().ok()?.rsplit(',').next());
    last.and_then(|text| text.trim().parse().ok()).map_or(proxy, Source::of)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    #[test]
    fn a_source_is_an_address_or_a_network_of_one_customer() {
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff::9"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
    }

    #[test]
    fn a_proxy_names_the_source_in_what_it_wrote_itself() {
        let proxy = source("192.0.2.9");
        let headers = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-forwarded-for", value.parse().unwrap());
            }
            behind_proxy(&headers, proxy)
        };
        assert_eq!(headers(&[]), proxy);
        assert_eq!(headers(&["203.0.113.7"]), source("203.0.113.7"));
        assert_eq!(headers(&["198.51.100.1, 203.0.113.7"]), source("203.0.113.7"));
        assert_eq!(headers(&["198.51.100.1", "203.0.113.7"]), source("203.0.113.7"));
        assert_eq!(headers(&["nonsense"]), proxy);
    }
}
