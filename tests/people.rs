//! People, keys, folders, contacts, by the program as a person uses it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use common::{M2Y, PETER, ROLAND, ZHENQIANG, key, said};
use m2y::{
    crypto::keys::{PrivateKey, PublicKey},
    root::Root,
};

struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let home = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let output = home.m2y(&["init"]);
        assert!(output.status.success(), "{}", said(&output));
        home
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn m2y(&self, args: &[&str]) -> Output {
        Command::new(M2Y)
            .args(args)
            .env("M2Y_ROOT", self.root())
            .current_dir(self.dir.path())
            .output()
            .unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.m2y(args);
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.m2y(args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {}",
            said(&output)
        );
        String::from_utf8(output.stderr).unwrap()
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.dir.path().join(file), text).unwrap();
    }

    /// A user with a fixed key, so that no primes need to be searched for.
    fn person(&self, name: &str) {
        let dir = self.root().join(format!("user/{name}/privateKey"));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join(format!("{name}.data"));
        fs::write(&path, key(name)).unwrap();
        chmod(&path, 0o600);
        self.write("p.json", &format!("{{\"username\": \"{name}\"}}"));
        self.ok(&["user", "create", "p.json"]);
    }
}

/// What a program printed for programs: an object on every line.
fn objects(output: &Output) -> Vec<serde_json::Value> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .inspect(|value: &serde_json::Value| assert!(value.is_object(), "{value}"))
        .collect()
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

const SEED_PROFILE: &str = r#"{"username": "roland-frei", "realname": "Roland Frei",
    "email": "roland@example.org", "mobile phone": "+41 79 000 00 00", "street": "Weg 1",
    "city": "Bern", "zip": "3000", "shoe size": 43}"#;

#[test]
fn a_user_is_made_from_the_profile_of_the_seed_and_keeps_keys_the_second_time() {
    let home = Home::new();
    home.write("roland-frei.json", SEED_PROFILE);
    let first = home.ok(&["user", "create", "roland-frei.json", "--bits", "2048"]);
    assert!(first.contains("made new keys"), "{first}");
    let user = home.root().join("user/roland-frei");
    let private = user.join("privateKey/roland-frei.data");
    assert_eq!(
        fs::metadata(&private).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let pem = fs::read_to_string(&private).unwrap();
    let public = fs::read_to_string(user.join("pubKey/roland-frei.data")).unwrap();
    let key = PrivateKey::from_pem(&pem).unwrap();
    assert_eq!(key.public(), &PublicKey::from_pem(&public).unwrap());
    assert_eq!(key.public().size(), 256);
    let profile: serde_json::Value =
        serde_json::from_slice(&fs::read(user.join("user.json")).unwrap()).unwrap();
    assert_eq!(profile["mobile phone"], "+41 79 000 00 00");
    assert_eq!(profile["shoe size"], 43);
    // printf roland-frei | sha256sum | cut -c 1-16
    let hash = hex::encode(common::name(ROLAND).hash());
    let entry = home.root().join(format!("hash2user/{hash}.txt"));
    assert_eq!(fs::read_to_string(entry).unwrap().trim(), "roland-frei");

    let moved = SEED_PROFILE.replace("Bern", "Basel");
    home.write("roland-frei.json", &moved);
    let second = home.ok(&["user", "create", "roland-frei.json"]);
    assert!(second.contains("kept the keys"), "{second}");
    assert_eq!(fs::read_to_string(&private).unwrap(), pem);
    let profile = fs::read_to_string(user.join("user.json")).unwrap();
    assert!(profile.contains("Basel"));
    // A public key that was lost is made again from the private one.
    fs::remove_file(user.join("pubKey/roland-frei.data")).unwrap();
    home.ok(&["user", "create", "roland-frei.json"]);
    assert_eq!(
        fs::read_to_string(user.join("pubKey/roland-frei.data")).unwrap(),
        public
    );
}

#[test]
fn a_profile_that_cannot_be_makes_no_user() {
    let home = Home::new();
    let long = format!("{{\"username\": \"{}\"}}", "x".repeat(300));
    for (profile, expected) in [
        ("", "not a JSON"),
        ("{}", "\"username\" is missing"),
        ("{\"username\": 5}", "\"username\" is missing"),
        ("{\"username\": \"..\"}", "cannot be a name"),
        ("{\"username\": \"a/b\"}", "cannot be a name"),
        ("{\"username\": \".ssh\"}", "cannot be a name"),
        ("{\"username\": \"a\\u0000b\"}", "cannot be a name"),
        ("{\"username\": \"a\\nb\"}", "cannot be a name"),
        ("{\"username\": \"\"}", "cannot be a name"),
        (&long, "cannot be a name"),
        ("{\"username\": \"a\", \"username\": \"b\"}", "stands twice"),
        (
            "{\"username\": \"a\", \"email\": 5}",
            "\"email\" must be text",
        ),
    ] {
        home.write("p.json", profile);
        let said = home.fails(1, &["user", "create", "p.json"]);
        assert!(said.contains(expected), "{profile}: {said}");
    }
    assert_eq!(fs::read_dir(home.root().join("user")).unwrap().count(), 0);
    home.fails(4, &["user", "create", "missing.json"]);
    home.write("p.json", "{\"username\": \"a\"}");
    home.fails(2, &["user", "create", "p.json", "--bits", "1024"]);
}

#[test]
fn openssl_reads_the_keys() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("there is no openssl here: this test does nothing");
        return;
    }
    let home = Home::new();
    home.write("p.json", "{\"username\": \"a\"}");
    home.ok(&["user", "create", "p.json", "--bits", "3072"]);
    let user = home.root().join("user/a");
    let pkey = |args: &[&str], path: &Path| {
        let output = Command::new("openssl")
            .args(["pkey", "-noout", "-text", "-in"])
            .arg(path)
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(pkey(&[], &user.join("privateKey/a.data")).contains("3072 bit"));
    assert!(pkey(&["-pubin"], &user.join("pubKey/a.data")).contains("3072 bit"));
}

