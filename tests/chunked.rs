//! Contents on members: what is lost and what is not when members or the server fail.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
    sync::{Arc, atomic::AtomicIsize},
    time::{Duration, Instant},
};

use common::{
    chunked::{Members, OWNER},
    member::{Fault, Switch, TestMember},
    noise,
};
use m2y::store::{
    ContentPath, Existing, Kind, PartialName, Reader, Store, Target,
    chunked::{
        ChunkedStore,
        scrub::{Scrub, Scrubbed},
    },
    sealed::chunk::{CHUNK, tags_len},
};

/// All pairs of members.
const PAIRS: [(usize, usize); 6] = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];

const TIME: i64 = 1_546_214_399_000_001_000;

fn path(text: &str) -> ContentPath {
    ContentPath::parse(text).unwrap()
}

/// Receives a file, as a transfer does it; with an `Ok` its sender is told that it is safe.
fn try_put(store: &ChunkedStore, name: &str, bytes: &[u8]) -> io::Result<()> {
    try_put_as(store, "put", name, bytes)
}

fn try_put_as(store: &ChunkedStore, stem: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let (partial, name) = (PartialName::new(stem).unwrap(), path(name));
    let mut sink = store.begin(&partial, 0)?;
    for piece in bytes.chunks(100_000) {
        sink.append(&[piece])?;
    }
    sink.settle()?;
    drop(sink);
    let to = Target {
        existing: Existing::Replace,
        modified: Some(TIME),
        ..Target::free(&name)
    };
    store.publish(&partial, &to)?;
    store.settle_names(std::slice::from_ref(&name))
}

fn put(store: &ChunkedStore, name: &str, bytes: &[u8]) {
    try_put(store, name, bytes).unwrap();
}

fn put_as(store: &ChunkedStore, stem: &str, name: &str, bytes: &[u8]) {
    try_put_as(store, stem, name, bytes).unwrap();
}

fn try_remove(store: &ChunkedStore, name: &str) -> io::Result<()> {
    store.remove(&path(name))?;
    store.settle_names(&[path(name)])
}

fn try_move(store: &ChunkedStore, name: &str, to: &str) -> io::Result<()> {
    store.rename(&path(name), &Target::free(&path(to)))?;
    store.settle_names(&[path(to), path(name)])
}

fn make_dir(store: &ChunkedStore, name: &str) {
    store.make_dir(&path(name)).unwrap();
    store.settle_names(&[path(name)]).unwrap();
}

