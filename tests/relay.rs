//! People who reach each other only at a relay, with the real program on all three sides.
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
    net::TcpStream,
    num::NonZeroU64,
    path::Path,
    process::{Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    M2Y, OPEN, PETER, Process, ROLAND, Random, World, ZHENQIANG, document, name, noise, peer,
    person,
    relay_process::{PATIENCE, RelayProcess, attending, join, wait_for},
    said,
    showing::Showing,
    times::{compare, median},
};
use m2y::{
    client::{self, Route},
    clock,
    crypto::{
        SysRng,
        keys::{PrivateKey, PublicKey},
    },
    meta::{Attend, Features, Wire},
    observer::Unobserved,
    root::Root,
    session::pace::Pace,
    transfer::send::send_job::SendJob,
    transport::Addresses,
    wire::{
        envelope::{self, Contents, Part},
        header::{self, AnswerHeader, Header, Turned},
        session::Share,
    },
};
use serde_json::Value;
use tokio::task::JoinSet;
use zeroize::Zeroizing;

/// Uses the code of somebody who runs `m2y pair`.
fn pair_with(root: &Path, code: &str) -> Output {
    Command::new(M2Y)
        .args(["pair", code, "--root"])
        .arg(root)
        .output()
        .unwrap()
}

#[test]
fn people_who_reach_only_a_relay_send_list_and_fetch_files() {
    let config = format!("{OPEN}[share]\n{ZHENQIANG} = list get put\n");
    let world = World::new(&config);
    let relay = RelayProcess::start();
    relay.join(&world.there, ROLAND);
    let (_server, _lines) = attending(&world.there);
    assert_eq!(relay.active(), [ROLAND]);
    let bytes = noise(5_000_000);
    let file = world.file("large.bin", &bytes);
    // A guest: no member.
    let output = world.send(&relay.of(ROLAND), "photo", &file);
    assert!(output.status.success(), "{}", said(&output));
    let arrived = world.arrived(".data");
    assert!(fs::read(world.photo().join(&arrived[0])).unwrap() == bytes);

    let m2y = |args: &[&str]| {
        let output = Command::new(M2Y)
            .args(args)
            .args(["--server", &relay.of(ROLAND), "--root"])
            .arg(world.here.path())
            .current_dir(world.dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        said(&output)
    };
    let path = format!("{ROLAND}:photo");
    m2y(&["put", file.to_str().unwrap(), &path]);
    assert!(m2y(&["ls", &path]).contains("large.bin"));
    m2y(&["get", "-o", "back", &format!("{path}/large.bin")]);
    let back = fs::read(world.dir.path().join("back/large.bin")).unwrap();
    assert!(back == bytes);
}

#[test]
fn a_server_comes_back_to_a_relay_that_was_killed() {
    let world = World::new(OPEN);
    let mut relay = RelayProcess::start();
    relay.join(&world.there, ROLAND);
    let (server, lines) = attending(&world.there);
    relay.kill();
    relay.restart();
    wait_for(&lines, "attending");
    let file = world.file("a.txt", b"a");
    let output = world.send(&relay.of(ROLAND), "photo", &file);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(server.stop(), Some(0));
}

/// Pairs somebody who runs `m2y pair` with the root that joins; returns the code.
fn pair(owner: &Path, joiner: &Path) -> String {
    let showing = Showing::start(&["pair"], owner);
    let code = showing.code.clone();
    let output = pair_with(joiner, &code);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(showing.ends().0, Some(0));
    code
}

#[test]
fn two_people_behind_routers_pair_at_a_relay_and_send_through_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = |place: &str, who| {
        let (root, _) = Root::init(&dir.path().join(place), m2y::hooks::bundled::ALL).unwrap();
        person(&root, who);
        root
    };
    let (r, z) = (root("r", ROLAND), root("z", ZHENQIANG));
    let relay = RelayProcess::start();
    relay.join(&r, ROLAND);
    let (_server, _lines) = attending(&r);
    let code = pair(r.path(), z.path());
    assert!(code.ends_with(&format!("@{}", relay.address)), "{code}");
    // The only address that roland's card has.
    let zhenqiang = z.user(&name(ZHENQIANG)).unwrap();
    let known = zhenqiang.addresses_of(&name(ROLAND)).unwrap().unwrap();
    assert_eq!(known.to_string(), relay.of(ROLAND));
    let file = dir.path().join("photo.jpg");
    fs::write(&file, noise(300_000)).unwrap();
    let output = Command::new(M2Y)
        .args(["send", "--root"])
        .arg(z.path())
        .arg(&file)
        .arg(ROLAND)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let inbox = r.path().join("user/roland-frei/inbox");
    let arrived = common::names(&inbox, ".data");
    assert_eq!(fs::read(inbox.join(&arrived[0])).unwrap(), noise(300_000));
}

