use clap::Args;

use super::{RootArg, output};
use crate::{error::Error, hooks::bundled, json::Value, root::Root};

/// Make a root: the directories, m2y.ini with every default, the bundled scripts
///
/// Nothing that is there already is overwritten.
#[derive(Debug, Args)]
pub struct Init {
    #[command(flatten)]
    root: RootArg,
}

impl Init {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        let (root, written) = Root::init(self.root.path(), bundled::ALL)?;
        let path = root.path().display().to_string();
        if json {
            let written = written.into_iter().map(Value::from).collect();
            output::object(&[
                ("status", "done".into()),
                ("root", path.into()),
                ("written", Value::Array(written)),
            ]);
            return Ok(());
        }
        output::line(format_args!("root {path} is ready"));
        for file in written {
            output::line(format_args!("  wrote {file}"));
        }
        Ok(())
    }
}
