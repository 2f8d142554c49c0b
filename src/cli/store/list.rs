use clap::Args;

use super::{RootArg, output};
use crate::error::Error;

/// List the stores that m2y.ini names
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    root: RootArg,
}

impl List {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        let settings = self.root.open()?.settings()?;
        if settings.stores.is_empty() && !json {
            output::line("m2y.ini names no stores: add a section [store NAME]");
        }
        let rows: Vec<[String; 2]> = settings
            .stores
            .iter()
            .map(|(name, place)| [name.clone(), place.shown()])
            .collect();
        match json {
            true => {
                for [name, url] in rows {
                    output::object(&[("store", name.into()), ("url", url.into())]);
                }
            }
            false => output::table(&rows, &[]).into_iter().for_each(output::line),
        }
        Ok(())
    }
}
