//! The transfer of one file, in both directions.
//!
//! [`send`] is the half that has the file: a [`send::job_file`] is a `.meta` that was read,
//! and with its file open it is a [`send::send_job`]; [`send::blocks`] reads a file and seals
//! its blocks.
//!
//! [`receive`] is the half that gets it: [`receive::decision`] decides whether to accept it,
//! [`receive::target`] takes its blocks, [`receive::partial`] is the hidden file that they go to,
//! [`receive::commit`] makes whole files safe, many at a time, and [`receive::recovery`] does what
//! a server that stopped midway left undone. A file that a client fetches goes to a
//! [`receive::download`].

pub mod receive;
pub mod send;
