//! Events that are fired together: each has its own verdict, and none waits for another.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod common;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use common::{ROLAND, World, ZHENQIANG, event, name, read_meta};
use m2y::{
    event::{Event, Kind, Outcome, Verdict},
    hooks::{Pinned, dispatch::Dispatcher},
    journal::{
        self,
        delivered::{self, Key, Stage, Transfer},
    },
    meta::PENDING_HOOK,
    root::folder::Folder,
};

fn photo(world: &World) -> Folder {
    world.receiver.folder(&name("photo")).unwrap()
}

fn dispatcher(world: &World) -> Dispatcher {
    Dispatcher::new(&world.there, &world.there.settings().unwrap()).unwrap()
}

/// Fires events together; the verdicts in their order.
async fn fire_all(dispatcher: &Dispatcher, events: Vec<(Event, Pinned)>) -> Vec<Verdict> {
    let mut verdicts: Vec<Option<Verdict>> = events.iter().map(|_| None).collect();
    let tell = |place: usize, verdict| {
        assert!(verdicts[place].replace(verdict).is_none(), "{place}");
    };
    dispatcher.fire_each(events, tell).await;
    verdicts.into_iter().map(Option::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_of_a_batch_has_its_own_verdict_in_the_order_of_the_events() {
    let world = World::new("[OnMeta]\nhook.rhai\nsecond.rhai\n");
    let odd = "if meta.filename.ends_with(\"1\") { reject(`not ${meta.filename}`); } meta.n = 1;";
    world.script("hook.rhai", odd);
    world.script("second.rhai", "meta.n += 1;");
    let heard = Arc::new(AtomicUsize::new(0));
    let counted = heard.clone();
    let dispatcher = dispatcher(&world).heard(Arc::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    }));
    let folder = photo(&world);
    let pinned = dispatcher.pin(&folder, &folder.config().unwrap());
    let events = (0..300).map(|n| {
        let event = event(Kind::Meta, &folder, &format!("f{n}"));
        (event, pinned.clone())
    });
    let verdicts = fire_all(&dispatcher, events.collect()).await;
    assert_eq!(verdicts.len(), 300);
    for (n, verdict) in verdicts.iter().enumerate() {
        let meta = verdict.meta.as_ref().unwrap();
        assert_eq!(meta.filename, format!("f{n}"));
        match n % 10 {
            1 => {
                let words = format!("not f{n}");
                assert_eq!(verdict.outcome, Outcome::Refused(words));
                assert_eq!(verdict.runs.len(), 1);
            }
            _ => {
                assert_eq!(verdict.outcome, Outcome::Accepted);
                assert_eq!(meta.extra["n"], 2);
            }
        }
    }
    assert_eq!(heard.load(Ordering::Relaxed), 2 * 270 + 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_script_holds_up_no_other_event_of_its_batch() {
    let world = World::new("[OnMeta]\nhook.rhai\n");
    // Works to its deadline of half a second.
    let slow = "if meta.filename == \"f0\" {
        let s = \"\"; s.pad(1000, ' '); loop { s.split(' '); }
    }";
    world.script("hook.rhai", slow);
    let dispatcher = dispatcher(&world);
    let folder = photo(&world);
    let events = (0..64).map(|n| {
        let event = event(Kind::Meta, &folder, &format!("f{n}"));
        (event, Pinned::default())
    });
    let mut told = Vec::new();
    dispatcher
        .fire_each(events.collect(), |place, verdict| {
            told.push((place, verdict.outcome));
        })
        .await;
    assert_eq!(told.len(), 64);
    let (last, outcome) = told.pop().unwrap();
    assert_eq!(last, 0, "another one was told after the slow one");
    assert!(outcome.objection().is_some());
    assert!(told.iter().all(|(_, of)| *of == Outcome::Accepted));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_needs_a_program_goes_on_by_itself() {
    let world = World::new("[OnMeta]\nfirst.rhai\nwait.sh\nlast.rhai\n");
    let go = world.there.path().join("go");
    world.script("first.rhai", "meta.way = \"first\";");
    // It ends when all others have been told.
    let wait = format!(
        "#!/bin/sh\nuntil [ -e {} ]; do sleep 0.01; done\n",
        go.display()
    );
    world.script("wait.sh", &wait);
    let program = world.photo().join("wait.sh");
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    world.script("last.rhai", "meta.way += \" last\";");
    let ini = "[hooks]\nexecutables = all\n";
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
    let other = world.folder("other", "[OnMeta]\nquick.rhai\n");
    fs::write(other.path_of("quick.rhai"), "meta.way = \"quick\";").unwrap();
    let dispatcher = dispatcher(&world);
    let waits = photo(&world);
    let events = (0..10).map(|n| {
        let folder = if n == 4 { &waits } else { &other };
        let event = event(Kind::Meta, folder, &format!("f{n}"));
        if n == 4 {
            let subject = event.subject.as_ref().unwrap();
            fs::write(waits.path_of("f4.meta"), subject.meta.to_file()).unwrap();
        }
        (event, Pinned::default())
    });
    let mut told = 0;
    let mut way = String::new();
    dispatcher
        .fire_each(events.collect(), |place, verdict| {
            told += 1;
            assert_eq!(verdict.outcome, Outcome::Accepted, "{:?}", verdict.runs);
            if told == 9 {
                fs::write(&go, "").unwrap();
            }
            if place == 4 {
                way = verdict.meta.unwrap().extra["way"].to_string();
            }
        })
        .await;
    assert_eq!((told, way.as_str()), (10, "\"first last\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_at_one_event_fails_that_one_only() {
    let world = World::new("[OnMeta]\nhook.rhai\n");
    world.script("hook.rhai", "accept();");
    let first = AtomicBool::new(true);
    let dispatcher = dispatcher(&world).heard(Arc::new(move |_| {
        assert!(!first.swap(false, Ordering::Relaxed), "at the first event");
    }));
    let folder = photo(&world);
    let events = (0..20).map(|n| {
        let event = event(Kind::Meta, &folder, &format!("f{n}"));
        (event, Pinned::default())
    });
    let verdicts = fire_all(&dispatcher, events.collect()).await;
    let failed = verdicts.iter().filter(|v| v.outcome == Outcome::Failed);
    assert_eq!((verdicts.len(), failed.count()), (20, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_batch_of_received_files_wrote_and_asked_for_is_stored() {
    let world = World::new("[OnMeta]\n[OnReceived]\nhook.rhai\n");
    world.script(
        "hook.rhai",
        "meta.album = `of ${meta.filename}`;
         notify.email(\"roland-frei@example.org\", meta.filename, \"It is here.\");
         if meta.filename == \"f3\" { throw \"not yet\"; }",
    );
    let dispatcher = dispatcher(&world);
    let folder = photo(&world);
    let inode = |n: usize| {
        let meta = fs::metadata(folder.path_of(&format!("f{n}.meta"))).unwrap();
        meta.ino()
    };
    let (mut leased, mut keys, mut inodes) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..20 {
        let event = event(Kind::Received, &folder, &format!("f{n}"));
        let subject = event.subject.clone().unwrap();
        fs::write(folder.path_of(&subject.data_file()), b"x").unwrap();
        fs::write(folder.path_of(&subject.meta_file()), subject.meta.to_file()).unwrap();
        let key = Key {
            user: ROLAND.to_owned(),
            folder: "photo".to_owned(),
            from: ZHENQIANG.to_owned(),
            id: subject.meta.id.unwrap(),
        };
        let transfer = Transfer {
            key: key.clone(),
            stem: subject.stem,
            filename: subject.meta.filename,
            filesize: 1,
            crc: 0,
            stage: Stage::Owed,
            meta: Some("{}".into()),
            words: None,
        };
        let written = dispatcher
            .journal()
            .write(true, move |db| delivered::put(db, &transfer));
        written.committed().await.unwrap();
        leased.push(dispatcher.lease(event, Pinned::default(), &key).unwrap());
        keys.push(key);
        inodes.push(inode(n));
    }
    let mut verdicts: Vec<Option<Verdict>> = leased.iter().map(|_| None).collect();
    let tell = |told: Vec<(usize, Verdict)>| {
        for (place, verdict) in told {
            assert!(verdicts[place].replace(verdict).is_none(), "{place}");
        }
    };
    dispatcher.run_leased_each(leased, tell).await;
    let verdicts: Vec<_> = verdicts.into_iter().map(Option::unwrap).collect();
    let db = dispatcher.journal().reader().unwrap();
    for (n, (verdict, key)) in verdicts.iter().zip(&keys).enumerate() {
        let meta = read_meta(&folder.path_of(&format!("f{n}.meta")));
        assert_eq!(verdict.outcome.objection().is_some(), n == 3);
        assert_eq!(meta.extra.contains_key(PENDING_HOOK), n == 3);
        if n != 3 {
            assert_eq!(meta.extra["album"], format!("of f{n}"));
        }
        let transfer = delivered::find(&db, key).unwrap().unwrap();
        assert_eq!(
            (transfer.stage, transfer.meta),
            (Stage::Delivered, None),
            "{n}"
        );
        // A new one for each of many files would make a disk slow.
        assert_eq!(inode(n), inodes[n], "f{n}.meta is another file");
    }
    let mut mails = 0;
    for entry in journal::list(&db, None, 100).unwrap() {
        match entry.task.kind.as_str() {
            "email" => mails += 1,
            "OnReceived" => {
                assert_eq!(entry.task.file.as_deref(), Some("f3.data"));
                assert_eq!((entry.attempts, entry.error.as_str()), (1, "not yet"));
            }
            kind => panic!("{kind}"),
        }
    }
    assert_eq!(mails, 19);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_without_a_script_is_accepted_as_it_is() {
    let world = World::new("[OnMeta]\n");
    let dispatcher = dispatcher(&world);
    let folder = photo(&world);
    let order = Mutex::new(Vec::new());
    let events = (0..3).map(|n| {
        let event = event(Kind::Meta, &folder, &format!("f{n}"));
        (event, Pinned::default())
    });
    dispatcher
        .fire_each(events.collect(), |place, verdict| {
            assert_eq!(verdict.outcome, Outcome::Accepted);
            order.lock().unwrap().push(place);
        })
        .await;
    assert_eq!(*order.lock().unwrap(), [0, 1, 2]);
    assert!(fire_all(&dispatcher, Vec::new()).await.is_empty());
}
