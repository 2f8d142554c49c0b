//! Files that the client sends: from asking for permission to the last word.

use std::time::{Duration, Instant};

use tokio::task;

use super::{Asker, AskerIo, Done, SessionError, Told, Transfer, fail};
use crate::{
    error::{Code, Error, printable},
    meta::{MAX_TEXT, Meta, Wire, is_extra},
    store::{Reader, prefix::prefix_digest},
    stream::WINDOW,
    transfer::send::{
        blocks::{Attempt, unreadable},
        feed_blocks::FeedBlocks,
        job::Job,
    },
    wire::{
        WireError,
        record::{self, Kind, MAX_BODY, Stream},
        request::Reply,
        session::Direction,
    },
};

/// An outgoing file.
pub struct Upload<J> {
    pub(super) job: J,
    /// Where its outcome goes, if not where all others do.
    pub(super) told: Option<Told<J>>,
    /// How permission was requested.
    pub(super) kind: Kind,
    /// When permission was requested.
    pub(super) since: Instant,
    /// Bytes of the file that were sent, now or before.
    pub(super) moved: u64,
    pub(super) asked: Meta,
    pub(super) stage: Stage,
}

/// How far an outgoing file has come.
pub enum Stage {
    /// Permission was requested.
    Asked,
    /// The other side has a prefix of it; that of our file is being read.
    Digesting(Box<Wire>),
    /// Our digest was sent; with the CRC-32 of the prefix.
    Agreeing(Box<Wire>, crc32fast::Hasher),
    /// Blocks are being sent.
    Sending(Box<Wire>),
    /// All of it is sent; its CRC-32.
    Sent(Box<Wire>, u32),
}

impl<J> Upload<J> {
    pub(super) fn new(job: J, told: Option<Told<J>>, kind: Kind, asked: Meta) -> Box<Self> {
        Box::new(Self {
            job,
            told,
            kind,
            since: Instant::now(),
            moved: 0,
            asked,
            stage: Stage::Asked,
        })
    }
}