#[test]
fn a_private_key_that_others_can_read_stops_the_server_and_says_how_to_mend_it() {
    let home = Home::new();
    home.person(ROLAND);
    let path = home
        .root()
        .join("user/roland-frei/privateKey/roland-frei.data");
    for mode in [0o644, 0o640, 0o604, 0o666, 0o610] {
        chmod(&path, mode);
        let said = home.fails(12, &["serve", "--listen", "127.0.0.1:0"]);
        let expected = format!(
            "cannot open user/roland-frei/privateKey/roland-frei.data: mode is {mode:04o}, must be 0600 (chmod 600 "
        );
        assert!(said.contains(&expected), "{said}");
    }
}

#[test]
fn the_mode_that_counts_is_the_one_of_the_key_that_is_read() {
    let home = Home::new();
    home.person(ROLAND);
    let keys = home.root().join("user/roland-frei/privateKey");
    let path = keys.join("roland-frei.data");
    // Two files take turns under the name; the wide one must never be looked into.
    let (narrow, wide) = (keys.join("narrow"), keys.join("wide"));
    fs::write(&narrow, b"\xff").unwrap();
    chmod(&narrow, 0o600);
    fs::write(&wide, b"wide").unwrap();
    chmod(&wide, 0o644);
    let user = Root::open(&home.root())
        .unwrap()
        .user(&common::name(ROLAND))
        .unwrap();
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let beside = keys.join("beside");
            while !enough.load(Ordering::Relaxed) {
                for file in [&narrow, &wide] {
                    fs::hard_link(file, &beside).unwrap();
                    fs::rename(&beside, &path).unwrap();
                }
            }
        });
        let mut seen = BTreeSet::new();
        for _ in 0..20_000 {
            let Err(error) = user.private_key() else {
                continue;
            };
            seen.insert(error.to_string());
        }
        enough.store(true, Ordering::Relaxed);
        // The wide one is told by its mode, the narrow one by what is in it.
        for error in &seen {
            assert!(
                error.contains("mode is 0644") || error.ends_with("it is not text"),
                "{seen:?}"
            );
        }
    });
}

