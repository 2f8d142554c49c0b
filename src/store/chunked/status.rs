//! How a folder's store is, for the person who looks after it.

use std::{
    io,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::{
    ChunkedStore, Core,
    holders::{Members, PATIENCE, silent},
    index::work::Backlog,
};
use crate::store::{
    member::{Member, MemberError},
    runtime,
    sealed::chunk::ChunkId,
};

/// How a store is.
#[derive(Clone, Debug)]
pub struct Status {
    /// Each member.
    pub members: Vec<MemberStatus>,
    /// Files, directories, bytes of the files.
    pub totals: (u64, u64, u64),
    /// Chunks of these files.
    pub chunks: u64,
    /// What is still to be done.
    pub backlog: Backlog,
    /// Files by how many further members can be lost: none less than promised, one less and so
    /// on; the last count is of files that are lost.
    pub files: Files,
    /// When everything was last read and verified, in milliseconds since 1970.
    pub scrubbed: Option<u64>,
}

impl Status {
    /// Whether each member answered.
    pub fn answers(&self) -> Vec<(String, Answered)> {
        let members = self.members.iter();
        members
            .map(|member| (member.name.clone(), member.answered.clone()))
            .collect()
    }
}

/// Files, by what is missing of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Of which every member has its part.
    pub whole: u64,
    /// Of which one member lacks a part.
    pub degraded: u64,
    /// Of which two members lack a part: none more may be lost.
    pub critical: u64,
    /// That cannot be rebuilt.
    pub lost: u64,
}

/// How a member is.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// Its name in m2y.ini.
    pub name: String,
    /// How long it took to answer, or why it did not.
    pub answered: Answered,
    /// Bytes that still fit, if it knows.
    pub room: Option<u64>,
    /// Bytes that it holds of this folder, as far as the index knows.
    pub used: u64,
    /// Parts of chunks that it lacks.
    pub missing: u64,
}

/// The note of the index with the members that were last told to be lost, as bits.
const LOST: &str = "lost_members";

/// How long a member took to answer, or why it did not.
pub type Answered = Result<Duration, MemberError>;

impl Core {
    async fn asked(&self, member: &dyn Member) -> Answered {
        let begun = Instant::now();
        let key = self.folder.document_key();
        match timeout(PATIENCE, member.stat(&key)).await {
            Ok(Ok(_) | Err(MemberError::Missing(_))) => Ok(begun.elapsed()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(silent()),
        }
    }
}

impl ChunkedStore {
    /// Whether each member answers.
    pub fn answers(&self) -> io::Result<Vec<(String, Answered)>> {
        let core = self.core.clone();
        runtime::run(async move {
            let members = core.holders.members();
            let asking = members
                .iter()
                .map(|(name, member)| async { ((*name).to_owned(), core.asked(&***member).await) });
            join_all(asking).await
        })
    }

    /// The members that the folder's hooks were last told to be lost.
    pub fn told_lost(&self) -> io::Result<Members> {
        Ok(self.core.index.note(LOST)?.unwrap_or(0))
    }

    /// Notes which members the folder's hooks were told to be lost.
    pub fn set_told_lost(&self, members: Members) -> io::Result<()> {
        self.core.index.set_note(LOST, members)
    }

    /// How the store is. Members that do not answer cost a few seconds.
    pub fn status(&self) -> io::Result<Status> {
        let core = &self.core;
        let this = core.clone();
        let answers = runtime::run(async move {
            let members = this.holders.members();
            let asking = members.iter().map(|(name, member)| async {
                let answered = this.asked(&***member).await;
                let room = match &answered {
                    Ok(_) => timeout(PATIENCE, member.room()).await,
                    Err(error) => Ok(Err(error.clone())),
                };
                let room = room.ok().and_then(Result::ok).flatten();
                ((*name).to_owned(), answered, room)
            });
            join_all(asking).await
        })?;
        let held = core.index.held_by_members(core.holders.count())?;
        let members = answers.into_iter().zip(held);
        let members = members.map(|((name, answered, room), (used, missing))| MemberStatus {
            name,
            answered,
            room,
            used,
            missing,
        });
        Ok(Status {
            members: members.collect(),
            totals: core.index.totals()?,
            chunks: core.index.count_chunks(&ChunkId([0; 16]))?,
            backlog: core.index.backlog()?,
            files: core.index.files_by_loss(core.holders.count())?,
            scrubbed: self.scrubbed()?,
        })
    }
}
