//! The side of a relay that keeps letters: what it answers to those who leave them, and to the members
//! who fetch them.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task,
    time::{Instant, timeout_at},
};

use super::{
    arriving::Arriving,
    conversation::{Conversation, Heard},
    letters::{Letters, Seen, Stock},
};
use crate::{
    crypto::SysRng,
    error::{Code, Error},
    hooks::dispatch::stopped,
    json::{Map, Value},
    root::name::Name,
    session::channel::{ChannelError, Reader, Writer},
    store::Contents,
    wire::{
        WireError,
        post::{Ask, DeliveryStatus, MAX_BOXES, PostKeys, answer},
        record::{ACK, Kind, MAX_BODY},
        session::Share,
    },
};

/// How long a member who fetches letters may be silent: meanwhile its hooks run.
const MEMBER_IDLE: Duration = Duration::from_secs(600);

/// How long somebody may take who has shown no box and no letter, and how long somebody may be silent who
/// has.
const UNKNOWN: Duration = Duration::from_secs(20);
const KNOWN: Duration = Duration::from_secs(60);

/// How long a quarter of a mebibyte of a letter may take, or what is left of it.
const SLOWEST: Duration = Duration::from_secs(60);

/// Pieces that are written together.
const TOGETHER: usize = 256 << 10;

/// The keys of somebody who has sent the head of a [post](crate::wire::post) connection; the share of
/// the relay goes back.
pub async fn accept(
    letters: &Letters,
    mut reader: Reader,
    mut writer: Writer,
) -> Result<Conversation, ChannelError> {
    let theirs = reader.exact().await?;
    let own = Share::new(&mut SysRng).map_err(WireError::from)?;
    let keys = PostKeys::of_relay(&letters.key(), &own, &theirs)?;
    writer
        .bytes(&[answer().as_slice(), &own.public].concat())
        .await?;
    Ok(Conversation::new(
        reader,
        writer,
        [&keys.relay, &keys.client],
    )?)
}

/// Answers somebody who leaves letters, until there are no more questions; somebody who does not know
/// a box or a letter here has little time.
pub async fn serve_anybody(
    letters: &Letters,
    conversation: &mut Conversation,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), ChannelError> {
    let mut until = Instant::now() + UNKNOWN;
    loop {
        let heard = tokio::select! {
            heard = timeout_at(until, conversation.hear()) => {
                heard.unwrap_or(Err(ChannelError::Idle(UNKNOWN)))?
            }
            () = stopped(&mut shutdown) => return Ok(()),
        };
        let ask = match heard {
            Heard::Ask(ask) => ask,
            Heard::Over => return Ok(()),
            Heard::Unknown => {
                conversation.refuse(&unknown()).await?;
                continue;
            }
        };
        let letters = letters.clone();
        match ask {
            Ask::Leave { id, letter, bytes } => {
                let beginning = blocking(move || letters.begin(&id, letter, bytes));
                let (arriving, prekey) = match beginning.await {
                    Ok(begun) => begun,
                    Err(error) => {
                        conversation.refuse(&error).await?;
                        continue;
                    }
                };
                conversation.reply(prekey.to_document()).await?;
                match take(conversation, arriving).await? {
                    Ok(()) => {
                        conversation.say(Kind::Ack, ACK).await?;
                        until = Instant::now() + KNOWN;
                    }
                    // What still comes of it would be taken for questions.
                    Err(error) => return conversation.refuse(&error).await,
                }
            }
            Ask::Letters(asked) => {
                let statuses = blocking(move || letters.statuses(&asked)).await;
                let knows = |statuses: &Vec<DeliveryStatus>| {
                    statuses
                        .iter()
                        .any(|status| *status != DeliveryStatus::Unknown)
                };
                if statuses.as_ref().is_ok_and(knows) {
                    until = Instant::now() + KNOWN;
                }
                answer_with(conversation, statuses.map(listed_statuses)).await?;
            }
            Ask::Forget(letter) => {
                let forgotten = blocking(move || letters.forget(letter)).await;
                answer_with(conversation, forgotten.map(|()| Map::new())).await?;
            }
            Ask::TakeBack(letter) => {
                let taken = blocking(move || letters.take_back(letter)).await;
                answer_with(conversation, taken.map(|taken| one("taken", taken))).await?;
            }
            Ask::Join { token, card } => {
                let joined = blocking(move || letters.join(&token, &card)).await;
                answer_with(conversation, joined.map(|()| Map::new())).await?;
            }
            Ask::Presence(boxes) => {
                let seen = blocking(move || boxes.iter().map(|hash| letters.seen(hash)).collect());
                let seen: Result<Vec<Seen>, Error> = seen.await;
                let value = |seen: &Seen| match seen {
                    Seen::Now => Value::Object(one("now", true)),
                    Seen::At(time) => Value::Object(one("seen", *time)),
                    Seen::Nothing => Value::Null,
                };
                let there =
                    seen.map(|seen| one("there", seen.iter().map(value).collect::<Vec<_>>()));
                answer_with(conversation, there).await?;
            }
            _ => conversation.refuse(&unknown()).await?,
        }
    }
}