impl<J: Job + Send> Asker<'_, J> {
    /// Asks for permission to send a file.
    pub(super) fn ask_to_send(
        &mut self,
        io: &mut AskerIo,
        job: J,
        told: Option<Told<J>>,
    ) -> Result<(), SessionError> {
        let asked = match job.meta() {
            Ok(asked) => asked,
            Err(error) => {
                self.told((job, Err(error), Duration::ZERO), told);
                return Ok(());
            }
        };
        let (kind, json) = job.ask(&asked);
        if json.len() > MAX_BODY {
            let sentence = "the .meta is too large to be sent: 64 KiB at most";
            let error = Error::new(Code::Failed, sentence);
            self.told((job, Err(error), Duration::ZERO), told);
            return Ok(());
        }
        let transfer = self.number();
        io.outbox.say(kind, transfer, &json)?;
        let upload = Upload::new(job, told, kind, asked);
        self.transfers.insert(transfer, Transfer::Upload(upload));
        Ok(())
    }

    /// Takes an upload out of the open transfers, if the other side may refer to it that way.
    pub(super) fn expect(
        &mut self,
        transfer: u32,
        may: impl FnOnce(&Upload<J>) -> bool,
    ) -> Result<Box<Upload<J>>, SessionError> {
        match self.transfers.remove(&transfer) {
            Some(Transfer::Upload(upload)) if may(&upload) => Ok(upload),
            other => {
                // It ends with the session, and its sender is told.
                other.map(|other| self.transfers.insert(transfer, other));
                Err(WireError::Record.into())
            }
        }
    }

    /// The answer to a meta.
    pub(super) fn answered(
        &mut self,
        io: &mut AskerIo,
        transfer: u32,
        reply: Wire,
    ) -> Result<(), SessionError> {
        let mut upload = self.expect(transfer, |upload| matches!(upload.stage, Stage::Asked))?;
        if let Err(error) = granted(&reply, &upload.asked) {
            self.tell(*upload, Err(error));
            return Ok(());
        }
        if reply.delivered {
            self.observer
                .step(15, format_args!("the file was delivered before"));
            let meta = delivered(&upload.asked, &reply.meta, reply.meta.file_crc);
            self.tell(*upload, Ok(meta));
            return Ok(());
        }
        let (offset, reply) = (reply.offset, Box::new(reply));
        if offset == 0 {
            let bytes = upload.asked.filesize.unwrap_or_default();
            self.observer
                .step(13, format_args!("send {bytes} bytes in sealed blocks"));
            let crc = crc32fast::Hasher::new();
            return self.send(io, transfer, upload, reply, (0, crc));
        }
        let (contents, _) = upload.job.source();
        io.tasks.spawn(async move {
            let digest = task::spawn_blocking(move || {
                prefix_digest(Reader::new(&*contents), offset).map_err(|e| unreadable(&e))
            });
            let failed = |_| Err(Error::new(Code::Failed, "the file could not be read"));
            Done::Digested(transfer, digest.await.unwrap_or_else(failed))
        });
        upload.stage = Stage::Digesting(reply);
        self.transfers.insert(transfer, Transfer::Upload(upload));
        Ok(())
    }

    /// The other side says where the blocks begin.
    pub(super) fn resumed(
        &mut self,
        io: &mut AskerIo,
        transfer: u32,
        offset: u64,
    ) -> Result<(), SessionError> {
        let mut upload = self.expect(transfer, |upload| match &upload.stage {
            Stage::Agreeing(reply, _) => offset == reply.offset || offset == 0,
            _ => false,
        })?;
        let Stage::Agreeing(reply, crc) = std::mem::replace(&mut upload.stage, Stage::Asked) else {
            return Err(WireError::Record.into());
        };
        let crc = if offset > 0 {
            crc
        } else {
            crc32fast::Hasher::new()
        };
        self.observer.moved(offset);
        upload.moved = offset;
        upload.job.held(offset);
        self.send(io, transfer, upload, reply, (offset, crc))
    }

    /// Has the blocks sealed, from an offset on, with the CRC-32 of what is before it.
    pub(super) fn send(
        &mut self,
        io: &mut AskerIo,
        transfer: u32,
        mut upload: Box<Upload<J>>,
        reply: Box<Wire>,
        (offset, crc): (u64, crc32fast::Hasher),
    ) -> Result<(), SessionError> {
        let (Some(filekey), Some(id)) = (&reply.filekey, &upload.asked.id) else {
            let error = Error::new(Code::Failed, "the answer has no filekey");
            self.tell(*upload, Err(error));
            return Ok(());
        };
        let blocks = Stream::new(
            &self
                .keys
                .block_key(filekey, id, Direction::ToServer, transfer),
        )?;
        let feed = upload.job.feed();
        let (contents, version) = upload.job.source();
        let claimed_crc = upload.asked.file_crc;
        upload.stage = Stage::Sending(reply);
        self.transfers.insert(transfer, Transfer::Upload(upload));
        if let Some(feed) = feed {
            io.uploads
                .push_feed(FeedBlocks::new(transfer, feed, blocks));
            return Ok(());
        }
        io.uploads.push(Attempt {
            transfer,
            contents,
            size: version.len(),
            version: version.key(),
            blocks,
            offset,
            crc,
            claimed_crc,
        });
        Ok(())
    }

    /// Tells the other side that a file will not come, and why.
    pub(super) fn give_up(
        &mut self,
        io: &mut AskerIo,
        transfer: u32,
        error: Error,
    ) -> Result<(), SessionError> {
        io.outbox
            .say(Kind::Error, transfer, &record::encode_error(&error))?;
        if let Some(Transfer::Upload(upload)) = self.transfers.remove(&transfer) {
            self.tell(*upload, Err(error));
        }
        Ok(())
    }

    /// A file that was put somewhere is stored.
    pub(super) fn stored(&mut self, transfer: u32, reply: Reply) -> Result<(), SessionError> {
        let same = match &reply {
            Reply::Stored { same, .. } => *same,
            Reply::Done => false,
            _ => return Err(WireError::Record.into()),
        };
        let mut upload = self.expect(transfer, |upload| {
            let is_time = match same {
                true => matches!(upload.stage, Stage::Asked),
                false => matches!(upload.stage, Stage::Sent(..)),
            };
            is_time && upload.kind == Kind::Request
        })?;
        upload.job.stored(reply);
        self.safe(*upload);
        Ok(())
    }

    /// The other side has a file.
    pub(super) fn safe(&mut self, upload: Upload<J>) {
        let mut meta = match &upload.stage {
            Stage::Sent(reply, crc) => delivered(&upload.asked, &reply.meta, Some(*crc)),
            _ => delivered(&upload.asked, &upload.asked, None),
        };
        meta.filesize = meta.filesize.or(Some(upload.moved));
        self.tell(upload, Ok(meta));
    }

    /// Whoever watches a stream has taken so many bytes of it.
    pub(super) fn watched(&self, transfer: u32, body: &[u8]) -> Result<(), SessionError> {
        let taken = record::decode_offset(body)?;
        if let Some(Transfer::Upload(upload)) = self.transfers.get(&transfer)
            && let Some(feed) = upload.job.feed()
        {
            feed.allow(taken.saturating_add(WINDOW));
        }
        Ok(())
    }

    /// The other side ended a transfer.
    pub(super) fn ended(
        &mut self,
        io: &mut AskerIo,
        transfer: u32,
        body: &[u8],
    ) -> Result<(), SessionError> {
        let error = record::decode_error(body)?;
        let error = Error::new(error.code, printable(&error.sentence, 500));
        // If we gave it up first, it says so once more.
        match self.transfers.remove(&transfer) {
            Some(Transfer::Upload(upload)) => {
                if matches!(upload.stage, Stage::Sending(_)) {
                    match io.uploads.give_up(transfer) {
                        true => {
                            self.transfers.insert(transfer, Transfer::Ending);
                        }
                        false => self.say_ended(io, transfer)?,
                    }
                }
                self.tell(*upload, Err(error));
            }
            Some(open) => fail(open, error),
            None => {}
        }
        Ok(())
    }

    /// The other side waits for us to end what it ended.
    pub(super) fn say_ended(&self, io: &mut AskerIo, transfer: u32) -> Result<(), SessionError> {
        let error = Error::new(Code::Later, "the receiver ended the transfer");
        io.outbox
            .say(Kind::Error, transfer, &record::encode_error(&error))?;
        Ok(())
    }
}

