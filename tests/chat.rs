//! Messages and conversations.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use common::{
    M2Y, OPEN, PETER, Process, ROLAND, Random, World, ZHENQIANG, introduce, name, peer, person,
    relay_process::{PATIENCE, RelayProcess, wait_for_all},
    said,
    terminal::Terminal,
};
use m2y::{
    client::{Route, chat},
    guide::PAGES,
    meta::{Meta, TransferId, Wire},
    root::{
        Root,
        message_log::{self, Entry, LoggedMessage, Reader, SentState},
    },
    wire::record,
};
use serde_json::Value;

/// The messages in a folder, and what became of those that were sent.
fn log(folder: &Path) -> (Vec<LoggedMessage>, Vec<SentState>) {
    let dir = cap_std::fs::Dir::open_ambient_dir(folder, cap_std::ambient_authority()).unwrap();
    let (mut messages, mut states) = (Vec::new(), Vec::new());
    let Some(mut reader) = Reader::open(&dir).unwrap() else {
        return (messages, states);
    };
    while let Some(entry) = reader.next_entry().unwrap() {
        match entry {
            Entry::Message(message) => messages.push(message),
            Entry::State(_, state) => states.push(state),
        }
    }
    (messages, states)
}

fn texts(folder: &Path) -> Vec<String> {
    log(folder).0.into_iter().map(|one| one.text).collect()
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "not {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Two people who can talk: zhenqiang here, and roland-frei there, with a folder `chat`.
struct Talk(World);

impl Talk {
    fn new(config: &str) -> Self {
        Self::within(World::new(OPEN), config)
    }

    fn within(world: World, config: &str) -> Self {
        world.folder("chat", config);
        Self(world)
    }

    fn theirs(&self) -> PathBuf {
        self.0.there.path().join(format!("user/{ROLAND}/chat"))
    }

    fn ours(&self) -> PathBuf {
        self.0.here.path().join(format!("user/{ZHENQIANG}/chat"))
    }

    fn command(&self, server: &str) -> Command {
        let mut command = Command::new(M2Y);
        command
            .args(["chat", ROLAND, "--server", server, "--root"])
            .arg(self.0.here.path());
        command
    }

    fn say(&self, server: &str, text: &str) -> Output {
        self.command(server).args(["-m", text]).output().unwrap()
    }
}

/// A chat of a program.
struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Value>,
}

impl Program {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .arg("--json")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (give, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = give.send(serde_json::from_str(&line).unwrap());
            }
        });
        Self {
            child,
            stdin,
            lines,
        }
    }

    fn say(&mut self, object: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{object}").unwrap();
    }

    /// The next object with this status.
    fn hears(&self, status: &str) -> Value {
        loop {
            let object = self.lines.recv_timeout(PATIENCE).expect(status);
            if object["status"] == status {
                return object;
            }
        }
    }

    /// Ends the input; returns the exit code.
    fn ends(mut self) -> Option<i32> {
        drop(self.stdin.take());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_message_is_in_the_log_of_both_before_its_sender_hears_of_it() {
    let share = format!("{OPEN}[share]\n{ZHENQIANG} = list get put rm mv\n");
    let talk = Talk::new(&share);
    let server = Process::serve(&talk.0.there);
    let output = talk.say(&server.address, "hello? :tada:");
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("✓✓ hello? 🎉"), "{}", said(&output));
    let (came, _) = log(&talk.theirs());
    assert_eq!(came.len(), 1);
    assert_eq!(came[0].text, "hello? 🎉");
    assert_eq!(
        (came[0].from.as_str(), came[0].to.as_str()),
        (ZHENQIANG, ROLAND)
    );
    let (sent, states) = log(&talk.ours());
    assert_eq!((sent.len(), sent[0].id), (1, came[0].id));
    assert_eq!(states, [SentState::Delivered]);
    // Nobody else can see it, or put one there.
    let m2y = |args: &[&str]| {
        let mut command = Command::new(M2Y);
        command
            .args(args)
            .args(["--server", &server.address, "--root"]);
        command.arg(talk.0.here.path()).output().unwrap()
    };
    let listed = m2y(&["ls", "-R", &format!("{ROLAND}:chat")]);
    assert!(
        listed.status.success() && !said(&listed).contains("ndjson"),
        "{}",
        said(&listed)
    );
    let log = format!("{ROLAND}:chat/{}", message_log::FILE);
    assert_eq!(m2y(&["get", &log]).status.code(), Some(4));
    assert_eq!(m2y(&["rm", &log]).status.code(), Some(4));
    let file = talk.0.file("m.txt", b"{}");
    assert!(!m2y(&["put", file.to_str().unwrap(), &log]).status.success());
    let history = talk
        .command("127.0.0.1:1")
        .arg("--history")
        .output()
        .unwrap();
    assert!(said(&history).contains("hello? 🎉"), "{}", said(&history));
}

#[test]
fn a_message_that_is_not_taken_says_why() {
    let world = World::new(OPEN);
    let talk = Talk(world);
    let server = Process::serve(&talk.0.there);
    let output = talk.say(&server.address, "hello?");
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    assert!(
        said(&output).contains("has no folder chat"),
        "{}",
        said(&output)
    );
    assert!(matches!(&log(&talk.ours()).1[..], [SentState::Failed(_)]));
    let rule = "if event.text.contains(\"spam\") { reject(\"no advertising\"); }";
    let folder = talk.0.folder("chat", "[OnMeta]\nrule.rhai\n");
    fs::write(folder.path_of("rule.rhai"), rule).unwrap();
    let output = talk.say(&server.address, "spam!");
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    assert!(
        said(&output).contains("no advertising"),
        "{}",
        said(&output)
    );
    assert!(talk.say(&server.address, "hello?").status.success());
    assert_eq!(texts(&talk.theirs()), ["hello?"]);
    let long = "x".repeat(16_385);
    assert_eq!(talk.say(&server.address, &long).status.code(), Some(2));
    assert!(talk.say(&server.address, &long[1..]).status.success());
    server.stop();
    let output = talk.say("127.0.0.1:1", "anybody?");
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    let mut history = talk.command("127.0.0.1:1");
    let history = said(&history.arg("--history").output().unwrap());
    assert!(history.contains("anybody?  (not delivered)"), "{history}");
}

