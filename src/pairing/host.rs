//! A host for one code: a listener that takes nothing else.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    PATIENCE,
    remote_slot::RemoteSlot,
    slots::{Attempt, Slot, Slots},
};
use crate::{
    crypto::CryptoError,
    session::channel::{ChannelError, Reader, Writer},
    transport::{Incoming, Listener, admission::Admission},
    wire::header::{AnswerHeader, First, Turned},
};

/// Connections at the same time: in all, and from one host.
const CONNECTIONS: usize = 256;
const FROM_ONE: usize = 8;

/// How long a connection may take to say what it wants.
const FIRST: Duration = Duration::from_secs(5);

/// How long the end of a connection may take.
const LAST_BYTES: Duration = Duration::from_secs(3);

/// A slot that this listener hosts. `None` if it cannot be opened.
pub fn open(listener: Box<dyn Listener>) -> Result<Option<RemoteSlot>, CryptoError> {
    let slots = Slots::default();
    let slot = slots.open()?;
    Ok(slot.map(|slot| {
        RemoteSlot::new(slot.number, |give, closed| {
            run(listener, slots, slot, give, closed)
        })
    }))
}

async fn run(
    mut listener: Box<dyn Listener>,
    slots: Slots,
    mut slot: Slot,
    give: mpsc::Sender<Attempt>,
    mut closed: oneshot::Receiver<()>,
) {
    let admission = Admission::new(CONNECTIONS, FROM_ONE);
    // They end with this future.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(attempt) = slot.attempts.recv() => {
                let _ = give.try_send(attempt);
                continue;
            }
            _ = &mut closed => break,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok(incoming) => {
                if let Some(admitted) = admission.admit(&incoming.peer) {
                    let slots = slots.clone();
                    connections.spawn(async move {
                        let _ = serve(incoming, &slots).await;
                        drop(admitted);
                    });
                }
            }
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
    // Those who have something to hear yet hear it.
    drop((listener, slot, give));
    let rest = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(LAST_BYTES, rest).await;
}

async fn serve(incoming: Incoming, slots: &Slots) -> Result<(), ChannelError> {
    let peer = incoming.peer.clone();
    let beginning = async {
        let link = incoming.link().await?;
        let mut reader = Reader::new(link.reader, PATIENCE);
        let header = reader.exact().await?;
        Ok::<_, ChannelError>((reader, Writer::new(link.writer, PATIENCE), header))
    };
    let begun = timeout(FIRST, beginning).await;
    let (mut reader, mut writer, header) = begun.map_err(|_| ChannelError::Idle(FIRST))??;
    match First::decode(&header) {
        Ok(First::Code(header)) => slots.carry(&peer, header, &mut reader, &mut writer).await?,
        // Sessions are for a server.
        Ok(First::Opening(_) | First::Back | First::Post) | Err(_) => {
            let turned = AnswerHeader::Turned(Turned::Unreadable);
            writer.bytes(&turned.encode()).await?;
        }
    }
    writer.finish().await;
    reader.drain(LAST_BYTES).await;
    Ok(())
}
