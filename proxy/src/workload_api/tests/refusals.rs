//! Calls that are not served, and in which words.

use std::os::unix::fs::PermissionsExt;

use bytes::Bytes;
use http_body_util::Full;
use isthmus_wire::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use isthmus_wire::workload::{X509BundlesRequest, X509svidRequest};
use spiffe::WorkloadApiError;
use tonic::body::Body;
use tonic::{Code, Request};
use tower::{Service, ServiceExt};

use super::*;
use crate::agent::tests::gateway::LIFETIME;
use crate::unix_socket::BindError;

/// A gateway that is not there.
fn nowhere() -> SocketAddr {
    ([127, 0, 0, 1], 1).into()
}

fn marked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().expect("valid"));
    request
}

/// Calls `method` with raw bytes for the body, and returns the gRPC status.
async fn status(channel: &mut Channel, method: &str, body: &'static [u8]) -> Code {
    let request = http::Request::post(format!("http://workload/SpiffeWorkloadAPI/{method}"))
        .header("content-type", "application/grpc")
        .header("workload.spiffe.io", "true")
        .body(Body::new(Full::new(Bytes::from_static(body))))
        .expect("valid");
    let response = soon(channel.ready().await.expect("connected").call(request)).await.expect("answered");
    Code::from_bytes(response.headers().get("grpc-status").expect("refused").as_bytes())
}

#[tokio::test]
async fn a_call_without_the_security_header_is_refused() {
    let federation = Federation::new("us-east");
    let (_facts, known) = watch::channel(two_members(&federation));
    let (served, _gateway) = Served::ready(&federation, known, LIFETIME).await;
    let mut client = SpiffeWorkloadApiClient::new(served.channel().await);
    let refused = soon(client.fetch_x509svid(X509svidRequest {})).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let refused = soon(client.fetch_x509_bundles(X509BundlesRequest {})).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    // The same connection serves what is well-formed.
    soon(client.fetch_x509svid(marked(X509svidRequest {}))).await.expect("served");
}

#[tokio::test]
async fn users_get_what_they_are_listed_for() {
    let federation = Federation::new("us-east");
    let (_facts, known) = watch::channel(two_members(&federation));
    let gateway = FakeGateway::start(&federation, known, LIFETIME).await;
    let with_callers = |callers| Served::start(&federation, gateway.address, callers);
    let mode = |served: &Served| std::fs::metadata(&served.socket).expect("there").permissions().mode() & 0o7777;

    let others = with_callers(Callers::Uids([own_uid() + 1].into()));
    soon(others.agent.ready()).await;
    assert_eq!(mode(&others), 0o666, "anyone may ask");
    let client = others.client().await;
    let svid = soon(client.fetch_x509_svid()).await.expect_err("another's");
    assert!(matches!(svid, WorkloadApiError::NoIdentityIssued), "{svid}");
    let bundles = soon(client.fetch_x509_bundles()).await.expect_err("another's");
    assert!(matches!(bundles, WorkloadApiError::NoIdentityIssued), "{bundles}");

    let ours = with_callers(Callers::Uids([own_uid(), own_uid() + 1].into()));
    soon(ours.agent.ready()).await;
    soon(ours.client().await.fetch_x509_svid()).await.expect("listed");

    let owner = with_callers(Callers::Owner);
    soon(owner.agent.ready()).await;
    assert_eq!(mode(&owner), 0o600, "nobody else can connect");
    soon(owner.client().await.fetch_x509_svid()).await.expect("the own user");
}

#[tokio::test]
async fn before_there_is_an_identity_clients_are_told_to_come_again() {
    let federation = Federation::new("us-east");
    let served = Served::start(&federation, nowhere(), Callers::Owner);
    soon(served.agent.state.clone().wait_for(|state| state.problem.is_some())).await.expect("the agent lives");
    let mut client = SpiffeWorkloadApiClient::new(served.channel().await);
    let svid = soon(client.fetch_x509svid(marked(X509svidRequest {}))).await.expect_err("none yet");
    let bundles = soon(client.fetch_x509_bundles(marked(X509BundlesRequest {}))).await.expect_err("none yet");
    for refused in [svid, bundles] {
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(refused.message().starts_with("no identity yet: 127.0.0.1:1: cannot connect"), "{refused}");
    }
}

#[tokio::test]
async fn what_is_not_offered_or_not_grpc_is_refused_and_the_connection_goes_on() {
    let federation = Federation::new("us-east");
    let (_facts, known) = watch::channel(two_members(&federation));
    let (served, _gateway) = Served::ready(&federation, known, LIFETIME).await;
    let mut channel = served.channel().await;
    const EMPTY: &[u8] = &[0; 5];
    for method in ["FetchJWTSVID", "FetchJWTBundles", "ValidateJWTSVID", "fetchx509svid"] {
        assert_eq!(status(&mut channel, method, EMPTY).await, Code::Unimplemented, "{method}");
    }
    // A message of 4 GiB, by its own account.
    assert_eq!(status(&mut channel, "FetchX509SVID", &[0, 0xff, 0xff, 0xff, 0xff]).await, Code::OutOfRange);
    // A compressed one, and no message at all.
    assert_eq!(status(&mut channel, "FetchX509SVID", &[1, 0, 0, 0, 0]).await, Code::Internal);
    assert_eq!(status(&mut channel, "FetchX509SVID", &[]).await, Code::Internal);
    let mut client = SpiffeWorkloadApiClient::new(channel);
    soon(client.fetch_x509svid(marked(X509svidRequest {}))).await.expect("served");
}

#[tokio::test]
async fn a_socket_that_answers_is_not_taken_from_its_owner() {
    let federation = Federation::new("us-east");
    let served = Served::start(&federation, nowhere(), Callers::Owner);
    let bind = |socket: PathBuf| {
        WorkloadApi::bind(WorkloadApiConfig { socket, callers: Callers::Owner }, served.agent.clone())
    };
    let taken = bind(served.socket.clone()).expect_err("taken");
    assert!(matches!(&taken, BindError::Taken(path) if *path == served.socket), "{taken}");
    let missing = bind(served.socket.with_file_name("missing/workload.sock")).expect_err("no directory");
    assert!(missing.to_string().contains("does its directory exist"), "{missing}");
}
