#![doc = include_str!("code.md")]

use std::convert::Infallible;

use curve25519_dalek::edwards::CompressedEdwardsY;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use spake2::{
    Ed25519Group, Identity, Password, Spake2,
    rand_core::{TryCryptoRng, TryRng},
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::header::{self, CodeHeader};
use crate::{
    crypto::{
        CryptoError, Key, Random,
        seal::{Seal, TAG_LEN, derive},
    },
    error::{Code as ErrorCode, Error},
};

/// Bytes of a message of SPAKE2.
pub const EXCHANGE_LEN: usize = 33;

/// Bytes of what confirms that a side knows the words.
pub const CONFIRM_LEN: usize = 32;

/// The longest message after the first, in bytes.
pub const MAX_MESSAGE: usize = 16_384;

/// What an owner answers to wrong words.
pub const WRONG: [u8; 1] = [0];

/// What can be wrong with a message of an exchange.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// The other side does not know the words.
    #[error("the words of the code are wrong")]
    Wrong,
    /// Bytes that mean nothing here.
    #[error("the other side sent what does not belong into pairing by a code")]
    Unreadable,
    /// Sealing failed, or there is no randomness.
    #[error("{0}")]
    Crypto(#[from] CryptoError),
}

impl From<CodeError> for Error {
    fn from(error: CodeError) -> Self {
        let code = match error {
            CodeError::Wrong => ErrorCode::Identity,
            _ => ErrorCode::Failed,
        };
        Self::new(code, error.to_string())
    }
}

/// The side that types the code, after its first message.
pub struct Joiner {
    spake: Spake2<Ed25519Group>,
    /// Header and message, as they were sent.
    first: Vec<u8>,
}

impl Joiner {
    /// Begins; returns the header with the first message too.
    pub fn start(
        slot: u64,
        password: &str,
        random: &mut Random<'_>,
    ) -> Result<(Self, Vec<u8>), CodeError> {
        let (joiner, owner) = identities();
        let drawn = Drawn::new(random)?;
        let password = Password::new(password);
        let (spake, message) = Spake2::start_a_with_rng(&password, &joiner, &owner, drawn);
        let first = [CodeHeader { slot }.encode().as_slice(), &message].concat();
        let told = first.clone();
        Ok((Self { spake, first }, told))
    }

    /// Takes the owner's message; the keys are worth something once both sides have confirmed them.
    pub fn finish(self, message: &[u8]) -> Result<Keys, CodeError> {
        check_point(message)?;
        let secret = self.spake.finish(message);
        let secret = secret.map_err(|_| CodeError::Unreadable)?;
        Ok(Keys::derive(&Zeroizing::new(secret), &self.first, message))
    }
}

/// The owner's message to a joiner whose header and message were `first`, and the keys.
pub fn answer(
    password: &str,
    first: &[u8],
    random: &mut Random<'_>,
) -> Result<(Keys, Vec<u8>), CodeError> {
    let (joiner, owner) = identities();
    let theirs = first.get(header::LEN..).unwrap_or_default();
    check_point(theirs)?;
    let drawn = Drawn::new(random)?;
    let password = Password::new(password);
    let (spake, message) =
        Spake2::<Ed25519Group>::start_b_with_rng(&password, &joiner, &owner, drawn);
    let secret = spake.finish(theirs).map_err(|_| CodeError::Unreadable)?;
    Ok((
        Keys::derive(&Zeroizing::new(secret), first, &message),
        message,
    ))
}

/// Refuses a message whose point has a second encoding, or is not in the group that the base point
/// generates: the crate takes both.
fn check_point(message: &[u8]) -> Result<(), CodeError> {
    let encoded = message
        .get(1..)
        .and_then(|point| <[u8; 32]>::try_from(point).ok());
    let encoded = CompressedEdwardsY(encoded.ok_or(CodeError::Unreadable)?);
    let point = encoded.decompress().ok_or(CodeError::Unreadable)?;
    let is_good = point.compress() == encoded && !point.is_small_order() && point.is_torsion_free();
    is_good.then_some(()).ok_or(CodeError::Unreadable)
}

fn identities() -> (Identity, Identity) {
    (
        Identity::new(b"m2y/1 joiner"),
        Identity::new(b"m2y/1 owner"),
    )
}

/// The two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who types the code.
    Joiner,
    /// Who shows it.
    Owner,
}

