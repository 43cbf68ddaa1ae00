//! Sealing: authenticated encryption of what must not be readable in the database, bound to the place it was sealed for.
//!
//! XChaCha20-Poly1305: its nonces are long enough to be drawn at random for every value.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chacha20poly1305::{
    Key, KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use uuid::Uuid;

use crate::secrets::SecretValue;

const NONCE_BYTES: usize = 24;
const KEY_BYTES: usize = 32;

/// Why something could not be sealed or opened. Tells nothing of key or text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The key is not 32 bytes of base64.
    #[error("the sealing key is not 32 bytes in base64")]
    Key,
    /// The text is not one that was sealed here.
    #[error("the sealed text is malformed")]
    Malformed,
    /// Another key, another place, or somebody changed it.
    #[error("the sealed text does not open")]
    Refused,
}

/// Where a sealed value belongs: it opens nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aad<'a> {
    /// The organisation.
    pub org_id: Uuid,
    /// The table.
    pub table: &'a str,
    /// The column.
    pub column: &'a str,
    /// Which version of the key sealed it.
    pub key_version: u16,
}

impl Aad<'_> {
    /// Names contain no `|`, so no two places spell alike.
    fn bytes(&self) -> Vec<u8> {
        format!("{}|{}|{}|{}", self.org_id, self.table, self.column, self.key_version).into_bytes()
    }
}

/// A 32-byte key. Its `Debug` shows nothing.
#[derive(Clone)]
pub struct SealingKey(XChaCha20Poly1305);

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKey")
    }
}

impl SealingKey {
    /// From a secret: 32 bytes in standard base64.
    ///
    /// # Errors
    /// [`SealError::Key`] if it is anything else.
    pub fn from_secret(secret: &SecretValue) -> Result<Self, SealError> {
        Self::from_bytes(&STANDARD.decode(secret.expose().trim()).map_err(|_| SealError::Key)?)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        let key: [u8; KEY_BYTES] = bytes.try_into().map_err(|_| SealError::Key)?;
        Ok(Self(XChaCha20Poly1305::new(&Key::from(key))))
    }

    /// Seals `plaintext` for one place, as `v1.<key version>.<base64url of nonce and ciphertext>`.
    ///
    /// # Errors
    /// [`SealError::Refused`] for texts beyond the cipher's 256 GB.
    pub fn seal(&self, aad: &Aad<'_>, plaintext: &[u8]) -> Result<String, SealError> {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let bound = aad.bytes();
        let sealed = self
            .0
            .encrypt(&XNonce::from(nonce), Payload { msg: plaintext, aad: &bound })
            .map_err(|_| SealError::Refused)?;
        let mut bytes = nonce.to_vec();
        bytes.extend_from_slice(&sealed);
        Ok(format!("v1.{}.{}", aad.key_version, URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Opens what was sealed for this place.
    ///
    /// # Errors
    /// [`SealError::Malformed`] or [`SealError::Refused`].
    pub fn open(&self, aad: &Aad<'_>, sealed: &str) -> Result<Vec<u8>, SealError> {
        let body = sealed.strip_prefix(&format!("v1.{}.", aad.key_version)).ok_or(SealError::Malformed)?;
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| SealError::Malformed)?;
        let (nonce, text) = bytes.split_at_checked(NONCE_BYTES).ok_or(SealError::Malformed)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| SealError::Malformed)?;
        self.0.decrypt(&XNonce::from(nonce), Payload { msg: text, aad: &aad.bytes() }).map_err(|_| SealError::Refused)
    }
}

/// The key of one person in one organisation. Destroying its wrapped form makes everything sealed under it unreadable.
#[derive(Clone)]
pub struct SubjectKey {
    bytes: [u8; KEY_BYTES],
    key: SealingKey,
}

impl std::fmt::Debug for SubjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SubjectKey")
    }
}

