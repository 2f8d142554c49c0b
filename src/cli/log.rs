//! Logging: to standard error, as much as `M2Y_LOG` says.

use std::io::{IsTerminal, stderr};

use tracing::{level_filters::LevelFilter, warn};
use tracing_subscriber::{EnvFilter, fmt};

use super::Cli;
use crate::root::settings::LogFormat;

/// Starts logging. `M2Y_LOG` takes the filters of `tracing`, like `debug` or `m2y=debug`; without
/// it, a server logs at `info`, other commands at `warn`.
pub fn start(cli: &Cli) {
    let default = if cli.is_server() { "info" } else { "warn" };
    let wanted = std::env::var_os("M2Y_LOG").filter(|wanted| !wanted.is_empty());
    let (filter, wrong) = match wanted {
        None => (EnvFilter::new(default), None),
        Some(wanted) => match wanted.to_str().and_then(filter) {
            Some(filter) => (filter, None),
            None => (EnvFilter::new(default), Some(wanted)),
        },
    };
    let colour = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_target(false);
    // It fails only if logging was started before, and then that setup applies.
    let _ = match cli.log_format() {
        LogFormat::Text => log.with_ansi(colour).try_init(),
        LogFormat::Json => log
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init(),
    };
    if let Some(wrong) = wrong {
        warn!(
            "M2Y_LOG is {wrong:?}, must be off, error, warn, info, debug or trace, or a filter like m2y=debug; logging at {default}"
        );
    }
}

/// The filter for a value of `M2Y_LOG`; `None` if it is empty or mistyped.
fn filter(text: &str) -> Option<EnvFilter> {
    // A single word is a level or a module. Only m2y's modules log here, so any other word is a
    // mistyped level, and obeying it would silence the log.
    let known = text.split(',').map(str::trim).all(|part| {
        part.contains(['=', '[']) || part.starts_with("m2y") || part.parse::<LevelFilter>().is_ok()
    });
    known.then(|| EnvFilter::try_new(text).ok()).flatten()
}
