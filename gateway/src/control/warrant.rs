//! Why a sidecar is believed to be a workload, and for how long: pure.

use std::collections::BTreeMap;
use std::time::SystemTime;

use isthmus_identity::{Verified, sha256};
use isthmus_model::name::ClusterName;
use isthmus_model::registry::Registry;
use isthmus_model::registry::token::TokenId;
use isthmus_model::snapshot::Site;
use isthmus_model::spiffe::{Principal, SpiffeId, WorkloadName};
use isthmus_wire::control::Hello;
use tonic::Status;

/// Which workload the processes of a user are, by user id.
pub type Users = BTreeMap<u32, WorkloadName>;

/// What a connection shows of whoever made it.
pub(super) enum Shown {
    /// Nothing: the hello has to.
    Nothing,
    /// A certificate.
    Certificate(Verified),
    /// The user: it came over the control socket.
    User(u32),
}

/// Why a stream's identity is believed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Warrant {
    /// It showed the secret of this token.
    Token(TokenId),
    /// It showed a certificate that ends then, and that somebody got with this token.
    Certificate { voucher: TokenId, not_after: SystemTime },
    /// It runs as a user that the operator made the workload's. That is known of this machine alone, so that such a
    /// certificate does not renew itself anywhere else.
    User,
}

/// The workload that a stream speaks for, and why.
pub(super) fn authenticate(
    hello: &Hello,
    shown: Shown,
    site: &Site,
    users: &Users,
    registry: &Registry,
    now: SystemTime,
) -> Result<(WorkloadName, Warrant), Status> {
    match shown {
        Shown::User(_) if !hello.token_id.is_empty() => {
            Err(Status::invalid_argument("on the control socket the user is the proof: leave the token out"))
        }
        Shown::User(uid) => {
            let workload = users.get(&uid).cloned().ok_or_else(|| {
                Status::permission_denied(format!("user {uid} is no workload: see `control_socket.workloads`"))
            })?;
            Ok((workload, Warrant::User))
        }
        _ if !hello.token_id.is_empty() => by_token(hello, site, registry, now),
        Shown::Certificate(shown) => by_certificate(&shown, site, registry, now),
        Shown::Nothing => Err(Status::unauthenticated("show a workload token or a certificate")),
    }
}

fn by_token(
    hello: &Hello,
    site: &Site,
    registry: &Registry,
    now: SystemTime,
) -> Result<(WorkloadName, Warrant), Status> {
    let id: TokenId = hello.token_id.parse().map_err(Status::invalid_argument)?;
    let hash = sha256(&hello.token_secret);
    let vouched = registry.token(&id).and_then(|token| token.vouches(&hash, &site.cluster, now.into()).cloned());
    let workload = vouched.map_err(|refusal| Status::unauthenticated(refusal.to_string()))?;
    Ok((workload, Warrant::Token(id)))
}

fn by_certificate(
    shown: &Verified,
    site: &Site,
    registry: &Registry,
    now: SystemTime,
) -> Result<(WorkloadName, Warrant), Status> {
    let SpiffeId { trust_domain, principal } = shown.id().clone();
    let (Principal::Workload(workload), true) = (principal, trust_domain == site.trust_domain()) else {
        return Err(Status::permission_denied(format!("{} is not a workload of this cluster", shown.id())));
    };
    let Some(voucher) = shown.voucher().cloned() else {
        let reason = "no token vouched for this certificate: it is renewed where it was got, over the control socket";
        return Err(Status::permission_denied(reason));
    };
    let warrant = Warrant::Certificate { voucher, not_after: shown.not_after() };
    warrant.still_holds(&site.cluster, registry, now)?;
    Ok((workload, warrant))
}

impl Warrant {
    /// The token that certificates which are signed on this warrant name.
    pub(super) fn voucher(&self) -> Option<&TokenId> {
        match self {
            Self::Token(voucher) | Self::Certificate { voucher, .. } => Some(voucher),
            Self::User => None,
        }
    }

