use std::time::Instant;

use clap::Args;

use super::{
    RootArg,
    folders::{InStore, in_store},
    output,
};
use crate::{
    error::Error,
    json::{Map, Value},
    store::{
        chunked::status::{Files, MemberStatus, Status as Found},
        elsewhere::Elsewhere,
        plain::PlainStore,
    },
};

/// Show how a store is: its members, its folders, and what could still be lost
#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    root: RootArg,
    /// The store
    #[arg(value_name = "NAME")]
    name: String,
}

impl Status {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        let folders = in_store(&self.root.open()?, &self.name)?;
        for one in folders {
            let found = match &one.store {
                Elsewhere::Chunked(store) => store.status(),
                Elsewhere::Plain(store) => {
                    tell_plain(&self.name, &one, store, json)?;
                    continue;
                }
            };
            let found = found.map_err(|e| one.failed(&e))?;
            match json {
                true => tell_json(&self.name, &one, &found),
                false => tell(&one, &found),
            }
        }
        Ok(())
    }
}

/// Of a bucket whose layout is plain m2y knows what a listing tells.
fn tell_plain(name: &str, one: &InStore, store: &PlainStore, json: bool) -> Result<(), Error> {
    let begun = Instant::now();
    store.probe().map_err(|e| one.failed(&e))?;
    let answered = begun.elapsed();
    let (files, bytes) = store.totals().map_err(|e| one.failed(&e))?;
    if json {
        output::object(&[
            ("store", name.into()),
            ("user", one.folder.user().name().as_str().into()),
            ("folder", one.folder.name().as_str().into()),
            ("layout", "plain".into()),
            ("files", files.into()),
            ("bytes", bytes.into()),
            ("seconds", answered.as_secs_f64().into()),
        ]);
        return Ok(());
    }
    output::line(format_args!(
        "{}: {}, {}",
        one.shown(),
        output::files(files),
        output::bytes(bytes)
    ));
    output::line(format_args!(
        "  the bucket answers in {} ms",
        answered.as_millis().max(1)
    ));
    output::line(
        "  plain: m2y keeps no checksums here, and anyone with access to the bucket can read the files",
    );
    Ok(())
}

fn tell(one: &InStore, found: &Found) {
    let (files, _, bytes) = found.totals;
    output::line(format_args!(
        "{}: {}, {}",
        one.shown(),
        output::files(files),
        output::bytes(bytes)
    ));
    let mut rows = vec![["  MEMBER", "ANSWERS", "USED", "FREE", "MISSING"].map(str::to_owned)];
    for member in &found.members {
        rows.push(row(member));
    }
    let lines = output::table(&rows, &[2, 3, 4]);
    lines.into_iter().for_each(output::line);
    for member in &found.members {
        if let Err(why) = &member.answered {
            output::line(format_args!("  {}: {why}", member.name));
        }
    }
    output::line(format_args!("  {}", safety(found)));
    let backlog = found.backlog;
    if backlog.chunks + backlog.manifests > 0 {
        output::line(format_args!(
            "  to be written: parts of {}, {} of names; `m2y store repair` does it, and so does a \
             running server",
            plural(backlog.chunks, "chunk"),
            plural(backlog.manifests, "manifest"),
        ));
    }
    output::line(match found.scrubbed {
        Some(at) => format!("  last scrubbed: {}", output::moment(at)),
        None => "  never scrubbed".to_owned(),
    });
}

fn row(member: &MemberStatus) -> [String; 5] {
    let answers = match &member.answered {
        Ok(time) => format!("{} ms", time.as_millis().max(1)),
        Err(_) => "no".to_owned(),
    };
    [
        format!("  {}", member.name),
        answers,
        output::bytes(member.used),
        member.room.map_or("?".to_owned(), output::bytes),
        output::count(member.missing),
    ]
}

/// How many more members can be lost.
fn safety(found: &Found) -> String {
    let Files {
        whole,
        degraded,
        critical,
        lost,
    } = found.files;
    let away = found
        .members
        .iter()
        .filter(|member| member.answered.is_err())
        .count();
    if found.members.len() == 1 {
        return match (lost, away) {
            (0, 0) => "the store has every file".to_owned(),
            (0, _) => "nothing can be read until it answers".to_owned(),
            _ => format!("{} cannot be read: parts are missing", output::files(lost)),
        };
    }
    let mut said = Vec::new();
    for (files, bears) in [(whole, 2), (degraded, 1), (critical, 0)] {
        if files == 0 {
            continue;
        }
        let bears = usize::saturating_sub(bears, away);
        let losses = match bears {
            0 => "bear no further loss".to_owned(),
            1 => "bear the loss of 1 more member".to_owned(),
            n => format!("bear the loss of any {n} members"),
        };
        said.push(format!("{} {losses}", output::files(files)));
    }
    if lost > 0 {
        said.push(format!("{} cannot be rebuilt", output::files(lost)));
    }
    match said.is_empty() {
        true => "no files yet".to_owned(),
        false => said.join("; "),
    }
}

fn plural(n: u64, what: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{} {what}{s}", output::count(n))
}

fn tell_json(name: &str, one: &InStore, found: &Found) {
    let members = found.members.iter().map(|member| {
        let mut object = Map::new();
        let mut put = |field: &str, value: Value| object.insert(field.to_owned(), value);
        put("name", member.name.as_str().into());
        match &member.answered {
            Ok(time) => {
                put("status", "ok".into());
                put("seconds", time.as_secs_f64().into());
            }
            Err(why) => {
                put("status", "unreachable".into());
                put("reason", why.to_string().into());
            }
        }
        put("used", member.used.into());
        put("free", member.room.into());
        put("missing", member.missing.into());
        Value::Object(object)
    });
    let (files, directories, bytes) = found.totals;
    let Files {
        whole,
        degraded,
        critical,
        lost,
    } = found.files;
    output::object(&[
        ("store", name.into()),
        ("user", one.folder.user().name().as_str().into()),
        ("folder", one.folder.name().as_str().into()),
        ("files", files.into()),
        ("directories", directories.into()),
        ("bytes", bytes.into()),
        ("whole", whole.into()),
        ("degraded", degraded.into()),
        ("critical", critical.into()),
        ("lost", lost.into()),
        ("chunksToWrite", found.backlog.chunks.into()),
        ("manifestsToWrite", found.backlog.manifests.into()),
        ("scrubbed", found.scrubbed.into()),
        ("members", Value::Array(members.collect())),
    ]);
}
