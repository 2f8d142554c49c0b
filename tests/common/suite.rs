//! What every store promises.

use std::{
    any::Any,
    io::{self, Read},
    sync::Arc,
    time::{Duration, SystemTime},
};

use m2y::store::{ContentPath, Existing, Kind, PartialName, Reader, Store, Target};

/// Files that come at a time, where there are many.
const AT_ONCE: usize = 8;

/// A store that is empty, and what keeps it alive.
pub type Made = (Arc<dyn Store>, Box<dyn Any>);

/// What checks one.
pub type Promise = fn(Made);

/// All promises with their names.
pub const PROMISES: [(&str, Promise); 10] = [
    (
        "a_file_appears_whole_and_only_when_it_is_published",
        a_file_appears_whole_and_only_when_it_is_published,
    ),
    (
        "a_partial_file_stays_for_the_next_attempt_and_is_cut_to_what_that_keeps",
        a_partial_file_stays_for_the_next_attempt_and_is_cut_to_what_that_keeps,
    ),
    (
        "a_taken_path_is_never_written_over_unasked",
        a_taken_path_is_never_written_over_unasked,
    ),
    (
        "any_range_can_be_read_and_an_open_file_stays_the_same",
        any_range_can_be_read_and_an_open_file_stays_the_same,
    ),
    (
        "a_directory_of_ten_thousand_files_lists_each_once",
        a_directory_of_ten_thousand_files_lists_each_once,
    ),
    (
        "files_and_directories_move_and_go",
        files_and_directories_move_and_go,
    ),
    (
        "quarantine_is_out_of_sight_and_comes_back",
        quarantine_is_out_of_sight_and_comes_back,
    ),
    (
        "a_time_is_kept_and_another_version_is_told_apart",
        a_time_is_kept_and_another_version_is_told_apart,
    ),
    (
        "what_nobody_comes_back_for_is_swept",
        what_nobody_comes_back_for_is_swept,
    ),
    ("a_store_says_how_much_fits", a_store_says_how_much_fits),
];

pub fn path(text: &str) -> ContentPath {
    ContentPath::parse(text).unwrap()
}

pub fn partial(stem: &str) -> PartialName {
    PartialName::new(stem).unwrap()
}

/// Receives a file, as a transfer does it.
pub fn receive(store: &dyn Store, stem: &str, bytes: &[u8], to: &Target<'_>) -> io::Result<()> {
    let hidden = partial(stem);
    let mut sink = store.begin(&hidden, 0)?;
    for piece in bytes.chunks(4) {
        sink.append(&[piece])?;
    }
    sink.settle()?;
    store.publish(&hidden, to)?;
    store.settle_names(std::slice::from_ref(to.path))
}

/// Receives a file that gets no name yet.
pub fn stage(store: &dyn Store, stem: &str, bytes: &[u8]) {
    let mut sink = store.begin(&partial(stem), 0).unwrap();
    sink.append(&[bytes]).unwrap();
    sink.settle().unwrap();
}

pub fn put(store: &dyn Store, name: &str, bytes: &[u8]) {
    receive(store, "put", bytes, &Target::free(&path(name))).unwrap();
}

pub fn bytes_of(store: &dyn Store, name: &ContentPath) -> Vec<u8> {
    let contents = store.open(name).unwrap();
    let mut bytes = Vec::new();
    Reader::new(&*contents).read_to_end(&mut bytes).unwrap();
    bytes
}

pub fn names(store: &dyn Store, directory: &ContentPath) -> Vec<String> {
    let entries = store.list(directory).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().0).collect();
    names.sort();
    names
}

pub fn kind<T>(result: io::Result<T>) -> io::ErrorKind {
    match result {
        Ok(_) => panic!("it did not fail"),
        Err(error) => error.kind(),
    }
}

pub fn a_file_appears_whole_and_only_when_it_is_published((store, _at): Made) {
    let hidden = partial("anna-1");
    assert_eq!(store.held(&hidden).unwrap(), None);
    let mut sink = store.begin(&hidden, 0).unwrap();
    sink.append(&[b"ab", b"", b"cd"]).unwrap();
    sink.append(&[]).unwrap();
    assert_eq!(store.held(&hidden).unwrap(), Some(4));
    assert!(names(&*store, &ContentPath::default()).is_empty());
    sink.settle().unwrap();
    let name = path("x.data");
    assert!(!store.holds(&name).unwrap());
    store.publish(&hidden, &Target::free(&name)).unwrap();
    store.settle_names(std::slice::from_ref(&name)).unwrap();
    assert_eq!(bytes_of(&*store, &name), b"abcd");
    assert_eq!(store.held(&hidden).unwrap(), None);
    let stat = store.stat(&name).unwrap().unwrap();
    assert_eq!((stat.kind, stat.size), (Kind::File, 4));

    // An empty file is a file.
    let empty = partial("anna-2");
    drop(store.begin(&empty, 0).unwrap());
    assert_eq!(store.held(&empty).unwrap(), Some(0));
    store
        .publish(&empty, &Target::free(&path("empty")))
        .unwrap();
    assert_eq!(names(&*store, &ContentPath::default()), ["empty", "x.data"]);
    let nothing = Target::free(&path("nothing")).path.clone();
    assert_eq!(
        kind(store.publish(&hidden, &Target::free(&nothing))),
        io::ErrorKind::NotFound
    );
}

