use proptest::prelude::*;

use super::*;

fn token(contacts: Vec<SocketAddr>) -> BearerToken {
    let federation = "acme.mesh".parse().expect("valid");
    BearerToken::mint(federation, Some("us-west".parse().expect("valid")), contacts, Digest([7; 32]))
}

fn sample() -> BearerToken {
    token(vec!["127.0.11.1:15443".parse().expect("valid"), "[2001:db8::1]:443".parse().expect("valid")])
}

#[test]
fn tokens_round_trip_with_any_number_of_contacts() {
    for count in [0, 1, 2, CONTACTS_MAX, CONTACTS_MAX + 1] {
        let contacts = (0..count).map(|i| SocketAddr::from(([10, 0, 0, 1], 1000 + u16::try_from(i).expect("small"))));
        let token = token(contacts.collect());
        assert_eq!(token.contacts.len(), count.min(CONTACTS_MAX));
        assert_eq!(token.to_string().parse(), Ok(token));
    }
    let token = sample();
    assert_eq!(format!("  {token}\n").parse(), Ok(token));
    let anyone = BearerToken { cluster: None, ..sample() };
    assert_eq!(anyone.to_string().parse(), Ok(anyone));
}

#[test]
fn the_longest_token_fits_its_bound() {
    let federation = format!("{}.{}", "a".repeat(27), "b".repeat(28)).parse().expect("valid");
    let cluster: ClusterName = "c".repeat(63).parse().expect("valid");
    let contacts = vec!["[2001:db8::1]:443".parse().expect("valid"); CONTACTS_MAX];
    let token = BearerToken::mint(federation, cluster, contacts, Digest([7; 32]));
    assert_eq!(token.to_string().len(), 679);
    const { assert!(679 <= TOKEN_LEN_MAX) };
    assert_eq!(token.to_string().parse(), Ok(token));
}

#[test]
fn each_failure_says_what_it_is() {
    let text = sample().to_string();
    assert_eq!("hello".parse::<BearerToken>(), Err(TokenParseError::NotAToken));
    assert_eq!("".parse::<BearerToken>(), Err(TokenParseError::NotAToken));
    assert_eq!(text[..text.len() - 3].parse::<BearerToken>(), Err(TokenParseError::Damaged));
    assert_eq!(PREFIX.parse::<BearerToken>(), Err(TokenParseError::Damaged));
    let long = format!("{PREFIX}{}", "A".repeat(2 * TOKEN_LEN_MAX));
    assert_eq!(long.parse::<BearerToken>(), Err(TokenParseError::Damaged));
    assert_eq!(with_payload(2, &[]).parse::<BearerToken>(), Err(TokenParseError::Version(2)));
    assert_eq!(with_payload(VERSION, &[]).parse::<BearerToken>(), Err(TokenParseError::Malformed));
}

/// A token with these fields and a correct checksum.
fn with_payload(version: u8, fields: &[u8]) -> String {
    let checksum = &sha256(fields).0[..CHECKSUM_LEN];
    format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&[&[version], checksum, fields].concat()))
}

#[test]
fn more_contacts_than_allowed_are_malformed() {
    let mut fields = sample().encode_fields().to_vec();
    for _ in 0..CONTACTS_MAX {
        fields.extend_from_slice(&[4, 127, 0, 0, 1, 1, 1]);
    }
    assert_eq!(with_payload(VERSION, &fields).parse::<BearerToken>(), Err(TokenParseError::Malformed));
}

#[test]
fn debug_keeps_the_secret() {
    let token = sample();
    let shown = format!("{token:?}");
    assert!(shown.contains("us-west"));
    assert!(!shown.contains(&format!("{:?}", &token.secret.as_bytes()[..4])[1..]), "{shown}");
    assert_eq!(format!("{:?}", token.secret), "TokenSecret(..)");
}

#[test]
fn secrets_compare_and_hash_by_content() {
    let token = sample();
    let same = TokenSecret::from_slice(token.secret.as_bytes()).expect("32 bytes");
    assert_eq!(same, token.secret);
    assert_eq!(same.hash(), token.secret.hash());
    assert_ne!(same, sample().secret);
    assert!(TokenSecret::from_slice(&[0; 31]).is_none());
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        let _ = text.parse::<BearerToken>();
        let _ = format!("{PREFIX}{text}").parse::<BearerToken>();
    }

    #[test]
    fn any_fields_are_answered(fields in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = with_payload(VERSION, &fields).parse::<BearerToken>();
    }

    #[test]
    fn any_changed_character_is_refused(at in any::<prop::sample::Index>(), with in 0x21_u8..0x7f) {
        let text = sample().to_string();
        let mut bytes = text.clone().into_bytes();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != with);
        bytes[at] = with;
        prop_assert!(String::from_utf8(bytes).expect("ASCII").parse::<BearerToken>().is_err());
    }

    #[test]
    fn any_changed_payload_byte_is_refused(at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let text = sample().to_string();
        let mut payload = BASE64URL_NOPAD.decode(&text.as_bytes()[PREFIX.len()..]).expect("its own text");
        let at = at.index(payload.len());
        payload[at] ^= flip;
        let text = [PREFIX, &BASE64URL_NOPAD.encode(&payload)].concat();
        prop_assert!(text.parse::<BearerToken>().is_err());
    }
}
