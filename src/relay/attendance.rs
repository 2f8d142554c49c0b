//! What a relay and a member who attends say to each other.

use std::time::Duration;

use tokio::{
    sync::{
        Notify,
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
    time::{Instant, MissedTickBehavior, interval},
};

use super::hub::Hub;
use crate::{
    crypto::CryptoError,
    hooks::dispatch::stopped,
    pairing::{
        bridge::{Bridge, Frame},
        slots::{Attempt, LIFE, Slot},
    },
    root::name::NameHash,
    session::channel::{ChannelError, Reader, Writer},
    wire::{
        WireError, header,
        record::{Kind, Stream},
        relay::{
            Token, decode_attempt, decode_call, decode_decision, encode_attempt, encode_call,
            encode_decision,
        },
        session::SessionKeys,
    },
};

/// How often a side shows that it is there.
const ALIVE: Duration = Duration::from_secs(30);

/// How long the other side may be silent.
const SILENCE: Duration = Duration::from_secs(90);

/// Why an attendance ended.
#[derive(Debug, thiserror::Error)]
pub enum AttendanceError {
    /// The connection.
    #[error("{0}")]
    Channel(#[from] ChannelError),
    /// There is no randomness.
    #[error("{0}")]
    Crypto(#[from] CryptoError),
}

impl From<WireError> for AttendanceError {
    fn from(error: WireError) -> Self {
        Self::Channel(error.into())
    }
}

/// The side of the relay: passes calls on, and takes decisions, until one side ends it. `is_member`
/// is asked now and then.
pub async fn serve<F: Future<Output = bool>>(
    hub: &Hub,
    member: NameHash,
    reader: &mut Reader,
    writer: &mut Writer,
    keys: &SessionKeys,
    mut shutdown: watch::Receiver<bool>,
    is_member: impl Fn() -> F,
) -> Result<(), AttendanceError> {
    let mut ours = Stream::new(&keys.server)?;
    let mut theirs = Stream::new(&keys.client)?;
    if !is_member().await {
        return Ok(());
    }
    let mut attending = hub.attend(member)?;
    let mut heard = Instant::now();
    let mut alive = interval(ALIVE);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    reader.set_idle(SILENCE);
    loop {
        tokio::select! {
            call = attending.calls.recv() => {
                let Some(call) = call else {
                    return Ok(());
                };
                let body = encode_call(&call.token, &call.opening);
                writer.record(&mut ours, Kind::Call, 0, &body).await?;
            }
            () = attending.letters.notified() => {
                writer.record(&mut ours, Kind::Letter, 0, &[]).await?;
            }
            record = reader.record(&mut theirs) => {
                let (head, body) = record?;
                heard = Instant::now();
                match head.kind {
                    Kind::Decision => {
                        let (token, lets_in) = decode_decision(&body)?;
                        hub.decide(&member, &token, lets_in);
                    }
                    Kind::Close => return Ok(()),
                    _ => {}
                }
                reader.narrow();
            }
            _ = alive.tick() => {
                if heard.elapsed() > SILENCE || !is_member().await {
                    return Ok(());
                }
                writer.record(&mut ours, Kind::Working, 0, &[]).await?;
            }
            () = stopped(&mut shutdown) => return Ok(()),
        }
    }
}

/// Somebody who calls, as the member sees it.
pub struct Called {
    /// Names the call.
    pub token: Token,
    /// The header of the opening.
    pub header: [u8; header::LEN],
    /// Its envelope.
    pub envelope: Vec<u8>,
}

/// The side of the member: hands out calls, and says what was decided about them, until one side ends
/// it. `letters` is told when some have come.
pub async fn attend(
    (reader, writer): (&mut Reader, &mut Writer),
    keys: &SessionKeys,
    letters: &Notify,
    calls: &mpsc::Sender<Called>,
    decisions: &mut mpsc::Receiver<(Token, bool)>,
) -> Result<(), AttendanceError> {
    let mut ours = Stream::new(&keys.client)?;
    let mut theirs = Stream::new(&keys.server)?;
    let mut heard = Instant::now();
    let mut alive = interval(ALIVE);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    reader.set_idle(SILENCE);
    loop {
        tokio::select! {
            record = reader.record(&mut theirs) => {
                let (head, body) = record?;
                heard = Instant::now();
                if head.kind == Kind::Letter {
                    letters.notify_one();
                }
                if head.kind == Kind::Call {
                    let (token, header, envelope) = decode_call(&body)?;
                    let envelope = envelope.to_vec();
                    let called = Called { token, header, envelope };
                    // With too many at once, the relay tells the rest that nobody is there.
                    let _ = calls.try_send(called);
                }
                reader.narrow();
            }
            decision = decisions.recv() => {
                let Some((token, lets_in)) = decision else {
                    writer.record(&mut ours, Kind::Close, 0, &[]).await?;
                    return Ok(());
                };
                let body = encode_decision(&token, lets_in);
                writer.record(&mut ours, Kind::Decision, 0, &body).await?;
            }
            _ = alive.tick() => {
                if heard.elapsed() > SILENCE {
                    return Err(ChannelError::Idle(SILENCE).into());
                }
                writer.record(&mut ours, Kind::Working, 0, &[]).await?;
            }
        }
    }
}

/// The side of a relay that keeps a slot open for a member: passes messages of attempts on, both
/// ways, until the member has enough. The slot is the first thing that it says.
pub async fn keep_slot(
    mut slot: Slot,
    reader: &mut Reader,
    writer: &mut Writer,
    keys: &SessionKeys,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), AttendanceError> {
    let mut ours = Stream::new(&keys.server)?;
    let mut theirs = Stream::new(&keys.client)?;
    let number = slot.number.to_be_bytes();
    writer.record(&mut ours, Kind::Call, 0, &number).await?;
    let (mut bridge, mut frames) = Bridge::new();
    let mut count = 0;
    reader.set_idle(LIFE);
    loop {
        tokio::select! {
            attempt = slot.attempts.recv() => {
                let Some(attempt) = attempt else {
                    return Ok(());
                };
                count += 1;
                let body = encode_attempt(&attempt.from.to_string(), &attempt.first);
                writer.record(&mut ours, Kind::Call, count, &body).await?;
                bridge.join(count, attempt.incoming, attempt.outgoing);
            }
            Some(frame) = frames.recv() => {
                let body = frame.message.unwrap_or_default();
                writer.record(&mut ours, Kind::Call, frame.attempt, &body).await?;
            }
            record = reader.record(&mut theirs) => {
                let (head, body) = record?;
                match head.kind {
                    Kind::Decision => bridge.take(frame(head.transfer, body)),
                    Kind::Close => return Ok(()),
                    _ => {}
                }
            }
            () = stopped(&mut shutdown) => return Ok(()),
        }
    }
}

/// The number of the slot that a relay keeps open.
pub async fn slot_number(reader: &mut Reader, theirs: &mut Stream) -> Result<u64, AttendanceError> {
    let (head, body) = reader.record(theirs).await?;
    match <[u8; 8]>::try_from(body) {
        Ok(number) if head.kind == Kind::Call && head.transfer == 0 => {
            Ok(u64::from_be_bytes(number))
        }
        _ => Err(WireError::Record.into()),
    }
}

/// The side of the member: hands over attempts, and carries their messages, until `closed` is ready.
pub async fn take_attempts(
    reader: &mut Reader,
    writer: &mut Writer,
    mut theirs: Stream,
    keys: &SessionKeys,
    give: mpsc::Sender<Attempt>,
    mut closed: oneshot::Receiver<()>,
) -> Result<(), AttendanceError> {
    let mut ours = Stream::new(&keys.client)?;
    let (mut bridge, mut frames) = Bridge::new();
    reader.set_idle(LIFE);
    loop {
        let (head, body) = tokio::select! {
            record = reader.record(&mut theirs) => record?,
            Some(frame) = frames.recv() => {
                let body = frame.message.unwrap_or_default();
                writer
                    .record(&mut ours, Kind::Decision, frame.attempt, &body)
                    .await?;
                continue;
            }
            _ = &mut closed => break,
        };
        if head.kind != Kind::Call {
            continue;
        }
        if bridge.has(head.transfer) || body.is_empty() {
            bridge.take(frame(head.transfer, body));
            continue;
        }
        let (from, first) = decode_attempt(&body)?;
        let attempt = bridge.begin(head.transfer, from, first.to_vec());
        if let Err(TrySendError::Closed(_)) = give.try_send(attempt) {
            break;
        }
    }
    // What the owner said last.
    drop((bridge, give));
    while let Some(frame) = frames.recv().await {
        let body = frame.message.unwrap_or_default();
        writer
            .record(&mut ours, Kind::Decision, frame.attempt, &body)
            .await?;
    }
    writer.record(&mut ours, Kind::Close, 0, &[]).await?;
    writer.finish().await;
    Ok(())
}

/// An empty body says that an attempt is over.
fn frame(attempt: u32, body: Vec<u8>) -> Frame {
    Frame {
        attempt,
        message: (!body.is_empty()).then_some(body),
    }
}
