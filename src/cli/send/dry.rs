//! What would be sent, and where: no connection, and nothing is written.

use super::{
    plan::{Item, Plan},
    producer::{Report, Routes, is_of_another, read},
    tally::Tally,
};
use crate::{
    cli::Failure,
    error::Error,
    meta::Meta,
    transfer::send::{
        job_file::{JobFile, LastDir},
        job_files::{JobFiles, SourceFiles},
        send_job::{check_size, open_source},
    },
};

/// Looks, and tells.
pub struct Dry {
    /// The routes that were met: their addresses.
    pub routes: Routes<String>,
    /// What the `.meta` would say, where the files themselves were named.
    pub template: Option<Meta>,
    /// The folder of the sender, where it is there and matters.
    pub job_files: Option<JobFiles>,
    /// What has become of them so far.
    pub tally: Tally,
}

impl Dry {
    /// Looks at all, and ends as far as that can be known as to send them would.
    pub fn run(mut self, mut plan: Plan) -> Result<(), Failure> {
        let (mut last_dir, mut sources) = (LastDir::default(), SourceFiles::default());
        for found in plan.by_ref() {
            let looked = found.and_then(|item| {
                self.look(&item, &mut last_dir, &mut sources)
                    .map_err(|error| (item.path, error))
            });
            if let Err((path, error)) = looked {
                self.tally.failure(&path, error);
            }
        }
        self.tally.finish(plan.passed_over, true)
    }

    fn look(
        &mut self,
        item: &Item,
        last_dir: &mut LastDir,
        sources: &mut SourceFiles,
    ) -> Result<(), Error> {
        let address = |route: crate::client::Route| route.address().to_string();
        if let Some(template) = &self.template {
            let address = self.routes.find(&item.path, template, address)?;
            let source = sources.open(&item.path)?;
            let sent = self
                .job_files
                .as_ref()
                .and_then(|job_files| job_files.sent(&source));
            match sent {
                Some(done) => {
                    let skipped = Report::Skipped(item.path.clone(), done.to_owned());
                    self.tally.take(skipped);
                }
                None => self
                    .tally
                    .would(&item.path, template, source.len(), address),
            }
            return Ok(());
        }
        let job_file = read(&item.path, |path| JobFile::read_unlocked(path, last_dir))?;
        if is_of_another(item, job_file.meta()) {
            return Ok(());
        }
        let address = self.routes.find(&item.path, job_file.meta(), address)?;
        let (_, version) = open_source(&job_file.source()?)?;
        check_size(job_file.meta(), version.len())?;
        self.tally
            .would(&item.path, job_file.meta(), version.len(), address);
        Ok(())
    }
}