pub fn a_partial_file_stays_for_the_next_attempt_and_is_cut_to_what_that_keeps((store, _at): Made) {
    let hidden = partial("anna-1");
    let mut sink = store.begin(&hidden, 0).unwrap();
    sink.append(&[b"0123456789"]).unwrap();
    drop(sink);
    let mut prefix = Vec::new();
    let mut there = store.read(&hidden).unwrap().take(6);
    there.read_to_end(&mut prefix).unwrap();
    assert_eq!(prefix, b"012345");
    let mut sink = store.begin(&hidden, 6).unwrap();
    sink.append(&[b"abc"]).unwrap();
    drop(sink);
    assert_eq!(store.held(&hidden).unwrap(), Some(9));
    // More than there is cannot be kept.
    assert!(store.begin(&hidden, 10).is_err());
    assert!(store.begin(&partial("anna-2"), 1).is_err());
    store.publish(&hidden, &Target::free(&path("f"))).unwrap();
    assert_eq!(bytes_of(&*store, &path("f")), b"012345abc");

    let mut sink = store.begin(&hidden, 0).unwrap();
    sink.append(&[b"old"]).unwrap();
    drop(sink);
    let mut sink = store.begin(&hidden, 0).unwrap();
    sink.append(&[b"n"]).unwrap();
    drop(sink);
    assert_eq!(store.held(&hidden).unwrap(), Some(1));
    store.discard(&hidden);
    store.discard(&hidden);
    assert_eq!(store.held(&hidden).unwrap(), None);
    assert!(store.read(&hidden).is_err());
}

pub fn a_taken_path_is_never_written_over_unasked((store, _at): Made) {
    put(&*store, "f", b"first");
    let name = path("f");
    let refused = receive(&*store, "second", b"second", &Target::free(&name));
    assert_eq!(kind(refused), io::ErrorKind::AlreadyExists);
    assert_eq!(bytes_of(&*store, &name), b"first");
    // It is as it was, and may get another name.
    assert_eq!(store.held(&partial("second")).unwrap(), Some(6));
    let over = Target {
        existing: Existing::Replace,
        ..Target::free(&name)
    };
    store.publish(&partial("second"), &over).unwrap();
    assert_eq!(bytes_of(&*store, &name), b"second");

    put(&*store, "g", b"third");
    assert_eq!(
        kind(store.rename(&path("g"), &Target::free(&name))),
        io::ErrorKind::AlreadyExists
    );
    store.rename(&path("g"), &over).unwrap();
    assert_eq!(bytes_of(&*store, &name), b"third");
    store.make_dir(&path("d")).unwrap();
    put(&*store, "d/inside", b"1");
    let onto = |path: &ContentPath| {
        let over = Target {
            existing: Existing::Replace,
            ..Target::free(path)
        };
        store.rename(&name, &over)
    };
    assert_eq!(kind(onto(&path("d"))), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(store.make_dir(&name)), io::ErrorKind::AlreadyExists);
    assert!(receive(&*store, "x", b"x", &Target::free(&path("no/f"))).is_err());
    assert_eq!(names(&*store, &ContentPath::default()), ["d", "f"]);
    // Onto itself only the time changes.
    onto(&name).unwrap();
    assert_eq!(bytes_of(&*store, &name), b"third");
}

pub fn any_range_can_be_read_and_an_open_file_stays_the_same((store, _at): Made) {
    put(&*store, "f", b"0123456789");
    let contents = store.open(&path("f")).unwrap();
    let range = |offset, len| {
        let mut buffer = vec![0; len];
        let mut read = 0;
        while read < len {
            match contents.read_at(&mut buffer[read..], offset + read as u64) {
                Ok(0) => break,
                more => read += more.unwrap(),
            }
        }
        buffer.truncate(read);
        buffer
    };
    assert_eq!(range(3, 4), b"3456");
    assert_eq!(range(0, 10), b"0123456789");
    assert_eq!(range(8, 5), b"89");
    assert_eq!(range(10, 1), b"");
    assert_eq!(range(1_000_000, 1), b"");
    assert_eq!(contents.stat().unwrap().size, 10);
    contents.settle().unwrap();
    store.remove(&path("f")).unwrap();
    put(&*store, "f", b"another");
    assert_eq!(range(0, 10), b"0123456789");
    assert_eq!(kind(store.open(&path("g"))), io::ErrorKind::NotFound);
    store.make_dir(&path("d")).unwrap();
    assert!(store.open(&path("d")).is_err());
}

pub fn a_directory_of_ten_thousand_files_lists_each_once(made: Made) {
    a_directory_lists_each_once(10_000, made);
}

