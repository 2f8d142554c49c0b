//! The side of the server.

use std::{fs, io, os::unix::fs::PermissionsExt, time::Duration};

use tokio::{
    io::BufReader,
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::debug;

use super::{MAX_LINE, object, of_frame, path, question::PATIENCE, read, to_frame, write};
use crate::{
    error::{Code, Error},
    hooks::dispatch::stopped,
    json::{Map, Value},
    pairing::{
        bridge::Bridge,
        slots::{Slot, Slots},
    },
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
                sleep(Duration::from_millis(100)).await;
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
    let (reader, mut to) = stream.into_split();
    let (mut reader, mut line) = (BufReader::new(reader), Vec::new());
    let Some(question) = timeout(PATIENCE, read(&mut reader, &mut line, MAX_LINE)).await?? else {
        return Ok(());
    };
    let refused = |code: Code, sentence: String| {
        object([("error", sentence.into()), ("code", code.word().into())])
    };
    let error = match question.get("ask").and_then(Value::as_str) {
        Some("slot") => match asked.slots.open() {
            Ok(Some(slot)) => return keep(slot, &asked.addresses, reader, to).await,
            Ok(None) => refused(
                Code::Later,
                "the server has too many codes already: try again in some minutes".to_owned(),
            ),
            Err(error) => refused(Code::Failed, error.to_string()),
        },
        Some("addresses") => object([("addresses", listed(&asked.addresses))]),
        Some("relay") => match &asked.hub {
            Some(hub) => present(hub),
            None => refused(
                Code::Failed,
                "the server that is running is no relay".to_owned(),
            ),
        },
        _ => refused(
            Code::Usage,
            "the server does not know this question".to_owned(),
        ),
    };
    write(&mut to, &error).await
}

fn listed(addresses: &[Address]) -> Value {
    let addresses = addresses.iter().map(|address| address.to_string().into());
    Value::Array(addresses.collect())
}

/// Keeps a slot open for as long as the program is there.
async fn keep(
    mut slot: Slot,
    addresses: &[Address],
    mut reader: BufReader<OwnedReadHalf>,
    mut to: OwnedWriteHalf,
) -> io::Result<()> {
    let told = [
        ("slot", slot.number.into()),
        ("addresses", listed(addresses)),
    ];
    write(&mut to, &object(told)).await?;
    let (mut bridge, mut frames) = Bridge::new();
    let (mut count, mut line) = (0, Vec::new());
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
                write(&mut to, &object(said)).await?;
                bridge.join(count, attempt.incoming, attempt.outgoing);
            }
            Some(frame) = frames.recv() => write(&mut to, &of_frame(frame)).await?,
            said = read(&mut reader, &mut line, MAX_LINE) => match said? {
                Some(said) => {
                    if let Some(frame) = to_frame(&said) {
                        bridge.take(frame);
                    }
                }
                None => return Ok(()),
            },
        }
    }
}