fn get(store: &ChunkedStore, name: &str) -> io::Result<Vec<u8>> {
    let contents = store.open(&path(name))?;
    let mut bytes = Vec::new();
    Reader::new(&*contents).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// All files with their contents, and all directories.
fn tree(store: &ChunkedStore) -> BTreeMap<String, Option<Vec<u8>>> {
    let mut tree = BTreeMap::new();
    let mut walk = vec![ContentPath::default()];
    while let Some(here) = walk.pop() {
        for entry in store.list(&here).unwrap() {
            let (name, stat) = entry.unwrap();
            let below = here.join(&name).unwrap();
            let text = below.to_string();
            match stat.kind {
                Kind::File => tree.insert(text.clone(), Some(get(store, &text).unwrap())),
                _ => {
                    walk.push(below);
                    tree.insert(text, None)
                }
            };
        }
    }
    tree
}

fn recovered(members: &Members) -> (ChunkedStore, tempfile::TempDir) {
    let root = tempfile::tempdir().unwrap();
    let store = members.open_at(&root);
    store.recover(&OWNER, &|_, _| {}).unwrap();
    (store, root)
}

#[test]
fn a_file_of_353_bytes_becomes_pieces_of_89() {
    let members = Members::four();
    put(&members.open(), "f", &noise(353));
    for member in &members.test {
        let objects = members_objects(member, "/c/");
        let lens: Vec<usize> = objects.values().map(|object| object.len()).collect();
        assert_eq!(lens, [2 * 89 + tags_len(353)]);
    }
}

fn members_objects(member: &TestMember, below: &str) -> BTreeMap<String, hyper::body::Bytes> {
    let objects = member.objects().into_iter();
    let objects = objects.map(|(key, object)| (key.to_string(), object));
    objects.filter(|(key, _)| key.contains(below)).collect()
}

#[test]
fn a_member_finds_no_name_and_no_byte_of_a_file() {
    let members = Members::four();
    let store = members.open();
    let words = b"the quick brown fox jumps over the lazy dog".repeat(1_000);
    make_dir(&store, "Holidays");
    put(&store, "Holidays/beach-photo.jpg", &words);
    store
        .rename(
            &path("Holidays/beach-photo.jpg"),
            &Target::free(&path("Holidays/seaside.jpg")),
        )
        .unwrap();
    store.settle_names(&[]).unwrap();
    for secret in ["Holidays", "beach", "seaside", "brown fox", "roland-frei"] {
        for member in &members.test {
            for (key, object) in member.objects() {
                let text = String::from_utf8_lossy(&object);
                assert!(!text.contains(secret), "{secret} is in {key}");
                assert!(!key.to_string().contains(secret));
            }
        }
    }
}

#[test]
fn any_two_members_are_enough_to_read_and_to_recover_everything() {
    let members = Members::four();
    let store = members.open();
    make_dir(&store, "a");
    make_dir(&store, "a/b");
    put(&store, "empty", b"");
    put(&store, "small", &noise(353));
    put(&store, "a/b/large", &noise(CHUNK + 12_345));
    put(&store, "gone", b"1");
    try_remove(&store, "gone").unwrap();
    put(&store, "moved", b"2");
    try_move(&store, "moved", "a/moved").unwrap();
    let all = tree(&store);
    assert_eq!(all.len(), 6);
    for (a, b) in PAIRS {
        members.test[a].set(Fault::Down);
        members.test[b].set(Fault::Down);
        assert_eq!(tree(&members.open()), all, "read without {a} and {b}");
        let (other, _root) = recovered(&members);
        assert_eq!(tree(&other), all, "recovered without {a} and {b}");
        let stat = other.stat(&path("a/b/large")).unwrap().unwrap();
        assert_eq!(stat.modified, TIME);
        members.test[a].set(Fault::None);
        members.test[b].set(Fault::None);
    }
}

#[test]
fn with_two_members_gone_nothing_is_acknowledged_and_nothing_is_lost() {
    let members = Members::four();
    let store = members.open();
    put(&store, "f", b"before");
    members.test[1].set(Fault::Full);
    put(&store, "one-is-full", b"1");
    members.test[2].set(Fault::Down);
    let refused = try_put(&store, "g", b"later").unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::HostUnreachable, "{refused}");
    assert!(try_remove(&store, "f").is_err());
    // A server that starts now can only read, and says so.
    assert_eq!(get(&members.open(), "one-is-full").unwrap(), b"1");
    members.test[1].set(Fault::None);
    members.test[2].set(Fault::None);
    put(&store, "g", b"later");
    let mended = store.mend().unwrap();
    assert!(mended.reasons.is_empty(), "{mended:?}");
    // Now every member has its part: any two others may go.
    for (a, b) in PAIRS {
        members.test[a].set(Fault::Down);
        members.test[b].set(Fault::Down);
        let (other, _root) = recovered(&members);
        let names: Vec<String> = tree(&other).into_keys().collect();
        assert_eq!(names, ["g", "one-is-full"], "without {a} and {b}");
        members.test[a].set(Fault::None);
        members.test[b].set(Fault::None);
    }
}