#[test]
fn programs_hear_what_becomes_of_messages_and_what_comes_in_their_order() {
    let talk = Talk::new(OPEN);
    let back = talk.0.sender.create_folder(&name("chat")).unwrap();
    fs::write(back.path_of("m2y.config"), OPEN).unwrap();
    let server = Process::serve(&talk.0.there);
    let mut here = Program::start(talk.command(&server.address));
    for n in 0..500 {
        here.say(&format!("{{\"text\":\"number {n}\"}}"));
    }
    let numbers: Vec<_> = (0..500).map(|n| format!("number {n}")).collect();
    let mut ticked: Vec<_> = (0..500)
        .map(|_| here.hears("delivered")["text"].as_str().unwrap().to_owned())
        .collect();
    // Ticks come when they come; the messages are in order.
    assert_eq!(texts(&talk.theirs()), numbers);
    ticked.sort_by_key(|text| text.split_once(' ').unwrap().1.parse::<u32>().unwrap());
    assert_eq!(ticked, numbers);
    // What comes: the chat itself receives, because no server does.
    let control = talk.0.here.path().join("control.sock");
    until("the chat receives", || control.exists());
    here.say("{\"text\":17}");
    assert_eq!(here.ends(), Some(2));
}

#[test]
fn a_bot_answers_once_and_two_bots_stop() {
    let bot = "[OnMeta]\n[OnMessage]\nbot.rhai\n[outbox]\nauto = yes\n";
    let talk = Talk::new(bot);
    let script = r#"
        log.info(`heard ${event.text}`);
        if event.text == "status?" || meta.automatic == true {
            let sent = reply(`${folder.list("*.jpg").len()} pictures`);
            log.info(`answered: ${sent}`);
        }
    "#;
    let back = talk.0.sender.create_folder(&name("chat")).unwrap();
    fs::write(back.path_of("m2y.config"), bot).unwrap();
    for folder in [talk.theirs(), talk.ours()] {
        fs::write(folder.join("bot.rhai"), script).unwrap();
    }
    let (there, lines) = Process::serve_with_lines(&talk.0.there);
    let here = Process::serve(&talk.0.here);
    let addresses = here.address.parse().unwrap();
    talk.0
        .receiver
        .set_addresses(&name(ZHENQIANG), &addresses)
        .unwrap();
    assert!(talk.say(&there.address, "status?").status.success());
    wait_for_all(&lines, &["heard status?", "answered: true"]);
    until("it is answered", || texts(&talk.ours()).len() == 2);
    let (messages, _) = log(&talk.ours());
    assert_eq!(messages[1].text, "0 pictures");
    assert!(messages[1].is_automatic && !messages[0].is_automatic);
    // The bot here heard the answer, and said nothing to it.
    until("all is done", || {
        let events = Command::new(M2Y)
            .args(["events", "list", "--root"])
            .arg(talk.0.here.path())
            .output()
            .unwrap();
        said(&events).contains("no pending events")
    });
    until("the answer is logged", || {
        log(&talk.theirs()).1 == [SentState::Delivered]
    });
    assert_eq!(texts(&talk.theirs()), ["status?", "0 pictures"]);
    assert_eq!(texts(&talk.ours()), ["status?", "0 pictures"]);
    let left = common::names(&talk.theirs(), ".meta");
    assert!(left.is_empty(), "{left:?}");
    there.stop();
    here.stop();
}

#[test]
fn a_program_as_a_hook_is_told_what_a_message_says() {
    let talk = Talk::new("[OnMeta]\nask.sh\n[OnMessage]\ntell.sh\n");
    let script = |file: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = talk.theirs().join(file);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    script(
        "ask.sh",
        "#!/bin/sh\ncase \"$M2Y_TEXT\" in no*) sed -i 's/\"error\": \"\"/\"error\": \"not so\"/' \"$1\";; esac\n",
    );
    script(
        "tell.sh",
        "#!/bin/sh\nprintf %s \"$M2Y_FROM: $M2Y_TEXT\" > told.tmp\nmv told.tmp told\n",
    );
    let server = Process::serve(&talk.0.there);
    let output = talk.say(&server.address, "not me");
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    assert!(said(&output).contains("not so"), "{}", said(&output));
    assert!(talk.say(&server.address, "yes $me\n2").status.success());
    let told = talk.theirs().join("told");
    until("told", || told.exists());
    assert_eq!(
        fs::read_to_string(told).unwrap(),
        format!("{ZHENQIANG}: yes $me\n2")
    );
    // The .meta that programs read is there as long as they run.
    until("nothing is left", || {
        let entries = fs::read_dir(talk.theirs()).unwrap();
        let mut names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        !names.any(|name| name.starts_with(".message"))
    });
}

