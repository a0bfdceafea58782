//! How many are served, and how it ends.

use std::io;

use isthmus_wire::workload::X509svidRequest;
use isthmus_wire::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use spiffe::WorkloadApiError;
use tokio::io::AsyncReadExt;
use tokio_stream::StreamExt;
use tonic::Request;

use super::*;
use crate::agent::tests::gateway::LIFETIME;
use crate::unix_socket::STRANGERS_MAX;
use crate::workload_api::server::BOUNDS;

/// Reads what the server says unasked until it closes the connection.
async fn closed(mut stream: UnixStream) -> io::Result<usize> {
    let mut greeting = Vec::new();
    soon(stream.read_to_end(&mut greeting)).await
}

/// Opens connections that say nothing, and waits until each has a place: the server greets it.
async fn silent(served: &Served, count: usize) -> Vec<UnixStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = UnixStream::connect(&served.socket).await.expect("a socket");
        let mut first = [0; 1];
        soon(stream.read_exact(&mut first)).await.expect("greeted");
        streams.push(stream);
    }
    streams
}

#[tokio::test]
async fn the_connection_after_the_last_is_closed_and_a_place_that_is_left_is_given_again() {
    let federation = Federation::new("us-east");
    let (_facts, known) = watch::channel(two_members(&federation));
    let (served, _gateway) = Served::ready(&federation, known, LIFETIME).await;
    let mut streams = silent(&served, BOUNDS.per_user).await;
    let surplus = UnixStream::connect(&served.socket).await.expect("a socket");
    assert!(matches!(closed(surplus).await, Ok(0) | Err(_)), "not even greeted");

    // One leaves; when the server has noticed, there is room.
    drop(streams.pop());
    let answered = async {
        loop {
            if let Ok(svid) = served.client().await.fetch_x509_svid().await {
                return svid;
            }
        }
    };
    assert_eq!(soon(answered).await.spiffe_id().to_string(), federation.workload().to_string());
}

#[tokio::test]
async fn strangers_take_no_place_from_those_who_are_listed_and_do_not_stay() {
    let federation = Federation::new("us-east");
    let served = Served::start(&federation, ([127, 0, 0, 1], 1).into(), Callers::Uids([own_uid() + 1].into()));
    let streams = silent(&served, STRANGERS_MAX).await;
    let surplus = UnixStream::connect(&served.socket).await.expect("a socket");
    assert!(matches!(closed(surplus).await, Ok(0) | Err(_)), "not even greeted");
    for stream in streams {
        closed(stream).await.expect("closed in order");
    }
    let refused = soon(served.client().await.fetch_x509_svid()).await.expect_err("not listed");
    assert!(matches!(refused, WorkloadApiError::NoIdentityIssued), "{refused}");
}

#[tokio::test]
async fn a_connection_has_so_many_streams_and_the_next_waits_for_one_to_end() {
    let federation = Federation::new("us-east");
    let (_facts, known) = watch::channel(two_members(&federation));
    let (served, _gateway) = Served::ready(&federation, known, LIFETIME).await;
    let channel = served.channel().await;
    let fetch = || {
        let mut client = SpiffeWorkloadApiClient::new(channel.clone());
        let mut request = Request::new(X509svidRequest {});
        request.metadata_mut().insert("workload.spiffe.io", "true".parse().expect("valid"));
        async move { client.fetch_x509svid(request).await.expect("served").into_inner() }
    };
    let mut open = Vec::new();
    for _ in 0..BOUNDS.streams {
        let mut stream = soon(fetch()).await;
        assert!(soon(stream.message()).await.expect("served").is_some());
        open.push(stream);
    }
    let mut next = tokio::spawn(fetch());
    // A stream on another connection is answered meanwhile.
    soon(served.client().await.fetch_x509_svid()).await.expect("served");
    assert!(!next.is_finished());
    drop(open.pop());
    assert!(soon(soon(&mut next).await.expect("served").message()).await.expect("served").is_some());
}

#[tokio::test]
async fn shutdown_ends_streams_and_takes_the_socket_away() {
    let federation = Federation::new("us-east");
    let (_facts, known) = watch::channel(two_members(&federation));
    let (mut served, _gateway) = Served::ready(&federation, known, LIFETIME).await;
    let client = served.client().await;
    let mut svids = soon(client.stream_x509_svids()).await.expect("served");
    let mut bundles = soon(client.stream_x509_bundles()).await.expect("served");
    soon(svids.next()).await.expect("open").expect("served");
    soon(bundles.next()).await.expect("open").expect("served");
    // Some clients never say a word, and none may hold the sidecar up.
    let _silent = silent(&served, 2).await;

    served.shutdown.cancel();
    let stopping = |error: WorkloadApiError| assert!(error.to_string().contains("the sidecar is stopping"), "{error}");
    stopping(soon(svids.next()).await.expect("a last word").expect_err("the end"));
    stopping(soon(bundles.next()).await.expect("a last word").expect_err("the end"));
    assert!(soon(svids.next()).await.is_none() && soon(bundles.next()).await.is_none());
    soon(&mut served.serving).await.expect("no panic");
    assert!(!served.socket.exists());
}
