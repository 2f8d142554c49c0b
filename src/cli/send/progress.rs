//! How far it is: bars on a terminal, a line now and then elsewhere.

use std::{
    io::{IsTerminal, stderr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    cli::output::{bytes, count, files},
    error::printable,
    meta::{Meta, TransferId},
    transfer::Observer,
};

/// How often there is a line where there is no terminal.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// Bars for one file, and for all.
const ONE: &str = "{msg} {wide_bar} {percent:>3}% {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";

/// Before it is known how much there is.
const UNKNOWN: &str = "{msg} {spinner} {decimal_bytes} {decimal_bytes_per_sec}";

/// How far a command is.
pub struct Progress {
    begun: Instant,
    files: AtomicU64,
    bytes: AtomicU64,
    /// Files and bytes that there are, once that is known.
    total: Mutex<Option<(u64, u64)>>,
    /// Bytes at the line before.
    before: Mutex<(Instant, u64)>,
    several: bool,
    shown: Shown,
}

enum Shown {
    Nothing,
    Lines,
    Bars {
        all: MultiProgress,
        /// For all files, where there are several.
        whole: Option<ProgressBar>,
        current: ProgressBar,
        /// The file that the bar speaks of.
        id: Mutex<Option<TransferId>>,
    },
}

impl Progress {
    /// Nothing has moved yet; `wanted` is what the person said.
    pub fn new(several: bool, wanted: bool) -> Self {
        let shown = match (wanted, stderr().is_terminal()) {
            (false, _) => Shown::Nothing,
            (true, false) => Shown::Lines,
            (true, true) => bars(several),
        };
        Self {
            begun: Instant::now(),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            total: Mutex::new(None),
            before: Mutex::new((Instant::now(), 0)),
            several,
            shown,
        }
    }

    /// Whether it has bars, which want to know at once how much there is.
    pub fn has_bars(&self) -> bool {
        matches!(self.shown, Shown::Bars { .. })
    }

    /// Whether it has a line from time to time.
    pub fn has_lines(&self) -> bool {
        matches!(self.shown, Shown::Lines)
    }

    /// There are so many files and bytes in all.
    pub fn set_total(&self, files: u64, bytes: u64) {
        *self.total.lock().unwrap_or_else(PoisonError::into_inner) = Some((files, bytes));
        if let Shown::Bars {
            whole: Some(whole), ..
        } = &self.shown
        {
            whole.set_length(bytes);
            if let Ok(style) = ProgressStyle::with_template(ONE) {
                whole.set_style(style);
            }
            self.tell_files(whole);
        }
    }

    /// A file is sent or has failed.
    pub fn over(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
        if let Shown::Bars {
            whole: Some(whole), ..
        } = &self.shown
        {
            self.tell_files(whole);
        }
    }

    fn tell_files(&self, whole: &ProgressBar) {
        let done = self.files.load(Ordering::Relaxed);
        let total = *self.total.lock().unwrap_or_else(PoisonError::into_inner);
        whole.set_message(match total {
            Some((total, _)) => format!("{}/{}", count(done), files(total)),
            None => files(done),
        });
    }

    /// Prints while no bar is there.
    pub fn apart(&self, print: impl FnOnce()) {
        match &self.shown {
            Shown::Bars { all, .. } => all.suspend(print),
            _ => print(),
        }
    }

    /// The line for where it is now.
    pub fn line(&self) -> String {
        let (now, moved) = (Instant::now(), self.bytes.load(Ordering::Relaxed));
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, had) = std::mem::replace(&mut *before, (now, moved));
        let seconds = now.duration_since(since.max(self.begun)).as_secs_f64();
        let rate = moved.saturating_sub(had) as f64 / seconds.max(1e-6);
        let done = self.files.load(Ordering::Relaxed);
        let total = *self.total.lock().unwrap_or_else(PoisonError::into_inner);
        line(self.several.then_some(done), moved, total, rate as u64)
    }

    /// Takes the bars off the terminal.
    pub fn finish(&self) {
        if let Shown::Bars {
            all,
            whole,
            current,
            ..
        } = &self.shown
        {
            current.finish_and_clear();
            if let Some(whole) = whole {
                whole.finish_and_clear();
            }
            let _ = all.clear();
        }
    }
}

impl Observer for Progress {
    fn moved(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Shown::Bars {
            whole: Some(whole), ..
        } = &self.shown
        {
            whole.inc(bytes);
        }
    }

    fn file(&self, file: &Meta, moved: u64) {
        let Shown::Bars { current, id, .. } = &self.shown else {
            return;
        };
        let mut id = id.lock().unwrap_or_else(PoisonError::into_inner);
        if *id != file.id {
            *id = file.id;
            current.reset();
            current.set_length(file.filesize.unwrap_or_default());
            current.set_message(printable(&file.filename, 40));
        }
        current.set_position(moved);
    }
}

fn bars(several: bool) -> Shown {
    let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
    let bar = |template| {
        let bar = all.add(ProgressBar::no_length());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar
    };
    Shown::Bars {
        current: bar(ONE),
        whole: several.then(|| bar(UNKNOWN)),
        id: Mutex::new(None),
        all,
    }
}

/// `1,204 of 10,000 files, 4.9 MB of 40.9 MB, 3.1 MB/s`, without what is not known.
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
        assert_eq!(
            line(None, 4_900_000, Some((1, 5_000_000)), 1_000),
            "4.9 MB of 5.0 MB, 1.0 kB/s"
        );
    }
}
