//! The program: arguments, logging, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use m2y::cli::{Cli, log};

fn main() -> ExitCode {
    let cli = Cli::parse();
    log::start(&cli);
    m2y::cli::run(cli)
}
