//! Sizes and garbage.

use super::*;

#[test]
fn chains_and_certificates_are_bounded() {
    let forger = Forger::new();
    assert_eq!(forger.verify(&[]), Err(VerifyError::NoCertificate));
    let good = forger.issue(&leaf(&[REVIEWS], forger.now), &forger.east);
    let long: Vec<_> =
        std::iter::once(good.clone()).chain(std::iter::repeat_n(forger.east.der().clone(), 99)).collect();
    assert_eq!(forger.verify(&long), Err(VerifyError::ChainTooLong(100)));
    let mut crowded = leaf(&[REVIEWS], forger.now);
    let host = |i: u32| SanType::DnsName(format!("h{i}.us-east.acme.mesh").try_into().expect("ASCII"));
    crowded.subject_alt_names.extend((0..1000).map(host));
    assert!(matches!(forger.verdict(&crowded), Err(VerifyError::TooLarge(_))));
    // 64 KiB of names, each of them well-formed: it is not even parsed.
    crowded.subject_alt_names.extend((1000..4000).map(host));
    let huge = forger.issue(&crowded, &forger.east);
    assert!(huge.len() > 1 << 16);
    let length = huge.len();
    assert_eq!(forger.verify(&[huge, forger.east.der().clone()]), Err(VerifyError::TooLarge(length)));
    assert_eq!(
        forger.verify(&[good.clone(), CertificateDer::from(vec![0x30; 1 << 16])]),
        Err(VerifyError::TooLarge(1 << 16))
    );
    let garbage = CertificateDer::from(vec![0x30; 64]);
    assert!(matches!(forger.verify(std::slice::from_ref(&garbage)), Err(VerifyError::Malformed(_))));
    assert!(forger.verify(&[good.clone(), garbage]).is_err());
    let trailing = CertificateDer::from([good.as_ref(), b"x"].concat());
    assert!(matches!(forger.verify(&[trailing, forger.east.der().clone()]), Err(VerifyError::Malformed(_))));
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let forger = Forger::new();
    let good = forger.issue(&leaf(&[REVIEWS], forger.now), &forger.east);
    for at in 0..good.len() {
        let mut flipped = good.to_vec();
        flipped[at] ^= 1;
        let chain = [CertificateDer::from(flipped), forger.east.der().clone()];
        assert!(forger.verify(&chain).is_err(), "byte {at}");
    }
}
