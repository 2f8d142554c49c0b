//! Whatever holds objects behaves in the same way: a directory, a contact's folder on a server, and
//! buckets of servers that nobody here wrote.
//!
//! SeaweedFS (`weed`) and Moto (`moto_server`) are started if they are on the PATH; another
//! server is used too if `M2Y_TEST_S3=http://KEY:SECRET@HOST:PORT/BUCKET` names one. Tests of a
//! server that is not there are reported as ignored.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{any::Any, fs, process::Command, sync::Arc};

use common::{Local, M2Y, ROLAND, World, ZHENQIANG, name, relay::Relay, store::Memory};
use common::{
    chunked::Members,
    s3::{self, S3Server, free_ports},
    suite::{Made, PROMISES},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::body::Bytes;
use libtest_mimic::{Arguments, Failed, Trial};
use m2y::{
    client::member::ContactMember,
    root::{
        Root,
        settings::store::{Bucket, ContactFolder},
    },
    store::member::{
        Existing, MAX_OBJECT, Member, MemberError, MemberResult, Object, ObjectKey,
        directory::DirectoryMember,
        s3::{Credentials, S3Member},
    },
};
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

fn main() {
    let arguments = Arguments::from_args();
    let servers = s3::servers();
    let mut trials = vec![Trial::test("directory::objects_are_kept", || {
        let dir = tempfile::tempdir().unwrap();
        objects_are_kept(&DirectoryMember::open(dir.path()).unwrap())
    })];
    trials.push(Trial::test(
        "directory::a_disk_that_is_not_mounted_is_not_an_empty_store",
        || {
            let dir = tempfile::tempdir().unwrap();
            let gone = DirectoryMember::open(&dir.path().join("gone"));
            assert!(matches!(gone, Err(MemberError::Unreachable(_))));
            Ok(())
        },
    ));
    trials.push(Trial::test("directory::check", || {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("disk");
        let section = format!("url = file://{}\n", at.display());
        let (code, said) = check(&section, &[]);
        assert_eq!(code, Some(5), "{said}");
        assert!(said.contains("create it, or mount the disk"), "{said}");
        fs::create_dir(&at).unwrap();
        let (code, said) = check(&section, &[]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("refuse to replace          ok"), "{said}");
        Ok(())
    }));
    type ContactFact = fn() -> Result<(), Failed>;
    let facts: [(&str, ContactFact); 11] = [
        ("objects_are_kept", || {
            let world = sharing(ALL);
            let (_server, member) = serve(&world);
            objects_are_kept(&member)?;
            // Nothing of how the files came is left beside them.
            let names = common::names(&world.receiver.path().join("backup"), "");
            assert_eq!(names, ["a", "m2y.config", "many"]);
            Ok(())
        }),
        ("check", contact_is_checked),
        (
            "names_that_m2y_reserves_are_keys_too",
            reserved_names_are_keys,
        ),
        ("foreign_names_are_left_out", foreign_names_are_left_out),
        (
            "a_listing_that_nobody_reads_to_its_end_is_given_up",
            listings_are_given_up,
        ),
        ("a_part_is_read_without_the_rest", parts_are_read),
        (
            "what_breaks_off_goes_on_in_another_session",
            broken_sessions_go_on,
        ),
        ("a_server_that_comes_back_is_asked_again", servers_come_back),
        ("rights_that_are_missing_are_named", rights_are_named),
        ("a_hook_that_refuses_is_heard", hooks_refuse),
        ("a_folder_without_room_is_full", folders_are_full),
    ];
    for (name, fact) in facts {
        trials.push(Trial::test(format!("contact::{name}"), fact));
    }
    for (name, promise) in PROMISES {
        let run = move || {
            let world = sharing(ALL);
            let (server, member) = serve(&world);
            promise(made(vec![Arc::new(member)], Box::new((server, world))));
            Ok(())
        };
        trials.push(Trial::test(format!("contact::store::{name}"), run));
    }
    // A stripe over unlike members: a directory, a bucket of each server, a contact's folder.
    let both = [&servers[0], &servers[1]];
    let are_there = both.iter().all(|(_, is_there, _)| *is_there);
    for (name, promise) in PROMISES {
        let [a, b] = both.map(|(.., server)| server.clone());
        let run = move || {
            let (Some(a), Some(b)) = (&**a, &**b) else {
                return Err("a server does not start".into());
            };
            let world = sharing(ALL);
            let (server, member) = serve(&world);
            let dir = tempfile::tempdir().unwrap();
            let members: Vec<Arc<dyn Member>> = vec![
                Arc::new(DirectoryMember::open(dir.path()).unwrap()),
                Arc::new(a.member(&format!("striped-{name}"))),
                Arc::new(b.member(&format!("striped-{name}"))),
                Arc::new(member),
            ];
            promise(made(members, Box::new((server, world, dir))));
            Ok(())
        };
        let name = format!("unlike::store::{name}");
        trials.push(Trial::test(name, run).with_ignored_flag(!are_there));
    }
    for server in servers {
        type Fact = fn(&S3Server) -> Result<(), Failed>;
        let facts: [(&str, Fact); 4] = [
            ("objects_are_kept", |server| {
                objects_are_kept(&server.member("objects"))
            }),
            ("a_prefix_hides_what_is_beside_it", prefixes_are_apart),
            ("what_is_wrong_is_said", what_is_wrong_is_said),
            ("check", |server| {
                let (code, said) = check(&server.section("checked"), &server.variables());
                assert_eq!(code, Some(0), "{said}");
                assert!(said.contains("write, read, list, remove  ok"), "{said}");
                Ok(())
            }),
        ];
        for (name, promise) in PROMISES {
            let fact = move |server: &S3Server| {
                let member: Arc<dyn Member> = Arc::new(server.member(name));
                promise(made(vec![member], Box::new(())));
                Ok(())
            };
            trials.push(s3::trial(&server, &format!("store::{name}"), fact));
        }
        for (name, fact) in facts {
            trials.push(s3::trial(&server, name, fact));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// A store on members, and what keeps those alive.
fn made(members: Vec<Arc<dyn Member>>, alive: Box<dyn Any>) -> Made {
    let members = Members::of(members);
    (Arc::new(members.open()), Box::new((members, alive)))
}

fn runtime() -> Runtime {
    Runtime::new().unwrap()
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

/// `m2y store check` of a store with this section.
fn check(section: &str, variables: &[(&str, String)]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let (root, _) = Root::init(&dir.path().join("root"), &[]).unwrap();
    check_in(&root, section, variables)
}

fn check_in(root: &Root, section: &str, variables: &[(&str, String)]) -> (Option<i32>, String) {
    let m2y = |args: &[&str]| {
        let mut command = Command::new(M2Y);
        command
            .args(args)
            .env("M2Y_ROOT", root.path())
            .envs(variables.iter().map(|(name, value)| (name, value)));
        command.output().unwrap()
    };
    let ini = root.path().join("m2y.ini");
    let text = fs::read_to_string(&ini).unwrap();
    fs::write(&ini, format!("{text}[store here]\n{section}")).unwrap();
    let listed = m2y(&["store", "list"]);
    assert!(String::from_utf8_lossy(&listed.stdout).starts_with("here  "));
    let output = m2y(&["store", "check", "here"]);
    (output.status.code(), common::said(&output))
}

/// What a contact allows.
const ALL: &str = "list get put mkdir rm";

/// Two people, of whom roland-frei shares the folder `backup`.
fn sharing(rights: &str) -> World {
    let world = World::new("[OnMeta]\n");
    configure(&world, "", rights);
    world
}

fn configure(world: &World, hooks: &str, rights: &str) {
    let config = format!("[OnMeta]\n{hooks}[share]\n{ZHENQIANG} = {rights}\n");
    world.folder("backup", &config);
}

/// The server of roland-frei, and the folder there.
fn serve(world: &World) -> (common::Process, ContactMember) {
    let server = common::Process::serve(&world.there);
    let member = member_at(world, &server.address);
    (server, member)
}

fn member_at(world: &World, address: &str) -> ContactMember {
    world
        .sender
        .set_addresses(&name(ROLAND), &address.parse().unwrap())
        .unwrap();
    ContactMember::open(&world.here, &backup()).unwrap()
}

fn backup() -> ContactFolder {
    ContactFolder {
        user: name(ZHENQIANG),
        contact: name(ROLAND),
        folder: name("backup"),
    }
}

fn contact_is_checked() -> Result<(), Failed> {
    let world = sharing(ALL);
    let section = format!("url = m2y://{ROLAND}/backup\nuser = {ZHENQIANG}\n");
    let (code, said) = check_in(&world.here, &section, &[]);
    assert_eq!(code, Some(12), "{said}");
    assert!(said.contains("m2y contact address"), "{said}");
    let address = format!("127.0.0.1:{}", free_ports::<1>()[0]);
    world
        .sender
        .set_addresses(&name(ROLAND), &address.parse().unwrap())
        .unwrap();
    let (code, said) = check_in(&world.here, "", &[]);
    assert_eq!(code, Some(5), "{said}");
    let _server = common::Process::serve_at(&world.there, &address);
    let (code, said) = check_in(&world.here, "", &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("refuse to replace          ok"), "{said}");
    assert!(said.contains("  free  "), "{said}");
    Ok(())
}

async fn write(member: &dyn Member, name: &str, body: &'static [u8]) -> MemberResult<()> {
    let body = Bytes::from_static(body);
    member.put(&key(name), body, Existing::Replace).await
}

fn reserved_names_are_keys() -> Result<(), Failed> {
    let world = sharing(ALL);
    let (_server, member) = serve(&world);
    runtime().block_on(async {
        let keys = ["a.meta/b.rhai", "m2y.config", "x.data", "x.done"];
        for name in keys {
            write(&member, name, b"1").await?;
            assert_eq!(&*member.get(&key(name), None).await?, b"1");
        }
        assert_eq!(listed(&member, None).await, keys);
        assert_eq!(listed(&member, Some(&key("a.meta"))).await, keys[..1]);
        member.remove(&key("m2y.config")).await?;
        assert_eq!(listed(&member, None).await.len(), 3);
        Ok(())
    })
}

fn foreign_names_are_left_out() -> Result<(), Failed> {
    let world = sharing(ALL);
    let (_server, member) = serve(&world);
    let backup = world.receiver.path().join("backup");
    fs::create_dir(backup.join("Holiday")).unwrap();
    for name in ["Holiday/a", "B", "a=", "c", "x.meta"] {
        fs::write(backup.join(name), "1").unwrap();
    }
    runtime().block_on(async {
        assert_eq!(listed(&member, None).await, ["c"]);
        Ok(())
    })
}

fn listings_are_given_up() -> Result<(), Failed> {
    let world = sharing(ALL);
    let backup = world.receiver.path().join("backup");
    for number in 0..5_000 {
        fs::write(backup.join(number.to_string()), "").unwrap();
    }
    let (_server, member) = serve(&world);
    runtime().block_on(async {
        // More than a server has open at the same time.
        for _ in 0..20 {
            let mut given_up = member.list(None);
            assert!(given_up.next().await.is_some_and(|first| first.is_ok()));
            // Meanwhile all that comes unasked has come.
            assert_eq!(listed(&member, None).await.len(), 5_000);
        }
        Ok(())
    })
}

fn parts_are_read() -> Result<(), Failed> {
    let world = sharing(ALL);
    let server = common::Process::serve(&world.there);
    let backup = world.receiver.path().join("backup");
    let large = fs::File::create(backup.join("large")).unwrap();
    large.set_len(MAX_OBJECT + 1).unwrap();
    // All of it does not come through, even once. What was on its way when a part was there does.
    let most = usize::try_from(MAX_OBJECT).unwrap();
    let relay = Relay::back(server.address.clone(), most);
    let member = member_at(&world, &relay.address);
    runtime().block_on(async {
        let large = key("large");
        for range in [5..1_000, 0..1, 9..9, 70_000..200_000] {
            let len = usize::try_from(range.end - range.start).unwrap();
            assert_eq!(member.get(&large, Some(range)).await?, vec![0; len]);
        }
        let behind = MAX_OBJECT + 5..MAX_OBJECT + 9;
        assert!(member.get(&large, Some(behind)).await?.is_empty());
        let whole = member.get(&large, None).await;
        assert!(matches!(whole, Err(MemberError::Failed(_))), "{whole:?}");
        assert_eq!(member.stat(&large).await?.size, MAX_OBJECT + 1);
        assert_eq!(relay.connections(), 1);
        Ok(())
    })
}

fn broken_sessions_go_on() -> Result<(), Failed> {
    let world = sharing(ALL);
    let server = common::Process::serve(&world.there);
    let relay = Relay::before(server.address.clone(), 2 << 20);
    let member = member_at(&world, &relay.address);
    let body = Bytes::from(common::noise(3 << 20));
    runtime().block_on(async {
        let key = key("a/large");
        member.put(&key, body.clone(), Existing::Keep).await?;
        assert_eq!(member.get(&key, None).await?, body);
        let second = member.put(&key, body.clone(), Existing::Keep).await;
        assert_eq!(second, Err(MemberError::Exists(key.to_string())));
        assert!(relay.connections() >= 2);
        Ok(())
    })
}

fn servers_come_back() -> Result<(), Failed> {
    let world = sharing(ALL);
    let (server, member) = serve(&world);
    let address = server.address.clone();
    runtime().block_on(async {
        write(&member, "a/x", b"1").await?;
        server.stop();
        for error in [
            write(&member, "a/y", b"2").await.err(),
            member.get(&key("a/x"), None).await.err(),
            member.stat(&key("a/x")).await.err(),
            member.remove(&key("a/x")).await.err(),
            member.list(None).next().await.unwrap().err(),
            member.room().await.err(),
        ] {
            let is_unreachable = matches!(error, Some(MemberError::Unreachable(_)));
            assert!(is_unreachable, "{error:?}");
        }
        let _server = common::Process::serve_at(&world.there, &address);
        assert_eq!(&*member.get(&key("a/x"), None).await?, b"1");
        write(&member, "a/y", b"2").await?;
        assert_eq!(listed(&member, None).await, ["a/x", "a/y"]);
        Ok(())
    })
}

fn denied<T: std::fmt::Debug>(result: MemberResult<T>) -> String {
    match result {
        Err(MemberError::Denied(sentence)) => sentence,
        other => panic!("{other:?}"),
    }
}

fn rights_are_named() -> Result<(), Failed> {
    let world = sharing("");
    let (_server, member) = serve(&world);
    let at = world.receiver.path().join("backup");
    fs::create_dir(at.join("a")).unwrap();
    fs::write(at.join("a/x"), "1").unwrap();
    let (there, gone) = (key("a/x"), key("a/y"));
    let advice = |what: &str| {
        format!(
            "{ROLAND} does not let you {what} backup: ask {ROLAND} for {ALL} ([share] in m2y.config)"
        )
    };
    let hidden = advice("see the folder");
    runtime().block_on(async {
        // Whoever sees nothing is not told that something is missing.
        assert_eq!(denied(member.get(&there, None).await), hidden);
        assert_eq!(denied(member.stat(&gone).await), hidden);
        assert_eq!(denied(member.remove(&gone).await), hidden);
        let listing = member.list(None).next().await.unwrap();
        assert_eq!(denied(listing), advice("list"));
        let put = write(&member, "x", b"1").await;
        assert_eq!(denied(put), advice("put files into"));
        assert_eq!(member.room().await, Ok(None));

        configure(&world, "", "list");
        let got = member.get(&there, None).await;
        assert_eq!(denied(got), advice("get files from"));
        let missing = member.get(&gone, None).await;
        assert_eq!(missing, Err(MemberError::Missing(gone.to_string())));
        let removed = member.remove(&there).await;
        assert_eq!(denied(removed), advice("remove files from"));
        member.remove(&gone).await?;

        configure(&world, "", "list get put");
        write(&member, "a/y", b"1").await?;
        let made = write(&member, "b/x", b"1").await;
        assert_eq!(denied(made), advice("make directories in"));
        let replaced = denied(write(&member, "a/x", b"22").await);
        assert!(replaced.contains("the right to remove"), "{replaced}");

        // A session that is open holds; the next one finds out.
        world.receiver.remove_contact(&name(ZHENQIANG)).unwrap();
        let member = ContactMember::open(&world.here, &backup()).unwrap();
        let stranger = denied(member.get(&there, None).await);
        assert!(stranger.contains("m2y contact show"), "{stranger}");
        Ok(())
    })
}

fn hooks_refuse() -> Result<(), Failed> {
    let world = sharing(ALL);
    configure(&world, "check.rhai\n[OnReceived]\nmove.rhai\n", ALL);
    let backup = world.receiver.path().join("backup");
    let check = "if event.path == \"no\" { reject(\"not on a Sunday\"); }";
    fs::write(backup.join("check.rhai"), check).unwrap();
    let moves = "if event.path == \"away\" { folder.rename(event.data_file, \"moved\"); }";
    fs::write(backup.join("move.rhai"), moves).unwrap();
    let (_server, member) = serve(&world);
    runtime().block_on(async {
        let refused = denied(write(&member, "no", b"1").await);
        assert_eq!(refused, format!("{ROLAND} refused: not on a Sunday"));
        let missing = Err(MemberError::Missing("no".to_owned()));
        assert_eq!(member.stat(&key("no")).await.map(drop), missing);
        let moved = denied(write(&member, "away", b"1").await);
        assert!(moved.contains("moved the object"), "{moved}");
        write(&member, "yes", b"1").await?;
        Ok(())
    })
}

fn folders_are_full() -> Result<(), Failed> {
    let world = sharing(ALL);
    let memory = Memory::with_room(100_000);
    runtime().block_on(async {
        let server = Local::storing(&world.there, move |_| Arc::new(memory.clone())).await;
        let member = member_at(&world, &server.address);
        write(&member, "small", b"1").await?;
        let large = Bytes::from(common::noise(200_000));
        let put = member.put(&key("large"), large, Existing::Replace).await;
        assert!(matches!(put, Err(MemberError::Full(_))), "{put:?}");
        assert_eq!(listed(&member, None).await, ["small"]);
        assert_eq!(member.room().await, Ok(Some(99_999)));
        drop(member);
        server.stop().await;
        Ok(())
    })
}

async fn listed(member: &dyn Member, directory: Option<&ObjectKey>) -> Vec<String> {
    let objects: Vec<Object> = member.list(directory).try_collect().await.unwrap();
    let mut keys: Vec<String> = objects.iter().map(|one| one.key.to_string()).collect();
    keys.sort();
    keys
}

fn objects_are_kept(member: &dyn Member) -> Result<(), Failed> {
    runtime().block_on(async {
        let body = Bytes::from(common::noise(3_000_000));
        let one = key("a/b/one.bin");
        member.put(&one, body.clone(), Existing::Keep).await?;
        assert_eq!(member.get(&one, None).await?, body);
        for range in [
            0..1,
            5..1_000_000,
            2_999_999..3_000_000,
            2_999_000..9_000_000,
        ] {
            let end = usize::try_from(range.end.min(3_000_000)).unwrap();
            let start = usize::try_from(range.start).unwrap();
            let got = member.get(&one, Some(range)).await?;
            assert_eq!(got, body.slice(start..end));
        }
        assert!(
            member
                .get(&one, Some(3_000_000..3_000_001))
                .await?
                .is_empty()
        );
        assert!(member.get(&one, Some(7..7)).await?.is_empty());
        let about = member.stat(&one).await?;
        assert_eq!((about.size, &about.key), (3_000_000, &one));
        assert!(about.modified > 1_600_000_000_000_000_000);

        // What is replaced is the new one, and what is kept the old one.
        member
            .put(&one, Bytes::from_static(b"new"), Existing::Replace)
            .await?;
        assert_eq!(&*member.get(&one, None).await?, b"new");
        let kept = member
            .put(&one, Bytes::from_static(b"third"), Existing::Keep)
            .await;
        assert_eq!(kept, Err(MemberError::Exists(one.to_string())));
        assert_eq!(&*member.get(&one, None).await?, b"new");

        let empty = key("a/empty");
        member.put(&empty, Bytes::new(), Existing::Replace).await?;
        assert!(member.get(&empty, None).await?.is_empty());

        // More than a page of a listing.
        let many: Vec<ObjectKey> = (0..1_203).map(|n| key(&format!("many/{n:04}"))).collect();
        let puts = many.iter().map(|key| {
            member.put(
                key,
                Bytes::copy_from_slice(key.as_str().as_bytes()),
                Existing::Replace,
            )
        });
        let puts: Vec<_> = stream::iter(puts).buffer_unordered(32).collect().await;
        puts.into_iter().collect::<Result<(), _>>()?;
        let keys: Vec<String> = many.iter().map(ToString::to_string).collect();
        assert_eq!(listed(member, Some(&key("many"))).await, keys);
        assert_eq!(
            listed(member, Some(&key("a"))).await,
            ["a/b/one.bin", "a/empty"]
        );
        assert!(listed(member, Some(&key("man"))).await.is_empty());
        assert!(listed(member, None).await.len() >= 1_205);

        member.remove(&one).await?;
        member.remove(&one).await?;
        let gone = Err(MemberError::Missing(one.to_string()));
        assert_eq!(member.get(&one, None).await.map(drop), gone);
        assert_eq!(member.stat(&one).await.map(drop), gone);
        assert_eq!(
            member.stat(&key("a")).await.map(drop),
            Err(MemberError::Missing("a".to_owned()))
        );
        Ok(())
    })
}

fn prefixes_are_apart(server: &S3Server) -> Result<(), Failed> {
    let (one, other) = (server.member("apart/one"), server.member("apart/one-two"));
    runtime().block_on(async {
        for member in [&one, &other] {
            member
                .put(&key("x"), Bytes::from_static(b"x"), Existing::Replace)
                .await?;
        }
        assert_eq!(listed(&one, None).await, ["x"]);
        one.remove(&key("x")).await?;
        assert_eq!(listed(&other, None).await, ["x"]);
        Ok(())
    })
}

fn what_is_wrong_is_said(server: &S3Server) -> Result<(), Failed> {
    let look = |bucket: &Bucket, credentials: &Credentials| {
        let member = S3Member::new(bucket, Some(credentials)).unwrap();
        let put = async {
            member
                .put(&key("x"), Bytes::from_static(b"x"), Existing::Replace)
                .await
        };
        runtime().block_on(put).unwrap_err()
    };
    // SeaweedFS makes a bucket that its administrator writes to.
    if server.kind != "seaweedfs" {
        let mut bucket = server.bucket("wrong");
        bucket.name = "no-such-bucket-here".to_owned();
        let error = look(&bucket, &server.credentials());
        assert!(matches!(error, MemberError::Denied(_)), "{error:?}");
        let section = server
            .section("x")
            .replace(&server.bucket, "no-such-bucket-here");
        let (code, said) = check(&section, &server.variables());
        assert_eq!(code, Some(12), "{said}");
        assert!(
            said.contains("the bucket does not exist: create it"),
            "{said}"
        );
    }
    // Moto lets in whoever asks.
    if server.kind != "moto" {
        let mut credentials = server.credentials();
        credentials.secret = Zeroizing::new("wrong".to_owned());
        let error = look(&server.bucket("wrong"), &credentials);
        let MemberError::Denied(sentence) = error else {
            panic!("{error:?}");
        };
        assert!(sentence.contains("credentials"), "{sentence}");
    }
    let mut bucket = server.bucket("wrong");
    bucket.endpoint = Some(format!("http://127.0.0.1:{}", free_ports::<1>()[0]));
    let error = look(&bucket, &server.credentials());
    assert!(matches!(error, MemberError::Unreachable(_)), "{error:?}");
    Ok(())
}