impl SubjectKey {
    /// A new random key.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_array(rand::random())
    }

    fn from_array(bytes: [u8; KEY_BYTES]) -> Self {
        Self { bytes, key: SealingKey(XChaCha20Poly1305::new(&Key::from(bytes))) }
    }

    /// The key as it may be stored: sealed by `master` for this organisation and person.
    ///
    /// # Errors
    /// As [`SealingKey::seal`].
    pub fn wrap(&self, master: &SealingKey, org_id: Uuid, subject_id: Uuid) -> Result<String, SealError> {
        master.seal(&wrapping(org_id, &subject_id.to_string()), &self.bytes)
    }

    /// Opens a stored key with the current master key, or the previous one while it is rotated.
    ///
    /// # Errors
    /// [`SealError`] if neither opens it.
    pub fn unwrap(
        wrapped: &str,
        master: &SealingKey,
        previous: Option<&SealingKey>,
        org_id: Uuid,
        subject_id: Uuid,
    ) -> Result<Self, SealError> {
        let subject = subject_id.to_string();
        let aad = wrapping(org_id, &subject);
        let opened = match (master.open(&aad, wrapped), previous) {
            (Err(SealError::Refused), Some(previous)) => previous.open(&aad, wrapped),
            (outcome, _) => outcome,
        }?;
        Ok(Self::from_array(opened.try_into().map_err(|_| SealError::Malformed)?))
    }

    /// Seals a value of this person; see [`SealingKey::seal`].
    ///
    /// # Errors
    /// As [`SealingKey::seal`].
    pub fn seal(&self, aad: &Aad<'_>, plaintext: &[u8]) -> Result<String, SealError> {
        self.key.seal(aad, plaintext)
    }

    /// Opens a value of this person; see [`SealingKey::open`].
    ///
    /// # Errors
    /// As [`SealingKey::open`].
    pub fn open(&self, aad: &Aad<'_>, sealed: &str) -> Result<Vec<u8>, SealError> {
        self.key.open(aad, sealed)
    }
}

fn wrapping(org_id: Uuid, subject: &str) -> Aad<'_> {
    Aad { org_id, table: "subject_keys", column: subject, key_version: 1 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> SealingKey {
        SealingKey::from_bytes(&[byte; KEY_BYTES]).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_in_its_place_and_nowhere_else(text in proptest::collection::vec(any::<u8>(), 0..200), flip in any::<u16>()) {
            let aad = Aad { org_id: Uuid::from_u128(1), table: "t", column: "c", key_version: 1 };
            let sealed = key(1).seal(&aad, &text).unwrap();
            prop_assert_eq!(key(1).open(&aad, &sealed), Ok(text));
            prop_assert_eq!(key(2).open(&aad, &sealed), Err(SealError::Refused));
            prop_assert_eq!(key(1).open(&Aad { org_id: Uuid::from_u128(2), ..aad }, &sealed), Err(SealError::Refused));
            prop_assert_eq!(key(1).open(&Aad { column: "d", ..aad }, &sealed), Err(SealError::Refused));

            let mut bytes = URL_SAFE_NO_PAD.decode(&sealed[5..]).unwrap();
            let bit = usize::from(flip) % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let changed = format!("v1.1.{}", URL_SAFE_NO_PAD.encode(bytes));
            prop_assert_eq!(key(1).open(&aad, &changed), Err(SealError::Refused));
        }
    }

    #[test]
    fn a_subject_key_opens_with_the_previous_master_while_it_is_rotated() {
        let (org, subject) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let wrapped = SubjectKey::generate().wrap(&key(1), org, subject).unwrap();
        assert!(SubjectKey::unwrap(&wrapped, &key(2), Some(&key(1)), org, subject).is_ok());
        assert_eq!(SubjectKey::unwrap(&wrapped, &key(2), None, org, subject).unwrap_err(), SealError::Refused);
        assert!(SubjectKey::unwrap(&wrapped, &key(1), None, org, Uuid::from_u128(3)).is_err());
    }
}
