//! The side that types the code.

use crate::{
    crypto::SysRng,
    error::{Code as ErrorCode, Error},
    json::Value,
    root::contact::Card,
    session::channel::{ChannelError, Reader, Writer},
    transport::Dialer,
    wire::{
        code::{self, CONFIRM_LEN, CodeError, EXCHANGE_LEN, Side, WRONG},
        header::{AnswerHeader, Turned},
    },
};

use super::{
    PATIENCE,
    code::Code,
    party::{Party, card_text, read, read_card},
    slots::{frame, length},
};

/// Uses a code; returns the card of its owner, who is a contact then.
pub async fn join(code: &Code, dialer: &dyn Dialer, party: &Party) -> Result<Card, Error> {
    let link = dialer.dial(&code.address).await?;
    let mut reader = Reader::new(link.reader, PATIENCE);
    let mut writer = Writer::new(link.writer, PATIENCE);
    let joined = exchange(code, &mut reader, &mut writer, party).await;
    writer.finish().await;
    joined
}

async fn exchange(
    code: &Code,
    reader: &mut Reader,
    writer: &mut Writer,
    party: &Party,
) -> Result<Card, Error> {
    let gone = |error: ChannelError| {
        let address = &code.address;
        Error::from(error).within(format_args!("{address} broke off the pairing"))
    };
    let (joiner, first) = code::Joiner::start(code.slot, &code.password, &mut SysRng)?;
    writer.bytes(&first).await.map_err(gone)?;
    let head = reader.exact().await.map_err(gone)?;
    match AnswerHeader::decode(&head)? {
        AnswerHeader::Envelope(EXCHANGE_LEN) => {}
        AnswerHeader::Envelope(_) => return Err(CodeError::Unreadable.into()),
        AnswerHeader::Turned(turned) => return Err(turned_away(turned, code)),
    }
    let theirs = reader.exact::<EXCHANGE_LEN>().await.map_err(gone)?;
    let keys = joiner.finish(&theirs)?;

    say(writer, &keys.confirmation(Side::Joiner))
        .await
        .map_err(gone)?;
    let said = frame(reader).await.map_err(gone)?;
    if said == WRONG {
        return Err(Error::new(
            ErrorCode::Identity,
            "the words of the code are wrong, and it is void now: ask for a new one",
        ));
    }
    let (shown, sealed) = said
        .split_at_checked(CONFIRM_LEN)
        .ok_or(CodeError::Unreadable)?;
    keys.check(Side::Owner, shown).map_err(|_| {
        Error::new(
            ErrorCode::Identity,
            format!(
                "the other side at {} does not know the words of the code: check the address, and ask for a new code",
                code.address
            ),
        )
    })?;
    let card = match read_card(&keys.open(Side::Owner, 0, sealed)?) {
        // The owner does not want to, and waits for nothing more.
        Err(error) if error.code == ErrorCode::Refused => return Err(error),
        card => card,
    };
    let own = card.as_ref().map_err(Error::clone);
    let own = own
        .and_then(|card| party.check(card))
        .and_then(|()| party.card());
    let sealed = keys.seal(Side::Joiner, 0, card_text(&own)?.as_bytes())?;
    say(writer, &sealed).await.map_err(gone)?;
    own?;
    let card = card?;
    let verdict = frame(reader).await.map_err(gone)?;
    let verdict = read(&keys.open(Side::Owner, 1, &verdict)?)?;
    if verdict.get("kept").and_then(Value::as_bool) != Some(true) {
        return Err(CodeError::Unreadable.into());
    }
    party.keep(&card)?;
    Ok(card)
}

async fn say(writer: &mut Writer, message: &[u8]) -> Result<(), ChannelError> {
    let before = length(message.len());
    writer.bytes(&[before.as_slice(), message].concat()).await
}

fn turned_away(turned: Turned, code: &Code) -> Error {
    let address = &code.address;
    match turned {
        Turned::Stranger => Error::new(
            ErrorCode::NotFound,
            format!(
                "{address} has no code {} (any more): it may be mistyped, used, or older than 10 minutes: ask for a new one",
                code.slot
            ),
        ),
        Turned::Busy => Error::new(
            ErrorCode::Later,
            format!("{address} is too busy for codes, or you tried too many: wait a minute"),
        ),
        Turned::Unreadable | Turned::Stale => Error::new(
            ErrorCode::Failed,
            format!("{address} runs a version of m2y that does not know codes"),
        ),
    }
}
