use std::{
    env,
    io::{IsTerminal, Write, stdout},
    process::{Command, Stdio},
};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::output;
use crate::{
    error::{Code, Error},
    guide::{PAGES, Page},
};

/// Read the guide
///
/// Without a topic, it lists the topics. On a terminal a page opens in $PAGER (else less).
#[derive(Debug, Args)]
pub struct Guide {
    /// A topic, like hooks
    #[arg(value_name = "TOPIC")]
    topic: Option<String>,
}

impl Guide {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        let Some(topic) = self.topic else {
            for page in PAGES {
                match json {
                    true => output::object(&[
                        ("topic", page.topic.into()),
                        ("about", page.about.into()),
                    ]),
                    false => output::line(format_args!("{:<16} {}", page.topic, page.about)),
                }
            }
            return Ok(());
        };
        let page = PAGES.iter().find(|page| page.topic == topic);
        let page = page.ok_or_else(|| {
            let topics: Vec<_> = PAGES.iter().map(|page| page.topic).collect();
            let sentence = format!("no topic {topic:?}: choose from {}", topics.join(", "));
            Error::new(Code::NotFound, sentence)
        })?;
        match json {
            true => output::object(&[("topic", page.topic.into()), ("text", page.text.into())]),
            false if stdout().is_terminal() && paged(page) => {}
            false => output::text(page.text),
        }
        Ok(())
    }
}

/// Shows a page in the person's pager; `false` if there is none.
fn paged(page: &Page) -> bool {
    // Ctrl-C is for the pager: from here on, it no longer ends this program.
    let _interrupts = signal(SignalKind::interrupt());
    let pager = env::var("PAGER").unwrap_or_else(|_| "less -FX".to_owned());
    if pager.trim().is_empty() {
        return false;
    }
    let started = Command::new("sh")
        .args(["-c", &pager])
        .stdin(Stdio::piped())
        .spawn();
    let Ok(mut pager) = started else {
        return false;
    };
    if let Some(mut stdin) = pager.stdin.take() {
        // A person who has read enough closes the pager.
        let _ = stdin.write_all(page.text.as_bytes());
    }
    pager.wait().is_ok_and(|ended| ended.code() != Some(127))
}
