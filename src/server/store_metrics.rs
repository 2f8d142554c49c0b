//! How the stores of all folders are, for `/metrics`: by the names that m2y.ini gives them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use super::metrics::Page;
use crate::{clock, control::object, json::Value, store::chunked::status::Status};

/// How the folders in one store are, together.
#[derive(Clone, Debug, Default)]
struct Store {
    /// Each member, and whether it answers.
    members: BTreeMap<String, bool>,
    degraded: u64,
    lost: u64,
    backlog: u64,
    /// When the folder that was scrubbed the longest ago was, in milliseconds since 1970.
    scrubbed: Option<u64>,
}

/// How all stores are, as it was last looked at.
#[derive(Debug, Default)]
pub struct StoreMetrics(Mutex<BTreeMap<String, Store>>);

/// What a round finds out, until it is over.
#[derive(Debug, Default)]
pub struct Round(BTreeMap<String, Store>);

impl Round {
    /// Adds a folder that is in this store.
    pub fn add(&mut self, store: &str, status: &Status) {
        let sum = self.0.entry(store.to_owned()).or_default();
        for member in &status.members {
            let answers = sum.members.entry(member.name.clone()).or_insert(true);
            *answers &= member.answered.is_ok();
        }
        sum.degraded += status.files.degraded + status.files.critical;
        sum.lost += status.files.lost;
        sum.backlog += status.backlog.chunks + status.backlog.manifests;
        sum.scrubbed = match (sum.scrubbed, status.scrubbed) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

impl StoreMetrics {
    /// Takes over what a round found out.
    pub fn set(&self, round: Round) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = round.0;
    }

    /// The stores as a list for programs.
    pub(super) fn listed(&self) -> Value {
        let stores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let one = |(name, sum): (&String, &Store)| {
            let members = sum.members.iter().map(|(member, answers)| {
                Value::Object(object([
                    ("name", member.as_str().into()),
                    ("answers", (*answers).into()),
                ]))
            });
            let since = |at: u64| clock::millis().saturating_sub(at) / 1_000;
            Value::Object(object([
                ("store", name.as_str().into()),
                ("members", Value::Array(members.collect())),
                ("degraded", sum.degraded.into()),
                ("lost", sum.lost.into()),
                ("backlog", sum.backlog.into()),
                ("scrubbed_before", sum.scrubbed.map(since).into()),
            ]))
        };
        Value::Array(stores.iter().map(one).collect())
    }

    /// Writes the families, if there is any store.
    pub(super) fn write(&self, page: &mut Page) {
        let stores = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if stores.is_empty() {
            return;
        }
        let name = "m2y_store_member_up";
        page.family(name, "gauge", "Whether a member of a store answers.");
        for (store, sum) in &*stores {
            for (member, answers) in &sum.members {
                let labels = format!("{{store=\"{store}\",member=\"{member}\"}}");
                page.sample(name, &labels, u8::from(*answers));
            }
        }
        type Count = fn(&Store) -> u64;
        let gauges: [(&str, &str, Count); 3] = [
            (
                "m2y_store_degraded_files",
                "Files of which a member lacks a part.",
                |store| store.degraded,
            ),
            (
                "m2y_store_lost_files",
                "Files that cannot be rebuilt.",
                |store| store.lost,
            ),
            (
                "m2y_store_repair_backlog",
                "Parts of chunks and manifests that are to be written.",
                |store| store.backlog,
            ),
        ];
        for (name, help, count) in gauges {
            page.family(name, "gauge", help);
            for (store, sum) in &*stores {
                page.sample(name, &format!("{{store=\"{store}\"}}"), count(sum));
            }
        }
        let name = "m2y_store_scrub_age_seconds";
        page.family(
            name,
            "gauge",
            "Since everything was last read and verified.",
        );
        for (store, sum) in &*stores {
            if let Some(at) = sum.scrubbed {
                let age = clock::millis().saturating_sub(at) / 1_000;
                page.sample(name, &format!("{{store=\"{store}\"}}"), age);
            }
        }
    }
}
