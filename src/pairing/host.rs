//! A host for one code: a listener that takes nothing else.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, oneshot},
    task::{self, JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{PATIENCE, slots::Slots};
use crate::{
    session::channel::{ChannelError, Reader, Writer},
    transport::{Incoming, Listener, origins::Origins},
    wire::header::{AnswerHeader, First, Turned},
};

/// Connections at the same time: in all, and from one host.
const CONNECTIONS: usize = 256;
const FROM_ONE: usize = 8;

/// How long a connection may take to say what it wants.
const FIRST: Duration = Duration::from_secs(5);

/// How long the end of a connection may take.
const LAST_BYTES: Duration = Duration::from_secs(3);

/// A host at work.
pub struct Hosting {
    stop: oneshot::Sender<()>,
    work: JoinHandle<()>,
}

impl Hosting {
    /// Takes connections, and carries the messages of those that come for a code.
    pub fn start(listener: Box<dyn Listener>, slots: Slots) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self {
            stop,
            work: task::spawn(run(listener, slots, stopped)),
        }
    }

    /// Takes no more connections, and waits until those that there are have heard everything.
    pub async fn finish(self) {
        drop(self.stop);
        let _ = self.work.await;
    }
}

async fn run(mut listener: Box<dyn Listener>, slots: Slots, mut stopped: oneshot::Receiver<()>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let from = Origins::new(FROM_ONE);
    // They end with this future.
    let mut connections = JoinSet::new();
    loop {
        let Ok(one) = free.clone().acquire_owned().await else {
            break;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok(incoming) => {
                let counted = from.count(&incoming.peer);
                let (Some(counted), slots) = (counted, slots.clone()) else {
                    continue;
                };
                connections.spawn(async move {
                    let _ = serve(incoming, &slots).await;
                    drop((one, counted));
                });
            }
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
    drop(listener);
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
        Ok(First::Opening(_) | First::Back) | Err(_) => {
            let turned = AnswerHeader::Turned(Turned::Unreadable);
            writer.bytes(&turned.encode()).await?;
        }
    }
    writer.finish().await;
    reader.drain(LAST_BYTES).await;
    Ok(())
}
