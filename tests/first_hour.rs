//! What a person meets in the first hour.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod common;

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output},
};

use common::{M2Y, PETER, Process, ROLAND, World, ZHENQIANG, key, name, names, said};
use serde_json::Value;

/// Runs the program for a root, and has it succeed or not.
fn m2y(root: &Path, args: &[&str]) -> Output {
    Command::new(M2Y)
        .args(args)
        .env("M2Y_ROOT", root)
        .env_remove("M2Y_USER")
        .env_remove("M2Y_SERVER")
        .output()
        .unwrap()
}

fn ok(root: &Path, args: &[&str]) -> String {
    let output = m2y(root, args);
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn fails(root: &Path, code: i32, args: &[&str]) -> String {
    let output = m2y(root, args);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{args:?}: {}",
        said(&output)
    );
    said(&output)
}

/// Writes a file, and returns its path.
fn written(dir: &Path, file: &str, text: &str) -> String {
    let path = dir.join(file);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A folder in which everything may be changed.
const SHARED: &str = "[OnMeta]\n[OnReceived]\n[share]\nzhenqiang = list get put mkdir rm mv\n";

#[test]
fn the_user_may_be_left_out_where_it_is_clear() {
    let world = World::new(SHARED);
    let root = world.here.path();
    assert!(ok(root, &["contact", "list"]).contains(ROLAND));
    common::person_with_key(&world.here, "anna", &key(PETER));
    let why = fails(root, 2, &["contact", "list"]);
    assert!(
        why.contains("several users") && why.contains("--user"),
        "{why}"
    );
    assert!(ok(root, &["contact", "list", "--user", ZHENQIANG]).contains(ROLAND));
    let by_variable = Command::new(M2Y)
        .args(["contact", "list"])
        .env("M2Y_ROOT", root)
        .env("M2Y_USER", ZHENQIANG)
        .output()
        .unwrap();
    assert!(
        said(&by_variable).contains(ROLAND),
        "{}",
        said(&by_variable)
    );
    fs::write(root.join("m2y.ini"), "[client]\nuser = zhenqiang\n").unwrap();
    assert!(ok(root, &["contact", "list"]).contains(ROLAND));
    fs::write(root.join("m2y.ini"), "[client]\nuser = ../x\n").unwrap();
    fails(root, 1, &["contact", "list"]);
}

#[test]
fn a_receiver_and_a_folder_stand_behind_the_files_as_with_scp() {
    let world = World::new("[OnMeta]\n[OnReceived]\n");
    let server = Process::serve(&world.there);
    let root = world.here.path();
    ok(root, &["contact", "address", ROLAND, &server.address]);
    let file = world.file("sea.jpg", b"x");
    let file = file.to_str().unwrap();
    ok(root, &["send", file, "roland-frei:photo"]);
    assert_eq!(world.arrived(".data").len(), 1);

    let why = fails(root, 2, &["send", file, "roland-frei:"]);
    assert!(why.contains("roland-frei:FOLDER"), "{why}");
    world
        .sender
        .set_folder(&name(ROLAND), &name("photo"))
        .unwrap();
    let skipped = ok(root, &["send", file, "roland-frei:"]);
    assert!(skipped.contains("unchanged since"), "{skipped}");
    ok(root, &["send", "--again", file, "roland-frei:"]);
    ok(root, &["send", "--again", "--to", ROLAND, file]);
    assert_eq!(world.arrived(".data").len(), 3);

    ok(root, &["send", "--again", file, ROLAND]);
    assert_eq!(world.arrived(".data").len(), 4);
    let why = fails(root, 2, &["send", file]);
    assert!(why.contains("add the receiver as NAME:FOLDER"), "{why}");
    let why = fails(root, 2, &["send", "--from", ZHENQIANG, file]);
    assert!(why.contains("NAME:FOLDER"), "{why}");
    // A file goes before a receiver.
    let odd = world.file("odd:photo", b"x");
    ok(
        root,
        &["send", file, odd.to_str().unwrap(), "roland-frei:photo"],
    );
    assert_eq!(world.arrived(".data").len(), 5);
}

#[test]
fn a_link_arrives_under_the_name_that_a_person_gave() {
    let world = World::new("[OnMeta]\n[OnReceived]\n");
    let server = Process::serve(&world.there);
    let file = world.file("IMG_0001.jpg", b"x");
    let link = world.dir.path().join("sea.jpg");
    symlink(&file, &link).unwrap();
    // One in the folder itself, beside what it leads to.
    let own = world.sender.outbox(&name("photo")).unwrap();
    fs::write(own.join("there.jpg"), b"y").unwrap();
    symlink(own.join("there.jpg"), own.join("called.jpg")).unwrap();
    for file in [link, own.join("called.jpg")] {
        let root = world.here.path();
        ok(root, &["contact", "address", ROLAND, &server.address]);
        ok(root, &["send", file.to_str().unwrap(), "roland-frei:photo"]);
    }
    let metas = common::read_metas(&world.photo(), ".meta");
    let mut names: Vec<_> = metas.iter().map(|meta| meta.filename.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["called.jpg", "sea.jpg"]);
}

#[test]
fn two_strangers_need_seven_commands_and_the_folder_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    let write = |file: &str, text: String| written(dir.path(), file, &text);
    ok(&there, &["init", "--user", ROLAND, "--folder", "photo"]);
    ok(&here, &["init", "--user", ZHENQIANG]);
    // Once more, nothing is lost.
    assert!(ok(&there, &["init", "--user", ROLAND]).contains("exists already"));
    let request = write("request.json", ok(&here, &["contact", "request"]));
    let why = fails(
        &there,
        4,
        &["contact", "add", "--allow", "nothing", &request],
    );
    assert!(
        !ok(&there, &["contact", "list"]).contains(ZHENQIANG),
        "{why}"
    );
    let root = m2y::root::Root::open(&there).unwrap();
    let server = Process::serve(&root);
    let add = [
        "contact",
        "add",
        "--allow",
        "photo",
        "--my-address",
        &server.address,
        &request,
    ];
    // A mail that answers quotes what it answers; and one that is answered is quoted.
    let answer = ok(&there, &add);
    let asked = fs::read_to_string(&request).unwrap();
    let asked: String = asked.lines().map(|line| format!("> {line}\n")).collect();
    let both = format!("Hello,\n{answer}\nOn Sunday, Zhenqiang wrote:\n{asked}");
    let document = m2y::wire::pairing::Document::parse("mail", both.as_bytes()).unwrap();
    assert!(matches!(document, m2y::wire::pairing::Document::Answer(_)));
    let quoted: String = answer.lines().map(|line| format!("> {line}\n")).collect();
    let quoted = write(
        "answer.eml",
        format!("On Monday, Roland wrote:\n{quoted}-- \nZ"),
    );
    let accepted = ok(&here, &["contact", "accept", &quoted]);
    assert!(accepted.contains("folder photo"), "{accepted}");
    let file = write("myfoto.jpg", "x".to_owned());
    ok(&here, &["send", &file, "roland-frei:"]);
    let photo = there.join("user/roland-frei/photo");
    assert_eq!(names(&photo, ".data").len(), 1);
    let config = fs::read_to_string(photo.join("m2y.config")).unwrap();
    assert!(
        config.contains("[permission]\nzhenqiang = always\n"),
        "{config}"
    );
    assert!(
        config.contains("# zhenqiang = always"),
        "a comment is gone: {config}"
    );
}

