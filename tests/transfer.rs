//! Files arrive: real processes, real sockets, real keys.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod common;

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use common::{
    Local, M2Y, OPEN, PETER, Process, ROLAND, World, ZHENQIANG, deliver, document, introduce, name,
    noise, person, read_meta, said,
    store::{Call, Watched},
};
use m2y::{error::Code, root::Root, root::meta_file, store::local::LocalStore};

fn arrives(len: usize) {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let bytes = noise(len);
    let file = world.file("file.bin", &bytes);
    let output = world.send(&server.address, "photo", &file);
    assert!(output.status.success(), "{}", said(&output));

    let data = world.arrived(".data");
    assert_eq!(data.len(), 1);
    assert!(fs::read(world.photo().join(&data[0])).unwrap() == bytes);
    let crc = crc32fast::hash(&bytes);
    let received = read_meta(&world.photo().join(&world.arrived(".meta")[0]));
    let sent = &world.done()[0];
    for meta in [&received, sent] {
        assert_eq!(meta.file_crc, Some(crc));
        assert_eq!(meta.filesize, Some(len as u64));
        assert_eq!(meta.filename, "file.bin");
        assert_eq!(meta.error, "");
        assert_eq!(meta.id, sent.id);
    }
    assert_eq!(data[0], format!("{ZHENQIANG}_{}.data", sent.datetime));
    assert!(world.failed().is_empty());
    assert_eq!(world.arrived(".partial"), [""; 0]);
}

#[test]
fn an_empty_file_arrives() {
    arrives(0);
}

#[test]
fn one_byte_arrives() {
    arrives(1);
}

#[test]
fn a_byte_less_than_a_block_arrives() {
    arrives(65_535);
}

#[test]
fn exactly_a_block_arrives() {
    arrives(65_536);
}

#[test]
fn a_byte_more_than_a_block_arrives() {
    arrives(65_537);
}

#[test]
fn two_hundred_mebibytes_arrive() {
    arrives(200 << 20);
}

/// `cargo test --release --test transfer -- --ignored` (needs 7 GB of disk).
#[test]
#[ignore = "needs 7 GB of disk and a minute"]
fn three_gibibytes_arrive_in_constant_memory() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let file = world.dir.path().join("large.bin");
    let mut out = io::BufWriter::new(fs::File::create(&file).unwrap());
    let mut block = noise(1 << 20);
    for number in 0_u64..3 << 10 {
        block[..8].copy_from_slice(&number.to_be_bytes());
        out.write_all(&block).unwrap();
    }
    out.into_inner().unwrap();
    let output = world.send(&server.address, "photo", &file);
    assert!(output.status.success(), "{}", said(&output));
    let arrived = world.photo().join(&world.arrived(".data")[0]);
    let same = Command::new("cmp")
        .arg(&file)
        .arg(arrived)
        .status()
        .unwrap();
    assert!(same.success());
    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let peak = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    let kib: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(kib < 64 << 10, "{peak}");
}

