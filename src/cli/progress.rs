//! Progress: bars on a terminal, a line now and then elsewhere.

use std::{
    env,
    fmt::Write,
    io::{IsTerminal, stderr},
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tokio::{
    signal::ctrl_c,
    time::{Interval, MissedTickBehavior, interval_at},
};

use super::output::{bytes, count, files};
use crate::{
    error::{Code, Error, printable},
    meta::{Meta, TransferId},
    observer::Observer,
};

/// How often a line is printed if there is no terminal.
const INTERVAL: Duration = Duration::from_secs(10);

/// The bar for one file, and the one for all: a name, which is cut off if there is little room.
const ONE: &str = "{wide_msg} {rest}";

/// One of several files: the bar for all files shows the speed.
const PART: &str = "{wide_msg} {part}";

/// Before the total is known.
const UNKNOWN: &str = "{msg} {spinner} {decimal_bytes} {decimal_bytes_per_sec}";

/// A file whose progress is not known.
const NAME: &str = "{wide_msg}";

/// The columns from which a terminal has room for a bar and all numbers.
const WIDE: usize = 60;

/// Columns of a bar.
const BAR: usize = 20;

/// The progress of a command. It shows nothing before it begins and after it has ended.
#[derive(Default)]
pub struct Progress(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    files: u64,
    /// Bytes that were there before or have moved.
    bytes: u64,
    /// How many of those are yet to come again: they are not counted twice.
    again: u64,
    /// Bytes that moved, including those that moved twice, but not those that were there before.
    moved: u64,
    /// Files and bytes in total, once that is known.
    total: Option<(u64, u64)>,
    /// When the previous line was printed, and what had moved by then.
    before: Option<(Instant, u64)>,
    several: bool,
    /// What the command is waiting for, and what had moved when the wait began.
    waiting: Option<(String, u64)>,
    shown: Shown,
}

#[derive(Default)]
enum Shown {
    #[default]
    Nothing,
    Lines,
    Bars(Bars),
}

struct Bars {
    all: MultiProgress,
    /// For all files, if there are several.
    whole: Option<ProgressBar>,
    current: ProgressBar,
    /// The file that the bar is about.
    id: Option<TransferId>,
}

impl Progress {
    fn state(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts from zero. From now on, bars or lines are shown, for one file or for `several`.
    pub fn begin(&self, several: bool) {
        // A terminal that cannot move its cursor would show each state of a bar below the last one.
        let is_dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        let shown = match stderr().is_terminal() && !is_dumb {
            true => Shown::Bars(Bars::new(several)),
            false => Shown::Lines,
        };
        *self.state() = Counts {
            before: Some((Instant::now(), 0)),
            several,
            shown,
            ..Counts::default()
        };
    }

    /// Removes the bars from the terminal; from now on, nothing is shown.
    pub fn end(&self) {
        if let Shown::Bars(bars) = std::mem::take(&mut self.state().shown) {
            bars.current.finish_and_clear();
            if let Some(whole) = bars.whole {
                whole.finish_and_clear();
            }
            let _ = bars.all.clear();
        }
    }

    /// Whether it shows bars, which need the total at once.
    pub fn has_bars(&self) -> bool {
        matches!(self.state().shown, Shown::Bars(_))
    }

    /// Whether it prints a line from time to time.
    pub fn has_lines(&self) -> bool {
        matches!(self.state().shown, Shown::Lines)
    }

    /// Sets the number of files and bytes in total.
    pub fn set_total(&self, files: u64, bytes: u64) {
        let mut state = self.state();
        state.total = Some((files, bytes));
        state.tell_total();
    }

    /// Adds a file of this many bytes, which is begun now.
    pub fn expect(&self, name: &str, bytes: u64) {
        let mut state = self.state();
        let (files, so_far) = state.total.unwrap_or_default();
        state.total = Some((files + 1, so_far.saturating_add(bytes)));
        state.tell_total();
        if let Shown::Bars(bars) = &state.shown {
            if bars.whole.is_some() && files == 0 {
                set_style(&bars.current, NAME);
            }
            bars.current.set_message(printable(name, 40));
        }
    }

    /// Counts bytes that were there before.
    pub fn held(&self, bytes: u64) {
        let mut state = self.state();
        let more = state.count(bytes);
        if more > 0
            && let Shown::Bars(bars) = &state.shown
        {
            let bar = bars.sum();
            bar.update(|bar| bar.set_pos(bar.pos().saturating_add(more)));
            // They say nothing about the speed.
            bar.reset_eta();
        }
    }

    /// All bytes except these were interrupted, and will come again or are held.
    pub fn broke_off(&self, whole: u64) {
        let mut state = self.state();
        state.again = state.bytes.saturating_sub(whole);
    }

    /// Takes back bytes that should not have been counted.
    pub fn counted_twice(&self, bytes: u64) {
        let mut state = self.state();
        state.again = state.again.saturating_add(bytes);
    }

    /// Bytes that have moved so far, including those that moved twice.
    pub fn bytes_moved(&self) -> u64 {
        self.state().moved
    }

    /// A file is finished or has failed.
    pub fn over(&self) {
        let mut state = self.state();
        state.files += 1;
        state.tell_files();
    }

    /// Prints with the bars out of the way.
    pub fn apart(&self, print: impl FnOnce()) {
        let all = match &self.state().shown {
            Shown::Bars(bars) => Some(bars.all.clone()),
            _ => None,
        };
        match all {
            Some(all) => all.suspend(print),
            None => print(),
        }
    }

    /// The moments at which a line is due.
    pub fn ticks() -> Interval {
        let mut ticks = interval_at(tokio::time::Instant::now() + INTERVAL, INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }

    /// Waits for work, and prints a line now and then if lines are shown. If a person interrupts,
    /// it fails with `advice`.
    pub async fn watch(
        &self,
        work: impl Future<Output = Result<(), Error>>,
        advice: &str,
    ) -> Result<(), Error> {
        let (mut work, mut interrupted) = (pin!(work), pin!(ctrl_c()));
        let mut ticks = Self::ticks();
        loop {
            tokio::select! {
                result = &mut work => return result,
                _ = &mut interrupted => {
                    let sentence = format!("interrupted: {advice}");
                    return Err(Error::new(Code::Interrupted, sentence));
                }
                _ = ticks.tick(), if self.has_lines() => self.tell(),
            }
        }
    }

    /// Prints a progress line.
    pub fn tell(&self) {
        eprintln!("m2y: {}", self.state().line());
    }
}

impl Observer for Progress {
    fn moved(&self, bytes: u64) {
        let mut state = self.state();
        state.moved = state.moved.saturating_add(bytes);
        let more = state.count(bytes);
        if let Shown::Bars(bars) = &state.shown {
            bars.sum().inc(more);
        }
    }

    fn waiting_for_hooks(&self, file: &Meta) {
        let mut state = self.state();
        let words = format!("waiting for {}'s hooks", printable(&file.to, 64));
        if let Shown::Bars(bars) = &state.shown {
            bars.current.set_message(words.clone());
        }
        state.waiting = Some((words, state.moved));
    }

    fn undone(&self, bytes: u64) {
        self.counted_twice(bytes);
    }

    fn file(&self, file: &Meta, moved: u64) {
        let Shown::Bars(bars) = &mut self.state().shown else {
            return;
        };
        let current = &bars.current;
        if bars.id != file.id {
            bars.id = file.id;
            current.reset();
            current.set_length(file.filesize.unwrap_or_default());
            current.set_message(printable(&file.filename, 40));
        }
        current.set_position(moved);
    }
}

impl Counts {
    /// Counts bytes; returns how many of them are new.
    fn count(&mut self, bytes: u64) -> u64 {
        let again = self.again.min(bytes);
        self.again -= again;
        let more = bytes - again;
        self.bytes = self.bytes.saturating_add(more);
        more
    }

    fn tell_total(&self) {
        let Shown::Bars(bars) = &self.shown else {
            return;
        };
        let bytes = self.total.map_or(0, |(_, bytes)| bytes);
        bars.sum().set_length(bytes);
        if let Some(whole) = &bars.whole {
            set_style(whole, ONE);
        }
        self.tell_files();
    }

    fn tell_files(&self) {
        let Shown::Bars(Bars {
            whole: Some(whole), ..
        }) = &self.shown
        else {
            return;
        };
        whole.set_message(match self.total {
            Some((total, _)) => format!("{}/{}", count(self.files), files(total)),
            None => files(self.files),
        });
    }

    /// The progress line for now.
    fn line(&mut self) -> String {
        let now = Instant::now();
        let before = self.before.replace((now, self.moved));
        let (since, had) = before.unwrap_or((now, self.moved));
        let seconds = now.duration_since(since).as_secs_f64();
        let rate = self.moved.saturating_sub(had) as f64 / seconds.max(1e-6);
        let done = self.several.then_some(self.files);
        if let Some((words, moved)) = &self.waiting
            && *moved == self.moved
        {
            let total = self.total.map(|(all, _)| files(all));
            return match (done, total) {
                (Some(done), Some(all)) => format!("{} of {all}, {words}", count(done)),
                (Some(done), None) => format!("{}, {words}", files(done)),
                (None, _) => words.clone(),
            };
        }
        line(done, self.bytes, self.total, rate as u64)
    }
}

impl Bars {
    fn new(several: bool) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let bar = |template| {
            let bar = all.add(ProgressBar::no_length());
            set_style(&bar, template);
            bar
        };
        Self {
            current: bar(if several { PART } else { ONE }),
            whole: several.then(|| bar(UNKNOWN)),
            id: None,
            all,
        }
    }

    /// The bar for all bytes: with a single file, its own.
    fn sum(&self) -> &ProgressBar {
        self.whole.as_ref().unwrap_or(&self.current)
    }
}

fn set_style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        let key = |has_speed: bool| {
            move |state: &ProgressState, out: &mut dyn Write| {
                let at = At {
                    bytes: state.pos(),
                    total: state.len(),
                    speed: has_speed.then(|| (state.per_sec(), state.eta())),
                };
                let _ = out.write_str(&at.rest(columns()));
            }
        };
        bar.set_style(
            style
                .with_key("rest", key(true))
                .with_key("part", key(false)),
        );
    }
}