/// Whether the receiver accepts the file, or its reason to refuse.
fn granted(reply: &Wire, sent: &Meta) -> Result<(), Error> {
    if !reply.meta.error.is_empty() {
        let sentence = printable(&reply.meta.error, MAX_TEXT);
        return Err(Error::new(Code::from_word(&reply.code), sentence));
    }
    // Of what is sent as it comes, the size is not known yet.
    let size = |meta: &Meta| meta.filesize.filter(|_| sent.filesize.is_some());
    let about = |meta: &Meta| (meta.id, size(meta), meta.from.clone(), meta.to.clone());
    if about(&reply.meta) != about(sent) {
        let sentence = "the answer is about a different transfer";
        return Err(Error::new(Code::Failed, sentence));
    }
    if reply.offset > 0 && sent.filesize.is_none_or(|size| reply.offset >= size) {
        let sentence = "the receiver says that it has more of the file than there is";
        return Err(Error::new(Code::Failed, sentence));
    }
    Ok(())
}

/// What was sent, with what the receiver's hooks wrote into it.
fn delivered(sent: &Meta, reply: &Meta, crc: Option<u32>) -> Meta {
    let mut meta = sent.clone();
    for (field, value) in &reply.extra {
        if is_extra(field) {
            meta.extra.insert(field.clone(), value.clone());
        }
    }
    meta.file_crc = crc;
    meta
}