#[test]
fn a_message_for_somebody_who_is_away_waits_at_the_relay() {
    let talk = Talk::new(OPEN);
    let relay = RelayProcess::start();
    relay.join(&talk.0.there, ROLAND);
    let (server, lines) = Process::serve_with_lines(&talk.0.there);
    wait_for_all(&lines, &["attending", "the mailbox is in order"]);
    let address = server.address.parse().unwrap();
    talk.0
        .sender
        .set_addresses(&name(ROLAND), &address)
        .unwrap();
    let chat = |args: &[&str]| {
        let mut command = Command::new(M2Y);
        command
            .args(["chat", ROLAND, "--root"])
            .arg(talk.0.here.path());
        command.args(args).output().unwrap()
    };
    // In their first session zhenqiang hears of the box, and the relay too.
    assert!(chat(&["-m", "first"]).status.success());
    wait_for_all(&lines, &["the mailbox is in order"]);
    server.stop();
    let output = chat(&["-m", "are you there?"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("✓ are you there?  (waits at the relay"),
        "{}",
        said(&output)
    );
    assert_eq!(log(&talk.ours()).1, [SentState::Delivered, SentState::Left]);
    let (_server, lines) = Process::serve_with_lines(&talk.0.there);
    wait_for_all(&lines, &["received a message"]);
    assert_eq!(texts(&talk.theirs()), ["first", "are you there?"]);
    // The receipt is heard of by the server of the sender.
    let _here = Process::serve(&talk.0.here);
    until("the receipt is here", || log(&talk.ours()).1.len() == 3);
    assert_eq!(log(&talk.ours()).1[2], SentState::Delivered);
}

/// A person with a terminal on which a chat runs.
fn at_terminal(root: &Root, args: &[&str]) -> Terminal {
    let mut command = Command::new(M2Y);
    command.args(["chat", "--root"]).arg(root.path()).args(args);
    // Where its files are.
    command.current_dir(root.path().parent().unwrap());
    Terminal::sized(command, (40, 100))
}

/// A video of some seconds; noise, where there is no ffmpeg to make one.
fn video(path: &Path) {
    let made = Command::new("ffmpeg")
        .args([
            "-loglevel",
            "error",
            "-f",
            "lavfi",
            "-i",
            "testsrc=duration=4:size=640x360:rate=25",
        ])
        .args(["-f", "mpegts"])
        .arg(path)
        .status();
    if !made.is_ok_and(|status| status.success()) {
        fs::write(path, common::noise(700_000)).unwrap();
    }
}

fn has_line(words: &str) -> impl Fn(&[String]) -> bool {
    move |lines| lines.iter().any(|line| line.contains(words))
}

#[test]
fn three_people_talk_through_a_relay_as_in_the_first_program() {
    let dir = tempfile::tempdir().unwrap();
    let relay = RelayProcess::start();
    let people = [("a", ZHENQIANG), ("b", ROLAND), ("c", PETER)];
    let roots = people.map(|(place, who)| {
        let (root, _) = Root::init(&dir.path().join(place).join("m2y"), &[]).unwrap();
        fs::write(
            root.path().join("m2y.ini"),
            "[server]\nlisten = 127.0.0.1:0\n",
        )
        .unwrap();
        let user = person(&root, who);
        relay.join(&root, who);
        (root, user)
    });
    for (at, (_, one)) in roots.iter().enumerate() {
        for (_, other) in &roots[at + 1..] {
            introduce(one, other);
            for (user, of) in [(one, other), (other, one)] {
                let address = relay.of(of.name().as_str()).parse().unwrap();
                user.set_addresses(of.name(), &address).unwrap();
            }
        }
    }
    let inbox = roots[2].1.create_folder(&name("in")).unwrap();
    fs::write(inbox.path_of("m2y.config"), OPEN).unwrap();
    roots[1].1.set_folder(&name(PETER), &name("in")).unwrap();
    let from = dir.path().join("b");
    let (picture, text) = (common::noise(134_695), [b't'; 39]);
    fs::write(from.join("yo_en_png.png"), &picture).unwrap();
    fs::write(from.join("test_file.txt"), text).unwrap();
    video(&from.join("video.MP4"));
    let seen = "cat > seen.part && mv seen.part seen.ts";
    let mut screens = roots
        .each_ref()
        .map(|(root, _)| at_terminal(root, &["--exec", seen]));
    let [a, b, c] = &mut screens;
    for screen in [&mut *a, &mut *b, &mut *c] {
        screen.until("greeted", has_line("Write NAME:message."));
    }
    until("all attend", || relay.active().len() >= 3);
    b.press(&format!("{ZHENQIANG}:hello?\r"));
    a.until("heard", has_line(&format!("{ROLAND}: hello?")));
    b.until("ticked", has_line("✓✓ hello?"));
    a.press(&format!("{ROLAND}:(L)\r"));
    b.until("heard", has_line(&format!("{ZHENQIANG}: ♥")));
    a.press(&format!("{PETER}:(K)\r"));
    c.until("heard", has_line(&format!("{ZHENQIANG}: 💋")));
    b.press(&format!("{ZHENQIANG}::) How are you??? (8)\r"));
    a.until("heard", has_line(&format!("{ROLAND}: 😀")));
    a.until("heard", has_line("How are you??? 🎵"));
    c.press(&format!("{ZHENQIANG}::[\r"));
    a.until("heard", has_line(&format!("{PETER}: 🧛")));
    // Nobody hears what is for somebody else.
    assert!(!b.lines().iter().any(|line| line.contains("💋")));
    // Files by their numbers, and a stream with consent.
    b.press("/ls\r");
    b.until("listed", |lines| {
        let all = ["0  test_file.txt", "1  video.MP4", "2  yo_en_png.png"];
        all.iter().all(|file| has_line(file)(lines))
    });
    b.press(&format!("{PETER}:/send 2\r"));
    b.until("sent", has_line(&format!("sent yo_en_png.png to {PETER}")));
    b.press(&format!("{PETER}:/send 0\r"));
    b.until("sent", has_line(&format!("sent test_file.txt to {PETER}")));
    let mut came: Vec<_> = common::names(inbox.path(), ".data")
        .iter()
        .map(|file| fs::read(inbox.path_of(file)).unwrap())
        .collect();
    came.sort_by_key(Vec::len);
    assert!(came == [text.to_vec(), picture]);
    b.press(&format!("{ZHENQIANG}:/stream 1\r"));
    a.until(
        "asked",
        has_line("wants to stream video.MP4: /y to watch it"),
    );
    // Meanwhile the operator of the relay looks.
    let status = Command::new(M2Y)
        .args(["status", "--json", "--root"])
        .arg(relay.root())
        .output()
        .unwrap();
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["users"][0]["user"], "relay");
    assert_eq!(status["users"][0]["contacts"], 3);
    let present = status["relay"]["present"].as_array().unwrap();
    let mut there: Vec<_> = present
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    there.sort_unstable();
    assert_eq!(there, [PETER, ROLAND, ZHENQIANG]);
    assert!(status["relay"]["pairs"].as_u64().unwrap() > 0);
    assert!(status["process"]["tasks"].as_u64().unwrap() > 0);
    a.press("/y\r");
    b.until("watched", has_line("has watched video.MP4 to its end"));
    a.until(
        "ended",
        has_line(&format!("video.MP4 of {ROLAND} has ended")),
    );
    let there = fs::read(dir.path().join("a/seen.ts")).unwrap();
    assert!(there == fs::read(from.join("video.MP4")).unwrap());
    b.press("/who\r");
    b.until("told, at the beginning and now", |lines| {
        let told = |line: &&String| line.contains("none of your contacts show");
        lines.iter().filter(told).count() == 2
    });
    b.press("hello\r");
    b.until("told", has_line("name the recipient: NAME:message"));
    for screen in &mut screens {
        screen.press("/quit\r");
        assert_eq!(screen.end(), Some(0));
    }
}