#[test]
fn people_and_folders_have_names_in_any_script() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    let write = |file: &str, text: String| written(dir.path(), file, &text);
    // Longer in bytes than in characters.
    let long = "振强".repeat(20);
    ok(&there, &["init", "--user", &long, "--folder", "Фото"]);
    // As some keyboards write it: the accent behind its letter.
    ok(&here, &["init", "--user", "ju\u{308}rg"]);
    let request = write("request.json", ok(&here, &["contact", "request"]));
    let root = m2y::root::Root::open(&there).unwrap();
    let server = Process::serve(&root);
    let add = [
        "contact",
        "add",
        "--allow",
        "Фото",
        "--my-address",
        &server.address,
        &request,
    ];
    let answer = write("answer.json", ok(&there, &add));
    ok(&here, &["contact", "accept", &answer]);
    let file = write("Föto.jpg", "x".to_owned());
    ok(&here, &["send", &file, &format!("{long}:Фото")]);
    let folder = there.join("user").join(long).join("Фото");
    let arrived = names(&folder, ".data");
    assert!(arrived[0].starts_with("jürg_"), "{arrived:?}");
    assert!(ok(&there, &["inbox"]).contains("Föto.jpg"));
    // One that passes for somebody else.
    let why = fails(
        &here,
        2,
        &["send", &file, "--to", "r\u{43e}land", "--folder", "x"],
    );
    assert!(why.contains("more than one script"), "{why}");
}

