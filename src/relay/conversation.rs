//! A connection on which one side asks about letters and the other answers.

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    crypto::Key,
    error::{Code, Error, printable},
    json::{self, Map, Value},
    session::channel::{ChannelError, Reader, Writer},
    wire::{
        WireError,
        post::Ask,
        record::{self, Head, Kind, MAX_BODY, Stream},
    },
};

/// One side of it.
pub struct Conversation {
    /// What comes.
    pub reader: Reader,
    /// What goes.
    pub writer: Writer,
    /// Seals what goes.
    pub ours: Stream,
    /// Opens what comes.
    pub theirs: Stream,
}

/// What the side that answers hears.
pub enum Heard {
    /// A question.
    Ask(Ask),
    /// There are no more.
    Over,
    /// Something that cannot be read, or is not known here.
    Unknown,
}

/// How long an answer may take, or a piece that was asked for.
const ANSWER: Duration = Duration::from_secs(120);

impl Conversation {
    /// A conversation whose sides seal with these keys, ours first.
    pub fn new(
        reader: Reader,
        writer: Writer,
        [ours, theirs]: [&Key; 2],
    ) -> Result<Self, WireError> {
        Ok(Self {
            reader,
            writer,
            ours: Stream::new(ours)?,
            theirs: Stream::new(theirs)?,
        })
    }

    /// The next question.
    pub async fn hear(&mut self) -> Result<Heard, ChannelError> {
        loop {
            let (head, body) = self.record().await?;
            match head.kind {
                Kind::Request => {
                    return Ok(Ask::from_body(&body).map_or(Heard::Unknown, Heard::Ask));
                }
                Kind::Close => return Ok(Heard::Over),
                Kind::Working => {}
                _ => return Ok(Heard::Unknown),
            }
        }
    }

    /// Says one record.
    pub async fn say(&mut self, kind: Kind, body: &[u8]) -> Result<(), ChannelError> {
        self.writer.record(&mut self.ours, kind, 0, body).await
    }

    /// Answers with an object.
    pub async fn reply(&mut self, fields: Map<String, Value>) -> Result<(), ChannelError> {
        self.say(Kind::Reply, json::canonical(&fields).as_bytes())
            .await
    }

    /// Answers with an error.
    pub async fn refuse(&mut self, error: &Error) -> Result<(), ChannelError> {
        self.say(Kind::Error, &record::encode_error(error)).await
    }

    /// Says bytes, in as many pieces as it takes.
    pub async fn pieces(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        for piece in bytes.chunks(MAX_BODY) {
            self.say(Kind::Letter, piece).await?;
        }
        Ok(())
    }

    /// The next piece; `None` if the other side gave up.
    pub async fn piece(&mut self) -> Result<Option<Vec<u8>>, ChannelError> {
        let until = Instant::now() + ANSWER;
        loop {
            let record = timeout_at(until, self.record()).await;
            let (head, body) = record.unwrap_or(Err(ChannelError::Idle(ANSWER)))?;
            match head.kind {
                Kind::Letter => return Ok(Some(body)),
                Kind::Error => return Ok(None),
                Kind::Working => {}
                _ => return Err(WireError::Record.into()),
            }
        }
    }

    /// Asks, and waits for the answer.
    pub async fn ask(&mut self, ask: &Ask) -> Result<Map<String, Value>, Error> {
        self.say(Kind::Request, &ask.to_body()).await?;
        self.answer().await
    }

    /// The answer to what was asked.
    pub async fn answer(&mut self) -> Result<Map<String, Value>, Error> {
        let late = |_| Error::new(Code::Later, "the relay does not answer");
        timeout(ANSWER, self.heard()).await.map_err(late)?
    }

    /// The answer to a whole letter: that it is safe.
    pub async fn acknowledged(&mut self) -> Result<(), Error> {
        match self.answer().await?.is_empty() {
            true => Ok(()),
            false => Err(WireError::Record.into()),
        }
    }

    async fn heard(&mut self) -> Result<Map<String, Value>, Error> {
        loop {
            let (head, body) = self.record().await?;
            match head.kind {
                Kind::Reply => {
                    let unreadable =
                        |_| Error::new(Code::Failed, "the relay's answer cannot be read");
                    return json::parse(&body).map_err(unreadable);
                }
                Kind::Ack if body == record::ACK => return Ok(Map::new()),
                Kind::Error => {
                    let error = record::decode_error(&body)?;
                    let words = printable(&error.sentence, 500);
                    return Err(Error::new(error.code, words));
                }
                Kind::Working => {}
                _ => return Err(WireError::Record.into()),
            }
        }
    }

    /// The next record. All are of transfer 0.
    async fn record(&mut self) -> Result<(Head, Vec<u8>), ChannelError> {
        let (head, body) = self.reader.record(&mut self.theirs).await?;
        match head.transfer {
            0 => Ok((head, body)),
            _ => Err(WireError::Record.into()),
        }
    }

    /// Ends it.
    pub async fn close(mut self) {
        let _ = self.say(Kind::Close, &[]).await;
        self.writer.finish().await;
    }
}