/// Answers a member who looks after its mailbox, until there are no more questions. `is_member` is asked
/// before each answer.
pub async fn serve_member<F: Future<Output = bool>>(
    letters: &Letters,
    name: &Name,
    conversation: &mut Conversation,
    mut shutdown: watch::Receiver<bool>,
    is_member: impl Fn() -> F,
) -> Result<(), ChannelError> {
    let member = name.hash();
    conversation.reader.set_idle(MEMBER_IDLE);
    let mut boxes = Vec::new();
    loop {
        let heard = tokio::select! {
            heard = conversation.hear() => heard?,
            () = stopped(&mut shutdown) => return Ok(()),
        };
        let ask = match heard {
            Heard::Ask(_) if !is_member().await => return Ok(()),
            Heard::Ask(ask) => ask,
            Heard::Over => return Ok(()),
            Heard::Unknown => {
                conversation.refuse(&unknown()).await?;
                continue;
            }
        };
        let ours = letters.clone();
        match ask {
            Ask::Boxes { boxes: part, more } => {
                boxes.extend(part);
                if boxes.len() > MAX_BOXES {
                    return Err(WireError::Record.into());
                }
                if more {
                    conversation.reply(Map::new()).await?;
                    continue;
                }
                let all = std::mem::take(&mut boxes);
                let stock = blocking(move || ours.set_boxes(member, all)).await;
                let mailbox = stock.map(|stock| {
                    let mut fields = one("key", hex::encode(letters.key().public));
                    fields.extend(of_stock(&stock));
                    fields
                });
                answer_with(conversation, mailbox).await?;
            }
            Ask::Prekeys { prekeys, replace } => {
                let stock = blocking(move || ours.add_prekeys(member, &prekeys, replace)).await;
                answer_with(conversation, stock.map(|stock| of_stock(&stock))).await?;
            }
            Ask::List { skip } => {
                let waiting = blocking(move || ours.waiting(&member, skip)).await;
                let listed = waiting.map(|waiting| {
                    let each = waiting.iter().map(|letter| {
                        let mut fields = one("letter", hex::encode(letter.letter));
                        fields.insert("box".to_owned(), hex::encode(letter.hash).into());
                        fields.insert("bytes".to_owned(), letter.bytes.into());
                        Value::Object(fields)
                    });
                    one("letters", each.collect::<Vec<_>>())
                });
                answer_with(conversation, listed).await?;
            }
            Ask::Fetch {
                letter,
                offset,
                bytes,
            } => {
                let opening = blocking(move || {
                    let contents = ours.read(&member, &letter, offset)?;
                    let size = contents.stat().map_or(0, |stat| stat.size);
                    Ok((Arc::<dyn Contents>::from(contents), size))
                });
                match opening.await {
                    Ok((contents, size)) => {
                        let len = size.saturating_sub(offset).min(bytes);
                        conversation.reply(one("bytes", len)).await?;
                        send(conversation, &contents, offset, len).await?;
                    }
                    Err(error) => conversation.refuse(&error).await?,
                }
            }
            Ask::Receipt { letter, receipt } => {
                let settled = blocking(move || ours.settle(member, letter, receipt)).await;
                answer_with(conversation, settled.map(|()| Map::new())).await?;
            }
            Ask::Introduce { to, document } => {
                let from = name.clone();
                let kept = blocking(move || ours.introduce(&from, &to, document)).await;
                answer_with(conversation, kept.map(|()| Map::new())).await?;
            }
            Ask::Introductions => {
                let waiting = blocking(move || ours.introductions(&member)).await;
                let listed = waiting.map(|waiting| {
                    let each = waiting.into_iter().map(|(from, document)| {
                        let mut fields = one("from", from);
                        fields.insert("document".to_owned(), document.into());
                        Value::Object(fields)
                    });
                    one("documents", each.collect::<Vec<_>>())
                });
                answer_with(conversation, listed).await?;
            }
            Ask::Introduced { from } => {
                let had = blocking(move || ours.introduced(member, from)).await;
                answer_with(conversation, had.map(|()| Map::new())).await?;
            }
            Ask::Listed(listed) => {
                let saw = blocking(move || ours.saw(member, Some(listed))).await;
                answer_with(conversation, saw.map(|()| Map::new())).await?;
            }
            Ask::Who { skip } => {
                let who = blocking(move || ours.listed(skip)).await;
                let members = who.map(|(names, next)| {
                    let mut fields = one("key", hex::encode(letters.key().public));
                    let each = names.iter().map(|name| Value::from(name.as_str()));
                    fields.insert("members".to_owned(), each.collect::<Vec<_>>().into());
                    if let Some(next) = next {
                        fields.insert("next".to_owned(), next.into());
                    }
                    fields
                });
                answer_with(conversation, members).await?;
            }
            _ => conversation.refuse(&unknown()).await?,
        }
    }
}

