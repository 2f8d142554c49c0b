//! Standard input, as a file whose size is not known yet.

use super::Send;
use crate::{
    cli::{
        Failure,
        broadcast::{self, Telling},
        default_root,
        input::stdin,
    },
    client::{Route, broadcast::Broadcast},
    error::{Code, Error},
    meta::Meta,
    root::{Root, RootError, name::Name},
    transfer::send::feed::Overflow,
};

/// The name of what has none.
const NAME: &str = "stdin";

/// Sends it to all receivers.
pub async fn send(send: &Send, json: bool) -> Result<(), Failure> {
    let all = send.all_parties()?;
    if all.is_empty() {
        let sentence = "no receiver: add NAME:FOLDER after -, like roland-frei:backup";
        return Err(Error::new(Code::Usage, sentence).into());
    }
    if send.dry_run {
        let sentence = "--dry-run does not read standard input: leave one of them out";
        return Err(Error::new(Code::Usage, sentence).into());
    }
    let root = send.root.clone().unwrap_or_else(default_root);
    let root = Root::open(&root).map_err(Error::from)?;
    let (name, pace) = (send.name.as_deref().unwrap_or(NAME), send.limit.pace());
    let mut receivers = Vec::new();
    for parties in &all {
        let from = Name::user(parties.from.as_str()).map_err(RootError::from);
        let user = from
            .and_then(|from| root.user(&from))
            .map_err(Error::from)?;
        let route = Route::to(&user, parties.to.as_str(), send.server.as_deref())?;
        let meta = Meta {
            filename: name.to_owned(),
            ..parties.template()
        };
        receivers.push((route.paced(pace.clone()), meta));
    }
    let telling = Telling {
        json,
        quiet: send.quiet,
        no_progress: send.no_progress,
        advice: "standard input cannot be read again: run the whole command again",
    };
    let broadcast = Broadcast::new(receivers, Overflow::Wait);
    broadcast::run(broadcast, stdin()?, &telling).await
}