#[test]
fn a_folder_may_be_named_without_its_user_where_that_is_clear() {
    let world = World::new("[OnMeta]\nmine.rhai\n");
    world.script("mine.rhai", "");
    let root = world.there.path();
    let scripts = root.join("scripts");
    fs::create_dir_all(&scripts).unwrap();
    let said = ok(root, &["hook", "check", "--folder", "photo"]);
    assert!(!said.contains("hides"), "{said}");
    fs::write(scripts.join("mine.rhai"), "").unwrap();
    let said = ok(root, &["hook", "check", "--folder", "photo"]);
    assert!(said.contains("hides ROOT/scripts/mine.rhai"), "{said}");
    ok(root, &["hook", "list", "--folder", "photo"]);
}

#[test]
fn a_contact_without_an_address_is_told_how_to_get_one() {
    let world = World::new("[OnMeta]\n");
    let root = world.here.path();
    let card = ok(world.there.path(), &["contact", "export"]);
    let file = world.file("card.json", card.as_bytes());
    let added = ok(root, &["contact", "add", file.to_str().unwrap()]);
    assert!(
        added.contains("m2y contact address roland-frei HOST:PORT"),
        "{added}"
    );
    assert!(ok(root, &["contact", "address", ROLAND]).contains("no address yet"));
    ok(root, &["contact", "address", ROLAND, "example.org"]);
    assert!(ok(root, &["contact", "address", ROLAND]).contains("example.org:5000"));
    fails(root, 4, &["contact", "address", "nobody", "example.org"]);
}

#[test]
fn directories_that_m2y_uses_say_for_what() {
    let world = World::new("[OnMeta]\n");
    let why = fails(world.there.path(), 2, &["folder", "create", "outgoing"]);
    assert!(why.contains("outgoing/NAME"), "{why}");
    let why = fails(world.there.path(), 2, &["folder", "create", "pubkey"]);
    assert!(why.contains("keys of your contacts"), "{why}");
}

#[test]
fn directories_are_made_with_their_parents_and_removed_with_what_is_in_them() {
    let world = World::new(SHARED);
    let server = Process::serve(&world.there);
    let root = world.here.path();
    ok(root, &["contact", "address", ROLAND, &server.address]);
    fails(root, 4, &["mkdir", "roland-frei:photo/a/b/c"]);
    ok(
        root,
        &[
            "mkdir",
            "-p",
            "roland-frei:photo/a/b/c",
            "roland-frei:photo/a/d",
        ],
    );
    ok(root, &["mkdir", "-p", "roland-frei:photo/a/b"]);
    let file = world.file("x.jpg", b"x");
    let file = file.to_str().unwrap();
    ok(root, &["put", file, "roland-frei:photo/a/b/c/"]);
    ok(root, &["put", file, "roland-frei:photo/top.jpg"]);

    // One that fails does not keep the others from going.
    let places = [
        "rm",
        "--json",
        "roland-frei:photo/no1",
        "roland-frei:photo/top.jpg",
        "roland-frei:photo/no2",
    ];
    let output = m2y(root, &places);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let lines: Vec<Value> = String::from_utf8(output.stdout.clone())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told: Vec<_> = lines
        .iter()
        .map(|line| line["status"].as_str().unwrap())
        .collect();
    assert_eq!(told, ["error", "removed", "error"], "{}", said(&output));
    assert_eq!(lines[0]["path"], "roland-frei:photo/no1");
    assert!(!world.photo().join("top.jpg").exists());

    fs::write(world.photo().join("keep.jpg"), b"x").unwrap();
    fails(root, 10, &["rm", "-r", "roland-frei:photo"]);
    assert!(world.photo().join("keep.jpg").exists());
    fails(root, 1, &["rm", "roland-frei:photo/a"]);
    ok(root, &["rm", "-r", "roland-frei:photo/a"]);
    assert!(!world.photo().join("a").exists());
}