#[test]
fn contacts_hear_in_their_next_session_where_a_user_is_reached_now() {
    let world = World::new(OPEN);
    let relay = RelayProcess::start();
    let server = Process::serve(&world.there);
    let known = || {
        let known = world.sender.addresses_of(&name(ROLAND)).unwrap();
        known.map(|known| known.to_string()).unwrap_or_default()
    };
    let direct: Addresses = server.address.parse().unwrap();
    world.sender.set_addresses(&name(ROLAND), &direct).unwrap();
    let send = |file: &str| {
        let file = world.file(file, file.as_bytes());
        let output = world.send(&server.address, "photo", &file);
        assert!(output.status.success(), "{}", said(&output));
    };
    send("a.txt");
    assert_eq!(known(), server.address);
    relay.join(&world.there, ROLAND);
    send("b.txt");
    assert_eq!(known(), format!("{}, {}", server.address, relay.of(ROLAND)));
    // What m2y.ini says goes first, and what is no longer said is forgotten.
    let ini = "[server]\naddress = quic://roland.example.org:5000\n";
    fs::write(world.here.path().join("m2y.ini"), ini).unwrap();
    send("c.txt");
    let back = world.receiver.addresses_of(&name(ZHENQIANG)).unwrap();
    assert_eq!(back.unwrap().to_string(), "quic://roland.example.org:5000");
    fs::write(world.here.path().join("m2y.ini"), "").unwrap();
    send("e.txt");
    let back = world.receiver.addresses_of(&name(ZHENQIANG)).unwrap();
    assert_eq!(back, None);
    let output = Command::new(M2Y)
        .args(["relay", "leave", "relay", "--root"])
        .arg(world.there.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    send("d.txt");
    assert_eq!(known(), server.address);
}

#[test]
fn a_code_at_a_relay_is_void_after_a_guess_too() {
    let world = World::new(OPEN);
    let relay = RelayProcess::start();
    relay.join(&world.there, ROLAND);
    let showing = Showing::start(&["pair", "--folder", "photo"], world.there.path());
    assert_eq!(showing.address(), relay.address);
    let output = pair_with(world.here.path(), &showing.guess());
    assert_eq!(output.status.code(), Some(12), "{}", said(&output));
    let (status, _, errors) = showing.ends();
    assert!(errors.contains("tried with the wrong words"), "{errors}");
    assert_eq!(status, Some(12));
}

/// What a relay answers to an opening, and after how long.
fn answer(address: &str, from: [u8; 8], to: [u8; 8]) -> (AnswerHeader, Duration) {
    let header = Header {
        envelope_len: 900,
        from,
        to,
    };
    let opening = [header.encode().as_slice(), &noise(900)].concat();
    answer_to(address, &opening)
}

#[test]
fn a_stranger_cannot_tell_a_member_who_is_there_from_one_who_is_away_or_from_nobody() {
    let world = World::new(OPEN);
    let relay = RelayProcess::start();
    relay.join(&world.there, ROLAND);
    // Another member, who is away.
    relay.join(&world.here, ZHENQIANG);
    let (server, _lines) = attending(&world.there);
    let hash = |who: &str| name(who).hash();
    // One who attends, and does not answer any more.
    let pid = rustix::process::Pid::from_child(&server.child);
    let signal = |signal| rustix::process::kill_process(pid, signal).unwrap();
    for (to, stops) in [
        (ROLAND, false),
        (ROLAND, true),
        (ZHENQIANG, true),
        ("nobody", true),
        ("relay", true),
    ] {
        if stops {
            signal(rustix::process::Signal::STOP);
        }
        for from in [hash(ZHENQIANG), [7; 8]] {
            let (answer, took) = answer(&relay.address, from, hash(to));
            assert_eq!(answer, AnswerHeader::Turned(Turned::Stranger), "{to}");
            let late = took.saturating_sub(Duration::from_secs(1));
            assert!(took >= Duration::from_millis(995), "{to}: {took:?}");
            assert!(late < Duration::from_millis(700), "{to}: {took:?}");
        }
    }
    signal(rustix::process::Signal::CONT);
}

/// The same for bytes that are an opening.
fn answer_to(address: &str, opening: &[u8]) -> (AnswerHeader, Duration) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(opening).unwrap();
    let begun = Instant::now();
    let mut head = [0; header::ANSWER_LEN];
    stream.read_exact(&mut head).unwrap();
    (AnswerHeader::decode(&head).unwrap(), begun.elapsed())
}

