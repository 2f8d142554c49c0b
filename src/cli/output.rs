//! What commands print: lines for people, objects for programs, bars on terminals.

use std::{
    fmt,
    io::{IsTerminal, Write, stderr, stdout},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    json::{Map, Value, canonical},
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
        "bytes" => format!("{n} bytes"),
        unit => format!("{value:.1} {unit}"),
    }
}

/// `1.2 GB/s`.
pub fn rate(n: u64, time: Duration) -> String {
    let seconds = time.as_secs_f64().max(1e-6);
    format!("{}/s", bytes((n as f64 / seconds) as u64))
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
