//! Message authentication: HMAC-SHA256 (RFC 2104).

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of a code.
pub const MAC_LEN: usize = 32;

/// The code of several pieces, one behind the other.
pub fn hmac_sha256(key: &[u8; 32], pieces: &[&[u8]]) -> [u8; MAC_LEN] {
    // A key is padded with zeros to the block of the hash.
    let mut block = [0; 64];
    let (start, _) = block.split_at_mut(key.len());
    start.copy_from_slice(key);
    let mut hmac = <Hmac<Sha256> as KeyInit>::new(&block.into());
    pieces.iter().for_each(|piece| hmac.update(piece));
    hmac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_standard() {
        // python3: hmac.new(bytes(range(32)), b"what do ya want", "sha256").hexdigest()
        let key = std::array::from_fn(|i| i as u8);
        let code = hmac_sha256(&key, &[b"what do ", b"ya want"]);
        assert_eq!(
            hex::encode(code),
            "6f21a7e969d25d6c8cec88e50cd5c6cd96e1ec8126ee3f43d6339895f7c25055"
        );
    }
}
