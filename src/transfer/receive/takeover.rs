//! A sender who reconnects before an earlier session of theirs has let go: most often that
//! session's client is gone, and the server has not noticed yet.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;

use super::{
    decision::Decision,
    offer::FileOffer,
    receiver::{Parties, Receiver},
};
use crate::{
    error::Error,
    files::disk_queue::DiskQueue,
    journal::delivered::Key,
    meta::{Meta, TransferId},
};

/// How long a sender who reconnects waits for an earlier session to let go: longer than the hooks
/// of a file run, shorter than a client waits for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// An offered file, with the index of its offer.
pub type Offered = (usize, Box<FileOffer>);

/// The transfer of what is offered.
pub(super) fn key(parties: &Parties, meta: &Meta, id: TransferId) -> Key {
    Key {
        user: parties.user.name().to_string(),
        folder: meta.folder.clone(),
        from: parties.from.to_string(),
        id,
    }
}

impl Receiver {
    /// Tells earlier sessions of the sender that have one of these transfers in hand to end;
    /// returns the files that no session has, and those that must wait for one.
    pub(super) fn supersede(
        &self,
        parties: &Parties,
        files: Vec<Offered>,
    ) -> (Vec<Offered>, Vec<Offered>) {
        let key = |(_, offer): &Offered| key(parties, &offer.meta, offer.id);
        let keys: Vec<Key> = files.iter().map(key).collect();
        let held = self.under_way.supersede(&keys, &parties.holder);
        let (held, free): (Vec<_>, Vec<_>) =
            files.into_iter().zip(held).partition(|(_, held)| *held);
        let files = |these: Vec<(Offered, bool)>| these.into_iter().map(|(file, _)| file).collect();
        (files(free), files(held))
    }

    /// Decides about files that earlier sessions have in hand, as soon as those let go.
    pub(super) async fn take_over(
        self: &Arc<Self>,
        queue: &DiskQueue,
        parties: &Arc<Parties>,
        files: Vec<Offered>,
        begun: Instant,
        early: &(impl Fn(usize, Decision) + Sync),
    ) -> Vec<(usize, Result<Decision, Error>)> {
        // A session lets go of a file that hooks work on when they have decided.
        let until = tokio::time::Instant::now() + PATIENCE;
        let taking = files.into_iter().map(|(at, offer)| async move {
            self.under_way
                .released(&key(parties, &offer.meta, offer.id), &parties.holder, until)
                .await;
            let files = vec![(at, offer)];
            self.decide_files(queue, parties, files, begun, early).await
        });
        join_all(taking).await.into_iter().flatten().collect()
    }
}
