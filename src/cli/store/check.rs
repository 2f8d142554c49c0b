use std::time::{Duration, Instant};

use clap::Args;
use futures_util::StreamExt;
use hyper::body::Bytes;

use super::{Failure, RootArg, output};
use crate::{
    client,
    crypto::random,
    error::{Code, Error, did_you_mean},
    root::{
        Root,
        settings::store::{Layout, Place},
    },
    store::{
        member::{Existing, Member, MemberError, ObjectKey, refuses_to_replace},
        plain,
    },
};

/// Check that a store works: write, read, list and remove an object
///
/// The check also finds out whether the store can refuse to replace an object. Without that
/// only one server may use the store.
#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    root: RootArg,
    /// The store
    #[arg(value_name = "NAME")]
    name: String,
}

/// The directory for objects of checks.
const PROBES: &str = "check";

/// Bytes of the object that is written.
const SIZE: usize = 100_000;

/// What a check found out.
struct Report {
    /// Bytes that still fit, if the store knows.
    room: Option<u64>,
    /// Whether an object can be kept from being replaced.
    keeps: bool,
    /// How long it took to write an object.
    wrote: Duration,
    /// Whether parts of objects can be copied, where that is needed.
    copies: Option<bool>,
}

impl Check {
    pub(super) async fn run(self, json: bool) -> Result<(), Failure> {
        let root = self.root.open()?;
        let stores = root.settings().map_err(Error::from)?.stores;
        let place = stores.get(&self.name).ok_or_else(|| {
            let near = did_you_mean(&self.name, stores.keys().map(String::as_str));
            let sentence = format!("m2y.ini has no section [store {}]{near}", self.name);
            Error::new(Code::NotFound, sentence)
        })?;
        let names: Vec<&str> = match place {
            Place::Stripe(striped) => striped.members.iter().map(String::as_str).collect(),
            _ => vec![&self.name],
        };
        let mut failures = Vec::new();
        for name in names {
            let Some(place) = stores.get(name) else {
                continue;
            };
            let report = match client::stores().member(&root, place) {
                Ok(member) => probe_all(place, &*member).await,
                Err(error) => Err(error),
            };
            match report {
                Ok(report) => tell(name, place, &report, json),
                Err(error) => failures.push(failed(error).within(format!("store {name}"))),
            }
        }
        // All members of a stripe are checked before the first failure is told.
        let Some(last) = failures.pop() else {
            return Ok(());
        };
        for failure in failures {
            output::aside(format_args!("m2y: {failure}"));
        }
        Err(last.into())
    }
}

fn tell(name: &str, place: &Place, report: &Report, json: bool) {
    if json {
        output::object(&[
            ("store", name.into()),
            ("status", "ok".into()),
            ("url", place.shown().into()),
            ("room", report.room.into()),
            ("refusesToReplace", report.keeps.into()),
            ("seconds", report.wrote.as_secs_f64().into()),
            ("copiesParts", report.copies.into()),
        ]);
        return;
    }
    output::line(format_args!("{name}: {}", place.shown()));
    output::line(format_args!(
        "  write, read, list, remove  ok ({:.0} ms to write 100 kB)",
        report.wrote.as_secs_f64() * 1e3
    ));
    output::line(match report.keeps {
        true => "  refuse to replace          ok",
        false => "  refuse to replace          not supported: use the store from one server only",
    });
    if report.copies.is_some() {
        output::line("  copy parts                 ok");
    }
    if let Some(room) = report.room {
        output::line(format_args!(
            "  free                       {}",
            output::bytes(room)
        ));
    }
}

fn failed(error: MemberError) -> Error {
    let code = match error {
        MemberError::Unreachable(_) => Code::Later,
        MemberError::Denied(_) => Code::Identity,
        _ => Code::Failed,
    };
    Error::new(code, error.to_string())
}

/// Whether a place works; `None` for a stripe, whose members are places too.
pub async fn works(root: &Root, place: &Place) -> Option<Result<(), Error>> {
    if matches!(place, Place::Stripe(_)) {
        return None;
    }
    let probed = match client::stores().member(root, place) {
        Ok(member) => probe_all(place, &*member).await,
        Err(error) => Err(error),
    };
    Some(probed.map(drop).map_err(failed))
}

/// Tries everything that m2y needs of a place.
async fn probe_all(place: &Place, member: &dyn Member) -> Result<Report, MemberError> {
    let report = probe(member).await?;
    match place {
        Place::Bucket(bucket) if bucket.layout == Layout::Plain => {
            plain::check_copies(bucket, None).await?;
            Ok(Report {
                copies: Some(true),
                ..report
            })
        }
        _ => Ok(report),
    }
}

/// Tries what m2y needs of a member, with an object that goes again.
async fn probe(member: &dyn Member) -> Result<Report, MemberError> {
    let broken = |what: &str| MemberError::Failed(format!("the store {what}: it cannot be used"));
    let number: [u8; 8] = random().map_err(|e| MemberError::Failed(e.to_string()))?;
    let key = ObjectKey::parse(&format!("{PROBES}/{}", hex::encode(number)));
    let directory = ObjectKey::parse(PROBES);
    let (Some(key), Some(directory)) = (key, directory) else {
        return Err(broken("has no name for the object of a check"));
    };
    let body = Bytes::from(number.repeat(SIZE / number.len()));
    let begun = Instant::now();
    member.put(&key, body.clone(), Existing::Replace).await?;
    let wrote = begun.elapsed();
    let looked = look(member, &key, &directory, &body, broken).await;
    let removed = member.remove(&key).await;
    let keeps = looked?;
    removed?;
    match member.stat(&key).await {
        Err(MemberError::Missing(_)) => {}
        Ok(_) => return Err(broken("still has an object after it was removed")),
        Err(error) => return Err(error),
    }
    let room = member.room().await?;
    Ok(Report {
        room,
        keeps,
        wrote,
        copies: None,
    })
}

/// Looks at the object in every way; whether it can be kept from being replaced.
async fn look(
    member: &dyn Member,
    key: &ObjectKey,
    directory: &ObjectKey,
    body: &Bytes,
    broken: impl Fn(&str) -> MemberError,
) -> Result<bool, MemberError> {
    if member.get(key, None).await? != *body {
        return Err(broken("returns other bytes than were written"));
    }
    let (start, end) = (10_001, 20_003);
    if Some(&*member.get(key, Some(start..end)).await?) != body.get(10_001..20_003) {
        return Err(broken("returns the wrong range of an object"));
    }
    if member.stat(key).await?.size != body.len() as u64 {
        return Err(broken("reports the wrong size of an object"));
    }
    let mut listing = member.list(Some(directory));
    let mut is_listed = false;
    while let Some(object) = listing.next().await {
        is_listed |= object?.key == *key;
    }
    if !is_listed {
        return Err(broken("does not list an object that it has"));
    }
    refuses_to_replace(member, key).await
}