    /// Whether the stream may go on and get further certificates. A token's expiry ends first contacts, not streams
    /// and renewals; its revocation ends all three.
    pub(super) fn still_holds(
        &self,
        cluster: &ClusterName,
        registry: &Registry,
        now: SystemTime,
    ) -> Result<(), Status> {
        if let Some(voucher) = self.voucher()
            && registry.is_withdrawn(cluster, voucher)
        {
            return Err(Status::unauthenticated(format!("the workload token {voucher} was revoked")));
        }
        match self {
            Self::Certificate { not_after, .. } if *not_after <= now => {
                Err(Status::unauthenticated("the certificate that the stream was attached with has expired"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use isthmus_identity::{
        ClusterAuthority, INTERMEDIATE_LIFETIME, PeerUsage, PrivateKey, RootAuthority, TrustBundle,
    };
    use isthmus_model::command::{Command, Entry};
    use isthmus_model::fixture;
    use isthmus_model::name::FederationDomain;
    use isthmus_model::registry::token::Grant;
    use tonic::Code;

    use super::*;

    const SECRET: &[u8] = &[7; 32];
    const HOUR: Duration = Duration::from_secs(3600);

    fn site() -> Site {
        let valid = "valid";
        Site {
            federation: "acme.mesh".parse().expect(valid),
            cluster: "us-east".parse().expect(valid),
            locality: "us-east-1/a".parse().expect(valid),
        }
    }

    fn workload() -> WorkloadName {
        "shop/reviews".parse().expect("valid")
    }

    fn token_id() -> TokenId {
        TokenId::from_random([1; 8])
    }

    /// A registry in which the token vouches for the workload.
    fn registry(now: SystemTime) -> Registry {
        let mut registry = Registry::default();
        let founder = fixture::introduction("us-east", "gw-1", "us-east-1/a", 1);
        apply(&mut registry, fixture::found(site().federation, founder), now);
        let cluster = site().cluster;
        let mint = Command::MintToken {
            id: token_id(),
            secret_hash: sha256(SECRET),
            grant: Grant::Workload { cluster, workload: workload() },
            expires_at: (now + HOUR).into(),
            gateway: "gw-1".parse().expect("valid"),
            root: fixture::root(fixture::ROOT, []).key,
        };
        apply(&mut registry, mint, now);
        registry
    }

    fn apply(registry: &mut Registry, command: Command, now: SystemTime) {
        let entry = Entry { at: now.into(), origin: site().cluster, command };
        registry.apply(&entry).expect("taken");
    }

    fn revoked(mut registry: Registry, now: SystemTime) -> Registry {
        apply(&mut registry, Command::RevokeToken { id: token_id() }, now);
        registry
    }

    /// A verified certificate of a workload of `cluster` that `voucher` vouched for.
    fn certificate(cluster: &str, voucher: Option<&TokenId>, now: SystemTime) -> Shown {
        let domain: FederationDomain = site().federation;
        let cluster: ClusterName = cluster.parse().expect("valid");
        let trust_domain = domain.trust_domain(&cluster);
        let root = RootAuthority::create(&domain, now).expect("a root");
        let (key, leaf) = (PrivateKey::generate().expect("a key"), PrivateKey::generate().expect("a key"));
        let csr = key.csr().expect("a request");
        let signed = root.sign_cluster(&csr, &trust_domain, INTERMEDIATE_LIFETIME, now).expect("signed");
        let authority = ClusterAuthority::new(key, signed).expect("matches");
        let id = SpiffeId::workload(trust_domain, workload());
        let chain = authority.sign(&leaf.csr().expect("a request"), &id, voucher, HOUR, now).expect("signed");
        let bundle = TrustBundle::new(domain, vec![root.certificate().to_vec()]).expect("a root");
        let chain: Vec<_> = chain.into_iter().map(Into::into).collect();
        Shown::Certificate(bundle.verify(&chain, PeerUsage::Client, now).expect("good"))
    }

    fn hello(token: Option<&[u8]>) -> Hello {
        let token_id = token.map(|_| token_id().to_string()).unwrap_or_default();
        let token_secret = token.unwrap_or_default().to_vec();
        Hello { token_id, token_secret, workload_address: "127.0.0.9".to_owned(), ..Hello::default() }
    }

    #[test]
    fn each_proof_is_good_for_its_own_workload_and_bad_ones_for_none() {
        let now = SystemTime::now();
        let (good, revoked) = (registry(now), revoked(registry(now), now));
        let users = Users::from([(1000, workload())]);
        let by_certificate = || certificate("us-east", Some(&token_id()), now);
        let unknown = TokenId::from_random([2; 8]);
        let (right, wrong) = (hello(Some(SECRET)), hello(Some(&[8; 32])));
        let cases = [
            ("the token", &right, Shown::Nothing, &good, None),
            ("a wrong secret", &wrong, Shown::Nothing, &good, Some(Code::Unauthenticated)),
            ("a revoked token", &right, Shown::Nothing, &revoked, Some(Code::Unauthenticated)),
            ("nothing", &hello(None), Shown::Nothing, &good, Some(Code::Unauthenticated)),
            ("the certificate", &hello(None), by_certificate(), &good, None),
            ("a certificate by a revoked token", &hello(None), by_certificate(), &revoked, Some(Code::Unauthenticated)),
            // Its record may be gone once it has expired.
            ("one by an old token", &hello(None), certificate("us-east", Some(&unknown), now), &good, None),
            (
                "one that no token got",
                &hello(None),
                certificate("us-east", None, now),
                &good,
                Some(Code::PermissionDenied),
            ),
            (
                "another cluster's",
                &hello(None),
                certificate("us-west", Some(&token_id()), now),
                &good,
                Some(Code::PermissionDenied),
            ),
            ("the user", &hello(None), Shown::User(1000), &revoked, None),
            ("another user", &hello(None), Shown::User(0), &good, Some(Code::PermissionDenied)),
            ("another user with a token", &right, Shown::User(0), &good, Some(Code::InvalidArgument)),
        ];
        for (case, hello, shown, registry, refused) in cases {
            let result = authenticate(hello, shown, &site(), &users, registry, now);
            match (result, refused) {
                (Ok((found, _)), None) => assert_eq!(found, workload(), "{case}"),
                (Err(status), Some(code)) => assert_eq!(status.code(), code, "{case}: {status}"),
                (result, _) => panic!("{case}: {result:?}"),
            }
        }
    }

    #[test]
    fn a_warrant_ends_with_its_token_and_a_certificate_also_by_itself() {
        let now = SystemTime::now();
        let (good, revoked) = (registry(now), revoked(registry(now), now));
        let token = Warrant::Token(token_id());
        let certificate = Warrant::Certificate { voucher: token_id(), not_after: now + HOUR };
        for warrant in [&token, &certificate] {
            assert_eq!(warrant.voucher(), Some(&token_id()), "whoever renews is known by the same token");
            warrant.still_holds(&site().cluster, &good, now).expect("holds");
            let status = warrant.still_holds(&site().cluster, &revoked, now).expect_err("revoked");
            assert!(status.message().contains("0101010101010101 was revoked"), "{status}");
        }
        token.still_holds(&site().cluster, &good, now + 2 * HOUR).expect("a token's expiry does not end a stream");
        certificate.still_holds(&site().cluster, &good, now + HOUR).expect_err("expired");
        Warrant::User.still_holds(&site().cluster, &revoked, now + 2 * HOUR).expect("holds");
        assert_eq!(Warrant::User.voucher(), None);
    }
}
