//! What commands print: lines for people, objects for programs, bars on terminals.

use std::{
    fmt,
    io::{IsTerminal, Write, stderr, stdout},
    path::Path,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    error::Error,
    json::{Map, Value, canonical},
    meta::Meta,
    transfer::Observer,
};

/// Prints one line. A reader that went away ends nothing: the work is what counts.
pub fn line(text: impl fmt::Display) {
    let _ = writeln!(stdout().lock(), "{text}");
}

/// Prints one object on one line.
pub fn object(fields: &[(&str, Value)]) {
    let map: Map<String, Value> = fields
        .iter()
        .map(|(field, value)| ((*field).to_owned(), value.clone()))
        .collect();
    line(canonical(&map));
}

/// The object for a file that was sent; `done` is what its `.meta` became.
pub fn sent(done: &Path, meta: &Meta, bytes: u64, took: Duration) -> [(&'static str, Value); 7] {
    [
        ("status", "sent".into()),
        ("file", done.display().to_string().into()),
        ("to", meta.to.as_str().into()),
        ("id", meta.id.map(|id| id.to_string()).into()),
        ("bytes", bytes.into()),
        ("seconds", took.as_secs_f64().into()),
        ("crc", meta.file_crc.into()),
    ]
}

/// The object for a file that was not sent.
pub fn failed(file: &Path, error: &Error) -> [(&'static str, Value); 4] {
    [
        ("status", "failed".into()),
        ("file", file.display().to_string().into()),
        ("code", error.code.word().into()),
        ("error", error.sentence.as_str().into()),
    ]
}

/// `1.2 GB`, powers of 1000.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = "bytes";
    for next in UNITS {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    match unit {
        "bytes" if n == 1 => "1 byte".to_owned(),
        "bytes" => format!("{n} bytes"),
        unit => format!("{value:.1} {unit}"),
    }
}

/// From so many bytes on a rate says more about the line than about the greeting.
const WORTH_A_RATE: u64 = 1_000_000;

/// `14 bytes in 0.05 s`, `1.2 GB in 1.00 s (1.2 GB/s)`.
pub fn speed(n: u64, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let plain = format!("{} in {seconds:.2} s", bytes(n));
    if n < WORTH_A_RATE {
        return plain;
    }
    let rate = bytes((n as f64 / seconds.max(1e-6)) as u64);
    format!("{plain} ({rate}/s)")
}

/// A bar on the terminal, or nothing where there is none.
pub struct Bar(ProgressBar);

impl Bar {
    /// A bar for so many bytes; `wanted` is what the person said.
    pub fn new(name: &str, len: u64, wanted: bool) -> Self {
        let bar = ProgressBar::with_draw_target(
            Some(len),
            if wanted && stderr().is_terminal() {
                ProgressDrawTarget::stderr()
            } else {
                ProgressDrawTarget::hidden()
            },
        );
        let template = "{msg} {wide_bar} {percent:>3}% {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(name.to_owned());
        Self(bar)
    }

    /// Takes the bar off the terminal.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}

impl Observer for Bar {
    fn moved(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}
