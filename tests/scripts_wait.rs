//! Scripts that wait for something: nobody else waits for that, and each gets its turn.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod common;

use std::{
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use common::{World, name};
use hyper::body::Bytes;
use m2y::{
    delivery::http::{Answered, Asked},
    event::{Kind, Outcome, Verdict},
    hooks::{Hooks, Pinned, api::http::Web, firing::ToFire, notes::Mode, services::Services},
};

/// Slots that one user has for scripts that take long.
const SLOTS: usize = 96;

fn answer(text: &str) -> Result<Answered, String> {
    Ok(Answered {
        status: 200,
        media_type: "text/plain".to_owned(),
        body: Bytes::from(text.to_owned()),
    })
}

/// Runs the script for so many events at once; the verdicts as they come.
async fn fire(world: &World, script: &str, count: usize, services: &Services) -> Vec<Verdict> {
    world.script("hook.rhai", script);
    let hooks = Hooks::new(&world.there, &world.there.settings().unwrap(), services);
    let folder = world.receiver.folder(&name("photo")).unwrap();
    let events = (0..count).map(|n| {
        let event = common::event(Kind::Meta, &folder, &format!("f{n}"));
        ToFire::all(event, Pinned::default())
    });
    let mut batch = hooks.fire_batch(events.collect(), &Mode::LIVE);
    let mut verdicts = Vec::new();
    while batch.left() > 0 {
        verdicts.extend(batch.next().await.into_iter().map(|(_, verdict)| verdict));
    }
    verdicts
}

/// Answers nobody until as many ask as there are slots, and takes its time then.
struct Crowd {
    asking: AtomicUsize,
    all_are_there: Barrier,
}

impl Web for Crowd {
    fn ask(&self, _: &Asked, _: Duration) -> Result<Answered, String> {
        if self.asking.fetch_add(1, Ordering::Relaxed) < SLOTS {
            self.all_are_there.wait();
            thread::sleep(Duration::from_millis(300));
        }
        answer("ok")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_files_than_may_wait_at_once_wait_for_each_other_and_are_let_in() {
    let world = World::new("[OnMeta]\nhook.rhai\n");
    let crowd = Arc::new(Crowd {
        asking: AtomicUsize::new(0),
        all_are_there: Barrier::new(SLOTS),
    });
    let services = Services::default().with_web(crowd.clone());
    let script = "state.add(\"n\", 1); http.get(\"https://example.org/\");";
    let verdicts = fire(&world, script, 256, &services).await;
    assert_eq!(verdicts.len(), 256);
    for verdict in &verdicts {
        assert_eq!(verdict.outcome, Outcome::Accepted);
        assert_eq!(verdict.runs.len(), 1);
    }
    // Each asked once, however often it began.
    assert_eq!(crowd.asking.load(Ordering::Relaxed), 256);
    let user = world.receiver.name();
    let counted = services.state.get(user, &name("photo"), "n").unwrap();
    assert_eq!(counted, Some(256.into()));
}

/// Tells what it was asked.
#[derive(Default)]
struct Echo(Mutex<Vec<Asked>>);

impl Web for Echo {
    fn ask(&self, asked: &Asked, _: Duration) -> Result<Answered, String> {
        self.0.lock().unwrap().push(asked.clone());
        match asked.url.ends_with("/down") {
            true => Err("nobody is there".to_owned()),
            false => answer(&asked.url),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_ask_about_a_value_that_others_change_come_to_a_decision() {
    let world = World::new("[OnMeta]\nhook.rhai\n");
    let echo = Arc::new(Echo::default());
    let services = Services::default().with_web(echo.clone());
    // The question is a different one each time that another event was faster.
    let script = r#"
let n = state.get("n") ?? 0;
let said = http.get(`https://example.org/${n}`).text();
state.set("n", n + 1);
meta.said = said;
"#;
    let verdicts = fire(&world, script, 12, &services).await;
    let mut said: Vec<_> = verdicts
        .iter()
        .map(|verdict| {
            assert_eq!(verdict.outcome, Outcome::Accepted);
            verdict.meta.as_ref().unwrap().extra["said"].to_string()
        })
        .collect();
    said.sort();
    let mut expected: Vec<_> = (0..12)
        .map(|n| format!("\"https://example.org/{n}\""))
        .collect();
    expected.sort();
    assert_eq!(said, expected);
}

fn keys(echo: &Echo) -> Vec<String> {
    let asked = echo.0.lock().unwrap();
    let posts = asked.iter().filter(|asked| asked.method == "POST");
    posts
        .map(|asked| {
            let key = asked
                .headers
                .iter()
                .find(|(name, _)| name == "idempotency-key");
            key.unwrap().1.clone()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_requests_of_an_event_have_two_keys_though_the_first_one_has_no_answer() {
    let world = World::new("[OnMeta]\nhook.rhai\n");
    let echo = Arc::new(Echo::default());
    let services = Services::default().with_web(echo.clone());
    let script = r#"
try { http.post("https://example.org/down", "a"); } catch {}
http.post("https://example.org/", "b");
http.post("https://example.org/", "b");
"#;
    let verdicts = fire(&world, script, 1, &services).await;
    assert_eq!(verdicts[0].outcome, Outcome::Accepted);
    let mut keys = keys(&echo);
    assert_eq!(keys.len(), 3);
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_an_answer_count_too() {
    let world = World::new("[OnMeta]\nhook.rhai\n");
    let echo = Arc::new(Echo::default());
    let services = Services::default().with_web(echo.clone());
    let script = r#"
let why = "";
for n in 0..100 {
    try { http.get("https://example.org/down"); } catch (e) { why = e.to_string(); }
}
meta.why = why;
"#;
    let verdicts = fire(&world, script, 1, &services).await;
    let why = verdicts[0].meta.as_ref().unwrap().extra["why"].to_string();
    assert!(why.contains("can make 8 requests"), "{why}");
    assert_eq!(echo.0.lock().unwrap().len(), 8);
}
