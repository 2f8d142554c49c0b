//! What every store promises: one suite, run over each kind.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    io::{self, Read},
    sync::Arc,
    time::SystemTime,
};

use cap_std::{ambient_authority, fs::Dir};
use common::{
    chunked::Members,
    member::Fault,
    store::{Call, Memory, Watched},
    suite::{self, Made, bytes_of, kind, names, partial, path, put, receive},
};
use m2y::store::{
    ContentPath, Existing, Kind, Reader, Store, Target, local::LocalStore,
    member::directory::DirectoryMember, moving::Moving,
};
use rustix::io::Errno;
use tempfile::TempDir;

/// Gives each kind of store to the checks of a promise. A kind is a constructor: its store
/// is empty, and what it gives beside the store keeps that alive.
macro_rules! for_every_kind {
    ($($promise:ident)+) => {
        mod local {
            use super::suite;
            $(#[test] fn $promise() { suite::$promise(super::local()); })+
        }
        mod memory {
            use super::suite;
            $(#[test] fn $promise() { suite::$promise(super::memory()); })+
        }
        mod watched {
            use super::suite;
            $(#[test] fn $promise() { suite::$promise(super::watched()); })+
        }
        mod chunked_in_a_directory {
            use super::suite;
            $(#[test] fn $promise() { suite::$promise(super::chunked_in_a_directory()); })+
        }
        mod striped {
            use super::suite;
            $(#[test] fn $promise() { suite::$promise(super::striped()); })+
        }
        mod on_its_way_to_another {
            use super::suite;
            $(#[test] fn $promise() { suite::$promise(super::on_its_way_to_another()); })+
        }
        mod striped_with_a_member_gone {
            use super::suite;
            $(#[test] fn $promise() { suite::$promise(super::striped_with_a_member_gone()); })+
        }
    };
}

fn local() -> Made {
    let at = tempfile::tempdir().unwrap();
    let dir = Arc::new(Dir::open_ambient_dir(at.path(), ambient_authority()).unwrap());
    (Arc::new(LocalStore::new(&dir)), Box::new(at))
}

fn memory() -> Made {
    (Arc::new(Memory::default()), Box::new(()))
}

/// A decorator that changes nothing.
fn watched() -> Made {
    let store = Watched::new(Memory::default(), |_, _| Ok(()));
    (Arc::new(store), Box::new(()))
}

fn chunked_in_a_directory() -> Made {
    let at = tempfile::tempdir().unwrap();
    let members = Members::of(vec![Arc::new(DirectoryMember::open(at.path()).unwrap())]);
    (Arc::new(members.open()), Box::new((members, at)))
}

fn striped() -> Made {
    let members = Members::four();
    (Arc::new(members.open()), Box::new(members))
}

fn striped_with_a_member_gone() -> Made {
    let members = Members::four();
    members.test[1].set(Fault::Down);
    (Arc::new(members.open()), Box::new(members))
}

fn on_its_way_to_another() -> Made {
    let members = Members::one();
    let to = Arc::new(members.open());
    let store = Moving::new(Arc::new(Memory::default()), to);
    (Arc::new(store), Box::new(members))
}

for_every_kind! {
    a_file_appears_whole_and_only_when_it_is_published
    a_partial_file_stays_for_the_next_attempt_and_is_cut_to_what_that_keeps
    a_taken_path_is_never_written_over_unasked
    any_range_can_be_read_and_an_open_file_stays_the_same
    a_directory_of_ten_thousand_files_lists_each_once
    files_and_directories_move_and_go
    quarantine_is_out_of_sight_and_comes_back
    a_time_is_kept_and_another_version_is_told_apart
    what_nobody_comes_back_for_is_swept
    a_store_says_how_much_fits
}

#[test]
fn a_store_that_is_full_says_so_and_keeps_what_is_there() {
    let store = Memory::with_room(10);
    put(&store, "f", b"12345678");
    assert_eq!(store.room().unwrap(), 2);
    let name = path("g");
    let full = receive(&store, "g", b"12345678", &Target::free(&name));
    assert_eq!(kind(full), io::ErrorKind::StorageFull);
    assert!(!store.holds(&name).unwrap());
    assert_eq!(bytes_of(&store, &path("f")), b"12345678");
}

#[test]
fn bytes_and_names_survive_a_loss_of_power_only_once_they_are_settled() {
    let store = Memory::default();
    let (hidden, name) = (partial("p"), path("f"));
    let mut sink = store.begin(&hidden, 0).unwrap();
    sink.append(&[b"abc"]).unwrap();
    sink.settle().unwrap();
    sink.append(&[b"d"]).unwrap();
    store.publish(&hidden, &Target::free(&name)).unwrap();
    assert!(store.after_power_loss().is_empty());
    store.settle_names(&[]).unwrap();
    assert_eq!(store.after_power_loss()["f"], b"abc");
    sink.settle().unwrap();
    assert_eq!(store.after_power_loss()["f"], b"abcd");
    store.make_dir(&path("d")).unwrap();
    let moved = path("d/f");
    store.rename(&name, &Target::free(&moved)).unwrap();
    assert!(store.after_power_loss().contains_key("f"));
    store.settle_names(&[moved, name]).unwrap();
    let left: Vec<String> = store.after_power_loss().into_keys().collect();
    assert_eq!(left, ["d/f"]);
}

/// What a transfer and a person do in turn; it may fail anywhere.
fn a_day_in_a_folder(store: &dyn Store) -> io::Result<()> {
    let (arrived, sorted) = (path("x.data"), path("d/photo.jpg"));
    receive(store, "x", b"the whole file", &Target::free(&arrived))?;
    if !store.holds(&path("d"))? {
        store.make_dir(&path("d"))?;
    }
    let over = Target {
        existing: Existing::Replace,
        ..Target::free(&sorted)
    };
    store.rename(&arrived, &over)?;
    store.settle_names(&[sorted.clone(), arrived])?;
    for entry in store.list(&path("d"))? {
        entry?;
    }
    let contents = store.open(&sorted)?;
    Reader::new(&*contents).read_to_end(&mut Vec::new())?;
    store.held(&partial("x"))?;
    store.room()?;
    store.sweep(SystemTime::UNIX_EPOCH, true).map(drop)
}

#[test]
fn a_failure_at_any_call_leaves_nothing_half_done_under_a_visible_name() {
    let calls = [
        Call::Begin,
        Call::Append,
        Call::Settle,
        Call::Held,
        Call::Publish,
        Call::Open,
        Call::ReadAt,
        Call::Stat,
        Call::List,
        Call::MakeDir,
        Call::Rename,
        Call::SettleNames,
        Call::Room,
        Call::Sweep,
    ];
    for call in calls {
        let mut failures = 0;
        for n in 1.. {
            let inner = Memory::default();
            let store = Watched::failing(inner.clone(), call, n, Errno::IO);
            let Err(error) = a_day_in_a_folder(&store) else {
                break;
            };
            failures += 1;
            assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
            for name in ["x.data", "d/photo.jpg"] {
                if inner.holds(&path(name)).unwrap() {
                    let bytes = bytes_of(&inner, &path(name));
                    assert_eq!(bytes, b"the whole file", "{call:?} {n}: {name}");
                }
            }
            for (name, bytes) in inner.after_power_loss() {
                assert_eq!(bytes, b"the whole file", "{call:?} {n}: {name}");
            }
            // The next attempt needs nobody to clean up.
            let _ = inner.remove(&path("x.data"));
            a_day_in_a_folder(&inner).unwrap();
            assert_eq!(bytes_of(&inner, &path("d/photo.jpg")), b"the whole file");
        }
        assert!(failures > 0, "{call:?} is never made");
    }
}

#[cfg(unix)]
#[test]
fn a_local_store_follows_no_link_and_shows_no_document() {
    let (store, at) = local();
    let at = at.downcast::<TempDir>().unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "1").unwrap();
    let link = |target: &std::path::Path, name: &str| {
        std::os::unix::fs::symlink(target, at.path().join(name)).unwrap();
    };
    link(&outside.path().join("secret"), "file");
    link(outside.path(), "dir");
    link(&outside.path().join("secret"), ".p.partial");
    for name in ["x.meta", "m2y.config", "s.rhai", ".hidden", "x.data"] {
        std::fs::write(at.path().join(name), "1").unwrap();
    }
    assert_eq!(names(&*store, &ContentPath::default()), ["x.data"]);
    let stat = store.stat(&path("file")).unwrap().unwrap();
    assert_eq!((stat.kind, stat.size), (Kind::Other, 0));
    for name in ["file", "dir/secret", "dir"] {
        assert!(store.open(&path(name)).is_err(), "{name}");
        assert!(store.remove(&path(name)).is_err(), "{name}");
        let away = path("away");
        let away = Target::free(&away);
        assert!(store.rename(&path(name), &away).is_err(), "{name}");
    }
    for name in ["dir/new", "file"] {
        assert!(receive(&*store, "r", b"1", &Target::free(&path(name))).is_err());
    }
    assert!(store.read(&partial("p")).is_err());
    assert!(store.begin(&partial("p"), 1).is_err());
    // The link goes, and not what it leads to.
    let mut sink = store.begin(&partial("p"), 0).unwrap();
    sink.append(&[b"2"]).unwrap();
    let secret = std::fs::read(outside.path().join("secret")).unwrap();
    assert_eq!(secret, b"1");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}
