//! Sealing: what a session's credentials are while they lie in the store.
//!
//! XChaCha20-Poly1305 under a key of the operator's, with a random nonce and the session's identity as associated data, so that
//! what was sealed for one session opens for no other. There may be two keys: the first one seals and both open, so that a key
//! can be replaced while servers run.
//!
//! A sealed text is a version byte, four bytes that name the key, the nonce, and what the cipher made of the text. The first two
//! are authenticated, too.

use std::{fmt, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Generate as _, Payload},
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// The form of what is sealed. Another one gets another number.
const VERSION: u8 = 1;
const KEY: usize = 32;
const KEY_ID: usize = 4;
const HEADER: usize = 1 + KEY_ID;
const NONCE: usize = 24;

/// Seals and opens credentials with the operator's keys. Cheap to clone; `Debug` shows no key.
#[derive(Clone)]
pub struct Sealer {
    keys: Arc<[SealKey]>,
}

/// A key to seal with. Its memory is wiped when it is dropped.
pub struct SealKey(Zeroizing<[u8; KEY]>);

/// A text is not a key: it must be 32 bytes in base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key is 32 bytes in base64, as `openssl rand -base64 32` prints them")]
pub struct BadKey;

/// Why something that was sealed does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It was sealed with another key: give that one, too, or have the credentials brought again.
    #[error("it was sealed with a key that is not here (seal_key_file)")]
    UnknownKey,
    /// It was cut, changed, or sealed for another session.
    #[error("it is not what was sealed for this session")]
    Broken,
}

impl SealKey {
    /// Reads a key, as `openssl rand -base64 32` prints one.
    ///
    /// # Errors
    /// [`BadKey`] for anything that is not 32 bytes in base64.
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        let bytes = BASE64_STANDARD.decode(text.trim()).map(Zeroizing::new).map_err(|_| BadKey)?;
        let mut key = Zeroizing::new([0; KEY]);
        if bytes.len() != KEY {
            return Err(BadKey);
        }
        key.copy_from_slice(&bytes);
        Ok(Self(key))
    }

    /// The bytes that name it in what it has sealed, from which it cannot be guessed.
    fn id(&self) -> [u8; KEY_ID] {
        let digest = Sha256::digest(*self.0);
        [digest[0], digest[1], digest[2], digest[3]]
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.0).into())
    }
}

impl Sealer {
    /// Seals with `first`; opens what was sealed with any of these.
    pub fn new(first: SealKey, others: impl IntoIterator<Item = SealKey>) -> Self {
        Self { keys: std::iter::once(first).chain(others).collect() }
    }

    /// Seals a text. It opens only with the same `context`: see [`context`].
    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Vec<u8> {
        let key = &self.keys[0];
        let header = [&[VERSION], &key.id()[..]].concat();
        // Random nonces of 24 bytes do not meet (draft-irtf-cfrg-xchacha, section 3.1).
        let nonce = XNonce::generate();
        let bound = [&header, context].concat();
        let sealed = key.cipher().encrypt(&nonce, Payload { msg: plain, aad: &bound });
        let sealed = sealed.expect("it refuses only texts of 256 GiB");
        [&header[..], &nonce, &sealed].concat()
    }

    /// Whether it was sealed with another key than the one that seals now.
    pub fn is_by_an_older_key(&self, sealed: &[u8]) -> bool {
        sealed.get(1..HEADER) != Some(&self.keys[0].id()[..])
    }

    /// Opens what was sealed with the same `context`.
    ///
    /// # Errors
    /// [`SealError::UnknownKey`] if none of the keys has sealed it, [`SealError::Broken`] if it is not what was sealed.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (header, rest) = sealed.split_at_checked(HEADER).ok_or(SealError::Broken)?;
        let (nonce, text) = rest.split_at_checked(NONCE).ok_or(SealError::Broken)?;
        let nonce = XNonce::try_from(nonce).map_err(|_| SealError::Broken)?;
        if header[0] != VERSION {
            return Err(SealError::Broken);
        }
        let bound = [header, context].concat();
        // Two keys may have one id, which is short.
        let mut error = SealError::UnknownKey;
        for key in self.keys.iter().filter(|key| key.id() == header[1..]) {
            match key.cipher().decrypt(&nonce, Payload { msg: text, aad: &bound }) {
                Ok(plain) => return Ok(Zeroizing::new(plain)),
                Err(_) => error = SealError::Broken,
            }
        }
        Err(error)
    }
}