#[test]
fn a_meta_of_the_seed_is_sent_as_it_is() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let outbox = world.sender.path().join("photo");
    fs::create_dir_all(&outbox).unwrap();
    fs::write(outbox.join("myfoto.jpg"), b"not really a picture").unwrap();
    let meta = r#"{"from": "zhenqiang", "to": "roland-frei", "folder": "photo",
        "filename": "myfoto.jpg", "datetime": "30-12-2018_23-59-59", "filesize": "",
        "filekey": "", "fileCRC": "", "metaCRC": "", "error": "",
        "camera": {"model": "Ω-7", "lenses": ["35", "50"]}}"#;
    fs::write(outbox.join("myfoto.meta"), meta).unwrap();
    let output = Command::new(M2Y)
        .args(["send", "--server", &server.address])
        .arg(outbox.join("myfoto.meta"))
        .env_remove("M2Y_ROOT")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));

    assert!(!outbox.join("myfoto.meta").exists());
    let done = read_meta(&outbox.join("myfoto.done"));
    let stem = "zhenqiang_30-12-2018_23-59-59";
    let received = read_meta(&world.photo().join(format!("{stem}.meta")));
    assert!(world.photo().join(format!("{stem}.data")).exists());
    for meta in [done, received] {
        assert_eq!(meta.extra["camera"]["model"], "Ω-7");
        assert_eq!(meta.extra["camera"]["lenses"][1], "50");
    }
    let text = fs::read_to_string(world.photo().join(format!("{stem}.meta"))).unwrap();
    assert!(text.contains("\"filekey\": \"\""), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_one_second_get_names_of_their_own() {
    let world = World::new(OPEN);
    let server = Local::serve(&world.there).await;
    for n in 0..3 {
        let file = world.file(&format!("f{n}"), &[n; 100]);
        let mut meta = document(ZHENQIANG, ROLAND, "photo");
        meta.datetime = "30-12-2018_23-59-59".to_owned();
        let outbox = world.sender.outbox(&name("photo")).unwrap();
        let meta = meta_file::write(&outbox, &file, meta).unwrap();
        deliver(&meta, &server.address).await.unwrap();
    }
    server.stop().await;
    let stem = "zhenqiang_30-12-2018_23-59-59";
    for (n, clash) in ["", "_2", "_3"].iter().enumerate() {
        let data = fs::read(world.photo().join(format!("{stem}{clash}.data"))).unwrap();
        assert_eq!(data, [n as u8; 100]);
        assert!(world.photo().join(format!("{stem}{clash}.meta")).exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_senders_at_once_all_arrive() {
    let world = Arc::new(World::new(OPEN));
    let server = Local::serve(&world.there).await;
    let mut senders = tokio::task::JoinSet::new();
    for n in 0..50_usize {
        let file = world.file(&format!("{n:02}"), &noise(100_000 + n));
        let meta = world.meta("photo", &file);
        let address = server.address.clone();
        senders.spawn(async move { deliver(&meta, &address).await });
    }
    while let Some(sent) = senders.join_next().await {
        sent.unwrap().unwrap();
    }
    server.stop().await;
    let mut lens: Vec<u64> = Vec::new();
    for data in world.arrived(".data") {
        let bytes = fs::read(world.photo().join(&data)).unwrap();
        assert!(bytes == noise(bytes.len()), "{data} is mixed");
        let meta = read_meta(&world.photo().join(data.replace(".data", ".meta")));
        assert_eq!(meta.filesize, Some(bytes.len() as u64));
        assert_eq!(meta.filename, format!("{:02}", bytes.len() - 100_000));
        lens.push(bytes.len() as u64);
    }
    lens.sort_unstable();
    assert_eq!(lens, (100_000..100_050).collect::<Vec<_>>());
}

#[test]
fn one_server_receives_for_every_user_of_its_root() {
    let world = World::new(OPEN);
    let peter = person(&world.there, PETER);
    introduce(&world.sender, &peter);
    let folder = peter.create_folder(&name("photo")).unwrap();
    fs::write(folder.path_of("m2y.config"), OPEN).unwrap();
    let server = Process::serve(&world.there);
    for (to, dir) in [(ROLAND, world.photo()), (PETER, peter.path().join("photo"))] {
        let file = world.file(to, to.as_bytes());
        let output = Command::new(M2Y)
            .args(["send", "--from", ZHENQIANG, "--to", to, "--folder", "photo"])
            .args(["--server", &server.address, "--root"])
            .arg(world.here.path())
            .arg(file)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let data = common::names(&dir, ".data");
        assert_eq!(fs::read(dir.join(&data[0])).unwrap(), to.as_bytes());
    }
}

#[test]
fn file_names_of_any_kind_are_only_text() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let outbox = world.sender.outbox(&name("photo")).unwrap();
    let before = tree(world.dir.path());
    for (n, filename) in [
        "../../../../evil",
        "/etc/passwd",
        "..",
        "a\nb",
        "m2y.config",
        "checkPermission.rhai",
        "\u{202e}gpj.exe",
        &"ü".repeat(2_000),
    ]
    .iter()
    .enumerate()
    {
        let file = world.file("source", b"x");
        let mut meta = document(ZHENQIANG, ROLAND, "photo");
        meta.filename = (*filename).to_owned();
        let path = file.to_str().unwrap();
        meta.extra.insert("sourcePath".into(), path.into());
        let path = outbox.join(format!("m{n}.meta"));
        fs::write(&path, meta.to_file()).unwrap();
        let output = Command::new(M2Y)
            .args(["send", "--server", &server.address])
            .arg(&path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{filename:?}: {}", said(&output));
    }
    assert_eq!(
        fs::read_to_string(world.photo().join("m2y.config")).unwrap(),
        OPEN
    );
    let new: Vec<_> = tree(world.dir.path())
        .into_iter()
        .filter(|path| !before.contains(path))
        .collect();
    for path in &new {
        let name = path.rsplit('/').next().unwrap();
        let known = name.starts_with("zhenqiang_")
            || name.starts_with('m') && name.ends_with(".done")
            || [".openings", "zhenqiang", "source"].contains(&name);
        assert!(known, "{path}");
    }
    for meta in world.done() {
        assert!(meta.extra.contains_key("sourcePath"));
    }
    for meta in world.arrived(".meta") {
        let meta = read_meta(&world.photo().join(meta));
        assert!(
            !meta.extra.contains_key("sourcePath"),
            "a path left the machine"
        );
    }
}

fn tree(dir: &std::path::Path) -> Vec<String> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            paths.extend(tree(&path));
        }
        paths.push(path.to_str().unwrap().to_owned());
    }
    paths
}

#[test]
fn a_folder_that_is_none_is_refused() {
    let world = World::new(OPEN);
    fs::create_dir(world.receiver.path().join("plain")).unwrap();
    let server = Process::serve(&world.there);
    let file = world.file("f", b"x");
    let long = "x".repeat(300);
    for folder in [
        "nowhere",
        "plain",
        "privateKey",
        "pubKey",
        "..",
        "a/b",
        ".ssh",
        "",
        &long,
        "a\0b",
        "a\nb",
    ] {
        let mut meta = document(ZHENQIANG, ROLAND, folder);
        meta.filename = "f".to_owned();
        meta.extra
            .insert("sourcePath".into(), file.to_str().unwrap().into());
        let outbox = world.sender.outbox(&name("photo")).unwrap();
        fs::write(outbox.join("x.meta"), meta.to_file()).unwrap();
        let output = Command::new(M2Y)
            .args(["send", "--server", &server.address])
            .arg(outbox.join("x.meta"))
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(10),
            "{folder:?}: {}",
            said(&output)
        );
        let error = &world.failed()[0].error;
        assert!(error.starts_with("no folder "), "{folder:?}: {error}");
    }
    assert!(world.arrived(".meta").is_empty());
}

