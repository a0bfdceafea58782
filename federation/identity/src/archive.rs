//! A stream of bytes sealed to one recipient, for files that leave the federation's machines.
//!
//! ```text
//! header   "isthmus archive1", encapsulated key (32 bytes), sealed file key (48 bytes)
//! chunks   64 KiB each, the last one shorter or as long, each followed by its tag (16 bytes)
//! ```
//!
//! A fresh key of 256 bits is sealed to the recipient with HPKE; the chunks are AES-256-GCM under it. A chunk's nonce is
//! its number and whether it is the last (the STREAM construction, Hoang et al. 2015), and the header is the associated
//! data of each: a file that was cut, lengthened, put together anew or given another header does not open. Whoever
//! reads gets no byte that was not authenticated, but has the whole only once the end was read.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand;
use data_encoding::BASE64URL_NOPAD;
use isthmus_model::registry::node::SealingKey;
use isthmus_model::registry::token::Digest;
use isthmus_model::registry::trust::Envelope;
use zeroize::Zeroizing;

use crate::error::IdentityError;
use crate::key::sha256;
use crate::sealing::{OpeningKey, seal};

/// What an archive begins with: its kind, and the version of what follows.
const MAGIC: &[u8; 16] = b"isthmus archive1";
/// Bytes of an encapsulated X25519 key (RFC 9180 §7.1).
const ENCAPSULATED_LEN: usize = 32;
/// Bytes of the key that the chunks are sealed with.
const KEY_LEN: usize = 32;
/// Bytes that AES-GCM adds.
const TAG_LEN: usize = 16;
const HEADER_LEN: usize = MAGIC.len() + ENCAPSULATED_LEN + KEY_LEN + TAG_LEN;
/// Bytes sealed at once: few enough to hold, enough that a tag costs nothing.
const CHUNK_LEN: usize = 64 << 10;
const SEALED_CHUNK_LEN: usize = CHUNK_LEN + TAG_LEN;
/// Bytes of a nonce that stay zero: the key is this archive's alone.
const NONCE_ZEROS: usize = 7;

/// What a recipient's text begins with.
const RECIPIENT_PREFIX: &str = "isthmus-recipient1.";
/// Bytes of the hash that a recipient's text ends with: every 32 bytes are an X25519 key, also mistyped ones.
const CHECK_LEN: usize = 4;

/// Why an archive cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// Another kind of file.
    #[error("it is not an archive of this version")]
    NotAnArchive,
    /// The file key does not open.
    #[error("it is sealed to another key, or its beginning was altered")]
    NotOurs,
    /// A chunk does not open.
    #[error("it was altered or cut short: nothing in it can be relied on; use another copy")]
    Damaged,
}

impl From<ArchiveError> for io::Error {
    fn from(error: ArchiveError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Whom an archive is sealed to: the public half of an [`OpeningKey`], with a text form for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient(pub SealingKey);

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.0.0.0;
        let text = BASE64URL_NOPAD.encode(&[&key, &sha256(&key).0[..CHECK_LEN]].concat());
        write!(f, "{RECIPIENT_PREFIX}{text}")
    }
}

impl FromStr for Recipient {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "not a recipient: it is one line, {RECIPIENT_PREFIX}..., as `isthmus backup keygen` prints it; copy it whole"
            )
        };
        let encoded = text.trim().strip_prefix(RECIPIENT_PREFIX).ok_or_else(bad)?;
        let bytes = BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| bad())?;
        let (key, check) = bytes.split_first_chunk::<32>().ok_or_else(bad)?;
        if check == &sha256(key).0[..CHECK_LEN] { Ok(Self(SealingKey(Digest(*key)))) } else { Err(bad()) }
    }
}

/// The cipher of one archive.
struct Cipher {
    key: LessSafeKey,
    header: [u8; HEADER_LEN],
    chunk: u32,
}

impl Cipher {
    fn new(key: &[u8], header: [u8; HEADER_LEN]) -> Result<Self, IdentityError> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| IdentityError::Crypto("an archive's key"))?;
        Ok(Self { key: LessSafeKey::new(key), header, chunk: 0 })
    }

    /// The next chunk's nonce. Each is used once: there are at most 2^32 chunks.
    fn nonce(&mut self, last: bool) -> io::Result<Nonce> {
        let mut nonce = [0; 12];
        nonce[NONCE_ZEROS..11].copy_from_slice(&self.chunk.to_be_bytes());
        nonce[11] = u8::from(last);
        self.chunk = self.chunk.checked_add(1).ok_or_else(|| io::Error::other("the archive is too long"))?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    fn seal(&mut self, chunk: &mut Vec<u8>, last: bool) -> io::Result<()> {
        let nonce = self.nonce(last)?;
        let sealed = self.key.seal_in_place_append_tag(nonce, Aad::from(&self.header), chunk);
        sealed.map_err(|_| io::Error::other("sealing failed in the cryptographic library"))
    }

    /// Opens a chunk in place; returns its length.
    fn open(&mut self, chunk: &mut [u8], last: bool) -> io::Result<usize> {
        let nonce = self.nonce(last)?;
        let opened = self.key.open_in_place(nonce, Aad::from(&self.header), chunk);
        Ok(opened.map_err(|_| ArchiveError::Damaged)?.len())
    }
}

