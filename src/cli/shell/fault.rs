//! What went wrong with a command, with its status.

use crate::{
    error::{Code, Error},
    json::Value,
};

/// The statuses, for people; `m2y shell --help` shows them too.
pub const STATUSES: &str = "\
With --json each command is answered with one object on one line: status_code,
status_message, and content, which is null where there is nothing to say.

  200  OK
  207  get, put: some got through and some did not
  400  the command is written wrong
  401  a key or an identity is missing or does not match
  403  the contact will not have it
  404  it is not there, or may not be seen
  409  something else is there already, or the directory is not empty
  413  there is more than one answer can hold: 100,000 entries
  422  the bytes that came are not those that were sent
  499  interrupted
  500  it failed
  502  no connection, or it was cut
  503  the server cannot do it now: try later";

/// That a command failed.
#[derive(Clone, Debug)]
pub struct Fault {
    /// One of [`STATUSES`].
    pub status: u16,
    /// What is said of it.
    pub error: Error,
    /// What there is to tell programs nevertheless.
    pub content: Value,
}

impl Fault {
    /// What somebody wrote wrong.
    pub fn usage(sentence: impl Into<String>) -> Self {
        Error::new(Code::Usage, sentence).into()
    }

    /// The same with another status.
    #[must_use]
    pub fn with(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// The same with something to tell programs.
    #[must_use]
    pub fn holding(self, content: Value) -> Self {
        Self { content, ..self }
    }

    /// Puts what was being done in front of the sentence.
    #[must_use]
    pub fn within(self, what: impl std::fmt::Display) -> Self {
        Self {
            error: self.error.within(what),
            ..self
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let status = match error.code {
            Code::Failed => 500,
            Code::Exists => 409,
            Code::Usage => 400,
            Code::Partly => 207,
            Code::NotFound => 404,
            Code::Later => 503,
            Code::Refused => 403,
            Code::Identity => 401,
            Code::Integrity => 422,
            Code::Interrupted => 499,
        };
        Self {
            status,
            error,
            content: Value::Null,
        }
    }
}
