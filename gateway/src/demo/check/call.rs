//! Calls to the bookshop, and what their answers have to say.

use std::net::SocketAddr;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::demo::http;
use crate::demo::layout::{Service, authority};

/// Calls `service` through the forward proxy at `proxy`.
///
/// # Errors
/// When the answer is not a success.
pub(super) async fn through(proxy: SocketAddr, service: &Service) -> anyhow::Result<Value> {
    let authority = authority(service);
    http::get(proxy, &authority, &format!("http://{authority}/")).await?.json()
}

/// Calls `service` at `address`, without any proxy.
///
/// # Errors
/// When the answer is not a success.
pub(super) async fn directly(address: SocketAddr, service: &Service) -> anyhow::Result<Value> {
    http::get(address, &authority(service), "/").await?.json()
}

/// The cluster that answers a call of `service` through `proxy`.
///
/// # Errors
/// When the answer is not a success.
pub(super) async fn cluster(proxy: SocketAddr, service: &Service) -> anyhow::Result<String> {
    text(&through(proxy, service).await?, "/cluster")
}

/// A text in an answer, by JSON pointer (RFC 6901).
///
/// # Errors
/// When the answer does not have it.
pub(super) fn text(answer: &Value, pointer: &str) -> anyhow::Result<String> {
    let found = answer.pointer(pointer).and_then(Value::as_str);
    found.map(str::to_owned).with_context(|| format!("the answer has no {pointer}: {answer}"))
}

/// That every service that `service` calls answered, and those that these call, with its caller's identity.
///
/// # Errors
/// Where the tree is broken.
pub(super) fn ensure_whole(answer: &Value) -> anyhow::Result<()> {
    let service = text(answer, "/service")?;
    let Some(calls) = answer["calls"].as_object() else { bail!("{service} does not tell its calls: {answer}") };
    for (name, called) in calls {
        if let Some(error) = called["error"].as_str() {
            bail!("{service} could not call {name}: {error}");
        }
        let cluster = text(answer, "/cluster")?;
        let (caller, expected) = (text(called, "/caller")?, format!("/ns/shop/sa/{service}"));
        ensure!(
            caller.ends_with(&expected) && caller.contains(&cluster),
            "{name} was called by {caller}, not {service}"
        );
        ensure_whole(called)?;
    }
    Ok(())
}

/// Talks to a greeter: it speaks first, then repeats. Returns the greeting.
///
/// # Errors
/// When it does anything else.
pub(super) async fn greet(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> anyhow::Result<String> {
    const SAID: &[u8] = b"how do you do\n";
    let mut greeting = Vec::new();
    while greeting.last() != Some(&b'\n') {
        greeting.push(stream.read_u8().await.context("the greeter hung up")?);
        ensure!(greeting.len() < 256, "the greeter does not stop");
    }
    stream.write_all(SAID).await?;
    let mut heard = [0; SAID.len()];
    stream.read_exact(&mut heard).await.context("the greeter does not repeat")?;
    ensure!(heard == SAID, "the greeter repeats something else");
    Ok(String::from_utf8_lossy(&greeting).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tree_is_whole_when_every_call_was_answered_to_the_right_caller() {
        let tree = |caller: &str| {
            let ratings = json!({ "cluster": "us-west", "service": "ratings", "caller": caller, "calls": {} });
            json!({ "cluster": "us-east", "service": "reviews", "caller": null, "calls": { "ratings": ratings } })
        };
        ensure_whole(&tree("spiffe://us-east.acme.mesh/ns/shop/sa/reviews")).expect("whole");
        assert!(ensure_whole(&tree("spiffe://us-east.acme.mesh/ns/shop/sa/details")).is_err());
        assert!(ensure_whole(&tree("spiffe://us-west.acme.mesh/ns/shop/sa/reviews")).is_err());
        let broken = json!({ "cluster": "us-east", "service": "reviews", "calls": { "ratings": { "error": "503" } } });
        assert_eq!(ensure_whole(&broken).expect_err("broken").to_string(), "reviews could not call ratings: 503");
    }

    #[tokio::test]
    async fn a_greeter_greets_and_repeats() {
        let (client, mut server) = tokio::io::duplex(64);
        let greeter = async {
            server.write_all(b"hello from us-west/greeter\n").await?;
            let mut said = [0; 14];
            server.read_exact(&mut said).await?;
            server.write_all(&said).await
        };
        let (greeting, served) = tokio::join!(greet(client), greeter);
        served.expect("served");
        assert_eq!(greeting.expect("polite"), "hello from us-west/greeter");
    }
}