/// Seals what is written to it. Nothing can be read back until [`finish`](Self::finish).
pub struct ArchiveWriter<W> {
    sink: W,
    cipher: Cipher,
    /// Wiped when the writer ends. Never grows: it has room for a chunk and its tag from the start.
    buffer: Zeroizing<Vec<u8>>,
}

impl<W: Write> ArchiveWriter<W> {
    /// Begins an archive for `recipient` in `sink`.
    ///
    /// # Errors
    /// When sealing fails, or the sink refuses.
    pub fn new(mut sink: W, recipient: Recipient) -> Result<Self, IdentityError> {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        rand::fill(&mut *key).map_err(|_| IdentityError::Crypto("key generation"))?;
        let envelope = seal(&recipient.0, &*key, MAGIC)?;
        let header = [MAGIC.as_slice(), &envelope.encapsulated.0, &envelope.ciphertext.0].concat();
        let header: [u8; HEADER_LEN] = header.try_into().map_err(|_| IdentityError::Crypto("sealing a key"))?;
        let cipher = Cipher::new(&*key, header)?;
        sink.write_all(&header).map_err(IdentityError::Archive)?;
        Ok(Self { sink, cipher, buffer: Zeroizing::new(Vec::with_capacity(SEALED_CHUNK_LEN)) })
    }

    fn flush_chunk(&mut self, last: bool) -> io::Result<()> {
        self.cipher.seal(&mut self.buffer, last)?;
        self.sink.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Ends the archive and gives the sink back.
    ///
    /// # Errors
    /// When sealing fails, or the sink refuses.
    pub fn finish(mut self) -> io::Result<W> {
        self.flush_chunk(true)?;
        self.sink.flush()?;
        Ok(self.sink)
    }
}

impl<W: Write> Write for ArchiveWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full chunk waits for what follows it: only then is it known not to be the last.
        if self.buffer.len() == CHUNK_LEN && !bytes.is_empty() {
            self.flush_chunk(false)?;
        }
        let taken = bytes.len().min(CHUNK_LEN - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// A chunk is written when it is full or the last, so that its length tells nothing of how it was written.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens an archive. Errors of reading carry an [`ArchiveError`] where the content is at fault.
pub struct ArchiveReader<R> {
    source: R,
    cipher: Cipher,
    /// The chunk that is being read, opened; then sealed bytes that follow it.
    buffer: Zeroizing<Vec<u8>>,
    /// How much of the chunk was given out, and where it ends.
    given: usize,
    opened: usize,
    ended: bool,
}

impl<R: Read> ArchiveReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`ArchiveError`] inside, when it is no archive or is sealed to another key; otherwise the source's error.
    pub fn new(mut source: R, identity: &OpeningKey) -> io::Result<Self> {
        let mut header = [0; HEADER_LEN];
        source.read_exact(&mut header).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ArchiveError::NotAnArchive.into(),
            _ => error,
        })?;
        let Some((encapsulated, ciphertext)) =
            header.strip_prefix(MAGIC.as_slice()).and_then(|sealed| sealed.split_at_checked(ENCAPSULATED_LEN))
        else {
            return Err(ArchiveError::NotAnArchive.into());
        };
        let envelope = Envelope { encapsulated: encapsulated.to_vec().into(), ciphertext: ciphertext.to_vec().into() };
        let key = identity.open(&envelope, MAGIC).map_err(|_| ArchiveError::NotOurs)?;
        let cipher = Cipher::new(&key, header).map_err(|_| ArchiveError::NotOurs)?;
        let buffer = Zeroizing::new(Vec::with_capacity(SEALED_CHUNK_LEN + 1));
        Ok(Self { source, cipher, buffer, given: 0, opened: 0, ended: false })
    }

    /// Opens the next chunk. A byte more than a chunk is read, which tells whether it is the last.
    fn next_chunk(&mut self) -> io::Result<()> {
        let ahead = self.buffer.len().saturating_sub(SEALED_CHUNK_LEN);
        let keep = self.buffer.len() - ahead;
        self.buffer.drain(..keep);
        let wanted = (SEALED_CHUNK_LEN + 1 - self.buffer.len()) as u64;
        (&mut self.source).take(wanted).read_to_end(&mut self.buffer)?;
        let last = self.buffer.len() <= SEALED_CHUNK_LEN;
        let sealed = self.buffer.len().min(SEALED_CHUNK_LEN);
        (self.given, self.opened) = (0, 0);
        self.opened = self.cipher.open(&mut self.buffer[..sealed], last)?;
        // Not before it opened: an archive that failed does not end, it fails again.
        self.ended = last;
        Ok(())
    }
}