#[test]
fn a_member_that_comes_back_with_what_it_had_brings_nothing_removed_back() {
    let members = Members::four();
    let store = members.open();
    put(&store, "removed", b"old");
    put(&store, "changed", b"old");
    put(&store, "moved", b"same");
    let then = members.test[3].objects();
    members.test[3].set(Fault::Down);
    try_remove(&store, "removed").unwrap();
    put(&store, "changed", b"changed");
    try_move(&store, "moved", "elsewhere").unwrap();
    put(&store, "new", b"new");
    members.test[3].set(Fault::None);
    members.test[3].set_objects(then);
    let now = tree(&store);
    for other in 0..3 {
        for gone in 0..3 {
            members.test[gone].set(match gone == other {
                true => Fault::None,
                false => Fault::Down,
            });
        }
        // Contents that three members lack cannot be read, but it is known that they are there.
        let (again, _root) = recovered(&members);
        let names: Vec<String> = again
            .names(&ContentPath::default())
            .unwrap()
            .map(|name| name.unwrap().0)
            .collect();
        assert_eq!(names, now.keys().cloned().collect::<Vec<_>>());
        assert_eq!(again.stat(&path("changed")).unwrap().unwrap().size, 7);
    }
    for gone in 0..3 {
        members.test[gone].set(Fault::None);
    }
    // It is filled, and what nothing needs goes from it too.
    store.mend().unwrap();
    store.collect_before(i64::MAX).unwrap();
    for (a, b) in [(0, 1), (1, 2), (0, 2)] {
        members.test[a].set(Fault::Down);
        members.test[b].set(Fault::Down);
        assert_eq!(tree(&members.open()), now);
        members.test[a].set(Fault::None);
        members.test[b].set(Fault::None);
    }
    check_no_orphans(&members, &store);
}

#[test]
fn a_tombstone_goes_once_every_member_has_it_for_long_enough() {
    let members = Members::four();
    let store = members.open();
    put(&store, "removed", b"old");
    put(&store, "kept", b"new");
    members.test[3].set(Fault::Down);
    try_remove(&store, "removed").unwrap();
    assert_eq!(store.forget_tombstones(i64::MAX).unwrap(), 0);
    members.test[3].set(Fault::None);
    store.mend().unwrap();
    assert_eq!(
        store.forget_tombstones(i64::MAX).unwrap(),
        0,
        "there is still the file's manifest, under an earlier lease"
    );
    store.collect_before(i64::MAX).unwrap();
    assert_eq!(store.forget_tombstones(0).unwrap(), 0, "it is not old");
    let manifests = |member: &TestMember| {
        let objects = member.objects();
        objects
            .keys()
            .filter(|key| key.as_str().contains("/m/"))
            .count()
    };
    assert_eq!(
        members.test.iter().map(manifests).collect::<Vec<_>>(),
        [2; 4]
    );
    assert_eq!(store.forget_tombstones(i64::MAX).unwrap(), 1);
    assert_eq!(
        members.test.iter().map(manifests).collect::<Vec<_>>(),
        [1; 4]
    );
    // The name is free for another file, which is found without this root.
    put(&store, "removed", b"another");
    let (again, _root) = recovered(&members);
    assert_eq!(get(&again, "removed").unwrap(), b"another");
    assert_eq!(get(&again, "kept").unwrap(), b"new");
}

/// Every chunk that a member has is one of a file, and every member has as many.
fn check_no_orphans(members: &Members, store: &ChunkedStore) {
    store.collect_before(i64::MAX).unwrap();
    store.sweep_orphans(i64::MAX).unwrap();
    let chunks = store.status().unwrap().chunks;
    for (number, member) in members.test.iter().enumerate() {
        let there = members_objects(member, "/c/").len() as u64;
        assert_eq!(there, chunks, "member {number}");
    }
}

/// What a person does in a day; each step is noted before it begins and after it is
/// acknowledged.
struct Day {
    done: usize,
}

type Step = fn(&ChunkedStore) -> io::Result<()>;