/// The current width of the terminal in columns: a person may change it.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(stderr());
    // Some terminals report 0 if they do not know.
    let known = size.ok().filter(|size| size.ws_col > 0);
    known.map_or(80, |size| usize::from(size.ws_col))
}

/// The progress of something.
struct At {
    bytes: u64,
    total: Option<u64>,
    /// Bytes per second, and the remaining time.
    speed: Option<(f64, Duration)>,
}

impl At {
    /// What comes after the name: a bar and all numbers or, if there is little room, only what
    /// people look at first.
    fn rest(&self, columns: usize) -> String {
        let total = self.total.unwrap_or_default();
        let part = match total {
            0 => 0.0,
            total => (self.bytes as f64 / total as f64).clamp(0.0, 1.0),
        };
        let percent = (part * 100.0) as u64;
        let speed = self.speed.map(|(rate, left)| {
            let left = match left.as_secs() {
                seconds @ ..60 => format!("{seconds}s"),
                seconds @ ..3_600 => format!("{}m", seconds / 60),
                seconds => format!("{}h", seconds / 3_600),
            };
            format!(" {}/s {left}", bytes(rate as u64))
        });
        let speed = speed.unwrap_or_default();
        if columns < WIDE {
            return format!("{percent:>3}%{speed}");
        }
        let full = (part * BAR as f64) as usize;
        let empty = "░".repeat(BAR.saturating_sub(full));
        let bar = format!("{}{empty}", "█".repeat(full));
        let of = format!("{}/{}", bytes(self.bytes), bytes(total));
        format!("{bar} {percent:>3}% {of}{speed}")
    }
}