/// The context of a session's credentials. No two sessions have the same.
pub fn context(tenant: &str, session: &str) -> Vec<u8> {
    let length = u64::try_from(tenant.len()).unwrap_or(u64::MAX).to_be_bytes();
    [&length[..], tenant.as_bytes(), session.as_bytes()].concat()
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SealKey {
        SealKey(Zeroizing::new([byte; KEY]))
    }

    fn sealer(bytes: &[u8]) -> Sealer {
        Sealer::new(key(bytes[0]), bytes[1..].iter().copied().map(key))
    }

    fn opened(sealer: &Sealer, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        sealer.open(context, sealed).map(|plain| plain.to_vec())
    }

    #[test]
    fn what_is_sealed_opens_and_does_not_show_what_it_is() {
        let sealer = sealer(&[1]);
        for plain in [&b""[..], b"ghu_hunter2", &[0; 100_000]] {
            let sealed = sealer.seal(b"s", plain);
            assert_eq!(opened(&sealer, b"s", &sealed).as_deref(), Ok(plain));
            assert!(!sealed.windows(7).any(|part| part == b"hunter2"));
            assert_ne!(sealed, sealer.seal(b"s", plain), "the nonce must differ");
        }
    }

    #[test]
    fn a_key_is_replaced_while_what_the_old_one_sealed_still_opens() {
        let (old, both, new) = (sealer(&[1]), sealer(&[2, 1]), sealer(&[2]));
        let before = old.seal(b"s", b"token");
        assert_eq!(opened(&both, b"s", &before).as_deref(), Ok(&b"token"[..]));
        let after = both.seal(b"s", b"token");
        assert_eq!(opened(&new, b"s", &after).as_deref(), Ok(&b"token"[..]));
        assert_eq!(opened(&old, b"s", &after), Err(SealError::UnknownKey));
        assert_eq!(opened(&new, b"s", &before), Err(SealError::UnknownKey));
    }

    #[test]
    fn what_was_sealed_for_another_session_does_not_open() {
        let sealer = sealer(&[1]);
        let sealed = sealer.seal(&context("t", "a"), b"token");
        for other in [context("t", "b"), context("", "ta"), context("ta", ""), Vec::new()] {
            assert_eq!(opened(&sealer, &other, &sealed), Err(SealError::Broken));
        }
    }

    #[test]
    fn what_was_cut_or_changed_does_not_open() {
        let sealer = sealer(&[1]);
        let sealed = sealer.seal(b"s", b"token");
        for end in 0..sealed.len() {
            assert_eq!(opened(&sealer, b"s", &sealed[..end]), Err(SealError::Broken), "{end}");
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            let expected = if (1..HEADER).contains(&at) { SealError::UnknownKey } else { SealError::Broken };
            assert_eq!(opened(&sealer, b"s", &changed), Err(expected), "{at}");
        }
        assert_eq!(opened(&sealer, b"s", &[&sealed[..], b"x"].concat()), Err(SealError::Broken));
    }

    #[test]
    fn a_key_is_32_bytes_in_base64() {
        let good = BASE64_STANDARD.encode([7; KEY]);
        let sealed = Sealer::new(SealKey::parse(&format!(" {good}\n")).unwrap(), []).seal(b"s", b"token");
        assert_eq!(opened(&sealer(&[7]), b"s", &sealed).as_deref(), Ok(&b"token"[..]));
        for bad in ["", "hunter2", &good[..42], &BASE64_STANDARD.encode([7; 31]), &format!("{good}{good}")] {
            assert_eq!(SealKey::parse(bad).unwrap_err(), BadKey, "{bad}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?} {:?}", sealer(&[65]), key(65)), "Sealer { .. } [redacted]");
    }
}
