//! The slots of a host: where a joiner meets the owner of a code.
//!
//! A host carries messages, counts attempts, and knows nothing that it could tell anybody.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};

use super::{PATIENCE, code::MAX_SLOT};
use crate::{
    crypto::{self, CryptoError},
    session::channel::{ChannelError, Reader, Writer},
    transport::Peer,
    wire::{
        WireError,
        code::{EXCHANGE_LEN, MAX_MESSAGE},
        header::{AnswerHeader, CodeHeader, Turned},
    },
};

/// How long a code can be used.
pub const LIFE: Duration = Duration::from_secs(600);

/// Codes that a host has at the same time.
pub const MAX_SLOTS: usize = 100;

/// Attempts of one peer within [`WINDOW`].
const MAX_TRIES: usize = 10;

/// The time in which attempts are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Peers whose attempts are counted; beyond that, nobody may try.
const MAX_PEERS: usize = 10_000;

/// How long an exchange may take as a whole.
const EXCHANGE: Duration = Duration::from_secs(60);

/// Messages of the owner in an exchange.
const ROUNDS: usize = 3;

/// Somebody who wants to use a code.
pub struct Attempt {
    /// Who, as far as the host knows.
    pub from: Peer,
    /// The header and the first message.
    pub first: Vec<u8>,
    /// The further ones.
    pub incoming: mpsc::Receiver<Vec<u8>>,
    /// What the owner says. Without it, the attempt is over.
    pub outgoing: mpsc::Sender<Vec<u8>>,
}

/// The slots of a host.
#[derive(Clone, Default)]
pub struct Slots(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    open: HashMap<u64, Open>,
    tries: HashMap<Peer, VecDeque<Instant>>,
}

struct Open {
    /// Tells this slot from a later one with the same number.
    id: u64,
    attempts: mpsc::Sender<Attempt>,
    until: Instant,
}

/// A slot that is open until this is dropped.
pub struct Slot {
    /// Its number.
    pub number: u64,
    /// Those who want to use the code.
    pub attempts: mpsc::Receiver<Attempt>,
    id: u64,
    slots: Slots,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.with(|inner| {
            let is_this = |open: &Open| open.id == self.id;
            if inner.open.get(&self.number).is_some_and(is_this) {
                inner.open.remove(&self.number);
            }
        });
    }
}

impl Slots {
    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Opens a slot for [`LIFE`]; `None` if there are too many.
    pub fn open(&self) -> Result<Option<Slot>, CryptoError> {
        let (give, attempts) = mpsc::channel(1);
        let start = u64::from_be_bytes(crypto::random()?);
        let now = Instant::now();
        let number = self.with(|inner| {
            inner.open.retain(|_, open| open.until > now);
            if inner.open.len() >= MAX_SLOTS {
                return None;
            }
            // A small number is told more easily.
            let span = (inner.open.len() as u64 * 4).clamp(9, MAX_SLOT);
            let mut numbers = (0..span).map(|step| (start % span + step) % span + 1);
            let number = numbers.find(|number| !inner.open.contains_key(number))?;
            let open = Open {
                id: start,
                attempts: give,
                until: now + LIFE,
            };
            inner.open.insert(number, open);
            Some(number)
        });
        Ok(number.map(|number| Slot {
            number,
            attempts,
            id: start,
            slots: self.clone(),
        }))
    }

    /// Counts an attempt, and finds the owner.
    fn admit(&self, from: &Peer, slot: u64) -> Result<mpsc::Sender<Attempt>, Turned> {
        let now = Instant::now();
        self.with(|inner| {
            let since = now.checked_sub(WINDOW).unwrap_or(now);
            if inner.tries.len() >= MAX_PEERS {
                inner
                    .tries
                    .retain(|_, tries| tries.back().is_some_and(|last| *last > since));
                if inner.tries.len() >= MAX_PEERS {
                    return Err(Turned::Busy);
                }
            }
            let tries = inner.tries.entry(from.origin()).or_default();
            while tries.front().is_some_and(|first| *first <= since) {
                tries.pop_front();
            }
            if tries.len() >= MAX_TRIES {
                return Err(Turned::Busy);
            }
            tries.push_back(now);
            let open = inner.open.get(&slot).filter(|open| open.until > now);
            open.map(|open| open.attempts.clone())
                .ok_or(Turned::Stranger)
        })
    }

