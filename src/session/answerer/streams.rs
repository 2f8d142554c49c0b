//! Incoming streams: what the sender hears of their viewers, and what is kept of them.

use tokio::task;
use tracing::info;

use super::{Answerer, AnswererIo, Done, Transfer};
use crate::{
    error::{Code, Error},
    observer::TransferEnd,
    session::SessionError,
    traffic::Stage,
    transfer::receive::{arrival::Arrival, receiver::StoreNews, target::Received},
    viewers::View,
    wire::record::{self, Kind},
};

/// Has the session hear how a stream is watched, and what came of it if it is cut off.
pub(super) fn watch_and_keep(io: &AnswererIo, transfer: u32, arrival: &mut Arrival) {
    let Some(view) = &arrival.view else {
        return;
    };
    let early = io.tasks.early();
    view.tells(move |taken| {
        let _ = early.send(Done::Watched(transfer, taken));
    });
    if arrival.streaming.is_recorded {
        let early = io.tasks.early();
        arrival.keep = Some(Box::new(move |received| {
            let _ = early.send(Done::Cut(Box::new(received)));
        }));
    }
}

/// Has the session hear when a stream that has ended was watched to its end.
pub(super) fn seen_to_its_end(
    io: &AnswererIo,
    transfer: u32,
    view: View,
    received: Received<Arrival>,
) {
    received.target.traffic.set_stage(Stage::Sent);
    let early = io.tasks.early();
    // Not as work of the session: a viewer may pause for as long as it likes.
    tokio::spawn(async move {
        tokio::select! {
            all = view.over() => drop(early.send(Done::Seen(transfer, all))),
            () = early.closed() => {}
        }
        // Its name is free again.
        task::spawn_blocking(move || drop(received));
    });
}

impl Answerer<'_> {
    /// The sender may send more of a stream.
    pub(super) fn watched(
        &self,
        io: &mut AnswererIo,
        transfer: u32,
        taken: u64,
    ) -> Result<(), SessionError> {
        if let Some(Transfer::Receiving) = self.transfers.get(&transfer) {
            let taken = record::encode_offset(taken);
            io.outbox.say(Kind::Watched, transfer, &taken)?;
        }
        Ok(())
    }

    /// The last word of a stream that has ended.
    pub(super) fn seen(
        &mut self,
        io: &mut AnswererIo,
        transfer: u32,
        all: bool,
    ) -> Result<(), SessionError> {
        if !matches!(
            self.transfers.get(&transfer),
            Some(Transfer::Storing { .. })
        ) {
            return Ok(());
        }
        self.close(transfer);
        info!(transfer, watched_to_its_end = all, "a stream ended");
        if all {
            self.receiver.observer.ended(TransferEnd::Received);
            io.outbox.say(Kind::Ack, transfer, record::ACK)?;
            return Ok(());
        }
        self.receiver.observer.ended(TransferEnd::Failed);
        let error = Error::new(Code::Later, "the viewer left before the end");
        io.outbox
            .say(Kind::Error, transfer, &record::encode_error(&error))?;
        Ok(())
    }

    /// Keeps what came of a stream that was cut off.
    pub(super) fn keep(&self, io: &AnswererIo, received: Received<Arrival>) {
        let receiver = self.receiver.clone();
        io.tasks.spawn(async move {
            let tell = |news: StoreNews| {
                if let StoreNews::Over(stored) = news {
                    stored.iter().for_each(|(_, stored)| receiver.log(stored));
                }
            };
            receiver.store(vec![received], tell).await;
            Done::Stored(Vec::new())
        });
    }
}
