//! The program: arguments, logging, run, exit code.

use std::process::ExitCode;

use m2y::cli::{log, parse};

fn main() -> ExitCode {
    match parse() {
        Ok(cli) => {
            log::start(&cli);
            m2y::cli::run(cli)
        }
        Err(code) => code,
    }
}