/// What both sides know if both knew the words.
pub struct Keys {
    transcript: [u8; 32],
    confirms: [Zeroizing<[u8; 32]>; 2],
    seals: [Key; 2],
}

impl Keys {
    fn derive(secret: &[u8], first: &[u8], second: &[u8]) -> Self {
        let transcript: [u8; 32] = Sha256::new()
            .chain_update(first)
            .chain_update(second)
            .finalize()
            .into();
        let confirms = |info: &[u8]| Zeroizing::new(derive::<32>(&transcript, secret, info));
        let key = |info: &[u8]| Key::new(derive(&transcript, secret, info));
        Self {
            confirms: [
                confirms(b"m2y/1 code joiner confirms"),
                confirms(b"m2y/1 code owner confirms"),
            ],
            seals: [key(b"m2y/1 code joiner"), key(b"m2y/1 code owner")],
            transcript,
        }
    }

    /// What a side shows the other.
    pub fn confirmation(&self, side: Side) -> [u8; CONFIRM_LEN] {
        let [joiner, owner] = &self.confirms;
        let key = match side {
            Side::Joiner => joiner,
            Side::Owner => owner,
        };
        let mac = Hmac::<Sha256>::new_from_slice(key.as_slice());
        mac.map_or([0; CONFIRM_LEN], |mac| {
            mac.chain_update(self.transcript)
                .finalize()
                .into_bytes()
                .into()
        })
    }

    /// Checks what a side has shown.
    pub fn check(&self, side: Side, confirmation: &[u8]) -> Result<(), CodeError> {
        match bool::from(self.confirmation(side).as_slice().ct_eq(confirmation)) {
            true => Ok(()),
            false => Err(CodeError::Wrong),
        }
    }

    fn seal_of(&self, side: Side) -> Result<Seal, CryptoError> {
        let [joiner, owner] = &self.seals;
        Seal::new(match side {
            Side::Joiner => joiner,
            Side::Owner => owner,
        })
    }

    /// Seals message `number` of a side, counted from 0.
    pub fn seal(&self, side: Side, number: u64, text: &[u8]) -> Result<Vec<u8>, CodeError> {
        let mut sealed = text.to_vec();
        let tag = self.seal_of(side)?.seal(number, true, &[], &mut sealed)?;
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    /// Opens message `number` of a side.
    pub fn open(&self, side: Side, number: u64, sealed: &[u8]) -> Result<Vec<u8>, CodeError> {
        let (text, tag) = sealed
            .split_last_chunk::<TAG_LEN>()
            .ok_or(CodeError::Unreadable)?;
        let mut text = text.to_vec();
        self.seal_of(side)?
            .open(number, true, &[], &mut text, tag)?;
        Ok(text)
    }
}

/// Bytes that were drawn before, because drawing may fail and the crate has no word for that.
struct Drawn(Zeroizing<[u8; 64]>);

impl Drawn {
    fn new(random: &mut Random<'_>) -> Result<Self, CodeError> {
        let mut bytes = Zeroizing::new([0; 64]);
        random
            .try_fill_bytes(bytes.as_mut_slice())
            .map_err(CryptoError::from)?;
        Ok(Self(bytes))
    }
}

/// For the one scalar of an exchange, which takes 64 bytes.
impl TryRng for Drawn {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Infallible> {
        for (to, from) in to.iter_mut().zip(self.0.iter()) {
            *to = *from;
        }
        // Whoever asks for more gets different bytes, if not better ones.
        *self.0 = {
            let mut next = [0; 64];
            let (first, second) = next.split_at_mut(32);
            first.copy_from_slice(&Sha256::digest([self.0.as_slice(), b"1"].concat()));
            second.copy_from_slice(&Sha256::digest([self.0.as_slice(), b"2"].concat()));
            next
        };
        Ok(())
    }
}

impl TryCryptoRng for Drawn {}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::crypto::SysRng;