#[test]
fn a_folder_that_leads_out_of_the_root_is_no_folder() {
    let world = World::new(OPEN);
    let outside = world.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("m2y.config"), OPEN).unwrap();
    std::os::unix::fs::symlink(&outside, world.receiver.path().join("link")).unwrap();
    let server = Process::serve(&world.there);
    let output = world.send(&server.address, "link", &world.file("f", b"x"));
    assert!(!output.status.success());
    assert_eq!(
        common::names(&outside, "").len(),
        1,
        "something was written outside"
    );
}

#[test]
fn names_of_users_are_checked_before_they_become_paths() {
    let world = World::new(OPEN);
    let file = world.file("f", b"x");
    let long = "x".repeat(300);
    for bad in ["..", "a/b", ".ssh", "", &long, "a\nb"] {
        for (from, to) in [(bad, ROLAND), (ZHENQIANG, bad)] {
            let output = Command::new(M2Y)
                .args(["send", "--server", "127.0.0.1:1", "--folder", "photo"])
                .args([format!("--from={from}"), format!("--to={to}")])
                .arg("--root")
                .arg(world.here.path())
                .arg(&file)
                .output()
                .unwrap();
            let text = said(&output);
            assert!(text.contains("cannot be a name"), "{bad:?}: {text}");
        }
    }
}

#[test]
fn a_missing_file_a_missing_contact_and_a_missing_server_have_codes_of_their_own() {
    let world = World::new(OPEN);
    let missing = world.dir.path().join("missing");
    let output = Command::new(M2Y)
        .args(["send", "--from", ZHENQIANG, "--to", ROLAND])
        .args(["--folder", "photo", "--server", "127.0.0.1:1", "--root"])
        .arg(world.here.path())
        .arg(&missing)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    let file = world.file("f", b"x");
    let output = Command::new(M2Y)
        .args([
            "send", "--from", ZHENQIANG, "--to", PETER, "--folder", "photo",
        ])
        .args(["--server", "127.0.0.1:1", "--root"])
        .arg(world.here.path())
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(12), "{}", said(&output));
    let output = world.send(&nobody(), "photo", &file);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert!(world.failed()[0].error.contains("cannot connect"));
}