impl Day {
    const STEPS: [(&'static str, Step); 5] = [
        ("put", |store| try_put(store, "new", &noise(5_000))),
        ("overwrite", |store| try_put(store, "changed", b"after")),
        ("remove", |store| try_remove(store, "removed")),
        ("move", |store| try_move(store, "moved", "d/moved")),
        ("mend", |store| store.mend().map(drop)),
    ];

    fn prepare(store: &ChunkedStore) {
        make_dir(store, "d");
        put(store, "changed", b"before");
        put(store, "removed", b"1");
        put(store, "moved", b"2");
    }

    fn run(store: &ChunkedStore) -> Self {
        let done = Self::STEPS
            .iter()
            .take_while(|(_, step)| step(store).is_ok());
        Self { done: done.count() }
    }

    /// What was acknowledged is there; what was under way is as before or as after.
    fn check(&self, store: &ChunkedStore, which: &str) {
        let tree = tree(store);
        let has = |name: &str| tree.contains_key(name);
        let is =
            |name: &str, bytes: &[u8]| tree.get(name).is_some_and(|b| b.as_deref() == Some(bytes));
        let acked = |step: usize| self.done > step;
        let begun = |step: usize| self.done >= step;
        let new = noise(5_000);
        assert!(is("new", &new) || !acked(0) && !has("new"), "{which}: put");
        let is_after = is("changed", b"after");
        assert!(
            if acked(1) {
                is_after
            } else {
                is_after && begun(1) || is("changed", b"before")
            },
            "{which}: overwrite"
        );
        assert!(
            !has("removed") && begun(2) || !acked(2) && is("removed", b"1"),
            "{which}: remove"
        );
        let (old, moved) = (is("moved", b"2"), is("d/moved", b"2"));
        match acked(3) {
            true => assert!(moved && !old, "{which}: move"),
            false => assert!(old ^ moved, "{which}: move {old} {moved}"),
        }
    }
}

#[test]
fn whenever_the_server_is_killed_nothing_acknowledged_is_lost_and_nothing_removed_comes_back() {
    let mut kills = 0;
    for writes in 0.. {
        let members = Members::four();
        Day::prepare(&members.open());
        let switch: Switch = Arc::new(AtomicIsize::new(writes));
        for member in &members.test {
            member.switch(Some(&switch));
        }
        // One part is missing, so that there is something to mend.
        let first = members_objects(&members.test[2], "/c/")
            .into_keys()
            .next()
            .unwrap();
        let mut objects = members.test[2].objects();
        objects.retain(|key, _| key.to_string() != first);
        members.test[2].set_objects(objects);
        let store = members.open();
        scrub(&store);
        let day = Day::run(&store);
        drop(store);
        for member in &members.test {
            member.switch(None);
        }
        let was_killed = switch.load(std::sync::atomic::Ordering::SeqCst) < 0;
        kills += usize::from(was_killed);
        // The root is lost as well, and two members: one of them the one that lacks a part.
        for (a, b) in PAIRS.into_iter().filter(|(a, b)| *a == 2 || *b == 2) {
            members.test[a].set(Fault::Down);
            members.test[b].set(Fault::Down);
            let (store, _root) = recovered(&members);
            day.check(
                &store,
                &format!("killed after {writes}, without {a} and {b}"),
            );
            members.test[a].set(Fault::None);
            members.test[b].set(Fault::None);
        }
        // It starts again.
        let store = members.open();
        store.settle_names(&[]).unwrap();
        day.check(&store, &format!("killed after {writes}"));
        scrub(&store);
        store.mend().unwrap();
        check_no_orphans(&members, &store);
        if !was_killed {
            break;
        }
    }
    assert!(kills > 20, "only {kills} writes");
}

#[test]
fn a_member_that_hangs_costs_a_read_little_and_a_write_no_more_than_its_deadline() {
    let members = Members {
        deadline: Duration::from_secs(3),
        ..Members::four()
    };
    let store = members.open();
    let bytes = noise(300_000);
    put(&store, "f", &bytes);
    for number in 0..4 {
        members.test[number].set(Fault::Hangs);
        let begun = Instant::now();
        assert_eq!(get(&members.open(), "f").unwrap(), bytes);
        assert!(begun.elapsed() < Duration::from_secs(2), "member {number}");
        // The lease has to be renewed, too.
        store.forget_renewal().unwrap();
        let begun = Instant::now();
        put(&store, &format!("g{number}"), &bytes);
        assert!(begun.elapsed() < Duration::from_secs(30), "member {number}");
        members.test[number].set(Fault::None);
    }
}

fn scrub(store: &ChunkedStore) -> Scrubbed {
    let scrub = Scrub {
        limit: None,
        progress: &mut |_, _| {},
        stops: &|| false,
    };
    store.scrub(&OWNER, scrub).unwrap()
}

#[test]
fn a_scrub_finds_every_flipped_bit_and_a_repair_mends_it() {
    a_scrub_finds_every_flipped_bit_of(20);
}

/// For the closing note: how long it takes for a thousand files, and for ten thousand to be
/// recovered.
#[test]
#[ignore = "it takes a minute"]
fn a_thousand_files_are_scrubbed_and_ten_thousand_recovered() {
    let begun = Instant::now();
    a_scrub_finds_every_flipped_bit_of(1_000);
    eprintln!(
        "1,000 files flipped, scrubbed, mended: {:?}",
        begun.elapsed()
    );
    let members = Members::four();
    let store = members.open();
    for n in 0..100 {
        make_dir(&store, &format!("d{n}"));
    }
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for m in (n..10_000).step_by(8) {
                    put_as(
                        store,
                        &format!("put{n}"),
                        &format!("d{}/f{m}", m % 100),
                        &noise(500),
                    );
                }
            });
        }
    });
    eprintln!("10,000 files put: {:?}", begun.elapsed());
    for (a, b) in PAIRS {
        members.test[a].set(Fault::Down);
        members.test[b].set(Fault::Down);
        let begun = Instant::now();
        let (other, _root) = recovered(&members);
        eprintln!(
            "10,000 files recovered without {a} and {b}: {:?}",
            begun.elapsed()
        );
        assert_eq!(other.status().unwrap().totals, (10_000, 100, 5_000_000));
        assert_eq!(get(&other, "d7/f1007").unwrap(), noise(500));
        members.test[a].set(Fault::None);
        members.test[b].set(Fault::None);
    }
}

