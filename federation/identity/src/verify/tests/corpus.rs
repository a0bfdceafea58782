//! The classes of certificates by which X.509 libraries are compared (as in the x509-limbo corpus), generated: a good
//! chain with one thing changed, and the verdict on it. A case that comes out differently fails, whichever way.
//!
//! Where RFC 5280 tells issuers what to do but leaves verifiers free, the verdict here is what webpki does, and the
//! case says why that is safe: names, keys and signatures decide, and these are ours.
//!
//! Classes that do not apply:
//! - matching of DNS names and IP addresses, wildcards, common names: a peer is known by its SPIFFE ID alone
//!   ([`names`](super::names) has the constraint on DNS names);
//! - revocation lists and OCSP: the registry's denylist takes their place;
//! - the web's own rules (CA/Browser Forum baseline: lifetimes, key sizes, policies, transparency) and RSA's
//!   parameters: no authority of a federation is the web's, and RSA signs nothing ([`fixtures`](super::fixtures));
//! - certificate policies: none are issued, and an unknown critical extension is refused.

mod issuer;
mod leaf;
mod path;

use super::forge::{self, Draft, EAST_KEY, NOW, ROOT_KEY};
use super::*;

/// A root, an intermediate and a leaf, to be changed before they are signed, and what is shown of them.
struct Chain {
    root: Draft,
    east: Draft,
    leaf: Draft,
    usage: PeerUsage,
    /// Seconds from the usual moment.
    late: i64,
}

impl Chain {
    fn good() -> Self {
        let (root, east, leaf) = (forge::root(), forge::east(), forge::leaf());
        Self { root, east, leaf, usage: PeerUsage::Client, late: 0 }
    }

    fn shown(&self) -> Vec<CertificateDer<'static>> {
        vec![self.leaf.sign(&EAST_KEY), self.east.sign(&ROOT_KEY)]
    }

    fn bundle(&self) -> Result<TrustBundle, IdentityError> {
        TrustBundle::new(federation_domain(), vec![self.root.sign(&ROOT_KEY).to_vec()])
    }

    fn judge(&self, shown: &[CertificateDer<'_>]) -> Verdict {
        let now = UNIX_EPOCH + Duration::from_secs(NOW.saturating_add_signed(self.late));
        let bundle = self.bundle().expect("a root");
        bundle.verify(shown, self.usage, now).map(|_| ())
    }
}

type Verdict = Result<(), VerifyError>;
/// What it is, what is changed, and what comes of it.
type Case = (&'static str, fn(&mut Chain), Verdict);

const fn malformed(why: &'static str) -> Verdict {
    Err(VerifyError::Malformed(why))
}

const fn refused(why: webpki::Error) -> Verdict {
    Err(VerifyError::Chain(why))
}

fn unknown_root() -> Verdict {
    Err(VerifyError::UnknownRoot(federation_domain()))
}

/// Judges every case, and fails with all that deviate.
fn run(cases: Vec<Case>) {
    let judge = |(what, change, expected): Case| {
        let mut chain = Chain::good();
        change(&mut chain);
        let verdict = chain.judge(&chain.shown());
        (verdict != expected).then(|| format!("{what}: {verdict:?} instead of {expected:?}"))
    };
    let deviations: Vec<_> = cases.into_iter().filter_map(judge).collect();
    assert!(deviations.is_empty(), "{deviations:#?}");
}

#[test]
fn the_unchanged_chain_is_good() {
    run(vec![("unchanged", |_| {}, Ok(()))]);
}
