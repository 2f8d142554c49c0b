//! What went wrong with a command, with its status.

use crate::{
    error::{Code, Error},
    json::Value,
};

/// The statuses, for people; `m2y shell --help` shows them too.
pub const STATUSES: &str = "\
With --json each command is answered with one object on one line: status_code,
status_message and content (null if there is none).

  200  OK
  207  get, put: some files failed
  400  invalid command
  401  a key or an identity is missing or does not match
  403  rejected by the contact
  404  not found, or not shared with you
  409  the path exists already, or the directory is not empty
  413  more than 100,000 entries
  422  the data was damaged on the way
  499  interrupted
  500  failed
  502  the server is unreachable, or the connection broke
  503  the server cannot do it now: try later";

/// The failure of a command.
#[derive(Clone, Debug)]
pub struct Fault {
    /// One of [`STATUSES`].
    pub status: u16,
    /// What is said about it.
    pub error: Error,
    /// What there is for programs nevertheless.
    pub content: Value,
}

impl Fault {
    /// The fault of a command that was written wrong.
    pub fn usage(sentence: impl Into<String>) -> Self {
        Error::new(Code::Usage, sentence).into()
    }

    /// The same with a different status.
    #[must_use]
    pub fn with(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// The same with content for programs.
    #[must_use]
    pub fn holding(self, content: Value) -> Self {
        Self { content, ..self }
    }

    /// Adds what was being done in front of the sentence.
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
