//! How a service is treated is its own: what one service's policy says holds for it at once, and for no other.

#![allow(missing_docs)]

mod federation;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use federation::{
    ANY_PORT, Federation, HTTP, Outbound, SERVICE, counting_app, echo, endpoint, exchange, reviews, status,
};
use isthmus_model::name::ServiceName;
use isthmus_model::snapshot::{Service, Snapshot};
use isthmus_model::traffic::{Ejection, Limits, TrafficPolicy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const OTHER: &str = "shop/ratings";

/// An application that is unwell.
async fn failing_app() -> SocketAddr {
    let listener = TcpListener::bind(ANY_PORT).await.expect("bound");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n").await;
                }
            });
        }
    });
    address
}

/// A client of two services that both run at `apps`, without sidecars.
async fn client(federation: &Federation, apps: &[SocketAddr]) -> Outbound {
    let tcp = echo().await;
    let endpoints: Vec<_> = apps.iter().map(|app| endpoint(SERVICE, *app, tcp, None)).collect();
    let service = reviews(endpoints, vec![]);
    let other = Service { name: OTHER.parse().expect("valid"), ..service.clone() };
    let outbound = federation.outbound("us-east", service).await;
    outbound.view.send_modify(|view| view_with(view, other));
    outbound
}

fn view_with(view: &mut Arc<Snapshot>, service: Service) {
    *view = Arc::new(Snapshot::clone(view).with([service]));
}

fn treat(outbound: &Outbound, service: &str, traffic: TrafficPolicy) {
    let name: ServiceName = service.parse().expect("valid");
    outbound.view.send_modify(|view| {
        let known = Service::clone(&view.services[&name]);
        view_with(view, Service { traffic: Arc::new(traffic), ..known });
    });
}

async fn get(outbound: SocketAddr, service: &str, path: &str) -> String {
    let host = service.parse::<ServiceName>().expect("valid").host();
    let target = format!("{host}:{HTTP}");
    let text = format!("GET http://{target}{path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    exchange(outbound, &text).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_for_its_service_and_as_long_as_it_says_so() {
    let federation = Federation::found(&["us-east"]);
    let (app, mut begun) = counting_app("app").await;
    let client = client(&federation, &[app]).await;
    let one = Limits { requests: 1, ..Limits::default() };
    treat(&client, SERVICE, TrafficPolicy { limits: one, ..TrafficPolicy::default() });

    let address = client.address;
    for (service, expected) in [(SERVICE, "503"), (OTHER, "200")] {
        let before = *begun.borrow();
        let slow = tokio::spawn(async move { get(address, service, "/slow").await });
        begun.wait_for(|count| *count > before).await.expect("begun");
        let second = get(address, service, "/").await;
        assert_eq!(status(&second), expected, "{service}: {second}");
        assert_eq!(second.contains("1 requests to this service are under way"), expected == "503", "{second}");
        assert_eq!(status(&slow.await.expect("joined")), "200");
    }

    // What is under way already does not keep the old limit.
    let before = *begun.borrow();
    let slow = tokio::spawn(async move { get(address, SERVICE, "/slow").await });
    begun.wait_for(|count| *count > before).await.expect("begun");
    treat(&client, SERVICE, TrafficPolicy::default());
    assert_eq!(status(&get(address, SERVICE, "/").await), "200");
    assert_eq!(status(&slow.await.expect("joined")), "200");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_left_out_as_soon_as_its_service_says_so() {
    let federation = Federation::found(&["us-east"]);
    let apps = [failing_app().await, counting_app("app").await.0];
    let client = client(&federation, &apps).await;
    // For longer than this test takes.
    let (first, longest) = (Duration::from_secs(600), Duration::from_secs(600));
    let ejection = Ejection { unwell: 1, first, longest, ..Ejection::default() };
    treat(&client, SERVICE, TrafficPolicy { ejection, ..TrafficPolicy::default() });

    let mut failed = [0, 0];
    for _ in 0..60 {
        for (service, failed) in [SERVICE, OTHER].into_iter().zip(&mut failed) {
            *failed += usize::from(status(&get(client.address, service, "/").await) == "500");
        }
    }
    let [strict, usual] = failed;
    assert_eq!(strict, 1, "one failure is enough");
    assert!(usual >= usize::try_from(Ejection::default().unwell).expect("small"), "{usual}");
}