#[test]
fn a_move_that_fails_names_what_is_wrong() {
    let world = World::new(SHARED);
    let server = Process::serve(&world.there);
    let root = world.here.path();
    ok(root, &["contact", "address", ROLAND, &server.address]);
    for file in ["a.jpg", "b.jpg"] {
        fs::write(world.photo().join(file), b"x").unwrap();
    }
    let why = fails(root, 1, &["mv", "roland-frei:photo/a.jpg", "photo/b.jpg"]);
    assert!(why.contains("roland-frei:photo/b.jpg"), "{why}");
    let why = fails(
        root,
        4,
        &["mv", "roland-frei:photo/a.jpg", "photo/no/b.jpg"],
    );
    assert!(why.contains("roland-frei:photo/no/b.jpg"), "{why}");
    let why = fails(root, 4, &["mv", "roland-frei:photo/c.jpg", "photo/d.jpg"]);
    assert!(why.contains("roland-frei:photo/c.jpg"), "{why}");
}

/// What a shell is offered for the last of these words.
fn completed(root: &Path, words: &[&str]) -> Vec<String> {
    let output = Command::new(M2Y)
        .arg("--")
        .arg("m2y")
        .args(words)
        .env("M2Y_ROOT", root)
        .env_remove("M2Y_USER")
        .env("M2Y_COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", words.len().to_string())
        .env("_CLAP_IFS", "\n")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_shell_completes_contacts_and_what_they_share() {
    let world = World::new(SHARED);
    let server = Process::serve(&world.there);
    let root = world.here.path();
    assert_eq!(completed(root, &["ls", "ro"]), ["roland-frei:"]);
    assert_eq!(completed(root, &["contact", "show", "ro"]), ["roland-frei"]);
    assert!(completed(root, &["hook", "wa"]).contains(&"watch".to_owned()));
    // Without an address there is nothing to offer.
    assert!(completed(root, &["get", "roland-frei:ph"]).is_empty());
    ok(root, &["contact", "address", ROLAND, &server.address]);
    assert_eq!(
        completed(root, &["get", "roland-frei:ph"]),
        ["roland-frei:photo/"]
    );
    fs::create_dir(world.photo().join("2026")).unwrap();
    fs::write(world.photo().join("2026/sea.jpg"), b"x").unwrap();
    // What a shell would read as a command or as two words is not offered.
    for odd in ["a$(touch x)", "b `id`", "c d", "*"] {
        fs::write(world.photo().join("2026").join(odd), b"x").unwrap();
    }
    let offered = completed(root, &["get", "roland-frei:photo/2026/"]);
    assert_eq!(offered, ["roland-frei:photo/2026/sea.jpg"]);
    assert!(ok(root, &["completions", "bash"]).contains("M2Y_COMPLETE"));
    fails(root, 2, &["completions", "dos"]);
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let world = World::new("");
    let dir = world.dir.path().join("man");
    ok(world.here.path(), &["man", dir.to_str().unwrap()]);
    let page = fs::read_to_string(dir.join("m2y-send.1")).unwrap();
    assert!(page.contains("roland"), "{page}");
    assert!(dir.join("m2y.1").exists() && dir.join("m2y-hook-watch.1").exists());
}

#[test]
fn patterns_are_for_every_command_that_takes_places() {
    let world = World::new(SHARED);
    let server = Process::serve(&world.there);
    let root = world.here.path();
    ok(root, &["contact", "address", ROLAND, &server.address]);
    let day = world.photo().join("day");
    fs::create_dir(&day).unwrap();
    for file in ["a.jpg", "b.jpg", "c.txt", "[x].jpg"] {
        fs::write(day.join(file), file).unwrap();
    }
    let there = |pattern: &str| format!("roland-frei:photo/{pattern}");
    let listed = ok(root, &["ls", &there("d*/?.jpg")]);
    assert_eq!(listed, "photo/day/a.jpg\nphoto/day/b.jpg\n");
    let listed = ok(root, &["ls", "-R", &there("d*")]);
    assert!(listed.starts_with("photo/day/\n"), "{listed}");
    assert_eq!(listed.lines().count(), 5, "{listed}");

    let to = world.dir.path().join("fetched");
    let to = to.to_str().unwrap();
    // What would come is told, and nothing is made.
    let told = ok(root, &["get", "--dry-run", "-o", to, &there("*/*.jpg")]);
    assert!(told.contains("would fetch photo/day/a.jpg"), "{told}");
    assert!(told.contains("would fetch 3 files: "), "{told}");
    assert!(!Path::new(to).exists());
    ok(root, &["get", "-o", to, &there("day/?.jpg")]);
    assert_eq!(names(Path::new(to), ".jpg"), ["a.jpg", "b.jpg"]);
    // A file of just that name comes before what its name would match.
    ok(root, &["get", "-o", to, &there("day/[x].jpg")]);
    assert!(Path::new(to).join("[x].jpg").exists());
    let told = ok(root, &["get", "--dry-run", "-o", to, &there("day/*")]);
    assert!(
        told.contains("would fetch 1 file: 5 bytes, 3 identical"),
        "{told}"
    );
    let why = fails(root, 4, &["get", "-o", to, &there("day/*.png")]);
    assert!(why.contains("nothing matches photo/day/*.png"), "{why}");

    let told = ok(
        root,
        &["get", "--dry-run", "-o", to, &there("day/[bc].jpg")],
    );
    assert_eq!(told, "would fetch 0 files: 0 bytes, 1 identical\n");
    fails(root, 4, &["rm", &there("day/[ab].jpg")]);
    let removed = ok(root, &["rm", &there("day/?.jpg")]);
    assert_eq!(removed.lines().count(), 2, "{removed}");
    assert_eq!(names(&day, ""), ["[x].jpg", "c.txt"]);
    fails(root, 4, &["rm", &there("day/*.png")]);
}

#[test]
fn a_failure_for_programs_says_which_file() {
    let world = World::new(SHARED);
    let server = Process::serve(&world.there);
    let root = world.here.path();
    ok(root, &["contact", "address", ROLAND, &server.address]);
    let here = world.file("x.jpg", b"x");
    let here = here.to_str().unwrap();
    let no = "roland-frei:photo/no.jpg";
    let file = |args: &[&str]| {
        let output = m2y(root, args);
        assert!(!output.status.success(), "{args:?}");
        let first = String::from_utf8(output.stdout).unwrap();
        let first: Value = serde_json::from_str(first.lines().next().unwrap()).unwrap();
        assert!(first["error"].is_string(), "{first}");
        first["file"].as_str().unwrap_or_default().to_owned()
    };
    for word in ["get", "rm", "ls"] {
        assert_eq!(file(&[word, "--json", no]), no, "{word}");
    }
    assert_eq!(file(&["mv", "--json", no, "photo/other.jpg"]), no);
    assert_eq!(file(&["get", "--json", no, no]), "photo/no.jpg");
    assert_eq!(
        file(&["put", "--json", here, "roland-frei:photo/no/"]),
        here
    );
    assert_eq!(
        file(&["put", "--json", "gone.jpg", "roland-frei:photo/"]),
        "gone.jpg"
    );
    assert_eq!(
        file(&["send", "--json", "gone.jpg", "roland-frei:photo"]),
        "gone.jpg"
    );
    fs::write(world.photo().join("y.jpg"), "theirs").unwrap();
    let dir = world.dir.path();
    fs::write(dir.join("y.jpg"), "mine").unwrap();
    let get = [
        "get",
        "--json",
        "-o",
        dir.to_str().unwrap(),
        "roland-frei:photo/y.jpg",
    ];
    assert_eq!(file(&get), dir.join("y.jpg").to_str().unwrap());
}

#[test]
fn an_error_of_a_batch_names_its_line_and_df_says_what_still_fits() {
    let world = World::new(SHARED);
    let server = Process::serve(&world.there);
    let root = world.here.path();
    ok(root, &["contact", "address", ROLAND, &server.address]);
    let batch = world.file(
        "batch",
        b"# look\n\n-cd nowhere\ncd photo\ndf\nrm none\npwd\n",
    );
    let batch = batch.to_str().unwrap();
    let why = fails(root, 4, &["shell", "-b", batch, ROLAND]);
    assert!(why.contains("line 3: /nowhere: no such file"), "{why}");
    assert!(why.contains("line 6: /photo/none: no such file"), "{why}");
    assert!(why.contains(" free\n"), "{why}");
    // What is told of the disk is for those who may fill it.
    let config = "[OnMeta]\n[share]\nzhenqiang = list get\n";
    fs::write(world.photo().join("m2y.config"), config).unwrap();
    let batch = world.file("df", b"df photo\n");
    fails(root, 4, &["shell", "-b", batch.to_str().unwrap(), ROLAND]);
    let help = world.file("help", b"help\n");
    let help = ok(root, &["shell", "-b", help.to_str().unwrap(), ROLAND]);
    assert!(
        help.contains("exit, quit, bye") && help.contains("ls, dir"),
        "{help}"
    );
}

#[test]
fn a_shell_completes_for_the_user_and_root_of_the_line() {
    let world = World::new(SHARED);
    common::person_with_key(&world.here, "anna", &key(PETER));
    let root = world.here.path();
    let elsewhere = world.dir.path();
    let at = root.to_str().unwrap();
    let words = ["contact", "show", "--root", at, "--user", ZHENQIANG, "ro"];
    assert_eq!(completed(elsewhere, &words), ["roland-frei"]);
    let words = ["contact", "show", "--root", at, "--user=anna", "ro"];
    assert!(completed(elsewhere, &words).is_empty());
    world
        .sender
        .set_folder(&name(ROLAND), &name("photo"))
        .unwrap();
    let words = ["send", "--root", at, "--from", ZHENQIANG, "x.jpg", "ro"];
    assert_eq!(completed(elsewhere, &words), ["roland-frei:photo"]);
    let shown = ok(root, &["contact", "list", "--user", ZHENQIANG]);
    assert!(shown.contains("folder photo"), "{shown}");
}

#[test]
fn a_permission_is_added_to_m2y_config_as_its_owner_left_it() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let world = World::new("# mine\n[OnMeta]\n");
    let config = world.photo().join("m2y.config");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o640)).unwrap();
    // Only an administrator can give a file away.
    let is_given = chown(&config, Some(1), Some(1)).is_ok();
    let folder = world.receiver.folder(&name("photo")).unwrap();
    folder.allow(&name(ZHENQIANG)).unwrap();
    let about = fs::metadata(&config).unwrap();
    assert_eq!(about.mode() & 0o777, 0o640);
    assert!(!is_given || (about.uid(), about.gid()) == (1, 1));
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.starts_with("# mine\n"), "{text}");
}

