//! A slot at a relay, for a code of one's own.

use std::time::Duration;

use super::{Opened, attendance};
use crate::{
    error::{Code, Error},
    meta::Attend,
    pairing::remote_slot::RemoteSlot,
    relay::attendance::{slot_number, take_attempts},
    root::{name::Name, user::User},
    transport::Address,
    wire::record::Stream,
};

/// How long the relay may take to end the connection.
const LAST: Duration = Duration::from_secs(3);

/// Asks a relay that the user has joined for a slot; returns where the relay is, too.
pub async fn open(user: &User, relay: &Name) -> Result<(RemoteSlot, Address), Error> {
    let (route, opened) = attendance::open(user, relay, Attend::Code).await?;
    let Opened {
        mut connection,
        keys,
        ..
    } = opened;
    let failed = |e: String| Error::new(Code::Later, format!("{relay} keeps no code: {e}"));
    let addresses = route.addresses();
    let address = addresses.plain().or(addresses.iter().next()).cloned();
    let address = address.ok_or_else(|| failed("it has no address".to_owned()))?;
    let mut theirs = Stream::new(&keys.server).map_err(|e| failed(e.to_string()))?;
    let number = slot_number(&mut connection.reader, &mut theirs).await;
    let number = number.map_err(|e| failed(e.to_string()))?;
    let slot = RemoteSlot::new(number, |give, closed| async move {
        let (reader, writer) = (&mut connection.reader, &mut connection.writer);
        let _ = take_attempts(reader, writer, theirs, &keys, give, closed).await;
        reader.drain(LAST).await;
    });
    Ok((slot, address))
}