#[test]
fn some_of_several_is_a_code_of_its_own() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let good = world.file("good", b"x");
    let missing = world.dir.path().join("missing");
    let output = Command::new(M2Y)
        .args(["send", "--json", "--from", ZHENQIANG, "--to", ROLAND])
        .args(["--folder", "photo", "--server", &server.address, "--root"])
        .arg(world.here.path())
        .args([&good, &missing])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let lines: Vec<serde_json::Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut statuses: Vec<_> = lines
        .iter()
        .map(|l| l["status"].as_str().unwrap())
        .collect();
    // Each file's comes when it is over.
    statuses[..2].sort_unstable();
    assert_eq!(statuses, ["failed", "sent", "summary", "error"]);
    assert_eq!(lines[2]["sent"], 1);
}

/// An address on which nobody listens: it was free a moment ago.
fn nobody() -> String {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    port.local_addr().unwrap().to_string()
}

#[test]
fn a_file_that_is_not_sent_is_one_object_with_its_reason() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let file = world.file("f", b"x");
    for (address, folder, code, word) in [
        (nobody(), "photo", 5, "later"),
        (server.address.clone(), "nowhere", 10, "refused"),
    ] {
        let output = world.send(&address, folder, &file);
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        // More than one would not be a document.
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(object["status"], "failed");
        let file = object["file"].as_str().unwrap();
        assert!(file.ends_with(".meta"), "{file}");
        assert_eq!(object["code"], word);
    }
}

#[test]
fn what_was_sent_is_told_with_its_receiver_and_a_rate_only_where_it_means_something() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    for (len, start, rate) in [
        (14, "sent f.bin to roland-frei: 14 bytes in ", false),
        (2_000_000, "sent f.bin to roland-frei: 2.0 MB in ", true),
    ] {
        let meta = world.meta("photo", &world.file("f.bin", &noise(len)));
        let output = send_meta(&world, &server.address, &meta);
        assert!(output.status.success(), "{}", said(&output));
        let line = String::from_utf8(output.stdout).unwrap();
        assert!(line.starts_with(start), "{line}");
        assert_eq!(line.contains("/s)"), rate, "{line}");
    }
}

/// Sends a `.meta` or a `.failed` with the program, as people do.
fn send_meta(world: &World, address: &str, path: &std::path::Path) -> Output {
    Command::new(M2Y)
        .args(["send", "--server", address])
        .arg(path)
        .env_remove("M2Y_ROOT")
        .env_remove("M2Y_SERVER")
        .current_dir(world.dir.path())
        .output()
        .unwrap()
}

#[test]
fn a_failed_one_is_sent_again_by_its_name_as_the_error_says() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let meta = world.meta("photo", &world.file("my f.bin", b"hello"));
    let failed = meta.with_extension("failed");
    let address = nobody();
    let output = send_meta(&world, &address, &meta);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    let text = String::from_utf8(output.stderr).unwrap();
    let hint = format!(
        "; send it again with: m2y send '{}' --server {address}\n",
        failed.display()
    );
    assert!(
        text.starts_with("m2y: cannot connect to ") && text.ends_with(&hint),
        "{text}"
    );
    let id = read_meta(&failed).id;

    // Still nobody there: it is a .failed again, of the same transfer.
    let output = send_meta(&world, &address, &failed);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert!(!meta.exists());
    assert_eq!(read_meta(&failed).id, id);

    let output = send_meta(&world, &server.address, &failed);
    assert!(output.status.success(), "{}", said(&output));
    assert!(!meta.exists() && !failed.exists());
    let done = &world.done()[0];
    assert_eq!((done.error.as_str(), done.id), ("", id));
    assert_eq!(world.arrived(".data").len(), 1);
}

#[test]
fn a_failed_one_that_cannot_be_tried_stays_as_it_is() {
    let world = World::new(OPEN);
    let file = world.file("f.bin", b"hello");
    let meta = world.meta("photo", &file);
    let failed = meta.with_extension("failed");
    let address = nobody();
    send_meta(&world, &address, &meta);

    // A .meta that is there is not overwritten.
    fs::write(&meta, "mine").unwrap();
    let output = send_meta(&world, &address, &failed);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("f.meta exists beside f.failed"),
        "{}",
        said(&output)
    );
    assert_eq!(fs::read(&meta).unwrap(), b"mine");
    fs::remove_file(&meta).unwrap();

    // Nor is anything begun with a wrong root, or without the file.
    let output = Command::new(M2Y)
        .args(["send", "--server", &address, "--root", "/no/such/root"])
        .arg(&failed)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(failed.exists() && !meta.exists());
    fs::remove_file(&file).unwrap();
    let output = send_meta(&world, &address, &failed);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(failed.exists() && !meta.exists());
}

