//! What the program says of itself, in one snapshot, so that its wording is reviewed as a
//! whole: `cargo insta review`, or INSTA_UPDATE=always for this test, takes a change over.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::fmt::Write;

use clap::{Command, CommandFactory};
use m2y::{
    cli::Cli,
    error::{Code, Error},
};

/// The help of a command and of those below it.
fn help(command: &mut Command, name: &str, text: &mut String) {
    let said = command
        .clone()
        .bin_name(name)
        .render_long_help()
        .to_string();
    let lines = said.lines().map(str::trim_end);
    // What the environment of the test says is not part of it.
    let lines = lines.filter(|line| !line.trim_start().starts_with("[env: "));
    let said = lines.collect::<Vec<_>>().join("\n");
    writeln!(text, "=== {name} ===\n\n{said}\n").unwrap();
    for below in command.get_subcommands_mut() {
        if below.get_name() != "help" {
            let name = format!("{name} {}", below.get_name());
            help(below, &name, text);
        }
    }
}

#[test]
fn the_help_of_every_command_reads_like_this() {
    let mut text = String::new();
    let mut command = Cli::command().term_width(100);
    command.build();
    help(&mut command, "m2y", &mut text);
    insta::assert_snapshot!("help", text);
}

#[test]
fn exit_codes_and_their_words_are_these() {
    let codes = [
        Code::Failed,
        Code::Usage,
        Code::Partly,
        Code::NotFound,
        Code::Later,
        Code::Refused,
        Code::Identity,
        Code::Integrity,
        Code::Exists,
        Code::Interrupted,
    ];
    let lines = codes.map(|code| {
        format!(
            "{:>3} {}",
            Error::new(code, "").code.exit_code(),
            code.word()
        )
    });
    insta::assert_snapshot!("exit_codes", lines.join("\n"));
}