#[test]
fn whatever_a_message_says_the_terminal_stays_as_it_is() {
    let talk = Talk::new(OPEN);
    fs::write(
        talk.0.there.path().join("m2y.ini"),
        "[server]\nlisten = 127.0.0.1:0\n",
    )
    .unwrap();
    let server = Process::serve(&talk.0.there);
    let mut screen = at_terminal(&talk.0.there, &[ZHENQIANG]);
    screen.until("greeted", has_line("You are talking to"));
    let marks = format!("e{}", "\u{301}".repeat(8_000));
    for text in [
        "\u{1b}[2J\u{1b}[1;1Hgone\u{7}",
        "a\u{202e}b\u{2066}c",
        "\u{1b}]0;title\u{7}\u{9b}31m",
        &marks,
        "two\nlines\r\n\u{0}three",
    ] {
        let mut here = Program::start(talk.command(&server.address));
        here.say(&serde_json::json!({ "text": text }).to_string());
        here.hears("delivered");
        assert_eq!(here.ends(), Some(0));
    }
    let lines = screen.until("shown", has_line("three"));
    assert!(has_line("You are talking to")(&lines), "{lines:#?}");
    assert!(
        has_line(r"\u{1b}[2J\u{1b}[1;1Hgone\u{7}")(&lines),
        "{lines:#?}"
    );
    assert!(has_line(r"a\u{202e}b\u{2066}c")(&lines), "{lines:#?}");
    assert!(has_line(r"\u{9b}31m")(&lines), "{lines:#?}");
    let escaped = String::from_utf8_lossy(&screen.written).into_owned();
    assert!(!escaped.contains("\u{1b}]0;") && !escaped.contains('\u{202e}'));
    assert!(escaped.matches('\u{301}').count() < 100);
}

/// Kills one side amid messages, again and again.
fn killed(rounds: u32, messages: usize, hooks: &str) {
    let talk = Talk::new(&format!("{OPEN}{hooks}"));
    let note = "folder.append(\"heard.txt\", `${event.text}\n`);";
    fs::write(talk.theirs().join("note.rhai"), note).unwrap();
    let mut random = Random(11);
    let mut said: Vec<String> = Vec::new();
    let mut ticked: Vec<String> = Vec::new();
    for round in 0..rounds {
        let server = Process::serve(&talk.0.there);
        let mut here = Program::start(talk.command(&server.address));
        for n in 0..messages {
            let text = format!("{round} {n}");
            here.say(&format!("{{\"text\":\"{text}\"}}"));
            said.push(text);
        }
        let after = random.below(messages as u64) as usize;
        let mut heard = 0;
        let mut hear = |object: Value| {
            if object["status"] == "delivered" {
                ticked.push(object["text"].as_str().unwrap().to_owned());
                return true;
            }
            false
        };
        while heard < after {
            let object = here.lines.recv_timeout(PATIENCE).unwrap();
            heard += usize::from(hear(object));
        }
        match round % 2 {
            0 => drop(server),
            _ => {
                here.child.kill().unwrap();
                here.child.wait().unwrap();
                drop(server);
            }
        }
        drop(here.stdin.take());
        while let Ok(object) = here.lines.recv_timeout(Duration::from_secs(2)) {
            hear(object);
        }
        drop(here);
        let came = texts(&talk.theirs());
        let mut sorted = came.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), came.len(), "round {round}: twice");
        for text in &ticked {
            assert!(
                came.contains(text),
                "round {round}: {text} was ticked and is lost"
            );
        }
    }
    // What a killed chat had not sent goes out with the next one.
    let server = Process::serve(&talk.0.there);
    assert!(talk.say(&server.address, "last").status.success());
    let came = texts(&talk.theirs());
    let of_rounds = |round: u32| {
        let of = came
            .iter()
            .filter(|text| text.starts_with(&format!("{round} ")));
        let numbers = of.map(|text| text.split_once(' ').unwrap().1.parse::<usize>().unwrap());
        numbers.collect::<Vec<_>>()
    };
    for round in 0..rounds {
        let numbers = of_rounds(round);
        assert!(numbers.is_sorted(), "round {round}: {numbers:?}");
    }
    if hooks.is_empty() {
        return;
    }
    // Hooks heard of each, once.
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    let expected = sorted(came.clone());
    until("all is heard of", || {
        let heard = fs::read_to_string(talk.theirs().join("heard.txt")).unwrap_or_default();
        let heard = heard.lines().map(str::to_owned).collect::<Vec<_>>();
        assert!(
            heard.len() <= expected.len(),
            "{} of {}",
            heard.len(),
            expected.len()
        );
        sorted(heard) == expected
    });
    drop(server);
}

