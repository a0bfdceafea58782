use super::*;

/// Of the range for documentation (RFC 3849): no interface has it.
const ROUTED: &str = "[2001:db8::1]:0";

#[tokio::test]
async fn an_ipv6_address_of_a_routed_range_can_be_bound() {
    let address: SocketAddr = ROUTED.parse().expect("valid");
    match Accepting::bind_owned(address, Owner::RoutedRange, Direction::Outbound) {
        Ok(listener) => assert_eq!(listener.local_addr().ip(), address.ip()),
        // A machine without IPv6 at all.
        Err(error) => assert_eq!(error.source.raw_os_error(), Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())),
    }
    assert!(Accepting::bind(address, Direction::Outbound).is_err(), "only for what is routed, not by mistake");
}
