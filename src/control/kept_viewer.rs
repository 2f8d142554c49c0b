//! A program that watches streams, for as long as it is there.

use std::{collections::BTreeMap, io, net::Shutdown, sync::Arc};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::{
    io::{BufReader, split},
    net::UnixStream,
};

use super::{object, read, write};
use crate::{
    json::{Map, Value, canonical},
    viewers::{Announced, End, Offered, Viewer, Watching},
};

/// What a program says if it has no words of its own.
const NO: &str = "not now";

/// Tells the program what is offered, until it watches one stream; then gives it that.
pub(super) async fn keep(mut viewer: Viewer, upgraded: Upgraded) -> io::Result<()> {
    let (reader, mut to) = split(TokioIo::new(upgraded));
    let (mut reader, mut line) = (BufReader::new(reader), Vec::new());
    let mut offers: BTreeMap<u64, Offered> = BTreeMap::new();
    let mut over = FuturesUnordered::new();
    let watching = loop {
        tokio::select! {
            Some(offered) = viewer.next() => {
                write(&mut to, &announced(&offered)).await?;
                let number = offered.number();
                offers.insert(number, offered.clone());
                over.push(async move {
                    offered.over().await;
                    number
                });
            }
            Some(number) = over.next() => {
                if offers.remove(&number).is_some() {
                    write(&mut to, &over_now(number)).await?;
                }
            }
            said = read(&mut reader, &mut line) => {
                let Some(said) = said? else {
                    return Ok(());
                };
                let number = said.get("offer").and_then(Value::as_u64).unwrap_or(u64::MAX);
                let Some(offered) = offers.remove(&number) else {
                    continue;
                };
                if said.get("watch") != Some(&Value::Bool(true)) {
                    let words = said.get("reason").and_then(Value::as_str);
                    offered.refuse(words.filter(|words| !words.is_empty()).unwrap_or(NO));
                    continue;
                }
                match offered.accept() {
                    Some(watching) => {
                        let begins = [("offer", number.into()), ("begins", true.into())];
                        write(&mut to, &object(begins)).await?;
                        break watching;
                    }
                    None => write(&mut to, &over_now(number)).await?,
                }
            }
        }
    };
    // It is asked about no other stream.
    drop((viewer, offers, over));
    let connection = reader.into_inner().unsplit(to).into_inner();
    let parts = connection.downcast::<TokioIo<UnixStream>>();
    let socket = parts.map_err(|_| io::ErrorKind::Unsupported)?.io;
    let socket = Arc::new(socket.into_inner());
    let through = socket.clone();
    watching.writes_by(move |frame| through.try_write_vectored(frame));
    tokio::select! {
        given = give(watching, &socket) => given,
        () = gone(&socket) => Ok(()),
    }
}

/// Waits until the program has left. What it still says means nothing.
async fn gone(socket: &UnixStream) {
    let mut rest = [0; 64];
    loop {
        match socket.try_read(&mut rest) {
            Ok(1..) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if socket.readable().await.is_err() {
                    return;
                }
            }
            Ok(0) | Err(_) => return,
        }
    }
}

async fn write_all(socket: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        socket.writable().await?;
        match socket.try_write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn announced(offered: &Offered) -> Map<String, Value> {
    let Announced {
        user: _,
        from,
        folder,
        filename,
        id,
        is_accepted,
    } = offered.stream();
    object([
        ("offer", offered.number().into()),
        ("from", from.as_str().into()),
        ("folder", folder.as_str().into()),
        ("name", filename.as_str().into()),
        ("id", id.to_string().into()),
        ("accepted", (*is_accepted).into()),
    ])
}

fn over_now(number: u64) -> Map<String, Value> {
    object([("offer", number.into()), ("over", true.into())])
}

/// Gives all of a stream, and how it ended.
async fn give(mut watching: Watching, socket: &UnixStream) -> io::Result<()> {
    let end = loop {
        match watching.next().await {
            Ok(mut piece) => write_all(socket, piece.framed()).await?,
            Err(end) => break end,
        }
    };
    let said = match end {
        End::Whole => object([("end", "whole".into())]),
        End::Cut(why) => object([("end", "cut".into()), ("reason", why.into())]),
    };
    let line = canonical(&said) + "\n";
    write_all(socket, &[&0_u32.to_be_bytes(), line.as_bytes()].concat()).await?;
    SockRef::from(socket).shutdown(Shutdown::Write)
}
