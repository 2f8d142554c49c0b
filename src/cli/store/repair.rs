use std::sync::Arc;

use clap::Args;

use super::{
    RootArg,
    folders::{bar, in_store},
    output,
};
use crate::error::{Code, Error};

/// Write to members what they lack, also to one that is empty or new
///
/// A member that comes back after a while, or a new one in the place of one that was lost, is
/// filled from the others. A running server does the same by itself, within the hour.
#[derive(Debug, Args)]
pub struct Repair {
    #[command(flatten)]
    root: RootArg,
    /// The store
    #[arg(value_name = "NAME")]
    name: String,
}

impl Repair {
    pub(super) fn run(self, json: bool) -> Result<(), Error> {
        let root = self.root.open()?;
        let mut left = Vec::new();
        for one in in_store(&root, &self.name)? {
            let private = one.folder.user().private_key()?;
            let failed = |error| one.failed(&error);
            let store = one.chunked()?;
            store.survey(&Arc::new(private)).map_err(failed)?;
            let bar = bar(&one.shown());
            let mended = store.mend_without(0, &mut |done, total| {
                bar.set_length(total);
                bar.set_position(done);
            });
            bar.finish_and_clear();
            let mended = mended.map_err(failed)?;
            match json {
                true => output::object(&[
                    ("user", one.folder.user().name().as_str().into()),
                    ("folder", one.folder.name().as_str().into()),
                    ("chunks", mended.chunks.into()),
                    ("manifests", mended.manifests.into()),
                    ("left", mended.reasons.join("; ").into()),
                ]),
                false => output::line(format_args!(
                    "{}: wrote parts of {} chunks and {} manifests",
                    one.shown(),
                    output::count(mended.chunks),
                    output::count(mended.manifests)
                )),
            }
            left.extend(mended.reasons);
        }
        left.sort();
        left.dedup();
        match left.is_empty() {
            true => Ok(()),
            false => Err(Error::new(Code::Later, left.join("; "))),
        }
    }
}