fn a_scrub_finds_every_flipped_bit_of(files: usize) {
    let members = Members::four();
    let store = members.open();
    for n in 0..files {
        put(&store, &format!("f{n:04}"), &noise(1_000 + n));
    }
    let before = tree(&store);
    assert!(scrub(&store).is_clean());
    // Each chunk has one wrong share, the next member's each time.
    let mut flipped = 0;
    for (n, key) in members.test[0].objects().into_keys().enumerate() {
        if key.to_string().contains("/c/") {
            members.test[n % 4].flip(&key, n * 7 % 400);
            flipped += 1;
        }
    }
    assert_eq!(flipped, files);
    assert_eq!(tree(&members.open()), before, "no wrong byte is read");
    let found = scrub(&store);
    assert_eq!(found.wrong.iter().sum::<u64>(), files as u64);
    assert!(!found.is_clean() && found.lost == 0);
    let mended = store.mend().unwrap();
    assert_eq!((mended.chunks, mended.reasons.len()), (files as u64, 0));
    assert!(scrub(&store).is_clean());
}

#[test]
fn a_scrub_that_cannot_reach_a_member_does_not_call_it_clean() {
    let members = Members::four();
    let store = members.open();
    put(&store, "f", &noise(1_000));
    members.test[3].set(Fault::Down);
    let found = scrub(&store);
    assert!(!found.is_clean());
    assert_eq!((found.unknown[3], found.lost), (2, 0), "{found:?}");
    assert_eq!(found.missing.iter().sum::<u64>(), 0, "silence is no loss");
    members.test[3].set(Fault::None);
    members.test[3].empty();
    let found = scrub(&store);
    assert_eq!((found.missing[3], found.unknown[3]), (2, 0));
    store.mend().unwrap();
    assert!(scrub(&store).is_clean());
}