#[test]
fn nothing_that_was_ticked_is_lost_and_nothing_comes_twice_whoever_is_killed() {
    killed(6, 200, "[OnMessage]\nnote.rhai\n");
}

#[test]
#[ignore = "takes minutes"]
fn a_hundred_kills_amid_a_thousand_messages_lose_nothing() {
    // The script would write a file of 100,000 lines anew for each.
    killed(100, 1_000, "");
}

#[test]
fn a_message_and_a_letter_with_one_id_are_one() {
    let talk = Talk::new(OPEN);
    let server = Process::serve(&talk.0.there);
    let meta = talk.0.dir.path().join("hello.meta");
    let text = serde_json::json!({
        "from": ZHENQIANG, "to": ROLAND, "folder": "chat", "filename": "", "kind": "message",
        "text": "once", "id": "0123456789abcdef0123456789abcdef",
    });
    let send = |file: &Path| {
        Command::new(M2Y)
            .args(["send", "--server", &server.address, "--root"])
            .arg(talk.0.here.path())
            .arg(file)
            .output()
            .unwrap()
    };
    for _ in 0..2 {
        fs::write(&meta, text.to_string()).unwrap();
        let output = send(&meta);
        assert!(output.status.success(), "{}", said(&output));
        let done = meta.with_extension("done");
        assert!(done.exists() && !meta.exists());
        fs::remove_file(done).unwrap();
    }
    assert_eq!(texts(&talk.theirs()), ["once"]);
    let mut other = text.clone();
    other["text"] = "something else".into();
    fs::write(&meta, other.to_string()).unwrap();
    let output = send(&meta);
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    assert!(
        said(&output).contains("something different was delivered"),
        "{}",
        said(&output)
    );
}

/// Prints the figures of the design page; run it in a release build.
#[test]
#[ignore = "prints figures"]
fn how_fast_messages_are() {
    let talk = Talk::within(World::in_memory(OPEN), OPEN);
    let server = Process::serve(&talk.0.there);
    let mut here = Program::start(talk.command(&server.address));
    let mut times = Vec::new();
    for n in 0..2_000 {
        let begun = Instant::now();
        here.say(&format!("{{\"text\":\"one {n}\"}}"));
        here.hears("delivered");
        times.push(begun.elapsed());
    }
    times.sort();
    println!(
        "a message: median {:?}, p99 {:?}",
        times[1_000], times[1_980]
    );
    const MANY: usize = 30_000;
    let mut stdin = here.stdin.take().unwrap();
    let begun = Instant::now();
    let saying = thread::spawn(move || {
        let mut stdin = std::io::BufWriter::new(&mut stdin);
        for n in 0..MANY {
            writeln!(stdin, "{{\"text\":\"many {n}\"}}").unwrap();
        }
    });
    for _ in 0..MANY {
        here.hears("delivered");
    }
    let took = begun.elapsed();
    println!(
        "{MANY} messages: {:.0} a second",
        MANY as f64 / took.as_secs_f64()
    );
    saying.join().unwrap();
    let many: Vec<_> = (0..MANY).map(|n| format!("many {n}")).collect();
    assert_eq!(texts(&talk.theirs())[2_000..], many);
}

#[test]
fn a_hook_may_add_to_a_message_and_not_change_it() {
    let talk = Talk::new("[OnMeta]\nrule.rhai\n");
    let rule = r#"
        meta.mood = "good";
        try { meta.text = "something else"; } catch (error) { log.info(`${error}`); }
    "#;
    fs::write(talk.theirs().join("rule.rhai"), rule).unwrap();
    let (server, lines) = Process::serve_with_lines(&talk.0.there);
    assert!(talk.say(&server.address, "as it is").status.success());
    wait_for_all(&lines, &["meta.text cannot be changed by a hook"]);
    assert_eq!(texts(&talk.theirs()), ["as it is"]);
}

#[test]
fn lines_of_a_program_are_messages_whatever_they_begin_with() {
    let talk = Talk::new(OPEN);
    let server = Process::serve(&talk.0.there);
    let mut command = talk.command(&server.address);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.as_mut().unwrap();
    stdin
        .write_all(b"/send /etc/hostname\n/quit\nlast\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        texts(&talk.theirs()),
        ["/send /etc/hostname", "/quit", "last"]
    );
}

