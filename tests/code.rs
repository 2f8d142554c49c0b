//! Two people become contacts by a code, with the real program on both sides.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

use common::{M2Y, Process, ROLAND, ZHENQIANG, name, names, noise, person, said, showing::Showing};
use m2y::{
    crypto::SysRng,
    root::{Root, user::User},
    wire::{
        code::{self, Joiner, Side, WRONG},
        header::{self, AnswerHeader},
        words::WORDS,
    },
};
use tempfile::TempDir;

/// Somebody who shows a code.
fn show(root: &Path, args: &[&str]) -> Showing {
    Showing::start(&[&["pair"], args].concat(), root)
}

/// A code at a listener of its own.
fn alone(root: &Path) -> Showing {
    show(root, &["--listen", "127.0.0.1:0"])
}

fn join(root: &Path, code: &str, args: &[&str]) -> Output {
    Command::new(M2Y)
        .args(["pair", code, "--root"])
        .arg(root)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Two roots with a user each, who do not know each other.
struct Two {
    dir: TempDir,
    roland: User,
    zhenqiang: User,
}

impl Two {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let user = |place: &str, who| {
            let (root, _) = Root::init(&dir.path().join(place), m2y::hooks::bundled::ALL).unwrap();
            person(&root, who)
        };
        let (roland, zhenqiang) = (user("r", ROLAND), user("z", ZHENQIANG));
        Self {
            dir,
            roland,
            zhenqiang,
        }
    }

    fn r(&self) -> PathBuf {
        self.dir.path().join("r")
    }

    fn z(&self) -> PathBuf {
        self.dir.path().join("z")
    }

    /// Whether roland has zhenqiang as a contact, and the other way round.
    fn contacts(&self) -> [bool; 2] {
        [
            self.roland.contact(&name(ZHENQIANG)).is_ok(),
            self.zhenqiang.contact(&name(ROLAND)).is_ok(),
        ]
    }
}

