//! What hooks cost: run with `cargo bench --bench hooks`.
//!
//! Every figure is printed with what it is compared with, taken in the same run; nothing
//! here passes or fails.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use common::{ROLAND, World, ZHENQIANG, name};
use m2y::{
    event::{Event, EventId, Kind, Outcome, Subject},
    hooks::{Hooks, Pinned, firing::ToFire, notes::Mode, services::Services},
    root::folder::Folder,
};

const CONFIG: &str = "[OnMeta]\ncheckPermission.rhai\n[permission]\nzhenqiang = always\n";

/// The same check, in the way of the first version.
const PYTHON: &str = r#"
import configparser, json, sys
meta = json.load(open(sys.argv[1]))
config = configparser.ConfigParser(allow_no_value=True)
config.read(sys.argv[2])
if config.get("permission", meta["from"], fallback="no") not in ("always", "allways"):
    sys.exit("no permission")
"#;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = World::new(CONFIG);
        let hooks = Hooks::new(
            &world.there,
            &world.there.settings().unwrap(),
            &Services::default(),
        );
        let folder = world.receiver.folder(&name("photo")).unwrap();
        let fired = one_after_the_other(&hooks, &folder).await;
        against_python(&world, fired);
        eight_at_once(&hooks, &folder).await;
        together(&hooks, &folder).await;
        beside_the_stuck(&world, &hooks, &folder).await;
        for_long(&hooks, &folder).await;
    });
}

fn event(folder: &Folder) -> Event {
    let meta = common::document(ZHENQIANG, ROLAND, "photo");
    Event {
        id: EventId::new().unwrap(),
        kind: Kind::Meta,
        config: folder.config().unwrap(),
        folder: folder.clone(),
        file: Some("x.data".to_owned()),
        subject: Some(Subject {
            meta,
            stem: "x".to_owned(),
        }),
        asked: None,
        store: None,
    }
}

/// Config, lookup, the thread of the scripts, the run, the verdict: all of it.
async fn fire(hooks: &Hooks, folder: &Folder) -> Outcome {
    hooks.fire(event(folder), &Pinned::default()).await.outcome
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

async fn one_after_the_other(hooks: &Hooks, folder: &Folder) -> Duration {
    let mut times = Vec::new();
    for _ in 0..20_000 {
        let begun = Instant::now();
        assert_eq!(fire(hooks, folder).await, Outcome::Accepted);
        times.push(begun.elapsed());
    }
    let pinned = hooks.pin(folder, &folder.config().unwrap());
    let mut in_transfer = Vec::new();
    for _ in 0..20_000 {
        let event = event(folder);
        let begun = Instant::now();
        let verdict = hooks.fire(event, &pinned).await;
        in_transfer.push(begun.elapsed());
        assert_eq!(verdict.outcome, Outcome::Accepted);
    }
    let fired = median(times);
    println!("OnMeta, checkPermission.rhai, everything included: median {fired:?}");
    println!(
        "the same with scripts and config at hand, as in a transfer: median {:?}",
        median(in_transfer)
    );
    fired
}

fn against_python(world: &World, fired: Duration) {
    let script = world.file("check.py", PYTHON.as_bytes());
    let meta = world.file(
        "x.meta",
        &common::document(ZHENQIANG, ROLAND, "photo").to_file(),
    );
    let mut times = Vec::new();
    for _ in 0..30 {
        let begun = Instant::now();
        let started = Command::new("python3")
            .arg(&script)
            .arg(&meta)
            .arg(world.photo().join("m2y.config"))
            .status();
        match started {
            Ok(status) => assert!(status.success()),
            Err(_) => return println!("there is no python3 here to compare with"),
        }
        times.push(begun.elapsed());
    }
    let python = median(times);
    let ratio = python.as_secs_f64() / fired.as_secs_f64();
    println!("the same check by python3: median {python:?}, {ratio:.0} hooks in that time");
}

async fn eight_at_once(hooks: &Hooks, folder: &Folder) {
    const RUNS: u32 = 20_000;
    let mut rates = Vec::new();
    for tasks in [1, 8] {
        let begun = Instant::now();
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..tasks {
            let (hooks, folder) = (hooks.clone(), folder.clone());
            running.spawn(async move {
                for _ in 0..RUNS / tasks {
                    fire(&hooks, &folder).await;
                }
            });
        }
        while running.join_next().await.is_some() {}
        rates.push(f64::from(RUNS) / begun.elapsed().as_secs_f64());
    }
    println!(
        "one at a time {:.0}/s, eight at once {:.0}/s: {:.2} times",
        rates[0],
        rates[1],
        rates[1] / rates[0]
    );
}

/// 256 events in one hand-over, and each by itself.
async fn together(hooks: &Hooks, folder: &Folder) {
    const EVENTS: u32 = 256;
    let pinned = hooks.pin(folder, &folder.config().unwrap());
    let (mut batches, mut alone) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let events = (0..EVENTS).map(|_| event(folder)).collect::<Vec<_>>();
        let begun = Instant::now();
        let events = events.into_iter();
        let to_fire = events.map(|event| ToFire::all(event, pinned.clone()));
        let mut batch = hooks.fire_batch(to_fire.collect(), &Mode::LIVE);
        while batch.left() > 0 {
            batch.next().await;
        }
        batches.push(begun.elapsed() / EVENTS);
        let events = (0..EVENTS).map(|_| event(folder)).collect::<Vec<_>>();
        let begun = Instant::now();
        let mut running = tokio::task::JoinSet::new();
        for event in events {
            let (hooks, pinned) = (hooks.clone(), pinned.clone());
            running.spawn(async move { hooks.fire(event, &pinned).await });
        }
        while running.join_next().await.is_some() {}
        alone.push(begun.elapsed() / EVENTS);
    }
    println!(
        "{EVENTS} at once: {:?} each in one batch, {:?} each by itself",
        median(batches),
        median(alone)
    );
}