#[test]
fn a_second_server_is_refused_and_takes_over_after_the_first_fell_silent() {
    let members = Members {
        silence: Duration::from_secs(3600),
        ..Members::four()
    };
    let first = members.open();
    put(&first, "f", b"first");
    let root = tempfile::tempdir().unwrap();
    let second = members.open_at(&root);
    second.recover(&OWNER, &|_, _| {}).unwrap();
    let refused = try_put(&second, "g", b"second").unwrap_err();
    assert!(
        refused.to_string().contains("another server writes"),
        "{refused}"
    );
    assert_eq!(get(&second, "f").unwrap(), b"first", "but it reads");
    // The same server, for which the silence is over when it looks again.
    let impatient = Members {
        silence: Duration::ZERO,
        ..members
    };
    let second = impatient.open_at(&root);
    assert!(try_put(&second, "g", b"second").is_err());
    put(&second, "g", b"second");
    put(&second, "f", b"changed");
    // The first one was only asleep: what it writes now counts for nothing.
    let asleep = impatient.open();
    asleep.forget_renewal().unwrap();
    let refused = try_put(&asleep, "f", b"too late").unwrap_err();
    assert!(refused.to_string().contains("another server"), "{refused}");
    let (third, _root) = recovered(&impatient);
    assert_eq!(get(&third, "f").unwrap(), b"changed");
    assert_eq!(tree(&third).into_keys().collect::<BTreeSet<_>>().len(), 2);
    // It was given back: the next one need not wait.
    second.give_back().unwrap();
    let (fourth, _root) = recovered(&impatient);
    put(&fourth, "h", b"fourth");
}

#[test]
fn threads_and_processes_that_begin_at_once_share_the_first_lease() {
    for _ in 0..20 {
        let members = Members::four();
        // Each is at another step when the first one has the lease.
        for member in &members.test {
            member.set(Fault::Slow(Duration::from_millis(3)));
        }
        // Two of one root: a server, and a command of the owner.
        let stores = [members.open(), members.open()];
        std::thread::scope(|scope| {
            for (number, store) in stores.iter().chain(&stores).enumerate() {
                let (stem, name) = (format!("p{number}"), format!("f{number}"));
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(5) * number as u32);
                    match number % 2 {
                        0 => store.renew().unwrap(),
                        _ => put_as(store, &stem, &name, b"1"),
                    }
                });
            }
        });
    }
}

#[test]
fn a_store_that_cannot_refuse_to_replace_has_one_server_and_no_lease() {
    let has_lease = |member: &TestMember| {
        let objects = member.objects();
        objects.keys().any(|key| key.as_str().contains("/lease/"))
    };
    for (mut members, replacing) in [(Members::one(), 1), (Members::four(), 2)] {
        members.silence = Duration::ZERO;
        for member in members.test.iter().take(replacing) {
            member.set(Fault::Replaces);
        }
        let store = members.open();
        put(&store, "f", b"first");
        put(&store, "f", b"second");
        store.renew().unwrap();
        assert!(!members.test.iter().any(has_lease));
        // What a server writes that knows only the members is newer than what they have.
        let (again, _root) = recovered(&members);
        put(&again, "f", b"third");
        let (third, _root) = recovered(&members);
        assert_eq!(get(&third, "f").unwrap(), b"third");
    }
    // One of four that replaces does no harm: two servers have two others in common.
    let members = Members::four();
    members.test[0].set(Fault::Replaces);
    put(&members.open(), "f", b"first");
    assert!(members.test.iter().all(has_lease));
}

#[test]
fn a_directory_takes_no_files_place() {
    let members = Members::one();
    let store = members.open();
    put(&store, "f", b"1");
    make_dir(&store, "d");
    make_dir(&store, "d/below");
    let name = path("f");
    let over = Target {
        existing: Existing::Replace,
        ..Target::free(&name)
    };
    assert!(store.rename(&path("d"), &over).is_err());
    assert!(
        store
            .rename(&path("d"), &Target::free(&path("d/below/d")))
            .is_err()
    );
    store.collect_before(i64::MAX).unwrap();
    assert_eq!(get(&store, "f").unwrap(), b"1");
    assert_eq!(
        tree(&store).into_keys().collect::<Vec<_>>(),
        ["d", "d/below", "f"]
    );
}

#[test]
fn what_one_member_lacks_is_written_while_another_is_away() {
    let members = Members::four();
    let store = members.open();
    for away in [3, 1] {
        members.test[away].set(Fault::Down);
        for n in 0..300 {
            put(&store, &format!("f{away}-{n:03}"), b"");
        }
        members.test[away].set(Fault::None);
    }
    members.test[3].set(Fault::Down);
    let mended = store.mend().unwrap();
    assert_eq!(
        (mended.manifests, mended.reasons.len()),
        (300, 1),
        "{mended:?}"
    );
    members.test[3].set(Fault::None);
    assert_eq!(store.mend().unwrap().manifests, 300);
}