#[test]
fn a_directory_that_is_no_user_stops_nothing_and_is_in_the_log() {
    let home = Home::new();
    home.person(ROLAND);
    let users = home.root().join("user");
    fs::create_dir(users.join("empty")).unwrap();
    fs::create_dir_all(users.join("unfinished/privateKey")).unwrap();
    fs::create_dir(home.dir.path().join("outside")).unwrap();
    symlink(home.dir.path().join("outside"), users.join("link")).unwrap();
    symlink("nowhere", users.join("dangling")).unwrap();
    let listed = home.m2y(&["user", "list", "--json"]);
    assert!(listed.status.success(), "{}", said(&listed));
    assert_eq!(objects(&listed).len(), 1);
    assert_eq!(objects(&listed)[0]["username"], ROLAND);

    let mut serving = Command::new(M2Y)
        .args(["serve", "--listen", "127.0.0.1:0", "--root"])
        .arg(home.root())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(serving.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    common::terminate(&serving);
    let served = serving.wait_with_output().unwrap();
    assert!(line.starts_with("listening on"), "{}", said(&served));
    assert!(served.status.success(), "{}", said(&served));

    for output in [listed, served] {
        let log = String::from_utf8(output.stderr).unwrap();
        for (name, why) in [
            ("empty", "has no user.json"),
            ("unfinished", "has no user.json"),
            ("link", "a symbolic link leads out of the root"),
            ("dangling", "No such file"),
        ] {
            let about: Vec<_> = log
                .lines()
                .filter(|line| line.contains(&format!("user/{name}")))
                .collect();
            assert_eq!(about.len(), 1, "{name}: {log}");
            assert!(about[0].contains("WARN") && about[0].contains(why), "{log}");
        }
    }
}

#[test]
fn a_user_without_a_private_key_stops_the_server() {
    let home = Home::new();
    home.person(ROLAND);
    fs::remove_file(
        home.root()
            .join("user/roland-frei/privateKey/roland-frei.data"),
    )
    .unwrap();
    let said = home.fails(1, &["serve", "--listen", "127.0.0.1:0"]);
    assert!(said.contains("privateKey/roland-frei.data"), "{said}");
}

#[test]
fn a_link_that_leads_out_of_the_root_is_called_that() {
    let home = Home::new();
    home.person(ROLAND);
    let key = home
        .root()
        .join("user/roland-frei/privateKey/roland-frei.data");
    let outside = home.dir.path().join("key");
    fs::rename(&key, &outside).unwrap();
    symlink(&outside, &key).unwrap();
    let said = home.fails(1, &["serve", "--listen", "127.0.0.1:0"]);
    assert!(
        said.contains("roland-frei.data: a symbolic link leads out of the root"),
        "{said}"
    );
}

#[test]
fn a_broken_profile_is_said_and_the_list_goes_on() {
    let home = Home::new();
    home.person(ROLAND);
    home.person(ZHENQIANG);
    fs::write(home.root().join("user/roland-frei/user.json"), "{").unwrap();
    let output = home.m2y(&["user", "list", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let users = objects(&output);
    assert_eq!(users.len(), 2);
    assert_eq!(users[0]["realname"], "");
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(
        log.contains("WARN") && log.contains("user/roland-frei/user.json"),
        "{log}"
    );
}

#[test]
fn contacts_are_exchanged_by_cards() {
    let home = Home::new();
    home.person(ROLAND);
    home.person(ZHENQIANG);
    let card = home.ok(&[
        "contact",
        "export",
        ZHENQIANG,
        "--address",
        "example.org:5000",
    ]);
    home.write("zhenqiang.json", &card);
    let card: serde_json::Value = serde_json::from_str(&card).unwrap();
    let fingerprint = card["fingerprint"].as_str().unwrap();
    let said = home.ok(&["contact", "add", "--user", ROLAND, "zhenqiang.json"]);
    assert!(said.contains(fingerprint), "{said}");
    let roland = Root::open(&home.root())
        .unwrap()
        .user(&common::name(ROLAND))
        .unwrap();
    let zhenqiang = common::name(ZHENQIANG);
    assert_eq!(
        roland
            .addresses_of(&zhenqiang)
            .unwrap()
            .map(|a| a.to_string())
            .as_deref(),
        Some("example.org:5000")
    );
    let stored = home.root().join("user/roland-frei/pubKey/zhenqiang.data");
    assert_eq!(
        fs::read_to_string(&stored).unwrap(),
        card["publicKey"].as_str().unwrap()
    );

    // Again, with another address, is no matter.
    home.ok(&[
        "contact",
        "add",
        "--user",
        ROLAND,
        "zhenqiang.json",
        "--address",
        "[::1]:1",
    ]);
    assert_eq!(
        roland
            .addresses_of(&zhenqiang)
            .unwrap()
            .map(|a| a.to_string())
            .as_deref(),
        Some("[::1]:1")
    );

    // Another key under the same name is.
    home.person(PETER);
    let forged = home
        .ok(&["contact", "export", PETER])
        .replace(PETER, ZHENQIANG);
    home.write("forged.json", &forged);
    let said = home.fails(12, &["contact", "add", "--user", ROLAND, "forged.json"]);
    assert!(
        said.contains("already has a different key") && said.contains("--replace"),
        "{said}"
    );
    assert_eq!(
        fs::read_to_string(&stored).unwrap(),
        card["publicKey"].as_str().unwrap()
    );
    home.ok(&[
        "contact",
        "add",
        "--user",
        ROLAND,
        "forged.json",
        "--replace",
    ]);
    assert_ne!(
        fs::read_to_string(&stored).unwrap(),
        card["publicKey"].as_str().unwrap()
    );

    // Nobody replaces the own key by a contact of the same name.
    let own = home
        .ok(&["contact", "export", PETER])
        .replace(PETER, ROLAND);
    home.write("own.json", &own);
    home.fails(
        12,
        &["contact", "add", "--user", ROLAND, "own.json", "--replace"],
    );
}

#[test]
fn a_card_that_cannot_be_adds_nobody() {
    let home = Home::new();
    home.person(ROLAND);
    home.person(ZHENQIANG);
    let good = home.ok(&["contact", "export", ZHENQIANG]);
    let private = serde_json::json!({ "username": "x", "publicKey": key("stranger") }).to_string();
    for card in [
        "{}".to_owned(),
        good.replace(ZHENQIANG, "../x"),
        good.replace("SHA256:", "SHA256:0"),
        good.replace("MII", "MIJ"),
        good.replacen("{", "{\"address\": \"no address\",", 1),
        private,
        "not json".to_owned(),
    ] {
        home.write("card.json", &card);
        home.fails_any(&["contact", "add", "--user", ROLAND, "card.json"]);
    }
    let keys = common::names(&home.root().join("user/roland-frei/pubKey"), "");
    assert_eq!(keys, ["roland-frei.data"]);
}

impl Home {
    fn fails_any(&self, args: &[&str]) {
        let output = self.m2y(args);
        let code = output.status.code().unwrap();
        assert!([1, 12].contains(&code), "{args:?}: {}", said(&output));
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            text.trim().lines().count(),
            1,
            "more than a sentence: {text}"
        );
    }
}

#[test]
fn a_folder_is_made_with_a_config_that_names_the_bundled_scripts_and_lets_nobody_in() {
    let home = Home::new();
    home.person(ROLAND);
    home.ok(&["folder", "create", "--user", ROLAND, "photo"]);
    let path = home.root().join("user/roland-frei/photo/m2y.config");
    let text = fs::read_to_string(&path).unwrap();
    let config = m2y::root::config::Config::parse(&text).unwrap();
    assert_eq!(config.scripts("OnMeta"), ["checkPermission.rhai"]);
    assert_eq!(config.scripts("OnStartup"), ["resetAllFiles.rhai"]);
    assert_eq!(config.scripts("OnReceived"), ["notifyUser.rhai"]);
    assert_eq!(config.section("permission").count(), 0);
    for script in [
        "checkPermission.rhai",
        "resetAllFiles.rhai",
        "notifyUser.rhai",
    ] {
        assert!(home.root().join("scripts").join(script).exists());
    }
    // Again, it leaves what the owner wrote.
    fs::write(&path, "[permission]\n").unwrap();
    home.ok(&["folder", "create", "--user", ROLAND, "photo"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "[permission]\n");

    for bad in [
        "..",
        "a/b",
        ".ssh",
        "",
        "privateKey",
        "pubKey",
        &"x".repeat(300),
        "a\nb",
    ] {
        home.fails(2, &["folder", "create", "--user", ROLAND, bad]);
        home.fails(
            2,
            &["folder", "create", "--user", bad, "photo"].map(|a| {
                if a == "privateKey" || a == "pubKey" {
                    ".."
                } else {
                    a
                }
            }),
        );
    }
    home.fails(4, &["folder", "create", "--user", "nobody", "photo"]);
}

#[test]
fn init_overwrites_nothing() {
    let home = Home::new();
    let script = home.root().join("scripts/checkPermission.rhai");
    fs::write(&script, "// mine").unwrap();
    home.ok(&["init"]);
    assert_eq!(fs::read_to_string(script).unwrap(), "// mine");
    // The file that init writes is one that serve reads.
    let root = Root::open(&home.root()).unwrap();
    assert_eq!(
        root.settings().unwrap(),
        m2y::root::settings::Settings::default()
    );
}

#[test]
fn a_root_that_is_none_is_said_so() {
    let home = Home::new();
    let output = home.m2y(&["user", "list", "--root", "/no/such/root"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("m2y init"), "{}", said(&output));
}

#[test]
fn a_wrong_setting_stops_the_server_with_its_name() {
    let home = Home::new();
    fs::write(home.root().join("m2y.ini"), "[server]\nlissten = x\n").unwrap();
    let said = home.fails(1, &["serve"]);
    assert!(said.contains("[server] lissten"), "{said}");
}

#[test]
fn users_are_listed_for_people_and_for_programs() {
    let home = Home::new();
    home.person(ZHENQIANG);
    home.person(ROLAND);
    fs::write(home.root().join("user/README"), "not a user").unwrap();
    let text = home.ok(&["user", "list"]);
    assert!(text.starts_with("roland-frei"), "{text}");
    for line in text.lines() {
        assert_eq!(line, line.trim_end());
    }
    let lines = home.ok(&["user", "list", "--json"]);
    let names: Vec<_> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|user| user["username"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, [ROLAND, ZHENQIANG]);
}

#[test]
fn the_demo_shows_it_all() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(M2Y)
        .arg("demo")
        .env("TMPDIR", dir.path())
        .output()
        .unwrap();
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    for step in 1..=15 {
        assert!(
            text.contains(&format!("\n  {step:>2}. ")),
            "step {step} is missing: {text}"
        );
    }
    for part in [
        "checkPermission.rhai accepted",
        "album.rhai accepted",
        "notifyUser.rhai accepted",
        "refused: no permission",
        "67.1 MB in",
        "byte for byte",
    ] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    let root = fs::read_dir(dir.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let photo = root.join("user/roland-frei/photo");
    let data = common::names(&photo, ".data");
    let picture = fs::read(photo.join(&data[0])).unwrap();
    assert!(picture.starts_with(b"\x89PNG"));
    assert_eq!(
        common::names(&root.join("user/zhenqiang/diary"), ".failed").len(),
        1
    );
}

#[test]
fn the_demo_speaks_to_programs_too() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(M2Y)
        .args(["demo", "--json"])
        .env("TMPDIR", dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let objects = objects(&output);
    let with = |status: &str| objects.iter().filter(|o| o["status"] == status).count();
    assert_eq!(with("sent"), 2);
    assert_eq!(with("failed"), 1);
    assert_eq!(with("root"), 1);
    assert_eq!(with("listening"), 1);
    assert!(objects.last().unwrap()["status"] == "done", "{objects:?}");
    for step in 1..=15 {
        assert!(
            objects
                .iter()
                .any(|o| o["status"] == "step" && o["number"] == step),
            "step {step} is missing: {objects:?}"
        );
    }
    let refused = objects
        .iter()
        .find(|o| o["status"] == "hook" && o["verdict"] == "refused")
        .unwrap();
    assert_eq!(refused["words"], "no permission");
}

#[test]
fn programs_read_one_object_a_line_from_every_command() {
    let home = Home::new();
    home.person(ROLAND);
    home.person(ZHENQIANG);
    let one = |args: &[&str]| {
        let output = home.m2y(&[args, &["--json"]].concat());
        let objects = objects(&output);
        assert_eq!(objects.len(), 1, "{args:?}: {}", said(&output));
        (output.status.code().unwrap(), objects[0].clone())
    };
    assert_eq!(one(&["init"]).1["status"], "done");
    let (_, created) = one(&["user", "create", "p.json"]);
    assert_eq!(created["username"], ZHENQIANG);
    let (_, folder) = one(&["folder", "create", "--user", ROLAND, "photo"]);
    assert_eq!(
        (&folder["user"], &folder["folder"]),
        (&ROLAND.into(), &"photo".into())
    );
    let (_, card) = one(&["contact", "export", ZHENQIANG, "--address", "h:1"]);
    assert_eq!(card["username"], ZHENQIANG);
    home.write("card.json", &card.to_string());
    let (_, added) = one(&["contact", "add", "--user", ROLAND, "card.json"]);
    assert_eq!(
        (&added["user"], &added["contact"]),
        (&ROLAND.into(), &ZHENQIANG.into())
    );
    let (code, error) = one(&["contact", "export", "nobody"]);
    assert_eq!((code, &error["code"]), (4, &"not-found".into()));
}

#[test]
fn what_is_written_wrong_is_an_object_too() {
    let home = Home::new();
    for (args, part) in [
        (vec!["launch"], "unrecognized subcommand 'launch'"),
        (vec!["send"], "<FILE>..."),
        (vec!["send", "--from", "a", "x"], "NAME:FOLDER"),
        (vec![], "requires a subcommand"),
        (vec!["folder"], "m2y --help"),
        (
            vec!["folder", "create", "--user", "../x", "f"],
            "cannot be a name",
        ),
    ] {
        let output = home.m2y(&[&["--json"], &args[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        let objects = objects(&output);
        assert_eq!(objects.len(), 1, "{}", said(&output));
        assert_eq!(objects[0]["status"], "error");
        assert_eq!(objects[0]["code"], "usage");
        let error = objects[0]["error"].as_str().unwrap();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
        assert!(!error.starts_with("error:"), "{error}");
        assert!(!output.stderr.is_empty());
    }
    // Who does not ask for objects gets none.
    let output = home.m2y(&["send", "--", "--json"]);
    assert!(output.stdout.is_empty(), "{}", said(&output));
    let output = home.m2y(&["launch"]);
    assert!(output.stdout.is_empty(), "{}", said(&output));
}

#[test]
fn bad_names_on_the_command_line_are_usage_errors() {
    let home = Home::new();
    home.write("card.json", "{}");
    for args in [
        vec!["folder", "create", "--user", "../x", "f"],
        vec!["folder", "create", "--user", "x", "a/b"],
        vec!["folder", "create", "--user", "x", "pubKey"],
        vec!["contact", "export", "a/b"],
        vec!["contact", "add", "--user", "..", "card.json"],
        vec!["send", "--from=..", "--to=b", "--folder=f", "card.json"],
        vec!["send", "--from=a", "--to=..", "--folder=f", "card.json"],
        vec!["send", "--from=a", "--to=b", "--folder=..", "card.json"],
    ] {
        home.fails(2, &args);
    }
    // One in a file is no matter of how the command was written.
    home.write("p.json", "{\"username\": \"../x\"}");
    home.fails(1, &["user", "create", "p.json"]);
}

#[test]
fn a_log_level_that_is_none_is_warned_of() {
    let home = Home::new();
    home.person(ROLAND);
    fs::write(home.root().join("user/roland-frei/user.json"), "{").unwrap();
    let log = |level: &str| {
        let output = Command::new(M2Y)
            .args(["user", "list"])
            .env("M2Y_ROOT", home.root())
            .env("M2Y_LOG", level)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stderr).unwrap()
    };
    for wrong in ["debgu", "m2y=debgu", "warn,loud", "7"] {
        let log = log(wrong);
        assert!(
            log.contains("M2Y_LOG is") && log.contains("must be off, error"),
            "{wrong}: {log}"
        );
        assert!(log.contains("user.json"), "the default holds: {log}");
    }
    for right in ["", "debug", "WARN", "m2y=warn", "m2y", "off,m2y=info"] {
        let log = log(right);
        assert!(!log.contains("M2Y_LOG"), "{right}: {log}");
        assert!(log.contains("user.json"), "{right}: {log}");
    }
    assert_eq!(log("off"), "");
}

#[test]
fn usage_errors_have_their_code_and_help_teaches() {
    let home = Home::new();
    home.fails(2, &["launch"]);
    home.fails(2, &["send"]);
    home.fails(2, &["send", "--from", "a", "x"]);
    home.fails(2, &["send", "photo.jpg"]);
    home.fails(2, &["send", "--server", "nowhere:", "x.meta"]);
    for (args, part) in [
        (vec!["--help"], "m2y demo"),
        (vec!["--help"], "M2Y_ROOT"),
        (vec!["--help"], "M2Y_SERVER"),
        (vec!["--help"], "M2Y_LISTEN"),
        (vec!["--help"], "M2Y_LOG"),
        (vec!["--help"], "NO_COLOR"),
        (vec!["send", "--help"], "0 sent, 1 error, 2 usage, 3 some"),
        (vec!["send", "--help"], "130 interrupted"),
        (
            vec!["send", "--help"],
            "the one that the .meta lies in; with NAME:FOLDER,",
        ),
        (vec!["serve", "--help"], "SIGTERM"),
        (vec!["user", "create", "--help"], "mobile phone"),
        (vec!["contact", "add", "--help"], "--replace"),
    ] {
        let text = home.ok(&args);
        assert!(text.contains(part), "{args:?}: {text}");
    }
}