fn unknown() -> Error {
    Error::new(Code::Failed, "the relay does not know this request")
}

/// Work that waits for a disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let lost = |_| Error::new(Code::Later, "the relay failed");
    task::spawn_blocking(work).await.map_err(lost)?
}

async fn answer_with(
    conversation: &mut Conversation,
    result: Result<Map<String, Value>, Error>,
) -> Result<(), ChannelError> {
    match result {
        Ok(fields) => conversation.reply(fields).await,
        Err(error) => conversation.refuse(&error).await,
    }
}

/// An object with one field.
fn one(field: &str, value: impl Into<Value>) -> Map<String, Value> {
    Map::from_iter([(field.to_owned(), value.into())])
}

fn of_stock(stock: &Stock) -> Map<String, Value> {
    let mut fields = one("once", stock.once);
    fields.insert("daily".to_owned(), stock.daily.into());
    fields
}

/// The statuses of letters: as many as fit, and at least one.
fn listed_statuses(statuses: Vec<DeliveryStatus>) -> Map<String, Value> {
    let mut room = MAX_BODY - 1_024;
    let mut each = Vec::new();
    for status in statuses {
        let value = status.to_value();
        let len = value.to_string().len() + 1;
        if len > room && !each.is_empty() {
            break;
        }
        room = room.saturating_sub(len);
        each.push(value);
    }
    one("letters", each)
}

/// Takes the pieces of a letter, and makes it safe.
async fn take(
    conversation: &mut Conversation,
    mut arriving: Arriving,
) -> Result<Result<(), Error>, ChannelError> {
    while arriving.left() > 0 {
        let mut pieces = Vec::new();
        let until = Instant::now() + SLOWEST;
        while pieces.len() < TOGETHER && (pieces.len() as u64) < arriving.left() {
            let piece = timeout_at(until, conversation.piece()).await;
            let Some(piece) = piece.unwrap_or(Err(ChannelError::Idle(SLOWEST)))? else {
                // It waits for a disk.
                let _ = task::spawn_blocking(move || drop(arriving)).await;
                return Ok(Err(Error::new(Code::Failed, "its sender gave up")));
            };
            pieces.extend(piece);
        }
        let appended = blocking(move || {
            arriving.append(&pieces)?;
            Ok(arriving)
        });
        arriving = match appended.await {
            Ok(arriving) => arriving,
            Err(error) => return Ok(Err(error)),
        };
    }
    Ok(blocking(move || arriving.keep()).await)
}

/// Sends a part of a letter in pieces.
async fn send(
    conversation: &mut Conversation,
    contents: &Arc<dyn Contents>,
    mut offset: u64,
    mut left: u64,
) -> Result<(), ChannelError> {
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(TOGETHER).min(TOGETHER);
        let contents = contents.clone();
        let reading = task::spawn_blocking(move || {
            let mut buffer = vec![0; len];
            let read = contents.read_at(&mut buffer, offset)?;
            buffer.truncate(read);
            std::io::Result::Ok(buffer)
        });
        let bytes = reading.await.map_err(|_| ChannelError::Closed)?;
        let bytes = bytes.map_err(ChannelError::Io)?;
        if bytes.is_empty() {
            return Err(ChannelError::Closed);
        }
        conversation.pieces(&bytes).await?;
        offset += bytes.len() as u64;
        left = left.saturating_sub(bytes.len() as u64);
    }
    Ok(())
}
