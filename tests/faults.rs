//! What a server of S3 can do wrong, told over HTTP: a folder there gives the right bytes or one clear
//! error, and a stripe goes on without it.
//!
//! The servers are those of `members`, behind a proxy.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    chunked::Members,
    noise,
    proxy::{Fault, Of, Proxy},
    s3::{self, S3Server},
    suite::{bytes_of, kind, names, partial, path, receive, stage},
};
use libtest_mimic::Arguments;
use m2y::{
    root::settings::store::{Bucket, Layout},
    store::{
        Existing, Reader, Store, Target,
        member::{Member, directory::DirectoryMember, s3::S3Member},
        plain::{LIMITS, PlainStore},
    },
};
use tempfile::TempDir;

/// More requests than a test makes.
const ALL: usize = usize::MAX;

fn main() {
    let arguments = Arguments::from_args();
    type Fact = fn(&S3Server);
    // With whether a fact takes minutes.
    let facts: [(&str, bool, Fact); 8] = [
        (
            "a_sealed_folder_has_right_bytes_or_an_error",
            false,
            |server| {
                let place = Place::new(server, "sealed");
                right_or_an_error(&place.sealed().open(), &place.proxy);
            },
        ),
        (
            "a_plain_folder_has_right_bytes_or_an_error",
            false,
            |server| {
                let place = Place::new(server, "plain");
                let (store, _dir) = place.plain(server);
                right_or_an_error(&store, &place.proxy);
            },
        ),
        (
            "a_flipped_bit_is_an_error_where_it_is_sealed",
            false,
            |server| {
                let place = Place::new(server, "flipped");
                let members = place.sealed();
                let store = members.open();
                let content = noise(3 << 20);
                receive(&store, "a", &content, &Target::free(&path("a"))).unwrap();
                place.proxy.break_next(ALL, Fault::Flip, Of::Reads);
                assert_eq!(kind(read(&store)), io::ErrorKind::InvalidData);
                assert!(place.proxy.mend() > 0);
                assert!(read(&store).unwrap() == content);
            },
        ),
        (
            "a_refusal_tells_what_to_do",
            false,
            refusals_tell_what_to_do,
        ),
        ("a_stripe_goes_on_without_it", false, stripes_go_on),
        ("an_empty_list_removes_nothing", false, lists_remove_nothing),
        (
            "a_plain_change_that_was_interrupted_is_finished",
            false,
            changes_are_finished,
        ),
        (
            "silence_and_one_byte_a_second_end_in_an_error",
            true,
            |server| {
                let place = Place::new(server, "slow");
                let members = place.sealed();
                let store = members.open();
                receive(&store, "a", &noise(3 << 20), &Target::free(&path("a"))).unwrap();
                for fault in [Fault::Silence, Fault::Trickle] {
                    place.proxy.break_next(ALL, fault, Of::Reads);
                    let begun = Instant::now();
                    let error = read(&store).unwrap_err();
                    assert_eq!(error.kind(), io::ErrorKind::HostUnreachable, "{error}");
                    println!("{fault:?}: {error}, after {:?}", begun.elapsed());
                    place.proxy.mend();
                }
            },
        ),
    ];
    let mut trials = Vec::new();
    for (kind, is_there, server) in s3::servers() {
        for (name, takes_long, fact) in facts {
            let server = (kind, is_there && !takes_long, server.clone());
            let fact = move |server: &S3Server| {
                fact(server);
                Ok(())
            };
            trials.push(s3::trial(&server, name, fact));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// A bucket behind a proxy.
struct Place {
    proxy: Proxy,
    bucket: Bucket,
    member: Arc<dyn Member>,
}

impl Place {
    fn new(server: &S3Server, prefix: &str) -> Self {
        let proxy = Proxy::before(&server.endpoint);
        let bucket = Bucket {
            endpoint: Some(proxy.endpoint.clone()),
            ..server.bucket(&format!("faults-{prefix}"))
        };
        let member = S3Member::new(&bucket, Some(&server.credentials())).unwrap();
        Self {
            proxy,
            bucket,
            member: Arc::new(member),
        }
    }

    fn sealed(&self) -> Members {
        Members::of(vec![self.member.clone()])
    }

    fn plain(&self, server: &S3Server) -> (PlainStore, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let authority = cap_std::ambient_authority();
        let opened = cap_std::fs::Dir::open_ambient_dir(dir.path(), authority).unwrap();
        let bucket = Bucket {
            layout: Layout::Plain,
            ..self.bucket.clone()
        };
        let credentials = server.credentials();
        let at = ("roland-frei", "photo");
        let store = PlainStore::open(&opened, "cloud", &bucket, at, Some(&credentials), LIMITS);
        (store.unwrap(), dir)
    }
}

/// The bytes of the file `a`.
fn read(store: &dyn Store) -> io::Result<Vec<u8>> {
    let contents = store.open(&path("a"))?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut Reader::new(&*contents), &mut bytes)?;
    Ok(bytes)
}

fn write(store: &dyn Store, content: &[u8]) -> io::Result<()> {
    let at = path("a");
    let over = Target {
        existing: Existing::Replace,
        ..Target::free(&at)
    };
    receive(store, "a", content, &over)
}

/// One sentence, which says something.
fn check_sentence(error: &io::Error) {
    let said = error.to_string();
    assert!(!said.is_empty() && said.len() < 600, "{said}");
    assert!(!said.contains('\n'), "{said}");
}

fn right_or_an_error(store: &dyn Store, proxy: &Proxy) {
    let (first, second) = (noise(3 << 20), noise(5 << 20)[1 << 20..].to_vec());
    write(store, &first).unwrap();
    // What passes is waited for.
    for of in [Of::Reads, Of::Writes] {
        proxy.break_next(2, Fault::Status(503, Some(1)), of);
        match of {
            Of::Writes => write(store, &first).unwrap(),
            _ => assert!(read(store).unwrap() == first),
        }
        assert_eq!(proxy.mend(), 2, "{of:?}");
    }
    for (fault, expected) in [
        (
            Fault::Status(500, None),
            Some(io::ErrorKind::HostUnreachable),
        ),
        (
            Fault::Status(503, Some(1)),
            Some(io::ErrorKind::HostUnreachable),
        ),
        (
            Fault::Status(403, None),
            Some(io::ErrorKind::PermissionDenied),
        ),
        (Fault::Early, None),
    ] {
        proxy.break_next(ALL, fault, Of::Reads);
        match read(store) {
            Ok(bytes) => assert!(expected.is_none() && bytes == first, "{fault:?}"),
            Err(error) => {
                check_sentence(&error);
                assert!(expected.is_none_or(|kind| kind == error.kind()), "{error}");
            }
        }
        assert!(proxy.mend() > 0, "{fault:?}");
        assert!(read(store).unwrap() == first, "{fault:?}");
        if fault == Fault::Early {
            continue;
        }
        proxy.break_next(ALL, fault, Of::Writes);
        let error = write(store, &second).unwrap_err();
        check_sentence(&error);
        assert_eq!(Some(error.kind()), expected, "{error}");
        assert!(proxy.mend() > 0, "{fault:?}");
        assert!(read(store).unwrap() == first, "{fault:?}");
    }
    write(store, &second).unwrap();
    assert!(read(store).unwrap() == second);
}

fn refusals_tell_what_to_do(server: &S3Server) {
    let place = Place::new(server, "refused");
    let members = place.sealed();
    let store = members.open();
    write(&store, b"1").unwrap();
    let denied = io::ErrorKind::PermissionDenied;
    for (status, code, kind, sentence) in [
        (
            403,
            "RequestTimeTooSkewed",
            denied,
            "differ too much: set them",
        ),
        (
            403,
            "AccessDenied",
            denied,
            "the credentials need permission",
        ),
        (403, "InvalidAccessKeyId", denied, "check AWS_ACCESS_KEY_ID"),
        (
            403,
            "SignatureDoesNotMatch",
            denied,
            "check AWS_ACCESS_KEY_ID",
        ),
        (
            404,
            "NoSuchBucket",
            denied,
            "the bucket does not exist: create it",
        ),
        (403, "QuotaExceeded", io::ErrorKind::StorageFull, "is full"),
        (507, "StorageFull", io::ErrorKind::StorageFull, "is full"),
    ] {
        place
            .proxy
            .break_next(ALL, Fault::Refusal(status, code), Of::Writes);
        let error = write(&store, b"2").unwrap_err();
        assert!(place.proxy.mend() > 0);
        check_sentence(&error);
        assert_eq!(error.kind(), kind, "{code}: {error}");
        assert!(error.to_string().contains(sentence), "{code}: {error}");
        assert_eq!(read(&store).unwrap(), b"1");
    }
}

fn stripes_go_on(server: &S3Server) {
    let place = Place::new(server, "striped");
    let disks = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let mut all = vec![place.member.clone()];
    for disk in &disks {
        all.push(Arc::new(DirectoryMember::open(disk.path()).unwrap()));
    }
    let members = Members::of(all);
    let content = noise(12 << 20);
    write(&members.open(), &content).unwrap();
    for fault in [
        Fault::Status(500, None),
        Fault::Status(403, None),
        Fault::Status(503, Some(30)),
        Fault::Early,
        Fault::Silence,
        Fault::Trickle,
        Fault::Flip,
    ] {
        // One that does not know yet who is slow.
        let store = members.open();
        place.proxy.break_next(ALL, fault, Of::Reads);
        let begun = Instant::now();
        assert!(read(&store).unwrap() == content, "{fault:?}");
        println!("read, {fault:?}: {:?}", begun.elapsed());
        assert!(place.proxy.mend() > 0, "{fault:?}");
        store.mend().unwrap();
        if matches!(fault, Fault::Flip | Fault::Early) {
            continue;
        }
        place.proxy.break_next(ALL, fault, Of::Writes);
        let begun = Instant::now();
        write(&store, &content).unwrap();
        println!("write, {fault:?}: {:?}", begun.elapsed());
        // It did not wait as long as for a bucket that is alone.
        assert!(begun.elapsed() < members.deadline * 4, "{fault:?}");
        place.proxy.mend();
        assert!(read(&store).unwrap() == content, "{fault:?}");
        store.mend().unwrap();
    }
    let clean = members.open().status().unwrap();
    assert_eq!(clean.backlog.chunks + clean.backlog.manifests, 0);
}

fn lists_remove_nothing(server: &S3Server) {
    let place = Place::new(server, "lists");
    let members = place.sealed();
    let store = members.open();
    let content = noise(3 << 20);
    write(&store, &content).unwrap();
    place.proxy.break_next(ALL, Fault::EmptyList, Of::Lists);
    let _ = store.survey(&common::chunked::OWNER);
    store.sweep_orphans(i64::MAX).unwrap();
    let soon = std::time::SystemTime::now() + Duration::from_secs(86_400);
    store.sweep(soon, true).unwrap();
    assert!(place.proxy.mend() > 0);
    assert!(read(&store).unwrap() == content);
    let (plain, _dir) = place.plain(server);
    write(&plain, &content).unwrap();
    place.proxy.break_next(ALL, Fault::EmptyList, Of::Lists);
    plain.sweep(soon, true).unwrap();
    assert!(place.proxy.mend() > 0);
    assert!(read(&plain).unwrap() == content);
}

/// Nothing can be removed: every change stops behind its first half.
fn changes_are_finished(server: &S3Server) {
    let place = Place::new(server, "finished");
    let (store, _dir) = place.plain(server);
    let stuck = || {
        place
            .proxy
            .break_next(ALL, Fault::Status(403, None), Of::Removes)
    };
    let root = path("");
    let content = noise(20 << 20);
    // The answer is lost that says that a file is there.
    let at = path("a");
    place.proxy.break_next(ALL, Fault::Lost, Of::Completions);
    stage(&store, "a", &content);
    store.publish(&partial("a"), &Target::free(&at)).unwrap();
    assert!(place.proxy.mend() > 0);
    assert_eq!(names(&store, &root), ["a"]);
    assert!(bytes_of(&store, &at) == content);

    // A file has its name, and its pieces stay. Only its first one is left in the end.
    let over = Target {
        existing: Existing::Replace,
        ..Target::free(&at)
    };
    let second = noise(21 << 20)[1 << 20..].to_vec();
    stage(&store, "a", &second);
    stuck();
    store.publish(&partial("a"), &over).unwrap();
    place.proxy.mend();
    assert!(bytes_of(&store, &at) == second);
    let (again, _other) = place.plain(server);
    assert_eq!(again.held(&partial("a")).unwrap(), Some(20 << 20));
    again.publish(&partial("a"), &over).unwrap();
    again.publish(&partial("a"), &over).unwrap_err();
    assert!(bytes_of(&again, &at) == second);

    // A file that moves, and a directory.
    stuck();
    store.rename(&at, &Target::free(&path("b"))).unwrap_err();
    place.proxy.mend();
    assert_eq!(names(&store, &root), ["a", "b"]);
    store.rename(&at, &Target::free(&path("b"))).unwrap();
    assert_eq!(names(&store, &root), ["b"]);
    store.make_dir(&path("d")).unwrap();
    store
        .rename(&path("b"), &Target::free(&path("d/b")))
        .unwrap();
    stuck();
    store
        .rename(&path("d"), &Target::free(&path("e")))
        .unwrap_err();
    place.proxy.mend();
    store.rename(&path("d"), &Target::free(&path("e"))).unwrap();
    assert_eq!(names(&store, &root), ["e"]);
    assert!(bytes_of(&store, &path("e/b")) == second);
    // Another directory is in the way.
    store.make_dir(&path("f")).unwrap();
    receive(&store, "x", b"another", &Target::free(&path("f/b"))).unwrap();
    let refused = store.rename(&path("f"), &Target::free(&path("e")));
    assert_eq!(kind(refused), io::ErrorKind::AlreadyExists);
    assert_eq!(bytes_of(&store, &path("f/b")), b"another");
}