#[test]
fn a_refusal_says_the_reason_before_the_path() {
    let world = World::new("[OnMeta]\nno.rhai\n");
    world.script("no.rhai", "throw \"not today\";");
    let server = Process::serve(&world.there);
    let meta = world.meta("photo", &world.file("f.bin", b"hello"));
    let output = send_meta(&world, &server.address, &meta);
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        format!(
            "m2y: rejected by roland-frei: not today ({})\n",
            meta.with_extension("failed").display()
        )
    );
}

#[test]
fn a_pipe_or_a_link_in_the_place_of_a_meta_is_no_meta() {
    let world = World::new(OPEN);
    let outbox = world.sender.outbox(&name("photo")).unwrap();
    let made = Command::new("mkfifo")
        .arg(outbox.join("pipe.meta"))
        .status()
        .unwrap();
    assert!(made.success());
    let file = world.file("elsewhere.meta", b"{}");
    std::os::unix::fs::symlink(&file, outbox.join("link.meta")).unwrap();
    for (meta, why) in [
        ("pipe.meta", "it is not a regular file"),
        ("link.meta", "it is a symbolic link that leads out"),
    ] {
        let output = send_meta(&world, "127.0.0.1:1", &outbox.join(meta));
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(why), "{}", said(&output));
    }
}

