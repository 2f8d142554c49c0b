//! Asking for a passphrase on the terminal, without showing what is typed.

use std::{
    fs::File,
    io::{self, IsTerminal, Read, Write, stdin},
    os::fd::{AsFd, BorrowedFd},
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::root::passphrases::Secret;

/// The longest line that is read, in bytes.
const MAX_LEN: usize = 1024;

/// A terminal that shows again what is typed, when this is dropped.
struct Quiet<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn new(terminal: BorrowedFd<'a>) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        quiet.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(terminal, OptionalActions::Flush, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// Asks; `None` if there is no terminal.
pub fn ask(prompt: &str) -> io::Result<Option<Secret>> {
    // Standard input may be the file that is sent.
    if let Ok(terminal) = File::options().read(true).write(true).open("/dev/tty") {
        let mut reader = terminal.try_clone()?;
        let _quiet = Quiet::new(terminal.as_fd())?;
        write_prompt(&mut &terminal, prompt)?;
        return read_line(&mut reader).map(Some);
    }
    let input = stdin();
    if !input.is_terminal() {
        return Ok(None);
    }
    let _quiet = Quiet::new(input.as_fd())?;
    write_prompt(&mut io::stderr(), prompt)?;
    let mut reader = File::from(input.as_fd().try_clone_to_owned()?);
    read_line(&mut reader).map(Some)
}

fn write_prompt(to: &mut dyn Write, prompt: &str) -> io::Result<()> {
    write!(to, "{prompt}: ")?;
    to.flush()
}

/// Reads byte by byte: what is typed behind the line belongs to somebody else.
fn read_line(from: &mut dyn Read) -> io::Result<Secret> {
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_LEN));
    let mut byte = [0];
    while line.len() < MAX_LEN && from.read(&mut byte)? == 1 && byte != *b"\n" {
        line.extend_from_slice(&byte);
    }
    let text = std::str::from_utf8(&line);
    let text = text.map_err(|_| io::Error::other("what was typed is no text"))?;
    Ok(Zeroizing::new(text.trim_end_matches('\r').to_owned()))
}
