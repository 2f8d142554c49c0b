//! People, keys, folders, contacts, by the program as a person uses it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
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
        ("{\"username\": \"..\"}", "is no name"),
        ("{\"username\": \"a/b\"}", "is no name"),
        ("{\"username\": \".ssh\"}", "is no name"),
        ("{\"username\": \"a\\u0000b\"}", "is no name"),
        ("{\"username\": \"a\\nb\"}", "is no name"),
        ("{\"username\": \"\"}", "is no name"),
        (&long, "is no name"),
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
        roland.address_of(&zhenqiang).unwrap().as_deref(),
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
        roland.address_of(&zhenqiang).unwrap().as_deref(),
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
        said.contains("already has another key") && said.contains("--replace"),
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
        home.fails(1, &["folder", "create", "--user", ROLAND, bad]);
        home.fails(
            1,
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
fn usage_errors_have_their_code_and_help_teaches() {
    let home = Home::new();
    home.fails(2, &["launch"]);
    home.fails(2, &["send"]);
    home.fails(2, &["send", "--from", "a", "x"]);
    home.fails(2, &["send", "photo.jpg"]);
    home.fails(2, &["send", "--server", "nowhere", "x.meta"]);
    for (args, part) in [
        (vec!["--help"], "m2y demo"),
        (vec!["send", "--help"], "Exit codes"),
        (vec!["serve", "--help"], "SIGTERM"),
        (vec!["user", "create", "--help"], "mobile phone"),
        (vec!["contact", "add", "--help"], "--replace"),
    ] {
        let text = home.ok(&args);
        assert!(text.contains(part), "{args:?}: {text}");
    }
}