#[test]
fn a_claim_about_the_file_that_is_wrong_fails_clearly() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    let file = world.file("f", b"hello");
    for (field, claim) in [("filesize", 6_u64), ("fileCRC", 7)] {
        let path = world.meta("photo", &file);
        let mut meta = read_meta(&path);
        match field {
            "filesize" => meta.filesize = Some(claim),
            _ => meta.file_crc = Some(claim as u32),
        }
        fs::write(&path, meta.to_file()).unwrap();
        let output = Command::new(M2Y)
            .args(["send", "--server", &server.address])
            .arg(&path)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(13), "{}", said(&output));
        assert!(said(&output).contains(field), "{}", said(&output));
    }
    assert!(world.arrived(".data").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_an_error_that_the_sender_sees() {
    let world = World::new(OPEN);
    let file = world.file("f", &noise(5 << 20));
    // In the middle of the file, and when all of it is to be made durable.
    for (call, n) in [(Call::Append, 16), (Call::Settle, 1)] {
        let server = Local::storing(&world.there, move |folder| {
            let inner = LocalStore::new(folder.dir());
            Arc::new(Watched::failing(inner, call, n, rustix::io::Errno::NOSPC))
        })
        .await;
        let error = world.deliver(&server.address, &file).await.unwrap_err();
        assert_eq!(error.code, Code::Later, "{error}");
        assert!(error.sentence.contains("no room"), "{error}");
        server.stop().await;
        assert_eq!(world.arrived(""), ["m2y.config"]);
    }
    assert!(world.failed()[0].error.contains("no room"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_larger_than_the_disk_or_the_limit_is_refused_at_once() {
    let world = World::new(OPEN);
    fs::write(
        world.there.path().join("m2y.ini"),
        "[server]\nmax_filesize = 1M\n",
    )
    .unwrap();
    let server = Local::serve(&world.there).await;
    let large = world.file("large", &noise((1 << 20) + 1));
    let error = world.deliver(&server.address, &large).await.unwrap_err();
    assert_eq!(error.code, Code::Refused);
    assert!(error.sentence.contains("too large"), "{error}");
    assert_eq!(server.stop().await.bytes(), 0);

    fs::remove_file(world.there.path().join("m2y.ini")).unwrap();
    let server = Local::serve(&world.there).await;
    let sparse = world.dir.path().join("sparse");
    fs::File::create(&sparse).unwrap().set_len(1 << 43).unwrap();
    let error = world.deliver(&server.address, &sparse).await.unwrap_err();
    assert_eq!(error.code, Code::Later, "{error}");
    assert!(error.sentence.contains("no room"), "{error}");
    assert_eq!(server.stop().await.bytes(), 0);
    assert_eq!(world.arrived(""), ["m2y.config"]);
}

/// A proxy that runs `act` once so many bytes of the client have gone through.
async fn after_bytes(server: String, count: usize, act: impl FnOnce() + Send + 'static) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let upstream = tokio::net::TcpStream::connect(server).await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = upstream.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        let mut buffer = vec![0; 4_096];
        let (mut passed, mut act) = (0, Some(act));
        loop {
            let read = from_client.read(&mut buffer).await.unwrap_or(0);
            if read == 0 {
                break;
            }
            passed += read;
            if passed > count
                && let Some(act) = act.take()
            {
                tokio::task::block_in_place(act);
            }
            if to_server.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_while_it_is_sent_fails_clearly() {
    for change in ["grows", "shrinks", "is written to"] {
        let world = World::new(OPEN);
        let server = Local::serve(&world.there).await;
        let file = world.file("f", &noise(30 << 20));
        let path = file.clone();
        let proxy = after_bytes(server.address.clone(), 1 << 20, move || {
            let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
            match change {
                "grows" => file.set_len((30 << 20) + 1).unwrap(),
                "shrinks" => file.set_len(10 << 20).unwrap(),
                _ => file.write_all(b"new").unwrap(),
            }
        })
        .await;
        let error = world.deliver(&proxy, &file).await.unwrap_err();
        assert_eq!(error.code, Code::Failed, "{change}: {error}");
        assert!(
            error.sentence.contains("changed while"),
            "{change}: {error}"
        );
        assert!(world.failed()[0].error.contains("changed while"));
        server.stop().await;
        assert_eq!(world.arrived(""), ["m2y.config"], "{change}");
    }
}

#[test]
fn a_server_that_is_told_to_go_finishes_what_is_under_way() {
    let world = World::new("[OnMeta]\nslow.sh\n");
    // The hook says that it runs, and waits for a word.
    world.script(
        "slow.sh",
        "#!/bin/sh\ntouch ../running\nwhile [ ! -e ../go ]; do sleep 0.02; done\n",
    );
    let server = Process::serve(&world.there);
    let file = world.file("f", &noise(1 << 20));
    let meta = world.meta("photo", &file);
    let sending = Command::new(M2Y)
        .args(["send", "--server", &server.address])
        .arg(&meta)
        .spawn()
        .unwrap();
    let running = world.receiver.path().join("running");
    while !running.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    common::terminate(&server.child);
    fs::write(world.receiver.path().join("go"), "").unwrap();
    let sent = sending.wait_with_output().unwrap();
    assert!(sent.status.success(), "{}", said(&sent));
    let mut server = server;
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert_eq!(world.arrived(".data").len(), 1);
}

#[test]
fn a_second_signal_ends_the_server_at_once() {
    let world = World::new("[OnMeta]\nslow.sh\n");
    world.script(
        "slow.sh",
        "#!/bin/sh\necho $$ > ../pid\nmv ../pid ../running\nexec sleep 600\n",
    );
    let mut server = Process::serve(&world.there);
    let meta = world.meta("photo", &world.file("f", b"x"));
    let mut sending = Command::new(M2Y)
        .args(["send", "--server", &server.address])
        .arg(&meta)
        .spawn()
        .unwrap();
    while !world.receiver.path().join("running").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    common::terminate(&server.child);
    assert!(server.is_alive());
    // Signals that come close together may count as one, so it is said until heard.
    while server.is_alive() {
        common::terminate(&server.child);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(server.child.wait().unwrap().code(), Some(130));
    // The program that it had started as a hook does not stay behind.
    let pid = fs::read_to_string(world.receiver.path().join("running")).unwrap();
    let gone = || {
        let status = fs::read_to_string(format!("/proc/{}/status", pid.trim()));
        status.map_or(true, |s| s.contains("State:\tZ") || s.contains("State:\tX"))
    };
    let begun = std::time::Instant::now();
    while !gone() {
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "an orphan was left"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_ne!(sending.wait().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_must_go_tells_the_rest_to_try_later() {
    let world = World::new(OPEN);
    fs::write(
        world.there.path().join("m2y.ini"),
        "[server]\nshutdown_deadline = 1ms\n",
    )
    .unwrap();
    let server = Local::serve(&world.there).await;
    let file = world.file("f", &noise(64 << 20));
    let shutdown = server.shutdown.clone();
    let (told, hold) = std::sync::mpsc::channel::<()>();
    let hold = std::sync::Mutex::new(hold);
    let proxy = after_bytes(server.address.clone(), 1 << 20, move || {
        let _ = shutdown.send(true);
        // Nothing passes until the server has ended.
        let _ = hold.lock().unwrap().recv_timeout(Duration::from_secs(20));
    })
    .await;
    let sending = world.deliver(&proxy, &file);
    let stopping = async {
        let _ = server.serving.await;
        drop(told);
    };
    let (sent, ()) = tokio::join!(sending, stopping);
    let error = sent.unwrap_err();
    assert_eq!(error.code, Code::Later, "{error}");
    // What has come waits, hidden, for the next attempt.
    assert!(world.arrived(".data").is_empty() && world.arrived(".meta").is_empty());
    assert_eq!(world.arrived(".partial").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_above_the_cap_are_told_to_try_later() {
    let world = World::new(OPEN);
    let ini = "[server]\nmax_connections_per_address = 3\n";
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
    let server = Local::serve(&world.there).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(
            tokio::net::TcpStream::connect(&server.address)
                .await
                .unwrap(),
        );
    }
    let file = world.file("f", b"x");
    // The server takes connections in their order, so the fourth finds three.
    let error = world.deliver(&server.address, &file).await.unwrap_err();
    assert_eq!(error.code, Code::Later, "{error}");
    drop(held);
    // They are let go by and by; a sender who tries again gets through.
    for _ in 0..200 {
        if world.deliver(&server.address, &file).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no connection was taken any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_let_go_within_the_deadline() {
    use tokio::io::AsyncReadExt;
    let world = World::new(OPEN);
    let ini = "[server]\nopening_deadline = 200ms\n";
    fs::write(world.there.path().join("m2y.ini"), ini).unwrap();
    let server = Local::serve(&world.there).await;
    let mut silent = tokio::net::TcpStream::connect(&server.address)
        .await
        .unwrap();
    let mut bytes = Vec::new();
    let read = silent.read_to_end(&mut bytes);
    let read = tokio::time::timeout(Duration::from_secs(5), read).await;
    assert_eq!(read.expect("the server held on").unwrap(), 0);
}

#[test]
fn a_root_is_served_once() {
    let world = World::new(OPEN);
    let _server = Process::serve(&world.there);
    let output = Command::new(M2Y)
        .args(["serve", "--listen", "127.0.0.1:0", "--root"])
        .arg(world.there.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("already"), "{}", said(&output));
}

#[test]
fn what_arrives_belongs_to_the_folder_alone() {
    let world = World::new(OPEN);
    let server = Process::serve(&world.there);
    assert!(
        world
            .send(&server.address, "photo", &world.file("f", b"x"))
            .status
            .success()
    );
    let data = world.photo().join(&world.arrived(".data")[0]);
    assert_eq!(
        fs::metadata(data).unwrap().mode() & 0o133,
        0,
        "neither run nor written by others"
    );
    let root = Root::open(world.there.path()).unwrap();
    assert_eq!(root.users().unwrap().len(), 1);
}

/// A proxy that passes so many bytes of the client, says so, and then passes nothing.
async fn stalling(server: String, count: usize) -> (String, tokio::sync::oneshot::Receiver<()>) {
    use tokio::io::AsyncReadExt;
    let (reached, wait) = tokio::sync::oneshot::channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut upstream = tokio::net::TcpStream::connect(server).await.unwrap();
        let (from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = upstream.split();
        let mut some = from_client.take(count as u64);
        tokio::select! {
            up = tokio::io::copy(&mut some, &mut to_server) => { up.unwrap(); }
            _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
        }
        let _ = reached.send(());
        std::future::pending::<()>().await;
    });
    (address, wait)
}

/// A runtime whose threads for waiting are few, as if many were taken.
#[test]
fn senders_that_stall_in_the_middle_of_a_file_hold_nobody_up() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(8)
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = Arc::new(World::new(OPEN));
        let server = Local::serve(&world.there).await;
        let large = world.file("large", &noise(8 << 20));
        let mut stalled = Vec::new();
        for _ in 0..20 {
            // Half a megabyte passes, and then nothing.
            let (proxy, reached) = stalling(server.address.clone(), 500_000).await;
            // A sender in a process of its own: it holds no thread here.
            let meta = world.meta("photo", &large);
            let mut sender = Command::new(M2Y);
            sender.args(["send", "--server", &proxy]).arg(meta);
            stalled.push(sender.stderr(std::process::Stdio::null()).spawn().unwrap());
            reached.await.unwrap();
        }
        let small = world.file("small", b"x");
        let sent = tokio::time::timeout(
            Duration::from_secs(10),
            world.deliver(&server.address, &small),
        )
        .await;
        sent.expect("the server was held up").unwrap();
        for mut sender in stalled {
            sender.kill().unwrap();
            sender.wait().unwrap();
        }
    });
    runtime.shutdown_background();
}

#[test]
fn a_meta_is_sent_by_one_at_a_time() {
    let world = World::new("[OnMeta]\nslow.sh\n");
    world.script(
        "slow.sh",
        "#!/bin/sh\ntouch ../running\nwhile [ ! -e ../go ]; do sleep 0.02; done\n",
    );
    let server = Process::serve(&world.there);
    let meta = world.meta("photo", &world.file("f", b"x"));
    let send = || {
        let mut command = Command::new(M2Y);
        command
            .args(["send", "--server", &server.address])
            .arg(&meta);
        command
    };
    let first = send().spawn().unwrap();
    while !world.receiver.path().join("running").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let second = send().output().unwrap();
    assert_eq!(second.status.code(), Some(5), "{}", said(&second));
    assert!(
        said(&second).contains("another m2y process"),
        "{}",
        said(&second)
    );
    fs::write(world.receiver.path().join("go"), "").unwrap();
    let first = first.wait_with_output().unwrap();
    assert!(first.status.success(), "{}", said(&first));
    assert_eq!(world.done().len(), 1);
    assert!(world.failed().is_empty());
}

#[test]
fn a_wrong_root_leaves_the_meta_as_it_is() {
    let world = World::new(OPEN);
    let meta = world.meta("photo", &world.file("f", b"x"));
    let output = Command::new(M2Y)
        .args(["send", "--server", "127.0.0.1:1", "--root", "/no/such/root"])
        .arg(&meta)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(meta.exists() && world.failed().is_empty());
}

/// Both sides lose patience after a second without a byte.
fn impatient(world: &World) {
    for root in [&world.here, &world.there] {
        fs::write(
            root.path().join("m2y.ini"),
            "[server]\nidle_deadline = 1s\n",
        )
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_falls_silent_is_let_go_and_may_come_again() {
    let world = World::new(OPEN);
    impatient(&world);
    let server = Local::serve(&world.there).await;
    let file = world.file("f", &noise(8 << 20));
    let (proxy, _reached) = stalling(server.address.clone(), 500_000).await;
    let error = tokio::time::timeout(Duration::from_secs(10), world.deliver(&proxy, &file))
        .await
        .expect("nobody lost patience")
        .unwrap_err();
    assert_eq!(error.code, Code::Later, "{error}");
    let outbox = world.sender.path().join("photo");
    fs::rename(outbox.join("f.failed"), outbox.join("f.meta")).unwrap();
    let again = async {
        // The server lets go a moment after the sender did.
        while deliver(&outbox.join("f.meta"), &server.address)
            .await
            .is_err()
        {
            fs::rename(outbox.join("f.failed"), outbox.join("f.meta")).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again)
        .await
        .expect("the transfer was held on to");
    server.stop().await;
    assert_eq!(world.arrived(".data").len(), 1);
    assert!(world.arrived(".partial").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_that_is_slower_than_patience_is_long_still_leads_there() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::new(OPEN);
    impatient(&world);
    let server = Local::serve(&world.there).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap().to_string();
    let upstream = server.address.clone();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut upstream = tokio::net::TcpStream::connect(upstream).await.unwrap();
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = upstream.split();
        let slow = async {
            // All of the file waits here while it trickles on: 1 MB in three seconds.
            let mut taken = tokio::io::BufReader::with_capacity(4 << 20, &mut from_client);
            let mut piece = vec![0; 16_384];
            while let Ok(read @ 1..) = taken.read(&mut piece).await {
                to_server.write_all(&piece[..read]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::join!(slow, tokio::io::copy(&mut from_server, &mut to_client))
            .1
            .unwrap();
    });
    let file = world.file("f", &noise(1 << 20));
    world.deliver(&proxy, &file).await.unwrap();
    assert_eq!(world.arrived(".data").len(), 1);
}