/// 64 folders whose hooks work to their deadline, and one whose does not.
async fn beside_the_stuck(world: &World, hooks: &Hooks, folder: &Folder) {
    let mut stuck = tokio::task::JoinSet::new();
    for n in 0..64 {
        let folder = world.folder(&format!("stuck{n}"), "[OnMeta]\nhook.rhai\n");
        let script = "let s = \"\"; s.pad(1000, ' '); loop { s.split(' '); }";
        fs::write(folder.path_of("hook.rhai"), script).unwrap();
        let hooks = hooks.clone();
        stuck.spawn(async move { fire(&hooks, &folder).await });
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let begun = Instant::now();
    fire(hooks, folder).await;
    println!(
        "beside 64 stuck folders of the same user: answered in {:?}",
        begun.elapsed()
    );
    while stuck.join_next().await.is_some() {}
    for n in 0..64 {
        let folder = world.receiver.folder(&name(&format!("stuck{n}"))).unwrap();
        let hooks = hooks.clone();
        stuck.spawn(async move { fire(&hooks, &folder).await });
    }
    let peter = common::person(&world.there, common::PETER);
    let other = peter.create_folder(&name("other")).unwrap();
    fs::write(other.path_of("m2y.config"), CONFIG).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (mut times, begun) = (Vec::new(), Instant::now());
    while begun.elapsed() < Duration::from_millis(300) {
        let begun = Instant::now();
        fire(hooks, &other).await;
        times.push(begun.elapsed());
    }
    let longest = times.iter().max().copied().unwrap();
    println!(
        "beside 64 stuck folders of another user, for 300 ms: {} answers, median {:?}, longest {longest:?}",
        times.len(),
        median(times)
    );
    while stuck.join_next().await.is_some() {}
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn for_long(hooks: &Hooks, folder: &Folder) {
    let before = resident();
    for _ in 0..100_000 {
        fire(hooks, folder).await;
    }
    println!(
        "100,000 runs: memory grew by {} KiB",
        resident().saturating_sub(before)
    );
}