/// The same of fewer files, where each takes several requests.
pub fn a_directory_lists_each_once(count: usize, (store, _at): Made) {
    store.make_dir(&path("d")).unwrap();
    std::thread::scope(|scope| {
        for first in 0..AT_ONCE {
            let store = &store;
            scope.spawn(move || {
                let hidden = partial(&format!("many-{first}"));
                for n in (first..count).step_by(AT_ONCE) {
                    drop(store.begin(&hidden, 0).unwrap());
                    store
                        .publish(&hidden, &Target::free(&path(&format!("d/{n:05}"))))
                        .unwrap();
                }
            });
        }
    });
    drop(store.begin(&partial("many"), 0).unwrap());
    let names = names(&*store, &path("d"));
    assert_eq!(names.len(), count);
    assert!(
        names
            .iter()
            .enumerate()
            .all(|(n, name)| *name == format!("{n:05}"))
    );
    // A listing that nobody reads to its end, beside one that somebody does.
    let mut first = store.list(&path("d")).unwrap();
    assert!(first.next().unwrap().is_ok());
    assert_eq!(store.list(&path("d")).unwrap().count(), count);
    assert_eq!(kind(store.list(&path("none"))), io::ErrorKind::NotFound);
}

pub fn files_and_directories_move_and_go((store, _at): Made) {
    store.make_dir(&path("a")).unwrap();
    store.make_dir(&path("a/b")).unwrap();
    put(&*store, "f", b"1");
    let moved = [path("a/b/f"), path("f")];
    store.rename(&path("f"), &Target::free(&moved[0])).unwrap();
    store.settle_names(&moved).unwrap();
    assert_eq!(bytes_of(&*store, &path("a/b/f")), b"1");
    assert_eq!(store.stat(&path("f")).unwrap(), None);
    assert_eq!(store.stat(&path("none/f")).unwrap(), None);
    store.rename(&path("a"), &Target::free(&path("c"))).unwrap();
    assert_eq!(bytes_of(&*store, &path("c/b/f")), b"1");
    assert_eq!(
        kind(store.remove(&path("c/b"))),
        io::ErrorKind::DirectoryNotEmpty
    );
    for name in ["c/b/f", "c/b", "c"] {
        store.remove(&path(name)).unwrap();
        store.settle_names(&[path(name)]).unwrap();
    }
    assert_eq!(kind(store.remove(&path("c"))), io::ErrorKind::NotFound);
    assert_eq!(
        kind(store.rename(&path("c"), &Target::free(&path("d")))),
        io::ErrorKind::NotFound
    );
    assert!(names(&*store, &ContentPath::default()).is_empty());
    let root = store.stat(&ContentPath::default()).unwrap().unwrap();
    assert_eq!(root.kind, Kind::Directory);
}

pub fn quarantine_is_out_of_sight_and_comes_back((store, _at): Made) {
    put(&*store, "x.data", b"bad");
    let (seen, hidden) = (path("x.data"), ContentPath::quarantined("x.data").unwrap());
    let all = ContentPath::quarantine();
    assert_eq!(kind(store.list(&all)), io::ErrorKind::NotFound);
    store.rename(&seen, &Target::free(&hidden)).unwrap();
    store.settle_names(&[hidden.clone(), seen.clone()]).unwrap();
    assert!(names(&*store, &ContentPath::default()).is_empty());
    assert_eq!(names(&*store, &all), ["x.data"]);
    store.rename(&hidden, &Target::free(&seen)).unwrap();
    assert_eq!(bytes_of(&*store, &seen), b"bad");
}

pub fn a_time_is_kept_and_another_version_is_told_apart((store, _at): Made) {
    let (name, modified) = (path("f"), 1_546_214_399_000_001_000);
    let target = Target {
        modified: Some(modified),
        ..Target::free(&name)
    };
    receive(&*store, "f", b"123", &target).unwrap();
    let stat = store.stat(&name).unwrap().unwrap();
    assert!(stat.is_file_of(Some(3), modified), "{stat:?}");
    assert!(!stat.is_file_of(Some(3), modified + 1_000_000));
    assert!(!stat.is_file_of(Some(4), modified) && !stat.is_file_of(None, modified));
    let version = || store.open(&name).unwrap().version().unwrap();
    let first = version();
    assert_eq!(first, version());
    let over = Target {
        existing: Existing::Replace,
        ..target
    };
    receive(&*store, "f", b"456", &over).unwrap();
    assert_ne!(first, version());
}

pub fn what_nobody_comes_back_for_is_swept((store, _at): Made) {
    let hidden = partial("anna-1");
    drop(store.begin(&hidden, 0).unwrap());
    put(&*store, "f", b"1");
    let day = Duration::from_secs(86_400);
    assert_eq!(store.sweep(SystemTime::now() - day, true).unwrap(), 0);
    assert_eq!(store.held(&hidden).unwrap(), Some(0));
    let soon = SystemTime::now() + day;
    assert_eq!(store.sweep(soon, false).unwrap(), 1);
    assert_eq!(store.sweep(soon, true).unwrap(), 1);
    assert_eq!(store.held(&hidden).unwrap(), None);
    assert!(store.holds(&path("f")).unwrap());
}

pub fn a_store_says_how_much_fits((store, _at): Made) {
    assert!(store.room().unwrap() > 1 << 20);
}