    fn exchange(theirs: &str, ours: &str) -> (Keys, Keys) {
        let (joiner, first) = Joiner::start(7, theirs, &mut SysRng).unwrap();
        let (owner, second) = answer(ours, &first, &mut SysRng).unwrap();
        (joiner.finish(&second).unwrap(), owner)
    }

    #[test]
    fn who_knows_the_words_can_confirm_it_and_read_the_card() {
        let (joiner, owner) = exchange("lantern-orbit", "lantern-orbit");
        for side in [Side::Joiner, Side::Owner] {
            owner.check(side, &joiner.confirmation(side)).unwrap();
            let sealed = joiner.seal(side, 0, b"card").unwrap();
            assert_eq!(owner.open(side, 0, &sealed).unwrap(), b"card");
            assert!(owner.open(side, 1, &sealed).is_err());
        }
        assert_ne!(
            joiner.confirmation(Side::Joiner),
            joiner.confirmation(Side::Owner)
        );
    }

    #[test]
    fn of_a_thousand_wrong_words_none_is_accepted() {
        for guess in 0..1_000 {
            let (joiner, owner) = exchange(&format!("lantern-{guess}"), "lantern-orbit");
            let shown = joiner.confirmation(Side::Joiner);
            assert_eq!(owner.check(Side::Joiner, &shown), Err(CodeError::Wrong));
        }
    }

    #[test]
    fn a_message_that_is_reflected_repeated_cut_or_no_point_is_refused() {
        let (joiner, first) = Joiner::start(7, "a-b", &mut SysRng).unwrap();
        let reflected = &first[header::LEN..];
        assert_eq!(joiner.finish(reflected).err(), Some(CodeError::Unreadable));
        for bad in [&first[..first.len() - 1], &first[..header::LEN]] {
            let refused = answer("a-b", bad, &mut SysRng).err();
            assert_eq!(refused, Some(CodeError::Unreadable));
        }
        // Half of all numbers are not the y of a point.
        let is_refused = |y: u8| {
            let mut message = first.clone();
            message[header::LEN + 1..].fill(y);
            answer("a-b", &message, &mut SysRng).is_err()
        };
        assert!((1..32).any(is_refused));
        // The identity, the point of order 2, a point of order 4, and an encoding that is not the
        // shortest: of y = p + 3.
        let mut minus_one = [0xff; 32];
        (minus_one[0], minus_one[31]) = (0xec, 0x7f);
        let mut long = [0xff; 32];
        (long[0], long[31]) = (0xf0, 0x7f);
        let mut one = [0; 32];
        one[0] = 1;
        for bad in [one, minus_one, [0; 32], long] {
            let mut message = first.clone();
            message[header::LEN + 1..].copy_from_slice(&bad);
            assert!(answer("a-b", &message, &mut SysRng).is_err(), "{bad:?}");
        }
        // A recording of the first message, played to the owner again, gives other keys.
        let (once, second) = answer("a-b", &first, &mut SysRng).unwrap();
        let (again, _) = answer("a-b", &first, &mut SysRng).unwrap();
        assert_ne!(
            once.confirmation(Side::Joiner),
            again.confirmation(Side::Joiner)
        );
        // Another slot, too.
        let mut moved = first.clone();
        moved[15] = 8;
        let (elsewhere, _) = answer("a-b", &moved, &mut SysRng).unwrap();
        assert_ne!(
            once.confirmation(Side::Joiner),
            elsewhere.confirmation(Side::Joiner)
        );
        assert_eq!(second.len(), EXCHANGE_LEN);
    }
}