#[test]
fn a_new_folder_of_messages_takes_no_files() {
    let talk = Talk(World::new(OPEN));
    talk.0.receiver.create_folder(&name("chat")).unwrap();
    let server = Process::serve(&talk.0.there);
    assert!(talk.say(&server.address, "hello?").status.success());
    let file = talk.0.file("a.txt", b"a");
    let output = talk.0.send(&server.address, "chat", &file);
    assert_eq!(output.status.code(), Some(10), "{}", said(&output));
    assert!(
        said(&output).contains("takes messages only"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_chat_goes_on_when_its_log_is_put_away() {
    let talk = Talk::new(&format!("{OPEN}[share]\n{ZHENQIANG} = list get\n"));
    let server = Process::serve(&talk.0.there);
    let mut screen = at_terminal(&talk.0.there, &[]);
    screen.until("greeted", has_line("Write NAME:message."));
    assert!(talk.say(&server.address, "one").status.success());
    screen.until("heard", has_line("one"));
    let log = talk.theirs().join(message_log::FILE);
    fs::rename(&log, log.with_extension("ndjson.1")).unwrap();
    assert!(talk.say(&server.address, "two").status.success());
    screen.until("heard", has_line("two"));
    assert_eq!(texts(&talk.theirs()), ["two"]);
    // The one that was put away is for nobody else either.
    let listed = Command::new(M2Y)
        .args([
            "ls",
            &format!("{ROLAND}:chat"),
            "--server",
            &server.address,
            "--root",
        ])
        .arg(talk.0.here.path())
        .output()
        .unwrap();
    assert!(
        listed.status.success() && !said(&listed).contains("ndjson"),
        "{}",
        said(&listed)
    );
}

#[test]
fn messages_stay_in_order_however_long_the_hooks_of_one_take() {
    let talk = Talk::new("[OnMeta]\nslow.rhai\n");
    let slow = r#"if event.text == "slow" { let n = 0; while n < 30_000 { n += 1; } }"#;
    fs::write(talk.theirs().join("slow.rhai"), slow).unwrap();
    let server = Process::serve(&talk.0.there);
    let mut here = Program::start(talk.command(&server.address));
    // The session is there, so that each is a record of its own.
    here.say("{\"text\":\"first\"}");
    here.hears("delivered");
    let said = ["slow", "1", "2", "3", "slow", "4"];
    for text in said {
        here.say(&format!("{{\"text\":\"{text}\"}}"));
        thread::sleep(Duration::from_millis(5));
    }
    for _ in said {
        here.hears("delivered");
    }
    assert_eq!(texts(&talk.theirs())[1..], said);
}

#[test]
fn a_log_that_cannot_be_written_gets_its_messages_later() {
    let talk = Talk::new(OPEN);
    let server = Process::serve(&talk.0.there);
    assert!(talk.say(&server.address, "one").status.success());
    let log = talk.theirs().join(message_log::FILE);
    let aside = log.with_extension("aside");
    fs::rename(&log, &aside).unwrap();
    fs::create_dir(&log).unwrap();
    // The journal has them.
    assert!(talk.say(&server.address, "two").status.success());
    assert!(talk.say(&server.address, "three").status.success());
    fs::remove_dir(&log).unwrap();
    fs::rename(&aside, &log).unwrap();
    until("they are there", || {
        texts(&talk.theirs()) == ["one", "two", "three"]
    });
}

#[tokio::test]
async fn what_only_says_that_it_is_a_message_is_refused_and_the_session_goes_on() {
    let talk = Talk::new(OPEN);
    let server = Process::serve(&talk.0.there);
    let message = |id: u8, change: &dyn Fn(&mut Meta)| {
        let id = TransferId([id; 16]);
        let mut meta = Meta::of_message((ZHENQIANG, ROLAND), "chat", id, "hello?").unwrap();
        meta.datetime = "30-12-2018_23-59-59".to_owned();
        change(&mut meta);
        Wire::request(meta)
    };
    let field = |name: &'static str, value: Value| {
        move |meta: &mut Meta| drop(meta.extra.insert(name.to_owned(), value.clone()))
    };
    let first = Wire {
        session: true,
        ..message(1, &|_| {})
    };
    let mut side = peer::open(&server.address, &first).await;
    let long = "\u{e9}".repeat(8_193);
    let bad: Vec<(Wire, &str)> = vec![
        (message(2, &|meta| meta.filesize = Some(1)), "refused"),
        (message(3, &|meta| meta.id = None), "refused"),
        (message(4, &field("text", "".into())), "refused"),
        (message(5, &field("text", 17.into())), "refused"),
        (message(6, &field("text", long.into())), "refused"),
        (
            message(7, &|meta| drop(meta.extra.remove("text"))),
            "refused",
        ),
        (
            message(8, &|meta| meta.folder = "../chat".to_owned()),
            "refused",
        ),
        (message(9, &|meta| meta.from = PETER.to_owned()), "refused"),
        (message(10, &|_| {}), ""),
        // The same once more, and with a different text.
        (message(10, &|_| {}), ""),
        (message(10, &field("text", "other".into())), "refused"),
    ];
    for (transfer, (asked, code)) in (1..).zip(bad) {
        side.say(record::Kind::Meta, transfer, asked.to_json().as_bytes())
            .await;
        let (head, body) = side.hear().await.unwrap();
        assert_eq!(head.transfer, transfer);
        let answer = Wire::from_json(&body).unwrap();
        assert_eq!(
            (answer.code.as_str(), answer.delivered),
            (code, code.is_empty()),
            "{transfer}"
        );
        assert!(answer.filekey.is_none());
    }
    assert_eq!(texts(&talk.theirs()), ["hello?"]);
}

/// Bytes of memory that a process holds.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
    kilobytes.parse::<u64>().unwrap() << 10
}

/// `cargo test --release --test chat -- --ignored --nocapture a_thousand_people`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and 10,000 descriptors"]
async fn a_thousand_people_talk_through_one_relay() {
    const PAIRS: usize = 500;
    const ROUNDS: u32 = 12;
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let ini = "[server]\nmax_connections = 19000\nmax_connections_per_address = 19000\n";
    let relay = RelayProcess::with(&format!("{ini}[relay]\npairs_per_address = 1024\n"));
    let mut roots = Vec::new();
    // One key for all of a side: what they cost the relay is the same.
    for (side, key) in [("here", ZHENQIANG), ("there", ROLAND)] {
        let (root, _) = Root::init(&dir.path().join(side), &[]).unwrap();
        let ini = format!("{ini}listen = 127.0.0.1:0\n");
        fs::write(root.path().join("m2y.ini"), ini).unwrap();
        let people: Vec<_> = (0..PAIRS)
            .map(|n| common::person_with_key(&root, &format!("{side}-{n}"), &common::key(key)))
            .collect();
        for user in &people {
            let folder = user.create_folder(&name("chat")).unwrap();
            fs::write(folder.path_of("m2y.config"), OPEN).unwrap();
            // Codes are counted: a thousand in a row would have to wait.
            let who = user.name().as_str();
            let invite = ["invite", "--document", "--address", &relay.address, who];
            let invitation = dir.path().join("invitation.json");
            fs::write(&invitation, relay.command(&invite).stdout).unwrap();
            let joined = Command::new(M2Y)
                .args(["relay", "join"])
                .arg(&invitation)
                .arg("--root")
                .arg(root.path())
                .env("M2Y_USER", who)
                .output()
                .unwrap();
            assert!(joined.status.success(), "{}", said(&joined));
        }
        roots.push((root, people));
    }
    let mut talks = Vec::new();
    for (one, other) in roots[0].1.iter().zip(&roots[1].1) {
        introduce(one, other);
        for (user, of) in [(one, other), (other, one)] {
            let address = relay.of(of.name().as_str()).parse().unwrap();
            user.set_addresses(of.name(), &address).unwrap();
            talks.push((user.clone(), of.name().to_string()));
        }
    }
    let servers: Vec<_> = roots.iter().map(|(root, _)| Process::serve(root)).collect();
    until("all attend", || relay.active().len() == 2 * PAIRS);
    let pid = relay.child.id();
    let attended = resident(pid);
    let (outcomes, mut became) = tokio::sync::mpsc::unbounded_channel();
    let mut chats = Vec::new();
    for (user, to) in &talks {
        let talk = chat::Talk {
            route: Route::to(user, to, None).unwrap().persistent(),
            here: user.folder(&name("chat")).unwrap(),
            there: name("chat"),
        };
        chats.push(chat::Chat::begin(talk, outcomes.clone()).await.unwrap());
    }
    // They come within a minute, all at the same two cores, and each opens a session.
    let (begun, mut most) = (Instant::now(), 0);
    for round in 0..=ROUNDS {
        let (at, apart) = match round {
            0 => (begun, Duration::from_millis(60)),
            _ => (
                begun + Duration::from_mins(1) + Duration::from_secs(5) * (round - 1),
                Duration::from_millis(5),
            ),
        };
        for ((one, _), number) in chats.iter().zip(0..) {
            tokio::time::sleep_until((at + apart * number).into()).await;
            one.say(&format!("round {round}")).await.unwrap();
        }
        most = most.max(resident(pid));
    }
    let all = 2 * PAIRS * (ROUNDS as usize + 1);
    for _ in 0..all {
        let outcome = tokio::time::timeout(PATIENCE, became.recv()).await;
        let outcome = outcome.unwrap().unwrap();
        assert_eq!(outcome.state.unwrap(), SentState::Delivered);
    }
    most = most.max(resident(pid));
    println!(
        "{all} messages of {} people, all delivered; the relay: {} MiB with all there, {} MiB at most",
        2 * PAIRS,
        attended >> 20,
        most >> 20
    );
    assert!(most < 64 << 20, "{most}");
    drop((chats, servers));
}

#[test]
fn a_message_is_shown_on_the_desktop_and_rings_the_bell() {
    let mut daemon = Command::new("dbus-daemon");
    daemon.args(["--session", "--print-address", "--nofork", "--nopidfile"]);
    let Ok(mut daemon) = daemon.stdout(Stdio::piped()).spawn() else {
        println!("there is no dbus-daemon here: not tested");
        return;
    };
    let mut address = String::new();
    let mut said = BufReader::new(daemon.stdout.take().unwrap());
    said.read_line(&mut address).unwrap();
    let address = address.trim();
    let mut monitor = Command::new("dbus-monitor")
        .args([
            "--address",
            address,
            "interface=org.freedesktop.Notifications",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (give, seen) = channel();
    let lines = BufReader::new(monitor.stdout.take().unwrap()).lines();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = give.send(line);
        }
    });
    // It watches once it has a name.
    wait_for_all(&seen, &["NameLost"]);
    let talk = Talk::new(OPEN);
    let back = talk.0.sender.create_folder(&name("chat")).unwrap();
    fs::write(back.path_of("m2y.config"), OPEN).unwrap();
    let mut command = Command::new(M2Y);
    command
        .args(["chat", "--notify", "--root"])
        .arg(talk.0.there.path())
        .env("DBUS_SESSION_BUS_ADDRESS", address);
    let ini = talk.0.there.path().join("m2y.ini");
    fs::write(ini, "[server]\nlisten = 127.0.0.1:0\n").unwrap();
    let mut screen = Terminal::sized(command, (40, 100));
    screen.until("greeted", has_line("Write NAME:message."));
    let address = listening(&talk.0.there);
    assert!(talk.say(&address, "<b>hello?</b>").status.success());
    screen.until("heard", has_line("<b>hello?</b>"));
    wait_for_all(
        &seen,
        &[
            "member=Notify",
            &format!("string \"{ZHENQIANG}\""),
            "string \"&lt;b&gt;hello?&lt;/b&gt;\"",
        ],
    );
    // Here is no desktop that answers; the conversation goes on.
    screen.until("told", has_line("cannot notify you"));
    assert!(screen.written.contains(&7));
    screen.press("/quit\r");
    assert_eq!(screen.end(), Some(0));
    for mut child in [monitor, daemon] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// Where the chat of a root receives.
fn listening(root: &Root) -> String {
    let mut listening = None;
    until("it receives", || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let asked = runtime.block_on(m2y::control::question::addresses(root));
        listening = asked
            .unwrap_or_default()
            .and_then(|all| all.first().cloned());
        listening.is_some()
    });
    listening.unwrap().to_string()
}