#[test]
fn two_people_who_have_no_m2y_yet_pair_by_two_short_commands() {
    let dir = tempfile::tempdir().unwrap();
    let (r, z) = (dir.path().join("r"), dir.path().join("z"));
    let owner = show(&r, &["--listen", "127.0.0.1:0", "--name", ROLAND]);
    let output = join(&z, &owner.code, &["--name", ZHENQIANG]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("Paired with roland-frei"));
    let (status, done, errors) = owner.ends();
    assert_eq!(status, Some(0), "{errors}");
    let user = |root: &Path, who| Root::open(root).unwrap().user(&name(who)).unwrap();
    let (roland, zhenqiang) = (user(&r, ROLAND), user(&z, ZHENQIANG));
    let known = roland.contact(&name(ZHENQIANG)).unwrap();
    assert_eq!(known.key, zhenqiang.own_key().unwrap());
    assert_eq!(
        zhenqiang.contact(&name(ROLAND)).unwrap().key,
        roland.own_key().unwrap()
    );
    assert_eq!(done["contact"], ZHENQIANG);
    assert_eq!(done["fingerprint"], known.key.fingerprint().to_string());
    // A listener that is gone is no address.
    assert_eq!(zhenqiang.addresses_of(&name(ROLAND)).unwrap(), None);
    // Without a terminal nobody is asked for a name.
    let output = join(&dir.path().join("new"), "7-lantern-orbit@127.0.0.1:9", &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said(&output).contains("say who you are with --name"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_code_at_a_running_server_brings_the_address_and_files_go_at_once() {
    let two = Two::new();
    let server = Process::serve(two.roland.root());
    let owner = show(&two.r(), &[]);
    assert_eq!(owner.address(), server.address);
    let output = join(&two.z(), &owner.code, &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(owner.ends().0, Some(0));
    let bytes = noise(300_000);
    let file = two.dir.path().join("photo.jpg");
    fs::write(&file, &bytes).unwrap();
    let output = Command::new(M2Y)
        .args(["send", "--root"])
        .arg(two.z())
        .arg(&file)
        .arg(ROLAND)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let inbox = two.roland.path().join("inbox");
    let arrived = names(&inbox, ".data");
    assert_eq!(fs::read(inbox.join(&arrived[0])).unwrap(), bytes);
}

#[test]
fn wrong_words_make_a_code_void_and_its_owner_is_told() {
    let two = Two::new();
    let _server = Process::serve(two.roland.root());
    let owner = show(&two.r(), &[]);
    let output = join(&two.z(), &owner.guess(), &[]);
    assert_eq!(output.status.code(), Some(12), "{}", said(&output));
    assert!(
        said(&output).contains("words of the code are wrong"),
        "{}",
        said(&output)
    );
    // The right words come too late.
    let output = join(&two.z(), &owner.code, &[]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    let (status, _, errors) = owner.ends();
    assert_eq!(status, Some(12));
    assert!(errors.contains("tried with the wrong words"), "{errors}");
    assert_eq!(two.contacts(), [false, false]);
}

#[test]
fn a_code_is_for_one_person() {
    let two = Two::new();
    let peter_root = two.dir.path().join("p");
    let owner = alone(&two.r());
    let code = owner.code.clone();
    assert!(join(&two.z(), &code, &[]).status.success());
    assert_eq!(owner.ends().0, Some(0));
    let output = join(&peter_root, &code, &["--name", "peter-norton"]);
    assert_ne!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(two.roland.contacts().unwrap().len(), 1);
}

#[test]
fn the_owner_needs_no_private_key_before_the_words_were_right_nor_after() {
    let two = Two::new();
    let key = two.roland.path().join(format!("privateKey/{ROLAND}.data"));
    let owner = alone(&two.r());
    fs::remove_file(key).unwrap();
    assert!(join(&two.z(), &owner.code, &[]).status.success());
    assert_eq!(owner.ends().0, Some(0));
    assert_eq!(two.contacts(), [true, true]);
}

#[test]
fn a_card_that_changes_under_a_pairing_is_refused() {
    let two = Two::new();
    let owner = alone(&two.r());
    let output = Command::new(M2Y)
        .args(["contact", "rotate", "--root"])
        .arg(two.r())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let output = join(&two.z(), &owner.code, &[]);
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    assert!(
        said(&output).contains("a different key than when"),
        "{}",
        said(&output)
    );
    assert_eq!(owner.ends().0, Some(12));
    assert_eq!(two.contacts(), [false, false]);
}

#[test]
fn a_name_that_has_another_key_already_is_not_replaced_and_both_are_told() {
    let two = Two::new();
    let other = common::key("peter-norton");
    let other = m2y::crypto::keys::PrivateKey::from_pem(&other).unwrap();
    let contact = name(ZHENQIANG);
    two.roland
        .add_contact(&contact, other.public(), false)
        .unwrap();
    let owner = alone(&two.r());
    let output = join(&two.z(), &owner.code, &[]);
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    let (status, _, errors) = owner.ends();
    assert!(status != Some(0) && errors.contains("key"), "{errors}");
    assert_eq!(two.contacts(), [true, false]);
    assert_eq!(two.roland.contact(&contact).unwrap().key, *other.public());
    // Unless that is what the owner wants.
    let owner = show(
        &two.r(),
        &["--listen", "127.0.0.1:0", "--replace", ZHENQIANG],
    );
    assert!(join(&two.z(), &owner.code, &[]).status.success());
    let own = two.zhenqiang.own_key().unwrap();
    assert_eq!(owner.ends().0, Some(0));
    assert_eq!(two.roland.contact(&contact).unwrap().key, own);
}

#[test]
fn whoever_answers_without_the_words_learns_nothing_and_is_not_kept() {
    let two = Two::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let middle = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut first = vec![0; header::LEN + code::EXCHANGE_LEN];
        stream.read_exact(&mut first).unwrap();
        let (keys, message) = code::answer("acorn-acorn", &first, &mut SysRng).unwrap();
        let head = AnswerHeader::Envelope(message.len()).encode();
        stream
            .write_all(&[head.as_slice(), &message].concat())
            .unwrap();
        let mut shown = [0; 4 + code::CONFIRM_LEN];
        stream.read_exact(&mut shown).unwrap();
        assert!(keys.check(Side::Joiner, &shown[4..]).is_err());
        let sealed = keys.seal(Side::Owner, 0, b"{}").unwrap();
        let message = [keys.confirmation(Side::Owner).as_slice(), &sealed].concat();
        let len = u32::try_from(message.len()).unwrap().to_be_bytes();
        stream
            .write_all(&[len.as_slice(), &message].concat())
            .unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        rest
    });
    let output = join(&two.z(), &format!("7-lantern-orbit@{address}"), &[]);
    assert_eq!(output.status.code(), Some(12), "{}", said(&output));
    assert!(
        said(&output).contains("does not know the words"),
        "{}",
        said(&output)
    );
    assert_eq!(middle.join().unwrap(), Vec::<u8>::new(), "no card was sent");
    assert_eq!(two.contacts(), [false, false]);
}

/// Carries a pairing, and changes a byte of one message: of the joiner, if the number is odd.
fn altering(server: &str, message: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = server.to_owned();
    thread::spawn(move || {
        let (mut joiner, _) = listener.accept().unwrap();
        let mut owner = TcpStream::connect(server).unwrap();
        for number in 1..=6 {
            let (from, to) = match number % 2 {
                1 => (&mut joiner, &mut owner),
                _ => (&mut owner, &mut joiner),
            };
            let mut head = vec![
                0;
                if number == 1 {
                    header::LEN
                } else if number == 2 {
                    8
                } else {
                    4
                }
            ];
            from.read_exact(&mut head)?;
            let len = match number {
                1 | 2 => head[4..8].try_into().unwrap(),
                _ => head[..4].try_into().unwrap(),
            };
            let mut body = vec![0; u32::from_be_bytes(len) as usize];
            from.read_exact(&mut body)?;
            if number == message {
                *body.last_mut().unwrap() ^= 1;
            }
            to.write_all(&head)?;
            to.write_all(&body)?;
        }
        Ok::<_, std::io::Error>(())
    });
    address
}

#[test]
fn a_change_of_any_message_is_noticed_and_at_most_the_last_leaves_one_contact() {
    for message in 1..=6 {
        let two = Two::new();
        let owner = alone(&two.r());
        let address = altering(owner.address(), message);
        let code = owner.code.replace(owner.address(), &address);
        let output = join(&two.z(), &code, &[]);
        assert!(!output.status.success(), "{message}: {}", said(&output));
        let kept = two.contacts();
        // The last message tells the joiner that it is done.
        assert_eq!(kept, [message == 6, false], "{message}: {}", said(&output));
    }
}

#[test]
fn a_joiner_who_leaves_without_a_guess_does_not_make_the_code_void() {
    let two = Two::new();
    let owner = alone(&two.r());
    let (_, first) = Joiner::start(owner.slot(), "acorn-acorn", &mut SysRng).unwrap();
    let mut stream = TcpStream::connect(owner.address()).unwrap();
    stream.write_all(&first).unwrap();
    let mut answer = [0; 8 + code::EXCHANGE_LEN];
    stream.read_exact(&mut answer).unwrap();
    drop(stream);
    assert!(join(&two.z(), &owner.code, &[]).status.success());
    let (status, _, errors) = owner.ends();
    assert_eq!(status, Some(0));
    assert!(errors.contains("left without a word"), "{errors}");
}

/// What a peer with these words is told: the message to its confirmation.
fn attempt(address: &str, slot: u64, words: &str) -> Option<Vec<u8>> {
    let (joiner, first) = Joiner::start(slot, words, &mut SysRng).unwrap();
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(&first).ok()?;
    let mut head = [0; 8];
    stream.read_exact(&mut head).ok()?;
    let AnswerHeader::Envelope(len) = AnswerHeader::decode(&head).ok()? else {
        return None;
    };
    let mut message = vec![0; len];
    stream.read_exact(&mut message).ok()?;
    let keys = joiner.finish(&message).ok()?;
    let shown = keys.confirmation(Side::Joiner);
    stream
        .write_all(&[&32_u32.to_be_bytes(), shown.as_slice()].concat())
        .ok()?;
    let mut len = [0; 4];
    stream.read_exact(&mut len).ok()?;
    let mut said = vec![0; u32::from_be_bytes(len) as usize];
    stream.read_exact(&mut said).ok()?;
    Some(said)
}

#[test]
fn of_many_guesses_at_the_same_time_one_is_looked_at() {
    let two = Two::new();
    let owner = alone(&two.r());
    let (address, slot) = (owner.address().to_owned(), owner.slot());
    let guesses: Vec<_> = (0..8)
        .map(|guess| {
            let address = address.clone();
            let words = format!("{}-{}", WORDS[guess], WORDS[guess]);
            assert_ne!(words, owner.words());
            thread::spawn(move || attempt(&address, slot, &words))
        })
        .collect();
    let answers: Vec<_> = guesses
        .into_iter()
        .map(|guess| guess.join().unwrap())
        .collect();
    let wrong = answers.iter().flatten().filter(|said| **said == WRONG);
    assert!(wrong.count() >= 1);
    assert!(answers.iter().flatten().all(|said| *said == WRONG));
    assert_eq!(owner.ends().0, Some(12));
    assert_eq!(two.contacts(), [false, false]);
}

#[test]
fn only_the_servers_user_can_ask_at_its_socket_and_a_killed_server_leaves_no_trouble() {
    let two = Two::new();
    let mut server = Process::serve(two.roland.root());
    let socket = two.r().join("control.sock");
    let about = fs::metadata(&socket).unwrap();
    assert!(about.file_type().is_socket());
    assert_eq!(about.permissions().mode() & 0o777, 0o600);
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    assert!(socket.exists());
    // Nobody answers there: the program waits for the other person itself.
    let owner = alone(&two.r());
    drop(owner);
    let server = Process::serve(two.roland.root());
    let owner = show(&two.r(), &[]);
    assert_eq!(owner.address(), server.address);
    // A code ends with the program that shows it.
    let code = owner.code.clone();
    drop(owner);
    let output = join(&two.z(), &code, &[]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert_eq!(server.stop(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn what_means_nothing_at_the_socket_is_answered_or_dropped_and_the_server_goes_on() {
    let two = Two::new();
    let server = Process::serve(two.roland.root());
    let ask = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(two.r().join("control.sock")).unwrap();
        // The server may have hung up before it has everything.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    for bytes in [&b"garbage\n\n"[..], b"{}", &[b'x'; 200_000], b"[1]\n\n"] {
        assert!(!ask(bytes).contains(" 200 "));
    }
    // A program that keeps a slot and says what does not belong there keeps it.
    let mut stream = UnixStream::connect(two.r().join("control.sock")).unwrap();
    let asking =
        b"POST /v1/slot HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: m2y-slot\r\n\r\n";
    let odd = b"{\"attempt\":7,\"message\":\"00\"}\n{\"attempt\":-1}\n";
    stream.write_all(&[&asking[..], odd].concat()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    let owner = show(&two.r(), &[]);
    assert_eq!(owner.address(), server.address);
    assert!(join(&two.z(), &owner.code, &[]).status.success());
}

#[test]
#[ignore = "takes minutes"]
fn of_a_hundred_thousand_wrong_codes_none_is_accepted() {
    let begun = std::time::Instant::now();
    let tries = |from: usize| {
        move || {
            for guess in (from..100_000).step_by(2) {
                // Never the words of the owner.
                let words = format!("{}-{}", WORDS[guess % 256], WORDS[(guess / 256) % 255]);
                let (joiner, first) = Joiner::start(7, &words, &mut SysRng).unwrap();
                let (owner, second) = code::answer("acorn-yogurt", &first, &mut SysRng).unwrap();
                let keys = joiner.finish(&second).unwrap();
                assert!(
                    owner
                        .check(Side::Joiner, &keys.confirmation(Side::Joiner))
                        .is_err()
                );
                assert!(
                    keys.check(Side::Owner, &owner.confirmation(Side::Owner))
                        .is_err()
                );
            }
        }
    };
    let threads = [0, 1].map(|from| thread::spawn(tries(from)));
    for thread in threads {
        thread.join().unwrap();
    }
    println!("100,000 wrong codes in {:?}", begun.elapsed());
    let two = Two::new();
    let owner = alone(&two.r());
    let begun = std::time::Instant::now();
    assert!(join(&two.z(), &owner.code, &[]).status.success());
    println!("a pairing, two programs: {:?}", begun.elapsed());
}
