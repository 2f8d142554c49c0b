//! What a chat prints: lines for people, objects for programs.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use jiff::{Timestamp, tz::TimeZone};

use super::lines::Above;
use crate::{
    cli::output,
    error::{Error, printable},
    json::Value,
    root::message_log::{LoggedMessage, SentState},
};

/// Where a chat prints. Clones are the same place.
#[derive(Clone)]
pub struct Screen {
    json: bool,
    above: Option<Arc<Mutex<Above>>>,
    /// Whether [`Self::once`] has said something.
    said: Arc<AtomicBool>,
}

impl Screen {
    /// Prints to standard output, or above the line that is being typed.
    pub fn new(json: bool, above: Option<Above>) -> Self {
        Self {
            json,
            above: above.map(|above| Arc::new(Mutex::new(above))),
            said: Arc::default(),
        }
    }

    /// A line for people.
    pub fn say(&self, line: &str) {
        match &self.above {
            _ if self.json => {}
            Some(above) => {
                let mut print = above.lock().unwrap_or_else(PoisonError::into_inner);
                print(line.to_owned());
            }
            None => output::line(line),
        }
    }

    /// Rings the bell of the terminal of a person.
    pub fn ring(&self) {
        if self.above.is_some() {
            eprint!("\x07");
        }
    }

    /// Something went wrong, and will go wrong again in the same way.
    pub fn once(&self, error: &Error) {
        if !self.said.swap(true, Ordering::Relaxed) {
            self.wrong(error);
        }
    }

    /// A message, and what became of it if it is the user's own.
    pub fn message(&self, message: &LoggedMessage, me: &str, state: Option<&SentState>) {
        if self.json {
            let mut fields = fields("message", message).to_vec();
            fields.extend(state.map(|state| ("state", state.word().into())));
            return output::object(&fields);
        }
        let became = match state {
            None | Some(SentState::Delivered) => "",
            Some(SentState::Left) => "  (waits at the relay)",
            Some(SentState::Again) => "  (will be sent again)",
            Some(SentState::Failed(_)) => "  (not delivered)",
        };
        self.say(&(line(message, me) + became));
    }

    /// What became of a message of the user's.
    pub fn became(&self, message: &LoggedMessage, state: &Result<SentState, Error>) {
        if self.json {
            let status = state.as_ref().map_or("failed", SentState::word);
            let mut fields = fields(status, message).to_vec();
            if let Err(error) = state {
                fields.push(("code", error.code.word().into()));
                fields.push(("error", error.sentence.as_str().into()));
            }
            return output::object(&fields);
        }
        let text = printable(&message.text, 60);
        self.say(&match state {
            Ok(SentState::Delivered) => format!("  ✓✓ {text}"),
            Ok(SentState::Left) => {
                format!("  ✓ {text}  (waits at the relay for {})", message.to)
            }
            Ok(SentState::Again) => format!("  {text}  (will be sent again)"),
            Ok(SentState::Failed(why)) => format!("  ✗ {text}  ({})", printable(why, 400)),
            Err(error) => format!("  ✗ {text}  ({})", printable(&error.sentence, 400)),
        });
    }

    /// Something went wrong that is about no message.
    pub fn wrong(&self, error: &Error) {
        match self.json {
            true => output::object(&[
                ("status", "error".into()),
                ("code", error.code.word().into()),
                ("error", error.sentence.as_str().into()),
            ]),
            false => self.say(&format!("m2y: {}", printable(&error.sentence, 1_000))),
        }
    }
}

fn fields(status: &'static str, message: &LoggedMessage) -> [(&'static str, Value); 7] {
    [
        ("status", status.into()),
        ("id", message.id.to_string().into()),
        ("from", message.from.as_str().into()),
        ("to", message.to.as_str().into()),
        ("text", message.text.as_str().into()),
        ("at", message.at.into()),
        ("automatic", message.is_automatic.into()),
    ]
}

/// `19:40 roland-frei: hello?`, in the time zone of this machine.
fn line(message: &LoggedMessage, me: &str) -> String {
    let at = message.sent.map(|sent| sent.saturating_mul(1_000));
    let at = at.unwrap_or_else(|| i64::try_from(message.at).unwrap_or(i64::MAX));
    let time = Timestamp::from_millisecond(at).map_or_else(
        |_| "--:--".to_owned(),
        |at| {
            let here = TimeZone::system();
            let (at, now) = (at.to_zoned(here.clone()), Timestamp::now().to_zoned(here));
            let form = match at.date() == now.date() {
                true => "%H:%M",
                false => "%Y-%m-%d %H:%M",
            };
            at.strftime(form).to_string()
        },
    );
    let who = match message.from == me {
        true => format!("{me} to {}", message.to),
        false => message.from.clone(),
    };
    let robot = if message.is_automatic {
        " (a script)"
    } else {
        ""
    };
    let text = shown(&message.text);
    format!("{time} {who}{robot}: {text}")
}

/// A text of many lines, each of them harmless.
fn shown(text: &str) -> String {
    let lines = text.split('\n').map(|line| {
        let line = line.trim_end_matches('\r');
        fewer_marks(&harmless(line))
    });
    lines.collect::<Vec<_>>().join("\n      ")
}

/// [`printable`], but what joins characters of emoji and of some scripts stays.
fn harmless(line: &str) -> String {
    let (mut out, mut before) = (String::new(), ' ');
    for c in line.chars() {
        let joins = matches!(c, '\u{200c}' | '\u{200d}') && !before.is_ascii();
        match joins {
            true => out.push(c),
            false => out.push_str(&printable(c.encode_utf8(&mut [0; 4]), 1)),
        }
        before = c;
    }
    out
}

/// The most combining marks in a row: no script needs more, and a heap of them covers other lines.
const MARKS: usize = 4;

fn fewer_marks(text: &str) -> String {
    let mut marks = 0;
    let keep = |c: &char| {
        let is_mark = unicode_normalization::char::is_combining_mark(*c);
        marks = if is_mark { marks + 1 } else { 0 };
        marks <= MARKS
    };
    text.chars().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_message_says_does_nothing_to_a_terminal() {
        assert_eq!(shown("a\u{1b}[2Jb\u{202e}c"), r"a\u{1b}[2Jb\u{202e}c");
        assert_eq!(shown("one\r\ntwo"), "one\n      two");
        let heap = format!("e{}", "\u{301}".repeat(8_000));
        assert_eq!(shown(&heap).chars().count(), 1 + MARKS);
        // An emoji of several characters stays one.
        assert_eq!(
            shown("\u{1f9db}\u{200d}\u{2642}\u{fe0f}").chars().count(),
            4
        );
    }
}
