//! A slot at a relay, for a code of one's own.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot},
    task::{self, JoinHandle},
    time::timeout,
};

use super::{Opened, attendance};
use crate::{
    error::{Code, Error},
    meta::Attend,
    pairing::slots::Attempt,
    relay::attendance::{slot_number, take_attempts},
    root::{name::Name, user::User},
    transport::{Address, Addresses},
    wire::record::Stream,
};

/// How long the relay may take for the last messages.
const LAST: Duration = Duration::from_secs(5);

/// Attempts that wait for the owner.
const WAITING: usize = 8;

/// A slot at a relay.
pub struct RelaySlot {
    /// Its number.
    pub number: u64,
    /// Where the relay is.
    pub address: Address,
    /// Those who want to use the code.
    pub attempts: mpsc::Receiver<Attempt>,
    close: oneshot::Sender<()>,
    work: JoinHandle<()>,
}

impl RelaySlot {
    /// Asks a relay that the user has joined for a slot.
    pub async fn open(user: &User, relay: &Name) -> Result<Self, Error> {
        let (route, opened) = attendance::open(user, relay, Attend::Code).await?;
        let Opened {
            mut connection,
            keys,
            ..
        } = opened;
        let failed = |e: String| Error::new(Code::Later, format!("{relay} keeps no code: {e}"));
        let mut theirs = Stream::new(&keys.server).map_err(|e| failed(e.to_string()))?;
        let number = slot_number(&mut connection.reader, &mut theirs).await;
        let number = number.map_err(|e| failed(e.to_string()))?;
        let (give, attempts) = mpsc::channel(WAITING);
        let (close, closed) = oneshot::channel();
        let work = task::spawn(async move {
            let (reader, writer) = (&mut connection.reader, &mut connection.writer);
            let _ = take_attempts(reader, writer, theirs, &keys, give, closed).await;
            reader.drain(LAST).await;
        });
        let addresses: &Addresses = route.addresses();
        let address = addresses.plain().or(addresses.iter().next()).cloned();
        Ok(Self {
            number,
            address: address.ok_or_else(|| failed("it has no address".to_owned()))?,
            attempts,
            close,
            work,
        })
    }

    /// Waits until the relay has everything that was said, and closes the slot.
    pub async fn close(self) {
        drop((self.attempts, self.close));
        let _ = timeout(LAST, self.work).await;
    }
}
