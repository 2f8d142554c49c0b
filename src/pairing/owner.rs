//! The side that shows the code.

use std::cell::Cell;

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

use super::{
    PATIENCE,
    party::{Party, card_text, error_text, read_card},
    slots::Attempt,
};
use crate::{
    crypto::SysRng,
    error::{Code, Error},
    root::contact::Card,
    transport::Peer,
    wire::code::{self, CodeError, Side, WRONG},
};

/// Attempts at the same time; further ones wait.
const TOGETHER: usize = 16;

/// What became of an attempt.
enum Ended {
    Paired(Box<Card>),
    /// It came after one with the right words.
    Late,
    /// It broke off before any words were shown.
    Left(Peer),
    Wrong(Peer),
    /// The words were right, and still it did not come to pass.
    Failed(Error),
}

/// Waits for somebody who knows the words, until a moment. `left` is called for those who try and
/// go away without a guess. Returns the card of the one who is a contact now.
pub async fn attend(
    attempts: &mut mpsc::Receiver<Attempt>,
    until: Instant,
    password: &str,
    party: &Party,
    left: impl Fn(&Peer),
) -> Result<Card, Error> {
    // All attempts run in this task: the first with the right words is the only one.
    let taken = Cell::new(false);
    let mut running = FuturesUnordered::new();
    let mut is_open = true;
    loop {
        if !is_open && running.is_empty() {
            return Err(Error::new(
                Code::Later,
                "the code is void, because the server that held it has stopped: make a new one",
            ));
        }
        let ended = tokio::select! {
            attempt = attempts.recv(), if is_open && running.len() < TOGETHER => {
                match attempt {
                    Some(attempt) => running.push(exchange(attempt, password, party, &taken)),
                    None => is_open = false,
                }
                continue;
            }
            Some(ended) = running.next() => ended,
            () = sleep_until(until), if !taken.get() => return Err(Error::new(
                Code::Later,
                "nobody used the code in time: make a new one with `m2y pair`",
            )),
        };
        match ended {
            Ended::Paired(card) => return Ok(*card),
            Ended::Late => {}
            Ended::Left(peer) => left(&peer),
            Ended::Failed(error) => return Err(error),
            Ended::Wrong(_) if taken.get() => {}
            Ended::Wrong(peer) => {
                return Err(Error::new(
                    Code::Identity,
                    format!(
                        "somebody at {peer} tried with the wrong words, and the code is void: make a new one with `m2y pair`"
                    ),
                ));
            }
        }
    }
}

async fn exchange(attempt: Attempt, password: &str, party: &Party, taken: &Cell<bool>) -> Ended {
    let from = attempt.from.clone();
    match confirmed(attempt, password, taken).await {
        Ok(Some((keys, mut line))) => {
            let concluded = conclude(&keys, &mut line, party).await;
            concluded.map_or_else(Ended::Failed, |card| Ended::Paired(Box::new(card)))
        }
        Ok(None) => Ended::Late,
        Err(Some(CodeError::Wrong)) => Ended::Wrong(from),
        Err(_) => Ended::Left(from),
    }
}

/// The rest of an attempt.
struct Line {
    incoming: mpsc::Receiver<Vec<u8>>,
    outgoing: mpsc::Sender<Vec<u8>>,
}

impl Line {
    async fn say(&self, message: Vec<u8>) -> Option<()> {
        let said = timeout(PATIENCE, self.outgoing.send(message)).await;
        said.ok()?.ok()
    }

    async fn hear(&mut self) -> Option<Vec<u8>> {
        timeout(PATIENCE, self.incoming.recv()).await.ok()?
    }
}

/// Messages 1 to 3. `None` if somebody else was faster; an error without a reason if the joiner has
/// gone.
async fn confirmed(
    attempt: Attempt,
    password: &str,
    taken: &Cell<bool>,
) -> Result<Option<(code::Keys, Line)>, Option<CodeError>> {
    let mut line = Line {
        incoming: attempt.incoming,
        outgoing: attempt.outgoing,
    };
    let (keys, message) = code::answer(password, &attempt.first, &mut SysRng)?;
    line.say(message).await.ok_or(None)?;
    let shown = line.hear().await.ok_or(None)?;
    if taken.get() {
        return Ok(None);
    }
    if let Err(error) = keys.check(Side::Joiner, &shown) {
        let _ = line.say(WRONG.to_vec()).await;
        return Err(Some(error));
    }
    taken.set(true);
    Ok(Some((keys, line)))
}

/// Messages 4 to 6.
async fn conclude(keys: &code::Keys, line: &mut Line, party: &Party) -> Result<Card, Error> {
    let gone = || {
        Error::new(
            Code::Later,
            "the other side knew the code and left before it was done: make a new one with `m2y pair`",
        )
    };
    let own = party.card();
    let sealed = keys.seal(Side::Owner, 0, card_text(&own)?.as_bytes())?;
    let message = [keys.confirmation(Side::Owner).as_slice(), &sealed].concat();
    line.say(message).await.ok_or_else(gone)?;
    own?;
    let theirs = line.hear().await.ok_or_else(gone)?;
    let theirs = keys.open(Side::Joiner, 0, &theirs)?;
    let kept = match read_card(&theirs) {
        // The joiner does not want to, and waits for nothing more.
        Err(error) if error.code == Code::Refused => return Err(error),
        card => card.and_then(|card| party.keep(&card).map(|()| card)),
    };
    let verdict = match &kept {
        Ok(_) => r#"{"kept":true}"#.to_owned(),
        Err(error) => error_text(error),
    };
    let sealed = keys.seal(Side::Owner, 1, verdict.as_bytes())?;
    // Whether it arrives or not, the joiner is a contact.
    let _ = line.say(sealed).await;
    kept
}