#[test]
fn a_member_that_is_known_to_hang_is_not_asked_to_take_what_it_lacks() {
    let mut members = Members::four();
    members.keep = Duration::from_secs(86_400);
    let store = members.open();
    members.test[3].set(Fault::Down);
    for n in 0..300 {
        put(&store, &format!("f{n:03}"), b"1");
        try_remove(&store, &format!("f{n:03}")).unwrap();
    }
    members.test[3].set(Fault::Hangs);
    let begun = Instant::now();
    store.mend_without(0b1000, &mut |_, _| {}).unwrap();
    store.collect_garbage(0b1000).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    // Once it answers it gets everything at once, also what can be restored.
    members.test[3].set(Fault::None);
    let mended = store.mend().unwrap();
    assert!(mended.reasons.is_empty(), "{mended:?}");
    let backlog = store.status().unwrap().backlog;
    assert_eq!((backlog.manifests, backlog.chunks), (0, 0));
}

#[test]
fn what_is_swapped_moved_or_older_is_refused() {
    let members = Members::one();
    let store = members.open();
    put(&store, "a", &noise(1_000));
    put(&store, "b", &noise(999));
    let member = &members.test[0];
    let before = member.objects();
    let chunks: Vec<_> = members_objects(member, "/c/").into_keys().collect();
    // Chunks change places.
    let mut objects = before.clone();
    let key = |text: &str| {
        before
            .keys()
            .find(|key| key.as_str() == text)
            .unwrap()
            .clone()
    };
    let (a, b) = (key(&chunks[0]), key(&chunks[1]));
    objects.insert(a.clone(), before[&b].clone());
    objects.insert(b, before[&a].clone());
    member.set_objects(objects);
    for name in ["a", "b"] {
        assert_eq!(
            get(&store, name).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }
    // A manifest gets another one's name.
    let manifests: Vec<_> = members_objects(member, "/m/").into_keys().collect();
    let mut objects = before.clone();
    let (a, b) = (key(&manifests[0]), key(&manifests[1]));
    objects.insert(a, before[&b].clone());
    member.set_objects(objects);
    let (other, _root) = recovered(&members);
    assert_eq!(tree(&other).len(), 1);
}

#[test]
fn an_upload_that_broke_off_goes_on_where_it_was_and_any_range_is_read() {
    let members = Members::one();
    let store = members.open();
    let partial = PartialName::new("p").unwrap();
    let bytes = noise(3 * CHUNK + 777);
    let mut sink = store.begin(&partial, 0).unwrap();
    sink.append(&[&bytes[..2 * CHUNK + 100]]).unwrap();
    drop(sink);
    assert_eq!(store.held(&partial).unwrap(), Some(2 * CHUNK as u64 + 100));
    drop(store);
    // Another process: what was on its way when the first one left may be missing.
    let store = members.open();
    let held = store.held(&partial).unwrap().unwrap() as usize;
    assert!(held <= 2 * CHUNK + 100);
    let mut sink = store.begin(&partial, held as u64).unwrap();
    sink.append(&[&bytes[held..]]).unwrap();
    sink.settle().unwrap();
    drop(sink);
    let name = path("f");
    store.publish(&partial, &Target::free(&name)).unwrap();
    store.settle_names(&[name]).unwrap();
    assert_eq!(get(&store, "f").unwrap(), bytes);
    let contents = store.open(&path("f")).unwrap();
    let mut few = [0; 10];
    let at = CHUNK as u64 - 5;
    assert_eq!(contents.read_at(&mut few, at).unwrap(), 5);
    assert_eq!(few[..5], bytes[CHUNK - 5..CHUNK]);
    assert_eq!(contents.read_at(&mut few, 100_000).unwrap(), 10);
    assert_eq!(few, bytes[100_000..100_010]);
}