/// `1,204 of 10,000 files, 4.9 MB of 40.9 MB, 3.1 MB/s`, without what is unknown.
fn line(done: Option<u64>, moved: u64, total: Option<(u64, u64)>, rate: u64) -> String {
    let of = |part: String, whole: Option<String>| match whole {
        Some(whole) => format!("{part} of {whole}"),
        None => part,
    };
    let moved = of(bytes(moved), total.map(|(_, n)| bytes(n)));
    let rate = bytes(rate);
    match (done, total) {
        (Some(done), Some((all, _))) => {
            format!("{} of {}, {moved}, {rate}/s", count(done), files(all))
        }
        (Some(done), None) => format!("{}, {moved}, {rate}/s", files(done)),
        (None, _) => format!("{moved}, {rate}/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_known() {
        let total = Some((10_000, 40_900_000));
        assert_eq!(
            line(Some(1_204), 4_900_000, total, 3_100_000),
            "1,204 of 10,000 files, 4.9 MB of 40.9 MB, 3.1 MB/s"
        );
        assert_eq!(line(Some(1), 12, None, 0), "1 file, 12 bytes, 0 bytes/s");
        let waiting = Progress::default();
        waiting.waiting_for_hooks(&Meta::new("zhenqiang", "roland-frei", "photo", "a.jpg"));
        assert_eq!(waiting.state().line(), "waiting for roland-frei's hooks");
        waiting.moved(1);
        assert!(waiting.state().line().starts_with("1 byte, "));
        assert_eq!(
            line(None, 4_900_000, Some((1, 5_000_000)), 1_000),
            "4.9 MB of 5.0 MB, 1.0 kB/s"
        );
    }

    #[test]
    fn a_bar_has_all_numbers_where_there_is_room() {
        let at = At {
            bytes: 33_500_000,
            total: Some(80_000_000),
            speed: Some((12_100_000.0, Duration::from_secs(4))),
        };
        assert_eq!(
            at.rest(80),
            "████████░░░░░░░░░░░░  41% 33.5 MB/80.0 MB 12.1 MB/s 4s"
        );
        assert_eq!(at.rest(40), " 41% 12.1 MB/s 4s");
    }

    #[test]
    fn what_moved_twice_counts_once_and_what_was_there_is_no_speed() {
        let progress = Progress::default();
        progress.state().several = true;
        for name in ["a", "b"] {
            progress.expect(name, 1_000);
        }
        progress.moved(700);
        // It was interrupted, and 300 bytes of both together are held.
        progress.broke_off(0);
        progress.held(300);
        progress.over();
        let before = Some((Instant::now() - Duration::from_secs(1_000), 700));
        let mut state = progress.state();
        state.before = before;
        let line = "1 of 2 files, 700 bytes of 2.0 kB, 0 bytes/s";
        assert_eq!(state.line(), line);
        drop(state);
        progress.moved(1_700);
        assert_eq!(progress.state().bytes, 2_000);
        assert_eq!(progress.bytes_moved(), 2_400);
    }
}
