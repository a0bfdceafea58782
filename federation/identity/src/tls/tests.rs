//! Whole handshakes in memory, each side as the processes of a federation have it.

use std::io;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, NamedGroup, ServerConnection};

use super::*;
use crate::error::VerifyError;
use crate::fixture::{Federation, HOUR, federation_domain, id};
use isthmus_model::registry::token::Digest;

const EAST: &str = "spiffe://us-east.acme.mesh/ns/shop/sa/reviews";
const WEST: &str = "spiffe://us-west.acme.mesh/gateway/gw-1";
const H2: &[&[u8]] = &[b"h2"];

/// What became of a handshake: both connections, or the first error on either side.
#[derive(Debug)]
struct Failed {
    client: Option<rustls::Error>,
    server: Option<rustls::Error>,
}

fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), Box<Failed>> {
    let name = ServerName::try_from("gateway.us-east.acme.mesh").expect("valid");
    let mut client = ClientConnection::new(client, name).expect("configured");
    let mut server = ServerConnection::new(server).expect("configured");
    let mut failed = Failed { client: None, server: None };
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("memory");
        server.read_tls(&mut bytes.as_slice()).expect("memory");
        if let Err(error) = server.process_new_packets() {
            failed.server.get_or_insert(error);
        }
        let mut bytes = Vec::new();
        server.write_tls(&mut bytes).expect("memory");
        client.read_tls(&mut bytes.as_slice()).expect("memory");
        if let Err(error) = client.process_new_packets() {
            failed.client.get_or_insert(error);
        }
    }
    if failed.client.is_some() || failed.server.is_some() {
        return Err(Box::new(failed));
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn anyone() -> Expected {
    Arc::new(|_| true)
}

fn only(identity: &str) -> Expected {
    let identity = id(identity);
    Arc::new(move |peer| *peer == identity)
}

fn verdict(error: Option<&rustls::Error>) -> VerifyError {
    let error = error.expect("this side should have failed");
    VerifyError::find_in(error).unwrap_or_else(|| panic!("no verdict in {error:?}")).clone()
}

#[test]
fn two_members_of_a_federation_know_each_other() {
    let federation = Federation::found();
    let (east, west) = (federation.live(EAST), federation.live(WEST));
    let server = east.server_config(ClientAuth::Required, H2);
    let client = west.client_config(only(EAST), H2);
    let (client, server) = handshake(client, server).expect("genuine");

    assert_eq!(west.peer(&client).expect("verified").id(), &id(EAST));
    assert_eq!(east.peer(&server).expect("verified").id(), &id(WEST));
    assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let group = client.negotiated_key_exchange_group().expect("negotiated").name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
}

#[test]
fn a_peer_of_another_root_is_refused_by_either_side() {
    let (ours, theirs) = (Federation::found(), Federation::found());
    let (east, stranger) = (ours.live(EAST), theirs.live(WEST));
    let unknown = VerifyError::UnknownRoot(federation_domain());

    let failed = handshake(stranger.client_config(anyone(), H2), east.server_config(ClientAuth::Required, H2));
    assert_eq!(verdict(failed.expect_err("refused").client.as_ref()), unknown);

    // A client that trusts both still has to show credentials that the server trusts.
    stranger.set_trust(ours.bundle());
    for client_auth in [ClientAuth::Required, ClientAuth::Optional] {
        let failed = handshake(stranger.client_config(anyone(), H2), east.server_config(client_auth, H2));
        assert_eq!(verdict(failed.expect_err("refused").server.as_ref()), unknown);
    }
}

#[test]
fn a_member_that_was_not_called_is_refused() {
    let federation = Federation::found();
    let (east, west) = (federation.live(EAST), federation.live(WEST));
    let client = west.client_config(only("spiffe://us-east.acme.mesh/ns/shop/sa/ratings"), H2);
    let failed = handshake(client, east.server_config(ClientAuth::Required, H2)).expect_err("refused");
    assert_eq!(verdict(failed.client.as_ref()), VerifyError::Unexpected(id(EAST)));
}

#[test]
fn a_client_without_a_certificate_passes_only_where_that_is_allowed() {
    let federation = Federation::found();
    let east = federation.live(EAST);
    let newcomer = LiveIdentity::new();
    newcomer.set_trust(federation.bundle());
    let client = newcomer.client_config(only(EAST), H2);

    let failed = handshake(client.clone(), east.server_config(ClientAuth::Required, H2)).expect_err("refused");
    assert_eq!(failed.server, Some(rustls::Error::NoCertificatesPresented));
    for client_auth in [ClientAuth::Optional, ClientAuth::None] {
        let (_, server) = handshake(client.clone(), east.server_config(client_auth, H2)).expect("allowed");
        assert!(east.peer(&server).is_none());
    }
}

#[test]
fn without_credentials_or_roots_nothing_works_and_the_error_says_so() {
    let federation = Federation::found();
    let (east, empty) = (federation.live(EAST), LiveIdentity::new());
    assert_eq!((empty.id(), empty.lifetime(), empty.trust().is_none()), (None, None, true));

    let failed = handshake(empty.client_config(anyone(), H2), east.server_config(ClientAuth::Optional, H2));
    assert_eq!(verdict(failed.expect_err("refused").client.as_ref()), VerifyError::NoTrust);
    let failed = handshake(east.client_config(anyone(), H2), empty.server_config(ClientAuth::Optional, H2));
    assert!(failed.expect_err("refused").server.is_some());
}

#[test]
fn credentials_and_roots_are_swapped_under_living_configurations() {
    let (old, new) = (Federation::found(), Federation::found());
    let (east, west) = (old.live(EAST), old.live(WEST));
    let server = east.server_config(ClientAuth::Required, H2);
    let client = west.client_config(anyone(), H2);
    let (before_client, before_server) = handshake(client.clone(), server.clone()).expect("genuine");

    // The server moves to another identity: the next handshake shows it.
    renew(&east, &old, "spiffe://us-east.acme.mesh/ns/shop/sa/ratings");
    let (after, _) = handshake(client.clone(), server.clone()).expect("genuine");
    assert_eq!(west.peer(&after).expect("verified").id().to_string(), "spiffe://us-east.acme.mesh/ns/shop/sa/ratings");

    // The server's side gives up the old root: nothing that hangs on it is admitted any more, no
    // session is resumed around the decision, and connections that stand lose their identity.
    east.set_trust(new.bundle());
    assert!(handshake(client.clone(), server.clone()).is_err());
    assert!(east.peer(&before_server).is_none());
    assert_eq!(west.peer(&before_client).expect("west still trusts it").id(), &id(EAST));

    // Both arrive at the new root, with the configurations of the beginning.
    renew(&east, &new, EAST);
    renew(&west, &new, WEST);
    west.set_trust(new.bundle());
    let (client, server) = handshake(client, server).expect("genuine");
    assert!(west.peer(&client).is_some() && east.peer(&server).is_some());
}

#[test]
fn sessions_are_not_resumed() {
    let federation = Federation::found();
    let (east, west) = (federation.live(EAST), federation.live(WEST));
    let (server, client) = (east.server_config(ClientAuth::Required, H2), west.client_config(anyone(), H2));
    for _ in 0..2 {
        let (client, _) = handshake(client.clone(), server.clone()).expect("genuine");
        assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn credentials_that_do_not_fit_leave_the_old_ones_in_place() {
    let federation = Federation::found();
    let east = federation.live(EAST);
    let other = PrivateKey::generate().expect("generated");
    let reviews = id("spiffe://us-west.acme.mesh/ns/shop/sa/reviews");
    let (key, chain) = federation.credentials(&reviews);
    let refused = east.set_credentials(chain.clone(), other);
    assert!(matches!(refused, Err(IdentityError::KeyMismatch)), "{refused:?}");
    for chain in [vec![], chain[..1].to_vec(), vec![chain[0].clone(); 2], vec![chain[0].clone(), vec![1]]] {
        let refused = east.set_credentials(chain, key.clone());
        assert!(matches!(refused, Err(IdentityError::Certificate { .. })), "{refused:?}");
    }
    assert_eq!(east.id(), Some(id(EAST)));
    assert!(format!("{east:?}").contains(EAST));
}

// ---- First contact ----

#[test]
fn a_newcomer_recognises_the_root_of_its_token() {
    let federation = Federation::found();
    let west = federation.live(WEST);
    let server = west.server_config(ClientAuth::Optional, H2);
    let pinned = |root, expected| pinned_client_config(root, federation_domain(), expected, None, H2);
    handshake(pinned(federation.root.digest(), only(WEST)), server.clone()).expect("the token's federation");

    let failed = handshake(pinned(Digest([7; 32]), anyone()), server.clone()).expect_err("refused");
    let refused = verdict(failed.client.as_ref());
    assert_eq!(refused, VerifyError::RootMismatch);
    assert!(refused.to_string().contains("root does not match the token"));

    let failed = handshake(pinned(federation.root.digest(), only(EAST)), server).expect_err("refused");
    assert_eq!(verdict(failed.client.as_ref()), VerifyError::Unexpected(id(WEST)));
}

#[test]
fn first_contact_with_another_federation_of_the_same_root_is_refused() {
    let federation = Federation::found();
    let server = federation.live(WEST).server_config(ClientAuth::Optional, H2);
    let elsewhere = "other.mesh".parse().expect("valid");
    let client = pinned_client_config(federation.root.digest(), elsewhere, anyone(), None, H2);
    let failed = handshake(client, server).expect_err("refused");
    assert!(matches!(verdict(failed.client.as_ref()), VerifyError::OtherFederation { .. }));
}

#[test]
fn only_a_root_can_be_pinned() {
    let federation = Federation::found();
    let west = federation.live(WEST);
    let certified = west.state().server.clone().expect("credentials");
    assert_eq!(certified.cert.len(), 2, "servers show their root");
    for presented in &certified.cert[..1] {
        let digest = crate::certificate_key_digest(presented).expect("a certificate");
        let client = pinned_client_config(digest, federation_domain(), anyone(), None, H2);
        let failed = handshake(client, west.server_config(ClientAuth::Optional, H2)).expect_err("refused");
        assert_eq!(verdict(failed.client.as_ref()), VerifyError::RootMismatch);
    }
}

#[test]
fn first_contact_shows_credentials_when_there_are_some() {
    let federation = Federation::found();
    let (east, west) = (federation.live(EAST), federation.live(WEST));
    let client = pinned_client_config(federation.root.digest(), federation_domain(), only(WEST), Some(&east), H2);
    let (_, server) = handshake(client, west.server_config(ClientAuth::Required, H2)).expect("genuine");
    assert_eq!(west.peer(&server).expect("verified").id(), &id(EAST));
}

#[test]
fn the_verdict_is_found_through_layers_of_wrapping() {
    #[derive(Debug, thiserror::Error)]
    #[error("transport")]
    struct Transport(#[source] io::Error);

    let tls = rustls::Error::from(VerifyError::RootMismatch);
    let wrapped = Transport(io::Error::other(io::Error::new(io::ErrorKind::InvalidData, tls)));
    assert_eq!(VerifyError::find_in(&wrapped), Some(&VerifyError::RootMismatch));
    assert_eq!(VerifyError::find_in(&io::Error::other("refused")), None);
    assert_eq!(VerifyError::find_in(&rustls::Error::DecryptError), None);
}

fn renew(live: &LiveIdentity, federation: &Federation, identity: &str) {
    let (key, chain) = federation.credentials(&id(identity));
    live.set_credentials(chain, key).expect("credentials");
}

#[test]
fn an_exported_svid_is_the_current_certificate_with_the_key_that_signs_for_it() {
    assert!(LiveIdentity::new().export_svid().is_none(), "nothing to export yet");
    let federation = Federation::found();
    let (live, now) = (federation.live(EAST), std::time::SystemTime::now());
    let exported = live.export_svid().expect("credentials");
    assert_eq!(exported.id(), &id(EAST));
    assert!(exported.is_same_as(&live.export_svid().expect("credentials")));
    assert!(!format!("{exported:?}").contains("key"));

    // What was exported serves another process as it served this one.
    let key = PrivateKey::from_pkcs8(&exported.private_key()).expect("a key");
    let elsewhere = LiveIdentity::new();
    elsewhere.set_trust(federation.bundle());
    elsewhere.set_credentials(exported.chain().map(<[u8]>::to_vec).collect(), key).expect("they belong together");
    let (server, client) = (live.server_config(ClientAuth::Required, H2), elsewhere.client_config(only(EAST), H2));
    handshake(client, server).expect("genuine");

    // Another issuance for the same identity is not the same.
    let (cluster, key) = (federation.cluster("us-east"), PrivateKey::generate().expect("generated"));
    let chain = cluster.sign(&key.csr().expect("requested"), &id(EAST), None, HOUR, now).expect("signed");
    live.set_credentials(chain, key).expect("credentials");
    let renewed = live.export_svid().expect("credentials");
    assert!(!renewed.is_same_as(&exported) && renewed.private_key() != exported.private_key());
}
