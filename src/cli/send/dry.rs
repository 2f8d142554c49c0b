//! What would be sent, and where: it opens no connection and writes nothing.

use super::{
    plan::{Item, Plan},
    producer::{Report, Routes, is_of_another},
    tally::Tally,
};
use crate::{
    cli::Failure,
    error::Error,
    meta::Meta,
    transfer::send::{
        job_file::{JobFile, LastDir},
        outgoing::{self, OutgoingView},
        send_job::{check_size, open_source},
        source_file::SourceFiles,
    },
};

/// Looks and reports.
pub struct Dry {
    /// The routes so far: their addresses.
    pub routes: Routes<String>,
    /// What the `.meta` would say, for each receiver, if the files themselves were named.
    pub templates: Vec<Meta>,
    /// What was sent before, if that is not sent again.
    pub sent: Option<OutgoingView>,
    /// The outcomes so far.
    pub tally: Tally,
}

impl Dry {
    /// Looks at all files, and ends, as far as can be known, as sending them would.
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
        let address = |route: crate::client::Route| route.addresses().to_string();
        let failed = item.failed.as_deref().map(outgoing::template);
        let templates = match failed {
            Some(failed) => vec![failed],
            None => self.templates.clone(),
        };
        for template in &templates {
            let address = self.routes.find(&item.path, template, address)?;
            let mut source = sources.open(&item.path)?;
            if let Some(failed) = &item.failed {
                source = source.called(failed.what.name.clone());
            }
            let within = item.within.as_deref();
            let sent = match &self.sent {
                Some(view) => view.sent(template, &source, within)?,
                None => None,
            };
            match sent {
                Some(before) => {
                    let skipped = Report::Skipped(item.path.clone(), Box::new(before));
                    self.tally.take(skipped);
                }
                None => self
                    .tally
                    .would(&item.path, template, source.len(), address),
            }
        }
        if !templates.is_empty() {
            return Ok(());
        }
        let job_file = JobFile::read_unlocked(&item.path, last_dir)?;
        if is_of_another(item, job_file.meta()) {
            return Ok(());
        }
        let address = self.routes.find(&item.path, job_file.meta(), address)?;
        let len = match job_file.source()? {
            Some(source) => open_source(&source)?.1.len(),
            None => 0,
        };
        check_size(job_file.meta(), len)?;
        self.tally.would(&item.path, job_file.meta(), len, address);
        Ok(())
    }
}