impl<R: Read> Read for ArchiveReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.given == self.opened && !self.ended {
            self.next_chunk()?;
        }
        let taken = out.len().min(self.opened - self.given);
        out[..taken].copy_from_slice(&self.buffer[self.given..self.given + taken]);
        self.given += taken;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealed(key: &OpeningKey, content: &[u8]) -> Vec<u8> {
        let mut writer = ArchiveWriter::new(Vec::new(), Recipient(key.public())).expect("begun");
        writer.write_all(content).expect("written");
        writer.finish().expect("finished")
    }

    fn opened(key: &OpeningKey, archive: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        ArchiveReader::new(archive, key)?.read_to_end(&mut content)?;
        Ok(content)
    }

    fn refusal(key: &OpeningKey, archive: &[u8]) -> ArchiveError {
        let error = opened(key, archive).expect_err("refused");
        *error.get_ref().and_then(|inner| inner.downcast_ref()).expect("the content is at fault")
    }

    #[test]
    fn what_was_sealed_comes_back_whatever_its_length() {
        let key = OpeningKey::generate().expect("made");
        for length in [0, 1, CHUNK_LEN - 1, CHUNK_LEN, CHUNK_LEN + 1, 3 * CHUNK_LEN, 3 * CHUNK_LEN + 7] {
            let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let archive = sealed(&key, &content);
            let chunks = length.div_ceil(CHUNK_LEN).max(1);
            assert_eq!(archive.len(), HEADER_LEN + length + chunks * TAG_LEN);
            assert!(opened(&key, &archive).expect("opens") == content, "{length}");
        }
    }

    #[test]
    fn an_archive_that_was_cut_lengthened_or_put_together_anew_is_refused() {
        let (key, other) = (OpeningKey::generate().expect("made"), OpeningKey::generate().expect("made"));
        let archive = sealed(&key, &[7; 3 * CHUNK_LEN]);
        assert_eq!(refusal(&other, &archive), ArchiveError::NotOurs);
        assert_eq!(refusal(&key, b"something else"), ArchiveError::NotAnArchive);
        assert_eq!(refusal(&key, &[b'x'; HEADER_LEN]), ArchiveError::NotAnArchive);
        let (header, chunks) = archive.split_at(HEADER_LEN);
        let chunks: Vec<&[u8]> = chunks.chunks(SEALED_CHUNK_LEN).collect();
        let put_together = |order: &[usize]| {
            let chunks = order.iter().flat_map(|at| chunks[*at].iter());
            header.iter().chain(chunks).copied().collect::<Vec<u8>>()
        };
        assert!(opened(&key, &put_together(&[0, 1, 2])).is_ok());
        for order in [&[0, 1][..], &[0], &[], &[1, 0, 2], &[0, 2], &[1, 2], &[0, 1, 2, 2], &[0, 1, 1, 2]] {
            assert_eq!(refusal(&key, &put_together(order)), ArchiveError::Damaged, "{order:?}");
        }
        let foreign = sealed(&key, &[7; 3 * CHUNK_LEN]);
        let mixed = [&foreign[..HEADER_LEN], &archive[HEADER_LEN..]].concat();
        assert_eq!(refusal(&key, &mixed), ArchiveError::Damaged, "chunks of another archive");
        assert_eq!(refusal(&key, &[&archive[..], b"x"].concat()), ArchiveError::Damaged);
    }

    #[test]
    fn recipients_are_text_that_tells_a_mistake() {
        let recipient = Recipient(OpeningKey::generate().expect("made").public());
        let text = recipient.to_string();
        assert_eq!(text.parse::<Recipient>().expect("reads"), recipient);
        assert_eq!(format!(" {text}\n").parse::<Recipient>().expect("reads"), recipient);
        let at = RECIPIENT_PREFIX.len() + 5;
        let mistyped = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
        for bad in [
            "",
            "isthmus1.AAAA",
            &text[1..],
            &text[..text.len() - 1],
            &[&text[..at], mistyped, &text[at + 1..]].concat(),
        ] {
            assert!(bad.parse::<Recipient>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_changed_byte_and_no_cut_goes_unnoticed(at in 0_usize..70_000, bit in 0_u8..8, length in 1_usize..69_000) {
            let key = OpeningKey::generate().expect("made");
            let mut archive = sealed(&key, &vec![1; length]);
            let at = at % archive.len();
            prop_assert!(opened(&key, &archive[..at]).is_err());
            archive[at] ^= 1 << bit;
            prop_assert!(opened(&key, &archive).is_err());
        }
    }
}
