//! Logging: on standard error, as much as `M2Y_LOG` says.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::{EnvFilter, fmt};

use super::Cli;

/// Starts logging. `M2Y_LOG` takes the filters of `tracing`, like `debug` or
/// `m2y=debug`; a server logs at `info` otherwise, other commands at `warn`.
pub fn start(cli: &Cli) {
    let default = if cli.is_server() { "info" } else { "warn" };
    let filter = EnvFilter::try_from_env("M2Y_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let colour = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // It fails only if logging was started before, and then that one is meant.
    let _ = fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(colour)
        .with_target(false)
        .try_init();
}
