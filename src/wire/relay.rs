#![doc = include_str!("relay.md")]

use super::{
    WireError,
    header::{self, MAX_ENVELOPE},
};

/// Bytes of a token.
pub const TOKEN_LEN: usize = 32;

/// The longest opening that a relay passes on, in bytes: it has to fit into a record.
pub const MAX_OPENING: usize = MAX_ENVELOPE - TOKEN_LEN;

/// Names a call. Only the member that is called knows it, and the relay.
#[derive(Clone, Copy)]
pub struct Token(pub [u8; TOKEN_LEN]);

/// The body of a *call*.
pub fn encode_call(token: &Token, opening: &[u8]) -> Vec<u8> {
    [token.0.as_slice(), opening].concat()
}

/// The token of a *call*, the header of the opening, and its envelope.
pub fn decode_call(body: &[u8]) -> Result<(Token, [u8; header::LEN], &[u8]), WireError> {
    let (token, opening) = body.split_first_chunk().ok_or(WireError::Record)?;
    let (header, envelope) = opening.split_first_chunk().ok_or(WireError::Record)?;
    Ok((Token(*token), *header, envelope))
}

/// The body of a *decision*.
pub fn encode_decision(token: &Token, lets_in: bool) -> Vec<u8> {
    [token.0.as_slice(), &[u8::from(lets_in)]].concat()
}

/// The token of a *decision*, and whether the caller is let in.
pub fn decode_decision(body: &[u8]) -> Result<(Token, bool), WireError> {
    let (token, decision) = body.split_first_chunk().ok_or(WireError::Record)?;
    match decision {
        [0] => Ok((Token(*token), false)),
        [1] => Ok((Token(*token), true)),
        _ => Err(WireError::Record),
    }
}

/// The body of a *call* that begins an attempt to use a code.
pub fn encode_attempt(from: &str, message: &[u8]) -> Vec<u8> {
    let from = from
        .get(..from.len().min(usize::from(u8::MAX)))
        .unwrap_or_default();
    let len = u8::try_from(from.len()).unwrap_or_default();
    [&[len], from.as_bytes(), message].concat()
}

/// Who attempts to use a code, as far as the relay knows, and the first message.
pub fn decode_attempt(body: &[u8]) -> Result<(&str, &[u8]), WireError> {
    let (len, rest) = body.split_first().ok_or(WireError::Record)?;
    let (from, message) = rest
        .split_at_checked(usize::from(*len))
        .ok_or(WireError::Record)?;
    let from = std::str::from_utf8(from).map_err(|_| WireError::Record)?;
    Ok((from, message))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_decisions_come_back_as_they_went() {
        let opening = [[1; header::LEN].as_slice(), b"envelope"].concat();
        let call = encode_call(&Token([7; TOKEN_LEN]), &opening);
        let (token, header, envelope) = decode_call(&call).unwrap();
        assert_eq!(
            (token.0, header, envelope),
            ([7; 32], [1; 24], &b"envelope"[..])
        );
        assert!(decode_call(&call[..40]).is_err());
        for lets_in in [false, true] {
            let decision = encode_decision(&token, lets_in);
            let (token, decided) = decode_decision(&decision).unwrap();
            assert_eq!((token.0, decided), ([7; 32], lets_in));
        }
        assert!(decode_decision(&[7; 33]).is_err());
        let attempt = encode_attempt("192.0.2.1:5", b"message");
        let attempt = decode_attempt(&attempt);
        assert_eq!(attempt, Ok(("192.0.2.1:5", &b"message"[..])));
        assert!(decode_attempt(&[5, 1]).is_err());
    }
}
