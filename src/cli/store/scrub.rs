use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Args;
use tokio::{signal::ctrl_c, task};

use super::{
    RootArg,
    folders::{InStore, bar, in_store},
    output,
};
use crate::{
    cli::limit,
    error::{Code, Error},
    json::{Map, Value},
    store::chunked::scrub::{Scrub as How, Scrubbed},
};

/// Read and verify everything that a store holds, also what no read needs
///
/// Each share is compared to what was written, and every pair of shares is shown to rebuild its
/// chunk. What cannot be reached counts as unknown, never as clean. Ctrl-C stops a scrub; the next
/// one goes on where it was.
///
/// Exit code 0: clean, or all repaired; 13: something is wrong; 5: a member could not be reached.
#[derive(Debug, Args)]
pub struct Scrub {
    #[command(flatten)]
    root: RootArg,
    /// The store
    #[arg(value_name = "NAME")]
    name: String,
    /// Write what is wrong or missing anew
    #[arg(long)]
    repair: bool,
    /// Read no more than this, in bytes a second: 500K, 10M, 1G
    #[arg(long, value_name = "RATE", value_parser = limit::rate)]
    limit: Option<NonZeroU64>,
}

impl Scrub {
    pub(super) async fn run(self, json: bool) -> Result<(), Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        tokio::spawn(async move {
            let _ = ctrl_c().await;
            stopping.store(true, Ordering::Relaxed);
        });
        let scrubbing = task::spawn_blocking(move || self.scrub(&stop, json));
        scrubbing
            .await
            .unwrap_or_else(|_| Err(Error::new(Code::Failed, "a thread of ours failed")))
    }

    fn scrub(&self, stop: &AtomicBool, json: bool) -> Result<(), Error> {
        let root = self.root.open()?;
        let (mut wrong, mut unknown) = (0, 0);
        for one in in_store(&root, &self.name)? {
            let store = one.chunked()?;
            let private = Arc::new(one.folder.user().private_key()?);
            let bar = bar(&one.shown());
            let how = How {
                limit: self.limit.map(NonZeroU64::get),
                progress: &mut |done, total| {
                    bar.set_length(total);
                    bar.set_position(done);
                },
                stops: &|| stop.load(Ordering::Relaxed),
            };
            let found = store.scrub(&private, how);
            bar.finish_and_clear();
            let found = found.map_err(|e| one.failed(&e))?;
            let mut left = sum(&found.wrong) + sum(&found.missing) + found.lost;
            let mut mended = 0;
            if self.repair && left > 0 {
                let done = store.mend().map_err(|e| one.failed(&e))?;
                mended = done.chunks + done.manifests;
                if done.reasons.is_empty() {
                    left = found.lost;
                }
            }
            tell(&one, &store.members(), &found, mended, json);
            if !found.is_whole {
                return Err(Error::new(
                    Code::Interrupted,
                    "stopped: the next scrub goes on here",
                ));
            }
            wrong += left;
            unknown += sum(&found.unknown);
        }
        if wrong > 0 {
            let sentence = match self.repair {
                true => "something could not be repaired: see `m2y store status`".to_owned(),
                false => format!("repair it by `m2y store scrub {} --repair`", self.name),
            };
            return Err(Error::new(Code::Integrity, sentence));
        }
        match unknown {
            0 => Ok(()),
            _ => Err(Error::new(Code::Later, "a member could not be reached")),
        }
    }
}

fn sum(counts: &[u64]) -> u64 {
    counts.iter().sum()
}

fn tell(one: &InStore, members: &[String], found: &Scrubbed, mended: u64, json: bool) {
    let counts = |counts: &[u64]| {
        let names = members.iter().zip(counts);
        let counts = names.filter(|(_, count)| **count > 0);
        counts
            .map(|(name, count)| (name.clone(), *count))
            .collect::<Vec<_>>()
    };
    let kinds = [
        ("wrong", counts(&found.wrong)),
        ("missing", counts(&found.missing)),
        ("unknown", counts(&found.unknown)),
    ];
    if json {
        let mut fields: Vec<(&str, Value)> = vec![
            ("user", one.folder.user().name().as_str().into()),
            ("folder", one.folder.name().as_str().into()),
            (
                "status",
                if found.is_clean() {
                    "clean"
                } else {
                    "not clean"
                }
                .into(),
            ),
            ("chunks", found.chunks.into()),
            ("manifests", found.manifests.into()),
            ("bytes", found.bytes.into()),
            ("lost", found.lost.into()),
            ("repaired", mended.into()),
        ];
        for (kind, counts) in kinds {
            let counts = counts.into_iter().map(|(name, count)| (name, count.into()));
            fields.push((kind, Value::Object(counts.collect::<Map<_, _>>())));
        }
        return output::object(&fields);
    }
    let read = format!(
        "{} chunks and {} manifests, {}",
        output::count(found.chunks),
        output::count(found.manifests),
        output::bytes(found.bytes)
    );
    if found.is_clean() {
        return output::line(format_args!("{}: clean ({read})", one.shown()));
    }
    output::line(format_args!("{}: {read}", one.shown()));
    for (kind, counts) in kinds {
        for (name, count) in counts {
            output::line(format_args!("  {name}: {} {kind}", output::count(count)));
        }
    }
    if found.lost > 0 {
        output::line(format_args!(
            "  {} chunks cannot be rebuilt from what could be read",
            output::count(found.lost)
        ));
    }
    if mended > 0 {
        output::line(format_args!("  {} repaired", output::count(mended)));
    }
}
