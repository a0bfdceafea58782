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

/// An address that is taken, and by whom.
fn taken() -> (SocketAddr, std::net::TcpListener) {
    let predecessor = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    (predecessor.local_addr().expect("bound"), predecessor)
}

#[tokio::test(start_paused = true)]
async fn a_restart_right_after_a_kill_waits_for_the_predecessor() {
    let (address, predecessor) = taken();
    let mut predecessor = Some(predecessor);
    let mut tries = 0;
    let bound = patiently(async || {
        tries += 1;
        if tries == 3 {
            predecessor.take();
        }
        Accepting::bind(address, Direction::Inbound)
    })
    .await;
    assert_eq!((bound.expect("free by now").local_addr(), tries), (address, 3));
}

#[tokio::test(start_paused = true)]
async fn an_address_that_stays_taken_is_an_error_in_the_end() {
    let (address, _other) = taken();
    let begun = Instant::now();
    let error = patiently(async || Accepting::bind(address, Direction::Inbound)).await.expect_err("taken");
    assert!(error.to_string().contains("the port is free"), "{error}");
    assert!(begun.elapsed() >= PREDECESSOR_PATIENCE);
    let begun = Instant::now();
    patiently(async || Accepting::bind("192.0.2.1:0".parse().expect("valid"), Direction::Inbound))
        .await
        .expect_err("not the machine's");
    assert_eq!(begun.elapsed(), Duration::ZERO, "waiting does not help");
}

#[tokio::test]
async fn connections_are_accepted_without_nagles_delay() {
    let listener = Accepting::bind("127.0.0.1:0".parse().expect("valid"), Direction::Inbound).expect("a free port");
    let _client = TcpStream::connect(listener.local_addr()).await.expect("connected");
    let (metrics, shutdown) =
        (Metrics::register(&mut prometheus_client::registry::Registry::default()), CancellationToken::new());
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let stop = shutdown.clone();
    let handle = |accepted: Accepted| {
        let (tell, stop) = (tell.clone(), stop.clone());
        async move {
            tell.send(accepted.stream.nodelay()).expect("heard");
            stop.cancel();
        }
    };
    listener.run(&metrics, shutdown, handle).await;
    assert!(told.recv().await.expect("accepted").expect("an open socket"), "its listener's option is its own");
}