    /// Carries the messages of an attempt, whose header was read already.
    pub async fn carry(
        &self,
        from: &Peer,
        header: CodeHeader,
        reader: &mut Reader,
        writer: &mut Writer,
    ) -> Result<(), ChannelError> {
        let until = Instant::now() + EXCHANGE;
        let message = timeout(PATIENCE, reader.exact::<EXCHANGE_LEN>()).await;
        let message = message.map_err(|_| ChannelError::Idle(PATIENCE))??;
        let first = [header.encode().as_slice(), &message].concat();
        let (incoming_give, incoming) = mpsc::channel(1);
        let (outgoing, mut said) = mpsc::channel(1);
        let given = match self.admit(from, header.slot) {
            Ok(attempts) => {
                let attempt = Attempt {
                    from: from.clone(),
                    first,
                    incoming,
                    outgoing,
                };
                let given = timeout(PATIENCE, attempts.send(attempt)).await;
                match given {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) => Err(Turned::Stranger),
                    Err(_) => Err(Turned::Busy),
                }
            }
            Err(turned) => Err(turned),
        };
        if let Err(turned) = given {
            return writer.bytes(&AnswerHeader::Turned(turned).encode()).await;
        }
        let carrying = async {
            for round in 0..ROUNDS {
                let Some(said) = said.recv().await else {
                    // The owner took it for wrong before it said a word: the code is gone.
                    return match round {
                        0 => {
                            let gone = AnswerHeader::Turned(Turned::Stranger);
                            writer.bytes(&gone.encode()).await
                        }
                        _ => Ok(()),
                    };
                };
                let before = match round {
                    0 => AnswerHeader::Envelope(said.len()).encode().to_vec(),
                    _ => length(said.len()).to_vec(),
                };
                writer.bytes(&[before, said].concat()).await?;
                if round + 1 < ROUNDS && incoming_give.send(frame(reader).await?).await.is_err() {
                    return Ok(());
                }
            }
            Ok(())
        };
        match timeout_at(until, carrying).await {
            Ok(carried) => carried,
            Err(_) => Err(ChannelError::Idle(EXCHANGE)),
        }
    }
}

/// What precedes each message but the first of a side.
pub(super) fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()
}

/// Reads a message with its length.
pub(super) async fn frame(reader: &mut Reader) -> Result<Vec<u8>, ChannelError> {
    let len = u32::from_be_bytes(reader.exact().await?);
    match usize::try_from(len) {
        Ok(len) if (1..=MAX_MESSAGE).contains(&len) => reader.bytes(len).await,
        _ => Err(WireError::Record.into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Peer {
        Peer::Ip(text.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_has_ten_attempts_a_minute_whatever_its_port() {
        let slots = Slots::default();
        let slot = slots.open().unwrap().unwrap();
        for port in 1..=10 {
            let from = peer(&format!("192.0.2.1:{port}"));
            assert!(slots.admit(&from, slot.number).is_ok());
        }
        let again = slots.admit(&peer("192.0.2.1:99"), slot.number);
        assert_eq!(again.err(), Some(Turned::Busy));
        assert!(slots.admit(&peer("192.0.2.2:1"), slot.number).is_ok());
        tokio::time::advance(WINDOW).await;
        assert!(slots.admit(&peer("192.0.2.1:99"), slot.number).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_is_open_for_ten_minutes_and_there_are_a_hundred_at_most() {
        let slots = Slots::default();
        let open: Vec<_> = (0..100).map(|_| slots.open().unwrap().unwrap()).collect();
        assert!(slots.open().unwrap().is_none());
        let number = open[0].number;
        let other = open[1].number;
        tokio::time::advance(Duration::from_secs(599)).await;
        assert!(slots.admit(&peer("192.0.2.1:1"), number).is_ok());
        drop(open);
        assert_eq!(
            slots.admit(&peer("192.0.2.1:1"), other).err(),
            Some(Turned::Stranger)
        );
        let slot = slots.open().unwrap().unwrap();
        tokio::time::advance(LIFE).await;
        let late = slots.admit(&peer("192.0.2.3:1"), slot.number);
        assert_eq!(late.err(), Some(Turned::Stranger), "its time is over");
        // The number may belong to somebody else by now, who keeps it. It is one of nine.
        let number = slot.number;
        let _other = loop {
            let other = slots.open().unwrap().unwrap();
            if other.number == number {
                break other;
            }
        };
        drop(slot);
        assert!(slots.admit(&peer("192.0.2.4:1"), number).is_ok());
    }
}
