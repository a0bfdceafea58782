//! The server name of a ClientHello, as the gateway reads it to route by it: the same that the TLS library reads which ends
//! the session.

use std::io::Read;

use bolero::check;
use isthmus_proxy::opening::{CLIENT_HELLO_MAX, Malformed, Progress, sni};
use tokio_rustls::rustls::server::Acceptor;

use crate::bends::{Bends, corpus};
use crate::prefixes::{Answer, agree};

fn read(bytes: &[u8]) -> Answer<Progress, Malformed> {
    match sni(bytes) {
        Ok(Progress::NeedMore(total)) => Answer::NeedMore(total),
        other => Answer::Final(other),
    }
}

/// The name that rustls finds in a ClientHello that it would go on with.
fn by_rustls(mut bytes: &[u8]) -> Option<Option<String>> {
    let mut acceptor = Acceptor::default();
    while let Ok(1..) = acceptor.read_tls(&mut Read::by_ref(&mut bytes)) {
        if let Some(accepted) = acceptor.accept().ok()? {
            return Some(accepted.client_hello().server_name().map(str::to_ascii_lowercase));
        }
    }
    None
}

fn holds(bytes: &[u8]) {
    agree(bytes, read);
    match sni(bytes) {
        Ok(Progress::NeedMore(total)) => assert!(total <= CLIENT_HELLO_MAX),
        Ok(Progress::Sni(name)) => {
            assert_eq!(name, name.to_ascii_lowercase());
            assert!(by_rustls(bytes).is_none_or(|other| other.as_ref() == Some(&name)), "{name} here");
        }
        Ok(Progress::NoSni) => assert!(by_rustls(bytes).is_none_or(|other| other.is_none()), "none here"),
        Err(_) => {}
    }
}

#[test]
fn bytes() {
    check!(name = "client_hello").with_iterations(2_000).for_each(holds);
}

#[test]
fn bent() {
    let seeds = corpus("client_hello");
    check!().with_iterations(4_000).with_type::<Bends>().for_each(|bends| holds(&bends.of(&seeds)));
}

#[test]
fn most_of_the_corpus_is_read_by_both() {
    let both = |bytes: &Vec<u8>| matches!(sni(bytes), Ok(Progress::Sni(_))) && by_rustls(bytes).flatten().is_some();
    let seeds = corpus("client_hello");
    assert!(2 * seeds.iter().filter(|seed| both(seed)).count() > seeds.len());
}
