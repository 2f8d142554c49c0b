//! A terminal on which something is drawn anew each second.

use std::{
    io::{self, IsTerminal, Read, Write, stdin, stdout},
    thread,
    time::Duration,
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{Report, ask};
use crate::{
    cli::output,
    error::{Code, Error},
    json::canonical,
    root::Root,
};

/// How often it is drawn.
const EVERY: Duration = Duration::from_secs(1);

/// The other screen, without a cursor; long lines end at the edge.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Ctrl-C and Ctrl-D, as keys.
const ENDS: [u8; 4] = [b'q', b'Q', 3, 4];

/// Prints an object a second, until nobody reads them or the server is gone.
pub(super) async fn objects(root: &Root) -> Result<(), Error> {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let line = canonical(&ask(root).await?);
        if output::lines(&[line]).is_err() {
            return Ok(());
        }
    }
}

/// Draws a screen a second, until a person has seen enough or the server is gone.
pub(super) async fn screen(root: &Root) -> Result<(), Error> {
    // Before anything is drawn: that there is no server is said on the usual screen.
    let mut report = Report::of(ask(root).await?);
    let mut signals = Signals::new().map_err(unusable)?;
    let screen = Screen::enter().map_err(unusable)?;
    let mut keys = keys();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        if screen.draw(&report).is_err() {
            return Ok(());
        }
        tokio::select! {
            _ = ticks.tick() => report = Report::of(ask(root).await?),
            is_end = signals.next() => if is_end {
                return Ok(());
            },
            Some(key) = keys.recv() => if ENDS.contains(&key) {
                return Ok(());
            },
        }
    }
}

fn unusable(error: io::Error) -> Error {
    Error::new(Code::Failed, format!("cannot use the terminal: {error}"))
}

/// Signals that end it, and the one that says that the terminal has another size.
struct Signals {
    ends: [Signal; 3],
    resized: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            ends: [
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            ],
            resized: signal(SignalKind::window_change())?,
        })
    }

    /// Returns at the next one: whether it is over.
    async fn next(&mut self) -> bool {
        let [interrupt, terminate, hangup] = &mut self.ends;
        tokio::select! {
            _ = interrupt.recv() => true,
            _ = terminate.recv() => true,
            _ = hangup.recv() => true,
            _ = self.resized.recv() => false,
        }
    }
}

/// The keys that are pressed. The thread that reads them ends with the program.
fn keys() -> mpsc::UnboundedReceiver<u8> {
    let (give, keys) = mpsc::unbounded_channel();
    if stdin().is_terminal() {
        thread::spawn(move || {
            let mut key = [0];
            while let Ok(1..) = stdin().lock().read(&mut key) {
                if key.iter().any(|key| give.send(*key).is_err()) {
                    return;
                }
            }
        });
    }
    keys
}

/// The other screen of a terminal, until this is dropped.
struct Screen {
    /// How the keyboard was before, if there is one.
    before: Option<Termios>,
}

impl Screen {
    fn enter() -> io::Result<Self> {
        let before = match stdin().is_terminal() {
            true => Some(tcgetattr(stdin())?),
            false => None,
        };
        // From here on its drop puts everything back.
        let screen = Self { before };
        if let Some(before) = &screen.before {
            let mut keys = before.clone();
            keys.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
            tcsetattr(stdin(), OptionalActions::Flush, &keys)?;
        }
        write(ENTER)?;
        Ok(screen)
    }

    fn draw(&self, report: &Report) -> io::Result<()> {
        let (rows, columns) = size();
        let lines = report.lines(Some(rows));
        let mut text = "\x1b[H".to_owned();
        for (at, line) in lines.iter().enumerate() {
            if at > 0 {
                text.push_str("\r\n");
            }
            text.push_str(&cut(line, columns));
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J");
        write(&text)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write(LEAVE);
        if let Some(before) = &self.before {
            let _ = tcsetattr(stdin(), OptionalActions::Flush, before);
        }
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Rows and columns of the terminal.
fn size() -> (usize, usize) {
    let size = tcgetwinsize(stdout()).ok();
    let size = size.filter(|size| size.ws_row > 0 && size.ws_col > 0);
    size.map_or((24, 80), |size| (size.ws_row.into(), size.ws_col.into()))
}

/// A line that is no longer than this.
fn cut(line: &str, columns: usize) -> String {
    if line.chars().count() <= columns {
        return line.to_owned();
    }
    let mut cut: String = line.chars().take(columns.saturating_sub(1)).collect();
    cut.push('…');
    cut
}