#[test]
fn what_a_contact_does_not_allow_is_not_called_missing() {
    let world = World::new("[OnMeta]\n[share]\nzhenqiang = list\n");
    let server = Process::serve(&world.there);
    let root = world.here.path();
    ok(root, &["contact", "address", ROLAND, &server.address]);
    fs::write(world.photo().join("a.jpg"), b"x").unwrap();
    let a = "roland-frei:photo/a.jpg";
    for args in [&["rm", a][..], &["mv", a, "photo/b.jpg"]] {
        let why = fails(root, 10, args);
        assert!(why.contains("does not let you"), "{why}");
    }
    let dir = world.dir.path().to_str().unwrap();
    let why = fails(root, 4, &["get", "-o", dir, a]);
    assert!(why.contains("does not let you fetch it"), "{why}");
    let why = fails(root, 10, &["rm", "roland-frei:photo"]);
    assert!(why.contains("only its owner can remove a folder"), "{why}");
    let why = fails(root, 12, &["ls", "rolandfrei:photo"]);
    assert!(why.contains("did you mean roland-frei?"), "{why}");
    // What is not there is missing all the same.
    let why = fails(root, 4, &["rm", "roland-frei:photo/none"]);
    assert!(why.contains("no such file"), "{why}");
}

#[test]
fn a_move_into_a_directory_keeps_the_name() {
    let world = World::new(SHARED);
    let server = Process::serve(&world.there);
    let root = world.here.path();
    ok(root, &["contact", "address", ROLAND, &server.address]);
    fs::write(world.photo().join("a.jpg"), b"x").unwrap();
    fs::create_dir(world.photo().join("2026")).unwrap();
    ok(root, &["mv", "roland-frei:photo/a.jpg", "photo/2026/"]);
    ok(
        root,
        &["mv", "roland-frei:photo/2026/a.jpg", "roland-frei:photo"],
    );
    ok(root, &["mv", "roland-frei:photo/a.jpg", "photo/2026"]);
    assert!(world.photo().join("2026/a.jpg").exists());
}