#[test]
fn the_screen_in_the_guide_is_what_a_chat_shows() {
    let page = PAGES.iter().find(|page| page.topic == "talk").unwrap();
    let (_, shown) = page.text.split_once("```screen\n").unwrap();
    let (shown, _) = shown.split_once("```").unwrap();
    let talk = Talk::new(OPEN);
    let back = talk.0.sender.create_folder(&name("chat")).unwrap();
    fs::write(back.path_of("m2y.config"), OPEN).unwrap();
    let ini = talk.0.here.path().join("m2y.ini");
    fs::write(ini, "[server]\nlisten = 127.0.0.1:0\n").unwrap();
    let film = talk.0.file("film.mp4", &common::noise(2 << 20));
    let server = Process::serve(&talk.0.there);
    let mut watching = Command::new(M2Y)
        .args([
            "watch",
            ZHENQIANG,
            "--yes",
            "--exec",
            "cat > /dev/null",
            "--root",
        ])
        .arg(talk.0.there.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut command = talk.command(&server.address);
    command.current_dir(film.parent().unwrap());
    let mut screen = Terminal::sized(command, (40, 100));
    screen.until("greeted", has_line("Ctrl-D ends"));
    let here = listening(&talk.0.here);
    let asked = Command::new(M2Y)
        .args(["chat", ZHENQIANG, "--server", &here, "-m"])
        .args(["did the photos arrive?", "--root"])
        .arg(talk.0.there.path())
        .output()
        .unwrap();
    assert!(asked.status.success(), "{}", said(&asked));
    screen.until("asked", has_line("did the photos arrive?"));
    screen.press("all 12 :tada:\r");
    screen.until("ticked", has_line("✓✓ all 12"));
    screen.press("/stream film.mp4\r");
    let lines = screen.until("watched", |lines| {
        let is_over = has_line("to its end")(lines);
        is_over && lines.last().is_some_and(|line| line == "roland-frei>")
    });
    // The time of day is another one.
    let alike = |line: &str| match line.split_once(" roland-frei: ") {
        Some((_, text)) => format!("19:40 roland-frei: {text}"),
        None => line.trim_end().to_owned(),
    };
    let lines: Vec<_> = lines.iter().map(|line| alike(line)).collect();
    let shown: Vec<_> = shown.lines().map(alike).collect();
    assert_eq!(lines, shown);
    screen.press("/quit\r");
    assert_eq!(screen.end(), Some(0));
    watching.kill().unwrap();
    watching.wait().unwrap();
}

#[test]
fn a_flood_of_one_contact_is_slowed_down_and_holds_up_nobody_else() {
    let talk = Talk::new(OPEN);
    let ini = talk.0.there.path().join("m2y.ini");
    fs::write(ini, "[server]\nmessages_per_second = 50\n").unwrap();
    let (other, _) = Root::init(&talk.0.dir.path().join("other"), &[]).unwrap();
    introduce(&person(&other, PETER), &talk.0.receiver);
    let server = Process::serve(&talk.0.there);
    let mut flood = Program::start(talk.command(&server.address));
    let begun = Instant::now();
    // What may come at once, and 6 s of what may not.
    for n in 0..100 {
        flood.say(&format!("{{\"text\":\"flood {n}\"}}"));
    }
    until("a burst came", || texts(&talk.theirs()).len() == 100);
    for n in 100..400 {
        flood.say(&format!("{{\"text\":\"flood {n}\"}}"));
    }
    let said = Command::new(M2Y)
        .args(["chat", ROLAND, "--server", &server.address, "-m", "me too"])
        .arg("--root")
        .arg(other.path())
        .output()
        .unwrap();
    assert!(said.status.success());
    let came = texts(&talk.theirs());
    assert!(came.contains(&"me too".to_owned()));
    assert!(came.len() < 400, "all of the flood was there before");
    for _ in 0..400 {
        flood.hears("delivered");
    }
    assert!(begun.elapsed() >= Duration::from_secs(6));
    let numbers: Vec<_> = (0..400).map(|n| format!("flood {n}")).collect();
    let mut came = texts(&talk.theirs());
    came.retain(|text| text.starts_with("flood"));
    assert_eq!(came, numbers);
    assert_eq!(flood.ends(), Some(0));
}
