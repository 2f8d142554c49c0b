//! Records `examples/recording.svg`, the picture of the README, from the real program: Zhenqiang
//! sends, Roland watches his inbox.
//!
//! ```sh
//! cargo build --release
//! cargo run --example recording -- target/release/m2y examples/recording.svg
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

#[path = "../tests/common/terminal.rs"]
#[allow(dead_code, reason = "shared with the tests, which use all of it")]
mod terminal;

use std::{
    env,
    fmt::Write,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use terminal::Terminal;

/// Columns of both terminals.
const COLUMNS: u16 = 92;

/// Rows of the terminal of who sends, and of who receives.
const ROWS: [u16; 2] = [11, 7];

/// The size of a character, in pixels.
const CHARACTER: (f64, f64) = (8.4, 18.0);

/// How long the last picture stays.
const END: Duration = Duration::from_secs(6);

/// Pictures follow each other at least so far apart.
const APART: Duration = Duration::from_millis(80);

fn main() {
    let mut args = env::args().skip(1);
    let (Some(program), Some(svg)) = (args.next(), args.next()) else {
        panic!("usage: recording PROGRAM FILE.svg");
    };
    let program = fs::canonicalize(program).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut stage = Stage::new(&program, dir.path());
    stage.play();
    fs::write(&svg, stage.recording.svg()).unwrap();
    println!("{svg}: {} pictures", stage.recording.pictures.len());
}

/// Two people, and a server between them.
struct Stage {
    people: [Terminal; 2],
    server: Child,
    recording: Recording,
}

impl Stage {
    fn new(program: &Path, dir: &Path) -> Self {
        let at = |who: &str| dir.join(who);
        for who in ["zhenqiang", "roland"] {
            fs::create_dir_all(at(who)).unwrap();
        }
        let m2y = |who: &str| {
            let mut command = Command::new(program);
            command
                .env("M2Y_ROOT", at(who).join("m2y"))
                .env_remove("M2Y_USER")
                .env_remove("M2Y_SERVER")
                .current_dir(dir);
            command
        };
        let run = |who: &str, args: &[&str]| {
            let output = m2y(who).args(args).output().unwrap();
            assert!(output.status.success(), "{args:?}: {output:?}");
            output.stdout
        };
        run("zhenqiang", &["init", "--user", "zhenqiang"]);
        run(
            "roland",
            &["init", "--user", "roland-frei", "--folder", "photo"],
        );
        let photo = at("roland").join("m2y/user/roland-frei/photo");
        let script =
            "if file.kind(event.file) != \"image/jpeg\" { reject(\"only pictures, please\") }\n";
        fs::write(photo.join("onlyPictures.rhai"), script).unwrap();
        let config =
            "[OnMeta]\ncheckPermission.rhai\n[OnReceived]\nonlyPictures.rhai\n[permission]\n";
        fs::write(photo.join("m2y.config"), config).unwrap();
        let mut server = m2y("roland")
            .args(["serve", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut listens = BufReader::new(server.stdout.take().unwrap());
        listens.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap();
        let write = |file: &str, bytes: Vec<u8>| fs::write(dir.join(file), bytes).unwrap();
        write("request.json", run("zhenqiang", &["contact", "request"]));
        let add = [
            "contact",
            "add",
            "--allow",
            "photo",
            "--my-address",
            address,
            "request.json",
        ];
        write("answer.json", run("roland", &add));
        run("zhenqiang", &["contact", "accept", "answer.json"]);

        let holiday = at("zhenqiang").join("holiday");
        fs::create_dir(&holiday).unwrap();
        for (name, size) in [
            ("boat", 3_100_000),
            ("harbour", 2_400_000),
            ("sea", 4_200_000),
        ] {
            fs::write(holiday.join(format!("{name}.jpg")), picture(size)).unwrap();
        }
        fs::write(at("zhenqiang").join("notes.txt"), "buy milk\n").unwrap();
        let bin = program.parent().unwrap();
        let path = format!("{}:{}", bin.display(), env::var("PATH").unwrap());
        let terminal = |who: &str, rows: u16| {
            let mut command = Command::new("bash");
            command
                .args(["--norc", "--noprofile"])
                .env("PS1", format!("{who}$ "))
                .env("PATH", &path)
                .env("M2Y_ROOT", at(who).join("m2y"))
                .env_remove("M2Y_USER")
                .env_remove("M2Y_SERVER")
                .env_remove("PROMPT_COMMAND")
                .current_dir(at(who));
            Terminal::sized(command, (rows, COLUMNS))
        };
        Self {
            people: [terminal("zhenqiang", ROWS[0]), terminal("roland", ROWS[1])],
            server,
            recording: Recording::default(),
        }
    }

    fn play(&mut self) {
        for (who, prompt) in [(0, "zhenqiang$"), (1, "roland$")] {
            self.until(who, |lines| lines.iter().any(|line| line == prompt));
            // A shell that does not control its terminal says so first.
            self.people[who].press("clear\n");
            self.until(who, |lines| lines == [prompt]);
        }
        self.recording = Recording::default();
        self.type_in(1, "m2y inbox --watch");
        self.rest(Duration::from_millis(900));
        self.type_in(0, "m2y send --limit 4M -r holiday roland-frei:photo");
        self.until(0, is_at_prompt);
        self.rest(Duration::from_millis(1_500));
        self.type_in(0, "m2y send --limit 4M -r holiday roland-frei:photo");
        self.until(0, is_at_prompt);
        self.rest(Duration::from_millis(1_500));
        self.type_in(0, "m2y send notes.txt roland-frei:photo");
        self.until(0, is_at_prompt);
        self.rest(Duration::from_millis(1_000));
        self.recording.end();
    }

    /// Types a line, as fast as a person does.
    fn type_in(&mut self, who: usize, line: &str) {
        for letter in line.chars() {
            self.people[who].press(&letter.to_string());
            self.rest(Duration::from_millis(45));
        }
        self.rest(Duration::from_millis(350));
        self.people[who].press("\n");
        self.rest(Duration::from_millis(200));
    }

    fn rest(&mut self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.look();
        }
    }

    fn until(&mut self, who: usize, is_so: impl Fn(&[String]) -> bool) {
        let begun = Instant::now();
        while !is_so(&self.people[who].lines()) {
            assert!(begun.elapsed() < Duration::from_secs(60), "nothing happens");
            self.look();
        }
    }

    /// Takes what both programs write, and a picture of it.
    fn look(&mut self) {
        for person in &mut self.people {
            person.more(Duration::from_millis(10));
        }
        let [above, below] = &self.people;
        self.recording.take([above.lines(), below.lines()]);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn is_at_prompt(lines: &[String]) -> bool {
    lines.last().is_some_and(|line| line == "zhenqiang$")
}

/// Bytes that begin as a JPEG does.
fn picture(size: usize) -> Vec<u8> {
    let mut bytes = vec![0xff, 0xd8, 0xff, 0xe0];
    bytes.resize(size, 7);
    bytes
}

/// What both screens show.
type Screens = [Vec<String>; 2];

/// Pictures, each with the time when it was there.
#[derive(Default)]
struct Recording {
    begun: Option<Instant>,
    pictures: Vec<(Duration, Screens)>,
    ended: Duration,
}

impl Recording {
    fn take(&mut self, screens: Screens) {
        let now = self.begun.get_or_insert_with(Instant::now).elapsed();
        match self.pictures.last_mut() {
            Some((_, last)) if *last == screens => {}
            // Of what changes faster, the last one counts.
            Some((at, last)) if now < *at + APART => *last = screens,
            _ => self.pictures.push((now, screens)),
        }
    }

    fn end(&mut self) {
        self.ended = self.begun.map_or(Duration::ZERO, |begun| begun.elapsed()) + END;
    }

    /// All pictures side by side, and a style that pulls one after the other into view. Each
    /// line is there once.
    fn svg(&self) -> String {
        let width = f64::from(COLUMNS) * CHARACTER.0 + 24.0;
        let heights = ROWS.map(|rows| f64::from(rows) * CHARACTER.1 + 16.0);
        let height = heights[0] + heights[1] + 8.0;
        let (mut lines, mut keyframes, mut frames) = (Vec::new(), String::new(), String::new());
        for (number, (at, screens)) in self.pictures.iter().enumerate() {
            let x = number as f64 * width;
            let percent = at.as_secs_f64() / self.ended.as_secs_f64() * 100.0;
            write!(
                keyframes,
                "{percent:.2}%{{transform:translateX(-{x:.0}px)}}"
            )
            .unwrap();
            for (screen, top) in screens.iter().zip([0.0, heights[0] + 8.0]) {
                for (row, line) in screen
                    .iter()
                    .enumerate()
                    .filter(|(_, line)| !line.is_empty())
                {
                    let id = lines.iter().position(|known| *known == line);
                    let id = id.unwrap_or_else(|| {
                        lines.push(line);
                        lines.len() - 1
                    });
                    let y = top + 8.0 + CHARACTER.1 * (row as f64 + 0.75);
                    let x = x + 12.0;
                    write!(frames, "<use href=\"#l{id}\" x=\"{x:.0}\" y=\"{y:.0}\"/>").unwrap();
                }
            }
        }
        let mut defs = String::new();
        for (id, line) in lines.iter().enumerate() {
            let line = line.replace('&', "&amp;").replace('<', "&lt;");
            let (prompt, rest) = match line.split_once("$ ") {
                Some((who, rest)) if !who.contains(' ') => (format!("{who}$ "), rest),
                _ => (String::new(), line.as_str()),
            };
            write!(
                defs,
                "<text id=\"l{id}\"><tspan class=\"p\">{prompt}</tspan>{rest}</text>"
            )
            .unwrap();
        }
        let last = self.pictures.len().saturating_sub(1) as f64 * width;
        let seconds = self.ended.as_secs_f64();
        let panel = |y: f64, height: f64| {
            format!(
                "<rect y=\"{y:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" rx=\"8\" fill=\"#1b1f24\"/>"
            )
        };
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" aria-label=\"Zhenqiang sends three pictures and a text; Roland's inbox shows the pictures arrive, and a hook rejects the text\">\n\
             <style>text{{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:#d7dce2;white-space:pre}}.p{{fill:#7ee787}}.s{{animation:s {seconds:.1}s step-end infinite}}@keyframes s{{{keyframes}}}@media (prefers-reduced-motion:reduce){{.s{{animation:none;transform:translateX(-{last:.0}px)}}}}</style>\n\
             <defs>{defs}</defs>\n{}{}\n<g class=\"s\">{frames}</g>\n</svg>\n",
            panel(0.0, heights[0]),
            panel(heights[0] + 8.0, heights[1]),
        )
    }
}
