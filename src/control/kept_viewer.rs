//! A program that watches streams, for as long as it is there.

use std::{collections::BTreeMap, io};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, split};

use super::{object, read, write};
use crate::{
    json::{Map, Value},
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
                    write(&mut to, &gone(number)).await?;
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
                    None => write(&mut to, &gone(number)).await?,
                }
            }
        }
    };
    // It is asked about no other stream.
    drop((viewer, offers, over));
    let mut rest = [0; 64];
    tokio::select! {
        given = give(watching, &mut to) => given,
        // What it still says means nothing; at its end it has left.
        () = async { while matches!(reader.read(&mut rest).await, Ok(1..)) {} } => Ok(()),
    }
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

fn gone(number: u64) -> Map<String, Value> {
    object([("offer", number.into()), ("over", true.into())])
}

/// Gives all of a stream, and how it ended.
async fn give(mut watching: Watching, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let end = loop {
        match watching.next().await {
            // Without bytes it would look like the end.
            Ok(piece) if piece.bytes().is_empty() => {}
            Ok(mut piece) => {
                to.write_all(piece.framed()).await?;
                to.flush().await?;
            }
            Err(end) => break end,
        }
    };
    to.write_all(&0_u32.to_be_bytes()).await?;
    let said = match end {
        End::Whole => object([("end", "whole".into())]),
        End::Cut(why) => object([("end", "cut".into()), ("reason", why.into())]),
    };
    write(to, &said).await?;
    to.shutdown().await
}
