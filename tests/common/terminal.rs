//! A terminal, and what is on its screen.

use std::{
    fs::File,
    io::{Read, Write},
    process::{Child, Command},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

/// How long something may take to come to the screen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A person's terminal, with a program on it.
pub struct Terminal {
    pub child: Child,
    keys: File,
    output: mpsc::Receiver<Vec<u8>>,
    screen: vt100::Parser,
    /// All that the program wrote.
    pub written: Vec<u8>,
    /// How much of it [`Self::shows`] has looked at.
    seen: usize,
}

impl Terminal {
    /// Starts a program on a terminal of 24 rows and 80 columns.
    pub fn start(command: Command) -> Self {
        Self::sized(command, (24, 80))
    }

    /// Starts a program on a terminal with so many rows and columns.
    pub fn sized(mut command: Command, (rows, columns): (u16, u16)) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        tcsetwinsize(&ours, size(rows, columns)).unwrap();
        let theirs = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
        let theirs = || {
            File::options()
                .read(true)
                .write(true)
                .open(&theirs)
                .unwrap()
        };
        if command.get_envs().all(|(name, _)| name != "TERM") {
            command.env("TERM", "xterm");
        }
        let child = command
            .stdin(theirs())
            .stdout(theirs())
            .stderr(theirs())
            .spawn()
            .unwrap();
        drop(command);
        let keys = File::from(ours);
        let mut output = keys.try_clone().unwrap();
        let (give, take) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(n @ 1..) = output.read(&mut buffer) {
                let _ = give.send(buffer[..n].to_vec());
            }
        });
        Self {
            child,
            keys,
            output: take,
            screen: vt100::Parser::new(rows, columns, 1_000),
            written: Vec::new(),
            seen: 0,
        }
    }

    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Gives the terminal another size, as a person does who pulls at its window.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        tcsetwinsize(&self.keys, size(rows, columns)).unwrap();
        self.screen.screen_mut().set_size(rows, columns);
        let _ = kill_process(Pid::from_child(&self.child), Signal::WINCH);
    }

    /// Whether keys are shown and come line by line, as on a terminal that no program uses.
    pub fn echoes(&self) -> bool {
        let modes = tcgetattr(&self.keys).unwrap().local_modes;
        modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    /// The lines on the screen, without what is empty below them.
    pub fn lines(&self) -> Vec<String> {
        let screen = self.screen.screen();
        let rows = screen.rows(0, screen.size().1);
        let mut lines: Vec<_> = rows.map(|line| line.trim_end().to_owned()).collect();
        let end = lines.iter().rposition(|line| !line.is_empty());
        lines.truncate(end.map_or(0, |last| last + 1));
        lines
    }

    /// Waits until the lines on the screen are so.
    pub fn until(&mut self, what: &str, is_so: impl Fn(&[String]) -> bool) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let lines = self.lines();
            if is_so(&lines) {
                return lines;
            }
            let left = PATIENCE.saturating_sub(begun.elapsed());
            assert!(self.more(left), "not {what}: {lines:#?}");
        }
    }

    /// Waits until the program has ended, and returns its exit code.
    pub fn end(&mut self) -> Option<i32> {
        let code = self.child.wait().unwrap().code();
        // What it wrote at last.
        while self.more(Duration::from_millis(200)) {}
        code
    }

    /// Waits until the program has written this; what was before it is forgotten.
    pub fn shows(&mut self, text: &str) {
        loop {
            let rest = String::from_utf8_lossy(&self.written[self.seen..]).into_owned();
            if let Some(at) = rest.find(text) {
                self.seen += at + text.len();
                return;
            }
            assert!(self.more(PATIENCE), "no {text:?} in {rest:?}");
        }
    }

    /// Whether the program has written this since what [`Self::shows`] waited for last.
    pub fn has_shown(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.written[self.seen..]).contains(text)
    }

    /// Takes what the program writes; whether anything came.
    pub fn more(&mut self, patience: Duration) -> bool {
        let Ok(more) = self.output.recv_timeout(patience) else {
            return false;
        };
        self.screen.process(&more);
        self.written.extend(more);
        true
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
