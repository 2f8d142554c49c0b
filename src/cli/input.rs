//! Standard input, read as it comes.

use std::{fs::File, io, os::fd::AsFd};

use rustix::pipe::fcntl_setpipe_size;

use crate::error::{Code, Error};

/// Bytes that a pipe holds, if the system allows that: with its usual 64 KiB, reader and writer wake
/// each other all the time.
const PIPE: usize = 1 << 20;

/// Standard input without a buffer of ours: what comes is there at once.
pub fn stdin() -> Result<File, Error> {
    let own = io::stdin().as_fd().try_clone_to_owned();
    let own = own.map_err(|e| Error::new(Code::Failed, format!("cannot read input: {e}")))?;
    widen(&own);
    Ok(own.into())
}

/// Lets a pipe hold more.
pub fn widen(pipe: impl AsFd) {
    // It is not a pipe, or the system does not allow it.
    let _ = fcntl_setpipe_size(pipe, PIPE);
}
