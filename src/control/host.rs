//! The side of the server.

use std::{fs, io, os::unix::fs::PermissionsExt, time::Duration};

use tokio::{
    io::BufReader,
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
};
use tracing::debug;

use super::{
    bridge::{Bridge, object, writer},
    path, read,
};
use crate::{
    error::{Code, Error},
    hooks::dispatch::stopped,
    json::{Map, Value},
    pairing::slots::Slots,
    relay::hub::Hub,
    root::Root,
    transport::Address,
};

/// What programs may ask about.
#[derive(Clone)]
pub struct Asked {
    /// The slots for codes.
    pub slots: Slots,
    /// Where the server listens.
    pub addresses: Vec<Address>,
    /// The hub, if the server is a relay.
    pub hub: Option<Hub>,
}

/// A socket that programs can connect to. There must be no other server.
pub struct Control {
    listener: UnixListener,
    root: Root,
}

impl Control {
    /// Listens.
    pub fn bind(root: &Root) -> Result<Self, Error> {
        let bound = || {
            let path = path(root.dir());
            // One that a killed server left.
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let listener = UnixListener::bind(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        let listener = bound().map_err(|e| {
            let root = root.path().display();
            Error::new(
                Code::Failed,
                format!("cannot listen on {root}/control.sock: {e}"),
            )
        })?;
        Ok(Self {
            listener,
            root: root.clone(),
        })
    }

    /// Answers until the server goes down.
    pub async fn run(self, asked: Asked, mut shutdown: watch::Receiver<bool>) {
        let mut programs = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stopped(&mut shutdown) => break,
                Some(_) = programs.join_next() => continue,
            };
            let Ok((stream, _)) = accepted else {
                tokio::task::yield_now().await;
                continue;
            };
            let own = rustix::process::geteuid().as_raw();
            let may = stream
                .peer_cred()
                .is_ok_and(|peer| [own, 0].contains(&peer.uid()));
            if may {
                let asked = asked.clone();
                programs.spawn(async move {
                    if let Err(error) = answer(stream, asked).await {
                        debug!("a program at control.sock: {error}");
                    }
                });
            }
        }
        let _ = fs::remove_file(path(self.root.dir()));
    }
}

/// Who attends, by the hash of the name, and for how long.
fn present(hub: &Hub) -> Map<String, Value> {
    let (all, pairs) = hub.all();
    let one = |(hash, since): ([u8; 8], Duration)| {
        let fields = [
            ("hash", hex::encode(hash).into()),
            ("seconds", since.as_secs().into()),
        ];
        Value::Object(object(fields))
    };
    object([
        ("present", Value::Array(all.into_iter().map(one).collect())),
        ("pairs", pairs.into()),
    ])
}

async fn answer(stream: UnixStream, asked: Asked) -> io::Result<()> {
    let (reader, to) = stream.into_split();
    let (mut reader, mut line) = (BufReader::new(reader), Vec::new());
    let (lines, _writing) = writer(to);
    let Some(question) = read(&mut reader, &mut line).await? else {
        return Ok(());
    };
    let refuse = |error: &Error| {
        object([
            ("error", error.sentence.as_str().into()),
            ("code", error.code.word().into()),
        ])
    };
    let say = |said: Map<String, Value>| async {
        let sent = lines.send(said).await;
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    };
    match question.get("ask").and_then(Value::as_str) {
        Some("slot") => {}
        Some("relay") => {
            return match &asked.hub {
                Some(hub) => say(present(hub)).await,
                None => {
                    let error = Error::new(Code::Failed, "the server that is running is no relay");
                    say(refuse(&error)).await
                }
            };
        }
        _ => {
            let error = Error::new(Code::Usage, "the server does not know this question");
            return say(refuse(&error)).await;
        }
    }
    let mut slot = match asked.slots.open() {
        Ok(Some(slot)) => slot,
        Ok(None) => {
            let sentence = "the server has too many codes already: try again in some minutes";
            return say(refuse(&Error::new(Code::Later, sentence))).await;
        }
        Err(error) => {
            return say(refuse(&Error::new(Code::Failed, error.to_string()))).await;
        }
    };
    let addresses = asked
        .addresses
        .iter()
        .map(|address| address.to_string().into());
    let told = [
        ("slot", slot.number.into()),
        ("addresses", Value::Array(addresses.collect())),
    ];
    say(object(told)).await?;
    let mut bridge = Bridge::new(lines.clone());
    let mut count = 0_u64;
    loop {
        tokio::select! {
            attempt = slot.attempts.recv() => {
                let Some(attempt) = attempt else {
                    return Ok(());
                };
                count += 1;
                let said = [
                    ("attempt", count.into()),
                    ("from", attempt.from.to_string().into()),
                    ("message", hex::encode(&attempt.first).into()),
                ];
                say(object(said)).await?;
                bridge.join(count, attempt.incoming, attempt.outgoing);
            }
            said = read(&mut reader, &mut line) => match said? {
                Some(said) => bridge.take(&said),
                None => return Ok(()),
            },
        }
    }
}
