//! What can be told from a message's header alone. Runs before anything is parsed or allocated, so that
//! garbage costs as little as can be.

/// Length of a DNS header (RFC 1035 §4.1.1).
pub const HEADER_LEN: usize = 12;
/// Records that a query may carry in its additional section: OPT and a transaction signature.
const ADDITIONALS_MAX: u16 = 2;

const QR: u8 = 0x80;
const OPCODE: u8 = 0x78;
const RD: u8 = 0x01;
const RCODE_NOTIMP: u8 = 4;
/// The response code of a message that cannot be understood.
pub const RCODE_FORMERR: u8 = 1;
/// The response code of a server's own trouble.
pub const RCODE_SERVFAIL: u8 = 2;

/// What to do with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Screened {
    /// Parse it.
    Query,
    /// Say nothing: an answer could set two servers on each other, or there is nobody to answer.
    Silence,
    /// Send this header and nothing else: never more bytes than came in.
    Reply(Vec<u8>),
}

/// Looks at a message's header.
#[must_use]
pub fn screen(message: &[u8]) -> Screened {
    let Some(header) = message.first_chunk::<HEADER_LEN>() else { return Screened::Silence };
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let (questions, answers, authorities, additionals) = (count(4), count(6), count(8), count(10));
    if header[2] & QR != 0 {
        Screened::Silence
    } else if header[2] & OPCODE != 0 {
        Screened::Reply(error(header, RCODE_NOTIMP))
    } else if questions != 1 || answers != 0 || authorities != 0 || additionals > ADDITIONALS_MAX {
        // RFC 9619: a query has exactly one question.
        Screened::Reply(error(header, RCODE_FORMERR))
    } else {
        Screened::Query
    }
}

/// A response that is a header and nothing else, for a message that cannot be answered in another way. `None`
/// when the message does not even have a header.
#[must_use]
pub fn header_only(message: &[u8], rcode: u8) -> Option<Vec<u8>> {
    message.first_chunk::<HEADER_LEN>().map(|header| error(header, rcode))
}

/// A response header with the request's id, opcode and RD bit, and no sections.
fn error(request: &[u8; HEADER_LEN], rcode: u8) -> Vec<u8> {
    let mut header = vec![0; HEADER_LEN];
    header[..2].copy_from_slice(&request[..2]);
    header[2] = QR | (request[2] & (OPCODE | RD));
    header[3] = rcode;
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(flags: u8, counts: [u16; 4]) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, flags, 0];
        bytes.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
        bytes
    }

    #[test]
    fn responses_and_fragments_meet_silence() {
        assert_eq!(screen(&[]), Screened::Silence);
        assert_eq!(screen(&header(0, [1, 0, 0, 0])[..11]), Screened::Silence);
        assert_eq!(screen(&header(QR, [1, 0, 0, 0])), Screened::Silence);
        assert_eq!(screen(&header(QR | OPCODE, [u16::MAX; 4])), Screened::Silence, "even when it is nonsense");
    }

    #[test]
    fn other_opcodes_are_not_implemented() {
        for opcode in 1..=15_u8 {
            let reply = [0xab, 0xcd, QR | (opcode << 3) | RD, RCODE_NOTIMP, 0, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(screen(&header((opcode << 3) | RD, [1, 0, 0, 0])), Screened::Reply(reply.to_vec()));
        }
    }

    #[test]
    fn a_query_has_one_question_and_little_else() {
        for counts in [[1, 0, 0, 0], [1, 0, 0, 1], [1, 0, 0, 2]] {
            assert_eq!(screen(&header(RD, counts)), Screened::Query);
        }
        for counts in [[0, 0, 0, 0], [2, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 3], [u16::MAX; 4]] {
            let reply = [0xab, 0xcd, QR, RCODE_FORMERR, 0, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(screen(&header(0, counts)), Screened::Reply(reply.to_vec()), "{counts:?}");
        }
    }
}
