//! Two people become contacts and change their keys, by the program as they use it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use common::{M2Y, OPEN, PETER, Process, ROLAND, ZHENQIANG, key, name, names, person, said};
use m2y::{
    crypto::{SysRng, keys::PrivateKey},
    root::{Root, contact_request::RequestId},
    wire::pairing::{Announcement, Document},
};
use serde_json::Value;
use tempfile::TempDir;

/// Zhenqiang, Roland and Peter, each on a machine of his own. Nobody knows anybody.
struct Strangers {
    dir: TempDir,
}

impl Strangers {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for who in [ZHENQIANG, ROLAND, PETER] {
            let (root, _) = Root::init(&dir.path().join(who), &[]).unwrap();
            person(&root, who);
        }
        Self { dir }
    }

    fn root(&self, who: &str) -> Root {
        Root::open(&self.dir.path().join(who)).unwrap()
    }

    fn path(&self, who: &str, file: &str) -> PathBuf {
        self.dir.path().join(format!("{who}/user/{who}/{file}"))
    }

    /// Runs the program on somebody's machine, with something on standard input.
    fn m2y(&self, who: &str, args: &[&str], input: &[u8]) -> Output {
        let mut child = Command::new(M2Y)
            .args(args)
            .env("M2Y_ROOT", self.dir.path().join(who))
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Who does not read it has ended already.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    fn contact(&self, who: &str, command: &str, args: &[&str], input: &str) -> Output {
        let args = [&["contact", command, "--user", who], args].concat();
        self.m2y(who, &args, input.as_bytes())
    }

    fn ok(&self, who: &str, command: &str, args: &[&str], input: &str) -> String {
        let output = self.contact(who, command, args, input);
        assert!(output.status.success(), "{command}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// It fails with this code, prints nothing, and says one sentence, which is returned.
    fn fails(&self, code: i32, who: &str, command: &str, args: &[&str], input: &str) -> String {
        let output = self.contact(who, command, args, input);
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert!(output.stdout.is_empty(), "{}", said(&output));
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text.trim().lines().count(), 1, "{text}");
        text
    }

    fn request(&self, who: &str) -> String {
        self.ok(who, "request", &[], "")
    }

    fn export(&self, who: &str) -> String {
        let output = self.m2y(who, &["contact", "export", who], b"");
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Both become contacts of each other.
    fn pair(&self, requester: &str, adder: &str) {
        let answer = self.ok(adder, "add", &["-"], &self.request(requester));
        self.ok(requester, "accept", &["-"], &answer);
    }

    fn rotate(&self, who: &str) -> String {
        self.ok(who, "rotate", &["--bits", "2048"], "")
    }

    /// The fingerprint that somebody has for somebody.
    fn fingerprint(&self, who: &str, of: &str) -> String {
        let user = self.root(who).user(&name(who)).unwrap();
        let contact = user.contact(&name(of)).unwrap();
        contact.key.fingerprint().to_string()
    }

    /// Who somebody knows, besides himself.
    fn contacts(&self, who: &str) -> Vec<String> {
        let own = format!("{who}.data");
        let mut files = names(&self.path(who, "pubKey"), ".data");
        files.retain(|file| *file != own);
        files
    }

    fn pending(&self, who: &str) -> Vec<String> {
        names(&self.path(who, ".requests"), "")
    }

    /// A folder in which everything is taken, and a server.
    fn serve(&self, who: &str) -> Process {
        let root = self.root(who);
        let user = root.user(&name(who)).unwrap();
        let folder = user.create_folder(&name("photo")).unwrap();
        fs::write(folder.path_of("m2y.config"), OPEN).unwrap();
        Process::serve(&root)
    }

    /// Sends a file to the address that is known.
    fn send(&self, from: &str, to: &str, file: &str) -> Output {
        fs::write(self.dir.path().join(file), file).unwrap();
        let args = [
            "send", "--from", from, "--to", to, "--folder", "photo", file,
        ];
        self.m2y(from, &args, b"")
    }

    fn arrived(&self, at: &str) -> usize {
        names(&self.path(at, "photo"), ".data").len()
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// A document with one field changed.
fn with(document: &str, field: &str, value: impl Into<Value>) -> String {
    let mut document = json(document);
    document[field] = value.into();
    document.to_string()
}

#[test]
fn two_people_become_contacts_by_two_files_and_the_requester_sends() {
    let strangers = Strangers::new();
    let server = strangers.serve(ROLAND);
    let file = |name: &str, text: &str| fs::write(strangers.dir.path().join(name), text).unwrap();

    file(
        "request.json",
        &strangers.ok(ZHENQIANG, "request", &["--address", "z.example.org:1"], ""),
    );
    let mine = ["--my-address", &server.address, "request.json"];
    let added = strangers.contact(ROLAND, "add", &mine, "");
    assert!(added.status.success(), "{}", said(&added));
    file("answer.json", std::str::from_utf8(&added.stdout).unwrap());
    let accepted = strangers.ok(ZHENQIANG, "accept", &["answer.json"], "");

    // Each reads the fingerprint of the other, in both forms.
    let read = String::from_utf8(added.stderr).unwrap();
    for (text, at, of) in [(&read, ROLAND, ZHENQIANG), (&accepted, ZHENQIANG, ROLAND)] {
        let key = strangers.root(of).user(&name(of)).unwrap().own_key();
        let fingerprint = key.unwrap().fingerprint();
        assert_eq!(strangers.fingerprint(at, of), fingerprint.to_string());
        assert!(text.contains(&fingerprint.to_string()), "{text}");
        assert!(text.contains(&fingerprint.digits()), "{text}");
    }
    let zhenqiang = strangers.root(ZHENQIANG).user(&name(ZHENQIANG)).unwrap();
    assert_eq!(
        zhenqiang
            .addresses_of(&name(ROLAND))
            .unwrap()
            .map(|a| a.to_string())
            .as_deref(),
        Some(server.address.as_str())
    );
    let roland = strangers.root(ROLAND).user(&name(ROLAND)).unwrap();
    assert_eq!(
        roland
            .addresses_of(&name(ZHENQIANG))
            .unwrap()
            .map(|a| a.to_string())
            .as_deref(),
        Some("z.example.org:1")
    );

    let sent = strangers.send(ZHENQIANG, ROLAND, "myfoto.jpg");
    assert!(sent.status.success(), "{}", said(&sent));
    assert_eq!(strangers.arrived(ROLAND), 1);
}

#[test]
fn it_works_by_pipe_and_with_a_mail_around_the_document() {
    let strangers = Strangers::new();
    let mail = |document: &str| {
        let lines = document.replace('\n', "\r\n");
        format!("\u{feff}\r\n  Dear friend,\r\nhere it is:\r\n\r\n{lines}\r\n-- \r\nSee you\r\n")
    };
    let request = mail(&strangers.request(ZHENQIANG));
    let mine = ["--my-address", "r.example.org:5000", "-"];
    let answer = mail(&strangers.ok(ROLAND, "add", &mine, &request));
    let accepted = strangers.ok(ZHENQIANG, "accept", &["-", "--json"], &answer);
    let accepted = json(&accepted);
    assert_eq!(accepted["contact"], ROLAND);
    assert_eq!(accepted["address"], "r.example.org:5000");
    assert_eq!(
        accepted["fingerprint"].as_str().unwrap(),
        strangers.fingerprint(ZHENQIANG, ROLAND)
    );
    assert_eq!(strangers.contacts(ROLAND), ["zhenqiang.data"]);
    // A card that is read from a pipe is one too.
    let card = mail(&strangers.export(PETER));
    strangers.ok(ROLAND, "add", &["-"], &card);
    // What a person reads does not tell the way to the server.
    assert!(!answer.contains("r.example.org"), "{answer}");
}

#[test]
fn a_request_lies_in_the_users_directory_for_nobody_else_and_takes_one_answer() {
    let strangers = Strangers::new();
    let request = strangers.request(ZHENQIANG);
    let id = json(&request)["request"].as_str().unwrap().to_owned();
    assert_eq!(strangers.pending(ZHENQIANG), [id.as_str()]);
    let kept = strangers.path(ZHENQIANG, &format!(".requests/{id}"));
    let mode = fs::metadata(kept).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let answer = strangers.ok(ROLAND, "add", &["-"], &request);
    let other = strangers.ok(ROLAND, "add", &["-"], &request);
    strangers.ok(ZHENQIANG, "accept", &["-"], &answer);
    assert!(strangers.pending(ZHENQIANG).is_empty());
    for answer in [&answer, &other] {
        let said = strangers.fails(12, ZHENQIANG, "accept", &["-"], answer);
        assert!(said.contains("this answer was accepted before"), "{said}");
    }
    // Nor does it take that of a third person.
    let peters = strangers.ok(PETER, "add", &["-"], &request);
    let said = strangers.fails(12, ZHENQIANG, "accept", &["-"], &peters);
    assert!(said.contains("has its answer already"), "{said}");
    assert_eq!(strangers.contacts(ZHENQIANG), ["roland-frei.data"]);
}

#[test]
fn an_answer_for_somebody_else_is_refused() {
    let strangers = Strangers::new();
    let peters = strangers.request(PETER);
    strangers.request(ZHENQIANG);
    let answer = strangers.ok(ROLAND, "add", &["-"], &peters);
    let said = strangers.fails(12, ZHENQIANG, "accept", &["-"], &answer);
    assert!(said.contains("it answers someone else"), "{said}");
    // To say that it is for this key does not help.
    let key = strangers.root(ZHENQIANG).user(&name(ZHENQIANG)).unwrap();
    let own = key.own_key().unwrap().fingerprint().to_string();
    let forged = with(&answer, "for", own);
    let said = strangers.fails(12, ZHENQIANG, "accept", &["-"], &forged);
    assert!(said.contains("altered"), "{said}");
    assert!(strangers.contacts(ZHENQIANG).is_empty());
}

#[test]
fn an_answer_to_a_request_that_was_not_made_is_refused() {
    let strangers = Strangers::new();
    let request = strangers.request(ZHENQIANG);
    let invented = with(&request, "request", "0".repeat(32));
    let answer = strangers.ok(ROLAND, "add", &["-"], &invented);
    let said = strangers.fails(12, ZHENQIANG, "accept", &["-"], &answer);
    assert!(said.contains("was not made here"), "{said}");
    assert!(strangers.contacts(ZHENQIANG).is_empty());
    assert_eq!(strangers.pending(ZHENQIANG).len(), 1);
}

#[test]
fn a_request_whose_name_was_changed_on_the_way_is_found_out() {
    let strangers = Strangers::new();
    let request = strangers.request(ZHENQIANG);
    let answer = strangers.ok(
        ROLAND,
        "add",
        &["-"],
        &with(&request, "username", "somebody"),
    );
    let said = strangers.fails(12, ZHENQIANG, "accept", &["-"], &answer);
    assert!(said.contains("has stored you as somebody"), "{said}");
    assert!(strangers.contacts(ZHENQIANG).is_empty());
}

#[test]
fn an_answer_that_was_altered_is_refused() {
    let strangers = Strangers::new();
    let request = strangers.request(ZHENQIANG);
    let answer = strangers.ok(ROLAND, "add", &["-"], &request);
    let peter = json(&strangers.export(PETER));
    let sealed = json(&answer)["sealed"].as_str().unwrap().to_owned();
    let mut other_key = json(&answer);
    other_key["publicKey"] = peter["publicKey"].clone();
    other_key["fingerprint"] = peter["fingerprint"].clone();
    for forged in [
        other_key.to_string(),
        with(&answer, "username", PETER),
        with(&answer, "sealed", &sealed[..sealed.len() - 2]),
        with(&answer, "sealed", ""),
        with(&answer, "sealed", "00".repeat(4_000)),
    ] {
        let said = strangers.fails(12, ZHENQIANG, "accept", &["-"], &forged);
        assert!(said.contains("altered in transit"), "{said}");
    }
    assert!(strangers.contacts(ZHENQIANG).is_empty());
    // The request still waits for the right one.
    strangers.ok(ZHENQIANG, "accept", &["-"], &answer);
}

#[test]
fn no_altered_byte_of_an_answer_is_taken() {
    let strangers = Strangers::new();
    let request = strangers.request(ZHENQIANG);
    let answer = strangers.ok(ROLAND, "add", &["--my-address", "r:1", "-"], &request);
    let own = PrivateKey::from_pem(&key(ZHENQIANG)).unwrap();
    let open = |text: &[u8]| match Document::parse("answer", text) {
        Ok(Document::Answer(answer)) => answer
            .open(&name(ZHENQIANG), &own)
            .ok()
            .map(|agreed| (answer.name, answer.key, agreed)),
        _ => None,
    };
    let good = open(answer.as_bytes()).unwrap();
    let mut refused = 0;
    for at in 0..answer.len() {
        let mut bytes = answer.clone().into_bytes();
        // Another letter or digit in most places, so that it is often a document still.
        bytes[at] ^= 1;
        match open(&bytes) {
            // A space elsewhere, a field by another name.
            Some(opened) => assert!(opened == good, "byte {at}"),
            None => refused += 1,
        }
    }
    assert!(refused > answer.len() / 2);
}

#[test]
fn a_request_of_ones_own_is_not_added() {
    let strangers = Strangers::new();
    let request = strangers.request(ZHENQIANG);
    for request in [
        &request,
        // The same key under another name, another key under the same name.
        &with(&request, "username", "somebody"),
        &with(&strangers.request(PETER), "username", ZHENQIANG),
    ] {
        let said = strangers.fails(12, ZHENQIANG, "add", &["-"], request);
        assert!(said.contains("your own name"), "{said}");
    }
    assert!(strangers.contacts(ZHENQIANG).is_empty());
}

#[test]
fn a_request_with_another_key_for_a_known_name_gets_no_answer() {
    let strangers = Strangers::new();
    strangers.pair(ZHENQIANG, ROLAND);
    let known = strangers.fingerprint(ROLAND, ZHENQIANG);
    let forged = with(&strangers.request(PETER), "username", ZHENQIANG);
    let said = strangers.fails(12, ROLAND, "add", &["-"], &forged);
    let peter = json(&strangers.export(PETER));
    for part in [
        known.as_str(),
        peter["fingerprint"].as_str().unwrap(),
        "--replace",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(strangers.fingerprint(ROLAND, ZHENQIANG), known);

    // The same for an answer.
    let request = strangers.request(ZHENQIANG);
    let answer = strangers.ok(PETER, "add", &["-"], &request);
    let card = with(&strangers.export(ROLAND), "username", PETER);
    strangers.ok(ZHENQIANG, "add", &["-"], &card);
    let said = strangers.fails(12, ZHENQIANG, "accept", &["-"], &answer);
    assert!(said.contains("already has a different key"), "{said}");
    strangers.ok(ZHENQIANG, "accept", &["-", "--replace"], &answer);
    assert_eq!(
        strangers.fingerprint(ZHENQIANG, PETER),
        peter["fingerprint"].as_str().unwrap()
    );
}

#[test]
fn each_document_goes_to_its_own_command() {
    let strangers = Strangers::new();
    let request = strangers.request(ZHENQIANG);
    let answer = strangers.ok(ROLAND, "add", &["-"], &request);
    let said = strangers.fails(2, ZHENQIANG, "add", &["-"], &answer);
    assert!(said.contains("m2y contact accept"), "{said}");
    for other in [&request, &strangers.export(ROLAND)] {
        let said = strangers.fails(2, ZHENQIANG, "accept", &["-"], other);
        assert!(said.contains("m2y contact add"), "{said}");
    }
    let mine = ["--my-address", "r:1", "-"];
    let said = strangers.fails(2, ROLAND, "add", &mine, &strangers.export(PETER));
    assert!(said.contains("--my-address"), "{said}");
    let later = with(&request, "document", "m2y/2 something");
    let said = strangers.fails(1, ROLAND, "add", &["-"], &later);
    assert!(said.contains("does not know"), "{said}");
    for (field, value) in [
        ("request", Value::from("../../../etc")),
        ("request", Value::from("A".repeat(32))),
        ("request", Value::Null),
        ("fingerprint", Value::from("SHA256:00")),
        ("address", Value::from("nowhere")),
        ("username", Value::from("..")),
    ] {
        let wrong = with(&request, field, value);
        strangers.fails(1, PETER, "add", &["-"], &wrong);
    }
    for text in ["", "{", "hello", "{} and {}"] {
        strangers.fails(1, PETER, "add", &["-"], text);
    }
    assert!(strangers.contacts(PETER).is_empty());
}

#[test]
fn a_plain_card_gets_no_answer() {
    let strangers = Strangers::new();
    let added = strangers.contact(ROLAND, "add", &["-"], &strangers.export(ZHENQIANG));
    assert!(added.status.success() && added.stderr.is_empty());
    let text = String::from_utf8(added.stdout).unwrap();
    assert!(
        text.starts_with("zhenqiang is a contact of roland-frei\n  fingerprint SHA256:"),
        "{text}"
    );
    let lines = strangers.ok(ROLAND, "add", &["-", "--json"], &strangers.export(PETER));
    assert_eq!(json(&lines)["status"], "done");
}

#[test]
fn programs_read_one_object_a_line() {
    let strangers = Strangers::new();
    let line = |who: &str, command: &str, args: &[&str], input: &str| {
        let args = [args, &["--json"]].concat();
        let output = strangers.contact(who, command, &args, input);
        assert!(output.status.success(), "{}", said(&output));
        assert!(output.stderr.is_empty(), "{}", said(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        json(&text)
    };
    let request = line(ZHENQIANG, "request", &[], "");
    assert_eq!(request["document"], "m2y/1 contact request");
    let answer = line(ROLAND, "add", &["-"], &request.to_string());
    assert_eq!(answer["document"], "m2y/1 contact answer");
    let accepted = line(ZHENQIANG, "accept", &["-"], &answer.to_string());
    assert_eq!(accepted["contact"], ROLAND);
    let listed = line(ZHENQIANG, "list", &[], "");
    let shown = line(ZHENQIANG, "show", &[ROLAND], "");
    for object in [&listed, &shown] {
        assert_eq!(object["contact"], ROLAND);
        for field in ["fingerprint", "digits", "address"] {
            assert_eq!(object[field], accepted[field], "{field}");
        }
    }
    assert_eq!(shown["publicKey"], answer["publicKey"]);
    let announced = line(ROLAND, "rotate", &["--bits", "2048"], "");
    assert_eq!(announced["document"], "m2y/1 key rotation");
    let again = line(ZHENQIANG, "add", &["-"], &announced.to_string());
    assert_eq!(again["announced_by"], accepted["fingerprint"]);
    assert_eq!(again["fingerprint"], announced["fingerprint"]);
    let removed = line(ZHENQIANG, "remove", &[ROLAND], "");
    assert_eq!(removed["status"], "removed");
    let output = strangers.contact(ZHENQIANG, "remove", &[ROLAND, "--json"], "");
    assert_eq!(output.status.code(), Some(4));
    let error = json(std::str::from_utf8(&output.stdout).unwrap());
    assert_eq!(error["code"], "not-found");
}

#[test]
fn contacts_are_listed_shown_and_removed() {
    let strangers = Strangers::new();
    let text = strangers.ok(ROLAND, "list", &[], "");
    assert_eq!(text, "roland-frei has no contacts\n");
    let z = ["--address", "z:1", "-"];
    strangers.ok(ROLAND, "add", &z, &strangers.export(ZHENQIANG));
    strangers.ok(ROLAND, "add", &["-"], &strangers.export(PETER));
    let ini = strangers.path(ROLAND, "contacts.ini");
    let with_notes = format!("# mine\n{}", fs::read_to_string(&ini).unwrap());
    fs::write(&ini, with_notes).unwrap();
    // A file that holds no key is passed over, and can be removed.
    fs::write(strangers.path(ROLAND, "pubKey/broken.data"), "x").unwrap();

    let text = strangers.ok(ROLAND, "list", &[], "");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with("peter-norton  SHA256:"), "{text}");
    assert!(lines[1].starts_with("zhenqiang  SHA256:") && lines[1].ends_with("  z:1"));
    let short = strangers.fingerprint(ROLAND, ZHENQIANG)[..23].to_owned();
    assert!(lines[1].contains(&short), "{text}");

    let text = strangers.ok(ROLAND, "show", &[ZHENQIANG], "");
    let key = strangers.root(ZHENQIANG).user(&name(ZHENQIANG)).unwrap();
    let key = key.own_key().unwrap();
    for part in [
        key.fingerprint().to_string(),
        key.fingerprint().digits(),
        "z:1".to_owned(),
        format!("RSA, {} bits", key.size() * 8),
        key.to_pem().unwrap(),
    ] {
        assert!(text.contains(&part), "{text}");
    }
    // What the other one sees of himself is the same.
    let own = strangers.ok(ZHENQIANG, "show", &[ZHENQIANG], "");
    assert!(own.contains(&key.fingerprint().digits()), "{own}");

    for contact in [ZHENQIANG, "broken"] {
        strangers.ok(ROLAND, "remove", &[contact], "");
        strangers.fails(4, ROLAND, "remove", &[contact], "");
        strangers.fails(4, ROLAND, "show", &[contact], "");
    }
    assert_eq!(strangers.contacts(ROLAND), ["peter-norton.data"]);
    assert_eq!(fs::read_to_string(&ini).unwrap(), "# mine\n");
    let said = strangers.fails(12, ROLAND, "remove", &[ROLAND], "");
    assert!(said.contains("your own name"), "{said}");
    strangers.fails(2, ROLAND, "remove", &["../x"], "");
    let both = strangers.contact(ROLAND, "show", &[PETER, "--qr", "--json"], "");
    assert_eq!(both.status.code(), Some(2), "{}", self::said(&both));
}

#[test]
fn a_telephone_reads_the_fingerprint_from_the_terminal() {
    let strangers = Strangers::new();
    strangers.pair(ZHENQIANG, ROLAND);
    let text = strangers.ok(ROLAND, "show", &[ZHENQIANG, "--qr"], "");
    let lines: Vec<Vec<char>> = text
        .lines()
        .filter(|line| line.contains(['█', '▀', '▄']))
        .map(|line| line.chars().collect())
        .collect();
    let width = lines[0].len();
    assert!(lines.iter().all(|line| line.len() == width), "{text}");
    // On a dark terminal the blocks are what is light; a module has four pixels a side.
    let is_dark = |x: usize, y: usize| {
        let (x, y) = (x / 4, y / 4);
        let lit = match lines[y / 2][x] {
            '█' => true,
            '▀' => y % 2 == 0,
            '▄' => y % 2 == 1,
            _ => false,
        };
        !lit
    };
    let mut image = rqrr::PreparedImage::prepare_from_bitmap(width * 4, lines.len() * 8, is_dark);
    let found = image.detect_grids();
    let (_, read) = found[0].decode().unwrap();
    assert_eq!(read, strangers.fingerprint(ROLAND, ZHENQIANG));
}

#[test]
fn somebody_who_was_removed_is_turned_away() {
    let strangers = Strangers::new();
    let server = strangers.serve(ROLAND);
    let request = strangers.request(ZHENQIANG);
    let mine = ["--my-address", &server.address, "-"];
    let answer = strangers.ok(ROLAND, "add", &mine, &request);
    strangers.ok(ZHENQIANG, "accept", &["-"], &answer);
    let sent = strangers.send(ZHENQIANG, ROLAND, "before");
    assert!(sent.status.success(), "{}", said(&sent));
    strangers.ok(ROLAND, "remove", &[ZHENQIANG], "");
    let sent = strangers.send(ZHENQIANG, ROLAND, "after");
    assert_eq!(sent.status.code(), Some(12), "{}", said(&sent));
    assert_eq!(strangers.arrived(ROLAND), 1);
}

#[test]
fn after_a_rotation_contacts_that_took_the_new_key_send_and_are_sent_to() {
    let strangers = Strangers::new();
    strangers.pair(ZHENQIANG, ROLAND);
    strangers.pair(PETER, ROLAND);
    let server = strangers.serve(ROLAND);
    for who in [ZHENQIANG, PETER] {
        let user = strangers.root(who).user(&name(who)).unwrap();
        user.set_addresses(&name(ROLAND), &server.address.parse().unwrap())
            .unwrap();
        let sent = strangers.send(who, ROLAND, "one");
        assert!(sent.status.success(), "{}", said(&sent));
    }

    // Who receives has a new key, with the server running.
    let old = strangers.fingerprint(ZHENQIANG, ROLAND);
    let announcement = strangers.rotate(ROLAND);
    assert_eq!(json(&announcement)["oldFingerprint"], old.as_str());
    let text = strangers.ok(ZHENQIANG, "add", &["-"], &announcement);
    assert!(
        text.contains("announced by the key that was known"),
        "{text}"
    );
    let new = strangers.fingerprint(ZHENQIANG, ROLAND);
    assert_eq!(json(&announcement)["fingerprint"], new.as_str());
    assert_ne!(old, new);
    let sent = strangers.send(ZHENQIANG, ROLAND, "two");
    assert!(sent.status.success(), "{}", said(&sent));
    let sent = strangers.send(PETER, ROLAND, "two");
    assert!(!sent.status.success(), "{}", said(&sent));
    assert_eq!(strangers.arrived(ROLAND), 3);

    // Who sends has a new key.
    let announcement = strangers.rotate(ZHENQIANG);
    let sent = strangers.send(ZHENQIANG, ROLAND, "three");
    assert_eq!(sent.status.code(), Some(12), "{}", said(&sent));
    strangers.ok(ROLAND, "add", &["-"], &announcement);
    let sent = strangers.send(ZHENQIANG, ROLAND, "three");
    assert!(sent.status.success(), "{}", said(&sent));
    assert_eq!(strangers.arrived(ROLAND), 4);
    // The address is the one that was known.
    let user = strangers.root(ZHENQIANG).user(&name(ZHENQIANG)).unwrap();
    assert!(user.addresses_of(&name(ROLAND)).unwrap().is_some());
}

#[test]
fn an_old_announcement_brings_no_old_key_back() {
    let strangers = Strangers::new();
    strangers.pair(ZHENQIANG, ROLAND);
    let first = strangers.rotate(ROLAND);
    let second = strangers.rotate(ROLAND);
    // Nor is one taken whose forerunner was missed.
    let said = strangers.fails(12, ZHENQIANG, "add", &["-"], &second);
    assert!(said.contains("add that first"), "{said}");
    strangers.ok(ZHENQIANG, "add", &["-"], &first);
    strangers.ok(ZHENQIANG, "add", &["-"], &second);
    let newest = strangers.fingerprint(ZHENQIANG, ROLAND);
    let said = strangers.fails(12, ZHENQIANG, "add", &["-"], &first);
    for part in [&newest, json(&first)["fingerprint"].as_str().unwrap()] {
        assert!(said.contains(part), "{said}");
    }
    // To call the key on file the old one does not help.
    let forged = with(&first, "oldFingerprint", newest.as_str());
    strangers.fails(12, ZHENQIANG, "add", &["-"], &forged);
    assert_eq!(strangers.fingerprint(ZHENQIANG, ROLAND), newest);
    // The newest once more is no matter.
    strangers.ok(ZHENQIANG, "add", &["-"], &second);
    assert_eq!(strangers.fingerprint(ZHENQIANG, ROLAND), newest);
}

#[test]
fn an_announcement_that_the_known_key_did_not_sign_is_refused_loudly() {
    let strangers = Strangers::new();
    strangers.pair(ZHENQIANG, ROLAND);
    let known = strangers.fingerprint(ZHENQIANG, ROLAND);
    let announcement = strangers.rotate(ROLAND);
    let roland = PrivateKey::from_pem(&key(ROLAND)).unwrap();
    let peter = PrivateKey::from_pem(&key(PETER)).unwrap();
    let sign = |who: &str, old: &PrivateKey| {
        let signed = Announcement::sign(&name(who), old, peter.public(), 1, &mut SysRng);
        let document = signed.unwrap().to_document().unwrap();
        Value::Object(document).to_string()
    };
    let mut other_key = json(&announcement);
    let card = json(&strangers.export(PETER));
    other_key["publicKey"] = card["publicKey"].clone();
    other_key["fingerprint"] = card["fingerprint"].clone();
    for forged in [
        // Peter says so himself.
        sign(ROLAND, &peter),
        with(&sign(ROLAND, &peter), "oldFingerprint", known.as_str()),
        // Roland's key signed it for another name, another key, another time.
        with(&sign("somebody", &roland), "username", ROLAND),
        other_key.to_string(),
        with(&announcement, "time", 1),
        with(&announcement, "signature", ""),
    ] {
        let said = strangers.fails(12, ZHENQIANG, "add", &["-"], &forged);
        let new = json(&forged)["fingerprint"].as_str().unwrap().to_owned();
        for part in [known.as_str(), &new, "was not taken", "--replace"] {
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(strangers.fingerprint(ZHENQIANG, ROLAND), known);
    }
    // A card with the new key is not enough either, and --replace is.
    let card = strangers.export(ROLAND);
    let said = strangers.fails(12, ZHENQIANG, "add", &["-"], &card);
    assert!(said.contains("already has a different key"), "{said}");
    strangers.ok(ZHENQIANG, "add", &["-", "--replace"], &announcement);
    assert_ne!(strangers.fingerprint(ZHENQIANG, ROLAND), known);
    // Nobody is added by an announcement.
    let said = strangers.fails(12, PETER, "add", &["-"], &announcement);
    assert!(said.contains("is not a contact"), "{said}");
}

#[test]
fn the_old_private_key_is_kept_and_announces_again() {
    let strangers = Strangers::new();
    strangers.pair(ZHENQIANG, ROLAND);
    let said = strangers.fails(4, ROLAND, "rotate", &["--again"], "");
    assert!(said.contains("nothing to announce"), "{said}");
    let lost = json(&strangers.rotate(ROLAND));
    let keys = strangers.path(ROLAND, "privateKey");
    let kept: Vec<_> = names(&keys, "")
        .into_iter()
        .filter(|file| file != "roland-frei.data")
        .collect();
    let short = &lost["fingerprint"].as_str().unwrap()[7..23];
    assert_eq!(kept, [format!("roland-frei.before-{short}.data")]);
    let kept = keys.join(&kept[0]);
    assert_eq!(fs::read_to_string(&kept).unwrap(), key(ROLAND));
    for file in [&kept, &keys.join("roland-frei.data")] {
        let mode = fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let again = strangers.ok(ROLAND, "rotate", &["--again"], "");
    assert_eq!(json(&again)["fingerprint"], lost["fingerprint"]);
    strangers.ok(ZHENQIANG, "add", &["-"], &again);
    // A profile that is taken again changes no key.
    fs::write(
        strangers.dir.path().join("p.json"),
        r#"{"username": "roland-frei"}"#,
    )
    .unwrap();
    let output = strangers.m2y(ROLAND, &["user", "create", "p.json"], b"");
    assert!(output.status.success(), "{}", self::said(&output));
    assert_eq!(
        strangers.fingerprint(ROLAND, ROLAND),
        strangers.fingerprint(ZHENQIANG, ROLAND)
    );
    strangers.fails(2, ROLAND, "rotate", &["--bits", "1024"], "");
    let both = strangers.contact(ROLAND, "rotate", &["--again", "--bits", "2048"], "");
    assert_eq!(both.status.code(), Some(2), "{}", self::said(&both));
    // Where the key is too open, it is neither signed with nor put aside.
    let path = keys.join("roland-frei.data");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let said = strangers.fails(12, ROLAND, "rotate", &["--bits", "2048"], "");
    assert!(said.contains("mode is 0644"), "{said}");
    assert_eq!(names(&keys, ".data").len(), 2);
}

#[test]
fn an_answer_to_a_request_from_before_a_rotation_is_refused() {
    let strangers = Strangers::new();
    let request = strangers.request(ZHENQIANG);
    let answer = strangers.ok(ROLAND, "add", &["-"], &request);
    strangers.rotate(ZHENQIANG);
    let said = strangers.fails(12, ZHENQIANG, "accept", &["-"], &answer);
    assert!(said.contains("from before your key changed"), "{said}");
    assert!(strangers.contacts(ZHENQIANG).is_empty());
}

#[test]
fn a_rotation_that_was_killed_leaves_a_pair_that_works() {
    let strangers = Strangers::new();
    strangers.pair(ZHENQIANG, ROLAND);
    let server = strangers.serve(ROLAND);
    let user = strangers.root(ZHENQIANG).user(&name(ZHENQIANG)).unwrap();
    user.set_addresses(&name(ROLAND), &server.address.parse().unwrap())
        .unwrap();
    let roland = strangers.root(ROLAND).user(&name(ROLAND)).unwrap();
    for round in 0..12 {
        let mut child = Command::new(M2Y)
            .args(["contact", "rotate", "--user", ROLAND, "--bits", "2048"])
            .env("M2Y_ROOT", strangers.dir.path().join(ROLAND))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Not long after the old key is put aside, a little later each time.
        let before = names(&strangers.path(ROLAND, "privateKey"), ".data").len();
        while names(&strangers.path(ROLAND, "privateKey"), ".data").len() == before
            && child.try_wait().unwrap().is_none()
        {
            std::hint::spin_loop();
        }
        std::thread::sleep(std::time::Duration::from_micros(round * 100));
        child.kill().unwrap();
        child.wait().unwrap();
        let public = roland.private_key().unwrap().public().clone();
        assert_eq!(roland.own_key().unwrap(), public);
        assert_eq!(roland.contact(&name(ROLAND)).unwrap().key, public);
        let known = strangers.fingerprint(ZHENQIANG, ROLAND);
        if public.fingerprint().to_string() != known {
            let again = strangers.ok(ROLAND, "rotate", &["--again"], "");
            strangers.ok(ZHENQIANG, "add", &["-"], &again);
        }
        let sent = strangers.send(ZHENQIANG, ROLAND, &format!("file{round}"));
        assert!(sent.status.success(), "{}", said(&sent));
    }
}

#[test]
fn numbers_of_requests_are_random() {
    let ids: std::collections::HashSet<_> = (0..100)
        .map(|_| RequestId::random().unwrap().to_string())
        .collect();
    assert_eq!(ids.len(), 100);
}

#[test]
fn help_teaches_how_to_become_contacts() {
    let strangers = Strangers::new();
    for (command, part) in [
        ("request", "m2y contact accept"),
        ("add", "--my-address"),
        ("accept", "standard input"),
        ("rotate", "before"),
        ("show", "QR"),
        ("remove", "[permission]"),
        ("list", "--json"),
    ] {
        let output = strangers.m2y(ZHENQIANG, &["contact", command, "--help"], b"");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(part), "{command}: {text}");
    }
    let output = strangers.m2y(ZHENQIANG, &["contact", "--help"], b"");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("> answer.json"), "{text}");
}