#[test]
fn a_recording_of_an_opening_is_not_put_through_and_does_not_tell_who_is_there() {
    let world = World::new(OPEN);
    let relay = RelayProcess::start();
    relay.join(&world.there, ROLAND);
    let (_server, _lines) = attending(&world.there);
    let asked = Wire {
        session: true,
        ..peer::request(document(ZHENQIANG, ROLAND, ""), Features::default())
    };
    let opening = peer::opening(&asked, clock::millis(), ROLAND);
    let (first, _) = answer_to(&relay.address, &opening);
    assert!(matches!(first, AnswerHeader::Envelope(_)), "{first:?}");
    let (again, took) = answer_to(&relay.address, &opening);
    assert_eq!(again, AnswerHeader::Turned(Turned::Stranger));
    assert!(took >= Duration::from_millis(995), "{took:?}");
}

#[test]
fn a_member_who_is_away_is_a_reason_to_try_later_and_other_addresses_are_tried() {
    let world = World::new(OPEN);
    let relay = RelayProcess::start();
    relay.join(&world.there, ROLAND);
    let file = world.file("a.txt", b"a");
    let output = world.send(&relay.of(ROLAND), "photo", &file);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    let words = "roland-frei is not there at the relay";
    assert!(said(&output).contains(words), "{}", said(&output));
    // Somebody else listens at the first address.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let foreign = other.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = other.accept() {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let (_server, _lines) = attending(&world.there);
    let both = format!("{foreign},{}", relay.of(ROLAND));
    let output = world.send(&both, "photo", &file);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_relay_without_guests_puts_only_members_through() {
    let world = World::new(OPEN);
    let relay = RelayProcess::with("[relay]\nguests = no\n");
    relay.join(&world.there, ROLAND);
    let (_server, _lines) = attending(&world.there);
    let file = world.file("a.txt", b"a");
    let output = world.send(&relay.of(ROLAND), "photo", &file);
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    relay.join(&world.here, ZHENQIANG);
    let output = world.send(&relay.of(ROLAND), "photo", &file);
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn members_are_listed_shown_and_removed() {
    let world = World::new(OPEN);
    let relay = RelayProcess::start();
    relay.join(&world.there, ROLAND);
    relay.join(&world.here, ZHENQIANG);
    let users = relay.command(&["users", "--json"]);
    let users = String::from_utf8(users.stdout).unwrap();
    assert_eq!(users.lines().count(), 2);
    let (_server, lines) = attending(&world.there);
    let info = relay.command(&["info", ROLAND]);
    assert!(said(&info).contains("connected   for "), "{}", said(&info));
    let info = relay.command(&["info", ZHENQIANG]);
    assert!(said(&info).contains("connected   no"), "{}", said(&info));
    assert_eq!(relay.command(&["info", PETER]).status.code(), Some(4));
    assert!(relay.command(&["remove", ZHENQIANG]).status.success());
    assert_eq!(relay.command(&["info", ZHENQIANG]).status.code(), Some(4));
    // Who has left attends no longer.
    let output = Command::new(M2Y)
        .args(["relay", "leave", "relay", "--root"])
        .arg(world.there.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let until = Instant::now() + PATIENCE;
    while !relay.active().is_empty() {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
    drop(lines);
}

#[test]
fn an_invitation_is_for_its_name_and_not_for_a_user_of_the_relay() {
    let world = World::new(OPEN);
    let relay = RelayProcess::start();
    let output = relay.command(&["invite", "relay"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let invite = Showing::start(&["relay", "invite", PETER], &relay.root());
    let output = join(world.there.path(), &invite.code);
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    let words = "for peter-norton";
    assert!(said(&output).contains(words), "{}", said(&output));
    assert_ne!(invite.ends().0, Some(0));
    let users = relay.command(&["users", "--json"]);
    assert!(users.stdout.is_empty(), "{}", said(&users));
    // The code of somebody who is no relay is no way to join one.
    let two = [&world.here, &world.there].map(|root| root.path());
    let showing = Showing::start(&["pair", "--listen", "127.0.0.1:0"], two[0]);
    let output = join(two[1], &showing.code);
    assert!(!output.status.success(), "{}", said(&output));
    assert!(world.receiver.relays().unwrap().is_empty());
    // A server that is no relay says so.
    let server = Process::serve(&world.there);
    let output = Command::new(M2Y)
        .args(["relay", "active", "--root"])
        .arg(world.there.path())
        .output()
        .unwrap();
    assert!(!output.status.success(), "{}", said(&output));
    drop(server);
}

#[test]
fn a_connection_that_names_no_call_is_closed() {
    let relay = RelayProcess::start();
    let mut stream = TcpStream::connect(&relay.address).unwrap();
    stream.write_all(&header::encode_back()).unwrap();
    stream.write_all(&[7; 32]).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.is_empty());
}

#[test]
fn a_member_stops_when_its_server_does() {
    let world = World::new(OPEN);
    let relay = RelayProcess::start();
    relay.join(&world.there, ROLAND);
    let (server, _lines) = attending(&world.there);
    // Once: at a second signal it would stop at once.
    assert_eq!(server.stop(), Some(0));
    let until = Instant::now() + PATIENCE;
    while !relay.active().is_empty() {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
}

/// Asks a relay in vain, in turns, so that what else goes on falls on all alike; milliseconds of
/// each.
async fn in_vain(address: &str, asked: &[([u8; 8], [u8; 8])], each: usize) -> Vec<Vec<f64>> {
    let times = std::sync::Mutex::new(vec![Vec::new(); asked.len()]);
    let one = |mut random: Random, rounds: usize| {
        let times = &times;
        async move {
            for _ in 0..rounds {
                let mut order: Vec<usize> = (0..asked.len()).collect();
                for at in 1..order.len() {
                    order.swap(at, random.below(at as u64 + 1) as usize);
                }
                for which in order {
                    let (from, to) = asked[which];
                    let address = address.to_owned();
                    let asking = move || answer(&address, from, to);
                    let (answer, took) = tokio::task::spawn_blocking(asking).await.unwrap();
                    assert_eq!(answer, AnswerHeader::Turned(Turned::Stranger));
                    let mut times = times.lock().unwrap();
                    times[which].push(took.as_secs_f64() * 1e3);
                }
            }
        }
    };
    let many = (0..40).map(|seed| one(Random(seed), each.div_ceil(40)));
    futures_util::future::join_all(many).await;
    times.into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes ten minutes"]
async fn over_ten_thousand_answers_the_time_tells_nothing() {
    let world = World::new(OPEN);
    let relay = RelayProcess::with("[relay]\npairs_per_address = 1000\npairs_per_member = 1000\n");
    relay.join(&world.there, ROLAND);
    relay.join(&world.here, ZHENQIANG);
    let (_server, _lines) = attending(&world.there);
    let hash = |who: &str| name(who).hash();
    let asked = [
        ([7; 8], hash("nobody")),
        ([7; 8], hash(ROLAND)),
        (hash(ZHENQIANG), hash(ROLAND)),
        (hash(ROLAND), hash(ZHENQIANG)),
    ];
    let times = in_vain(&relay.address, &asked, 2_500).await;
    for (what, samples) in ["nobody", "there", "there, a contact", "away"]
        .iter()
        .zip(&times)
    {
        let (z, ks) = compare(samples, &times[0]);
        let apart = median(samples) - median(&times[0]);
        println!(
            "{what}: median {:.3} ms ({apart:+.3}), Mann-Whitney {z:+.2}, KS {ks:.2} of its limit",
            median(samples)
        );
        assert!(apart.abs() < 0.5 && z.abs() < 3.29 && ks < 1.0, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_pairs_outlive_the_relays_process_and_files_go_on_where_they_were() {
    const PAIRS: usize = 100;
    const LEN: usize = 600_000;
    let world = World::new(OPEN);
    let ini = "[relay]\npairs_per_member = 200\npairs_per_address = 200\n";
    let mut relay = RelayProcess::with(ini);
    relay.join(&world.there, ROLAND);
    let (_server, lines) = attending(&world.there);
    let bytes = noise(LEN);
    let mut sending = JoinSet::new();
    for n in 0..PAIRS {
        let meta = world.meta("photo", &world.file(&format!("{n}.bin"), &bytes));
        let address = relay.of(ROLAND);
        // So slowly that it is under way when the relay goes.
        let pace = Arc::new(Pace::new(NonZeroU64::new(LEN as u64 / 12).unwrap()));
        sending.spawn(async move {
            let out = SendJob::open(&meta).unwrap();
            let route = Route::find(None, Some(&address), &out).unwrap();
            let route = route.paced(Some(pace)).persistent();
            client::deliver(&route, &out, &Unobserved).await.unwrap();
            out.resumed()
        });
    }
    // A hidden file for each that is under way.
    let under_way = || {
        let names = fs::read_dir(world.photo()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name());
        names
            .filter(|name| name.to_string_lossy().starts_with('.'))
            .count()
    };
    let end = Instant::now() + PATIENCE;
    while under_way() < PAIRS {
        assert!(Instant::now() < end, "{} under way", under_way());
        std::thread::sleep(Duration::from_millis(50));
    }
    relay.kill();
    relay.restart();
    wait_for(&lines, "attending");
    let resumed = sending.join_all().await;
    assert_eq!(resumed.len(), PAIRS);
    // Not from the beginning, unless hardly anything had come.
    assert!(resumed.iter().filter(|held| **held > 0).count() > PAIRS / 2);
    let arrived = world.arrived(".data");
    assert_eq!(arrived.len(), PAIRS);
    for data in arrived {
        assert!(fs::read(world.photo().join(data)).unwrap() == bytes);
    }
}

/// Memory that a process holds, in bytes.
fn resident(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() << 10
}

/// Attends as a member of a relay; the relay is not listened to.
fn attend_as(member: &str, key: &PrivateKey, relay: &PublicKey, address: &str) -> TcpStream {
    let asked = Wire {
        session: true,
        attend: Some(Attend::Calls),
        ..peer::request(document(member, "relay", ""), Features::default())
    };
    let json = asked.to_json();
    let header = Header {
        envelope_len: envelope::sealed_len(json.len(), key.public(), relay).unwrap(),
        from: name(member).hash(),
        to: name("relay").hash(),
    }
    .encode();
    let contents = Contents {
        time: clock::millis(),
        share: Share::new(&mut SysRng).unwrap().public,
        json: Zeroizing::new(json.as_bytes().to_vec()),
    };
    let sealed = envelope::seal(Part::Opening, &header, &contents, key, relay, &mut SysRng);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&header).unwrap();
    stream.write_all(&sealed.unwrap().bytes).unwrap();
    let mut head = [0; header::ANSWER_LEN];
    stream.read_exact(&mut head).unwrap();
    let AnswerHeader::Envelope(len) = AnswerHeader::decode(&head).unwrap() else {
        panic!("{member} is refused");
    };
    stream.read_exact(&mut vec![0; len]).unwrap();
    stream
}

/// `cargo test --release --test relay -- --ignored --nocapture ten_thousand_members`
#[test]
#[ignore = "takes minutes, and 20,000 descriptors"]
fn ten_thousand_members_attend_and_take_little_memory() {
    const MEMBERS: usize = 10_000;
    const THREADS: usize = 4;
    let ini = "[server]\nmax_connections = 19000\nmax_connections_per_address = 19000\n";
    let relay = RelayProcess::with(ini);
    let root = Root::open(&relay.root()).unwrap();
    let user = root.user(&name("relay")).unwrap();
    // One key for all: what they cost the relay is the same.
    let key = PrivateKey::from_pem(&common::key(ZHENQIANG)).unwrap();
    let theirs = user.public_key().unwrap();
    let members: Vec<_> = (0..MEMBERS).map(|n| format!("member-{n}")).collect();
    for member in &members {
        user.add_contact(&name(member), key.public(), false)
            .unwrap();
    }
    drop(attend_as(&members[0], &key, &theirs, &relay.address));
    let before = resident(relay.child.id());
    let begun = Instant::now();
    let streams: Vec<_> = std::thread::scope(|scope| {
        let attending = members.chunks(MEMBERS / THREADS).map(|some| {
            let (key, theirs, address) = (&key, &theirs, &relay.address);
            scope.spawn(move || {
                let each = some.iter();
                let each = each.map(|member| attend_as(member, key, theirs, address));
                each.collect::<Vec<_>>()
            })
        });
        let attending: Vec<_> = attending.collect();
        let joined = attending.into_iter().map(|thread| thread.join().unwrap());
        joined.flatten().collect()
    });
    let took = begun.elapsed();
    assert_eq!(streams.len(), MEMBERS);
    let each = || (resident(relay.child.id()).saturating_sub(before)) / MEMBERS;
    // They are silent, which they may be for 90 seconds; what was freed goes back to the system after
    // a while.
    let end = Instant::now() + Duration::from_secs(20);
    let mut least = each();
    while Instant::now() < end {
        std::thread::sleep(Duration::from_secs(1));
        least = least.min(each());
    }
    assert_eq!(relay.active().len(), MEMBERS);
    println!("{MEMBERS} members in {took:?}, {least} bytes each");
    assert!(least <= 16 << 10, "{least} bytes each");
}

#[test]
fn an_invitation_as_a_document_lets_one_person_in_once() {
    let world = World::new(OPEN);
    let relay = RelayProcess::start();
    let invite = ["invite", "--document", "--address", &relay.address, ROLAND];
    let output = relay.command(&invite);
    assert!(output.status.success(), "{}", said(&output));
    let path = world.dir.path().join("invitation.json");
    fs::write(&path, &output.stdout).unwrap();
    let path = path.to_str().unwrap();
    // It is for nobody else.
    let output = join(world.here.path(), path);
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    let output = join(world.there.path(), path);
    assert!(output.status.success(), "{}", said(&output));
    let (_server, _lines) = attending(&world.there);
    assert_eq!(relay.active(), [ROLAND]);
    let file = world.file("a.txt", b"a");
    let output = world.send(&relay.of(ROLAND), "photo", &file);
    assert!(output.status.success(), "{}", said(&output));
    let output = join(world.there.path(), path);
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    let output = join(world.there.path(), "no-such-file");
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
}

#[test]
fn a_burst_of_connections_leaves_members_and_pairs_alone() {
    const BURST: usize = 10_000;
    let world = World::new(OPEN);
    let relay = RelayProcess::start();
    relay.join(&world.there, ROLAND);
    let (_server, _lines) = attending(&world.there);
    // More than are allowed from one host; some say something, none of it a whole opening.
    let mut open = Vec::new();
    for n in 0..BURST {
        let Ok(mut stream) = TcpStream::connect(&relay.address) else {
            continue;
        };
        let _ = stream.write_all(&[0, 1][..n % 3]);
        open.push(stream);
    }
    assert_eq!(relay.active(), [ROLAND]);
    drop(open);
    let file = world.file("a.bin", &noise(100_000));
    let end = Instant::now() + PATIENCE;
    while !world
        .send(&relay.of(ROLAND), "photo", &file)
        .status
        .success()
    {
        assert!(Instant::now() < end);
    }
    assert_eq!(world.arrived(".data").len(), 1);
}

#[test]
fn members_who_want_to_be_found_become_contacts_by_requests_at_the_relay() {
    let dir = tempfile::tempdir().unwrap();
    let relay = RelayProcess::start();
    let root = |place: &str, who| {
        let (root, _) = Root::init(&dir.path().join(place), &[]).unwrap();
        person(&root, who);
        fs::write(root.path().join("m2y.ini"), "[presence]\nlisted = yes\n").unwrap();
        relay.join(&root, who);
        root
    };
    let (r, z) = (root("r", ROLAND), root("z", ZHENQIANG));
    let servers = [&r, &z].map(attending);
    let m2y = |root: &Root, args: &[&str]| {
        let output = Command::new(M2Y)
            .args(args)
            .args(["--json", "--root"])
            .arg(root.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        let lines = String::from_utf8(output.stdout).unwrap();
        let read = lines.lines().map(serde_json::from_str);
        read.collect::<Result<Vec<Value>, _>>().unwrap()
    };
    let end = Instant::now() + PATIENCE;
    while m2y(&z, &["relay", "who"]).len() < 2 {
        assert!(Instant::now() < end, "both are found");
    }
    let brought = |root: &Root| {
        let end = Instant::now() + PATIENCE;
        loop {
            let list = m2y(root, &["contact", "list"]);
            if let Some(found) = list.iter().find(|one| one["request"].is_string()) {
                return found["file"].as_str().unwrap().to_owned();
            }
            assert!(Instant::now() < end, "nothing is brought");
        }
    };
    // One that goes to nobody looks the same.
    m2y(&z, &["contact", "request", "nobody", "--via", "relay"]);
    m2y(&z, &["contact", "request", ROLAND, "--via", "relay"]);
    let request = brought(&r);
    m2y(&r, &["contact", "add", &request, "--via", "relay"]);
    let answer = brought(&z);
    m2y(&z, &["contact", "accept", &answer]);
    let key = |root: &Root, user: &str, of: &str| {
        let user = root.user(&name(user)).unwrap();
        user.contact(&name(of)).unwrap().key.fingerprint()
    };
    assert_eq!(key(&z, ZHENQIANG, ROLAND), key(&r, ROLAND, ROLAND));
    assert_eq!(key(&r, ROLAND, ZHENQIANG), key(&z, ZHENQIANG, ZHENQIANG));
    let left = |root| {
        m2y(root, &["contact", "list"])
            .iter()
            .any(|one| one["request"].is_string())
    };
    assert!(!left(&r) && !left(&z));
    drop(servers);
}

#[test]
fn somebody_who_does_not_read_is_let_go_and_holds_up_nobody() {
    let config = format!("{OPEN}[share]\n{ZHENQIANG} = list get put\n");
    let world = World::new(&config);
    let relay = RelayProcess::with("[server]\nidle_deadline = 2s\n");
    relay.join(&world.there, ROLAND);
    let (_server, _lines) = attending(&world.there);
    fs::write(world.photo().join("large.bin"), noise(100_000_000)).unwrap();
    let pairs = || {
        let said = said(&relay.command(&["active"]));
        said.contains("1 pair joined")
    };
    let back = world.dir.path().join("back");
    let mut getting = Command::new(M2Y)
        .args(["get", "--limit", "1M", "-o"])
        .arg(&back)
        .arg(format!("{ROLAND}:photo/large.bin"))
        .args(["--server", &relay.of(ROLAND), "--root"])
        .arg(world.here.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let until = |what: &str, is: &dyn Fn() -> bool| {
        let end = Instant::now() + PATIENCE;
        while !is() {
            assert!(Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    until("it is joined", &pairs);
    // Not before it has asked: somebody who wants nothing is let go later.
    until("some of it has come", &|| {
        let files = fs::read_dir(&back).into_iter().flatten().flatten();
        files
            .map(|file| file.metadata().map_or(0, |about| about.len()))
            .any(|len| len > 0)
    });
    let pid = rustix::process::Pid::from_child(&getting);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    // Others go their way meanwhile.
    let file = world.file("a.txt", b"a");
    let output = world.send(&relay.of(ROLAND), "photo", &file);
    assert!(output.status.success(), "{}", said(&output));
    until("it is let go", &|| !pairs());
    getting.kill().unwrap();
    getting.wait().unwrap();
}
