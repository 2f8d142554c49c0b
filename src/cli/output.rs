//! What commands print: lines for people, objects for programs.

use std::{
    fmt,
    io::{self, IsTerminal, Write, stderr, stdout},
    path::Path,
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    error::Error,
    json::{Map, Value, canonical},
    meta::Meta,
};

/// Prints one line. A reader that went away does not end the command: the work is what counts.
pub fn line(text: impl fmt::Display) {
    let _ = writeln!(stdout().lock(), "{text}");
}

/// Prints the lines of a command that does nothing else. Fails if nobody reads them.
pub fn lines(lines: &[String]) -> io::Result<()> {
    let mut stdout = stdout().lock();
    for line in lines {
        writeln!(stdout, "{line}")?;
    }
    stdout.flush()
}

/// Whether standard output is a terminal on which colours are wanted.
pub fn has_colours() -> bool {
    stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Prints a line for people while a document goes to standard output.
pub fn aside(text: impl fmt::Display) {
    let _ = writeln!(stderr().lock(), "{text}");
}

/// Prints text that already contains its line ends.
pub fn text(text: &str) {
    let _ = stdout().lock().write_all(text.as_bytes());
}

/// Prints the contents of a file.
pub fn bytes_of_file(bytes: &[u8]) {
    let mut stdout = stdout().lock();
    let _ = stdout.write_all(bytes);
    let _ = stdout.flush();
}

/// Prints one object on one line.
pub fn object(fields: &[(&str, Value)]) {
    line(to_object(fields));
}

/// One object, as a line without its end.
pub fn to_object(fields: &[(&str, Value)]) -> String {
    let map: Map<String, Value> = fields
        .iter()
        .map(|(field, value)| ((*field).to_owned(), value.clone()))
        .collect();
    canonical(&map)
}

/// The object for a file that was sent: its bytes, and how many of them an earlier attempt had
/// delivered. `done` is the path of its `.done`, or of the file itself if there is no `.meta`.
pub fn sent(
    done: &Path,
    meta: &Meta,
    (bytes, resumed): (u64, u64),
    took: Duration,
) -> [(&'static str, Value); 8] {
    [
        ("status", "sent".into()),
        ("file", done.display().to_string().into()),
        ("to", meta.to.as_str().into()),
        ("id", meta.id.map(|id| id.to_string()).into()),
        ("bytes", bytes.into()),
        ("resumed_from", resumed.into()),
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

/// `1.2 GB`, in powers of 1000.
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

/// From this many bytes on, a rate says more about the network than about the greeting.
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

/// `10,000`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 file`, `1,204 files`.
pub fn files(n: u64) -> String {
    match n {
        1 => "1 file".to_owned(),
        n => format!("{} files", count(n)),
    }
}

/// A moment in UTC, from milliseconds since 1970.
pub fn moment(millis: u64) -> String {
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    match Timestamp::from_millisecond(millis) {
        Ok(moment) => moment.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => "-".to_owned(),
    }
}

/// Lines with aligned columns; the columns in `right` are numbers.
pub fn table<const N: usize>(rows: &[[String; N]], right: &[usize]) -> Vec<String> {
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at));
        let widths = cells.map(|cell| cell.chars().count());
        widths.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    rows.iter()
        .map(|row| {
            let mut line = String::new();
            for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
                match right.contains(&at) {
                    true => line.push_str(&format!("{cell:>width$}  ")),
                    false => line.push_str(&format!("{cell:<width$}  ")),
                }
            }
            line.trim_end().to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_has_its_thousands_apart() {
        let of = |n| count(n);
        assert_eq!(
            [of(0), of(999), of(1_000), of(10_204_000)],
            ["0", "999", "1,000", "10,204,000"]
        );
    }
}
