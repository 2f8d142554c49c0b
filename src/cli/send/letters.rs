//! Letters that were left: what became of them, and taking them back.

use std::path::{Path, PathBuf};

use super::Send;
use crate::{
    cli::{Failure, output},
    client::receipts::{self, Heard, News},
    error::{Code, Error, printable},
    meta::{Meta, TransferId},
    root::{Root, RootError, file, name::Name},
    transfer::send::{outgoing::OutgoingView, send_job::LEFT, source_file::SourceFiles},
};

/// Whether a file is the document of a letter.
pub fn is_left(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == LEFT)
}

/// The root of a `.left`.
fn root_of(send: &Send, path: &Path) -> Result<Root, Error> {
    let root = send.root.clone().or_else(|| Root::around(path));
    let root = root.ok_or_else(|| {
        let sentence = format!(
            "{} does not lie in a root: name one with --root",
            path.display()
        );
        Error::new(Code::Usage, sentence)
    })?;
    Ok(Root::open(&root)?)
}

/// Asks what became of letters whose `.left` were named.
pub async fn ask(send: &Send, json: bool) -> Result<(), Failure> {
    let mut roots: Vec<(Root, Heard)> = Vec::new();
    let mut all = Vec::new();
    for path in &send.files {
        let root = root_of(send, path)?;
        let left = document(path).ok();
        if let Some(Meta {
            from, id: Some(id), ..
        }) = &left
        {
            // It may have been moved here.
            let user = Name::user(from)
                .map_err(RootError::from)
                .map_err(Error::from)?;
            receipts::found(&root, &user, *id, &path.with_extension("meta")).await?;
        }
        // One question answers for all of a root.
        if roots.iter().all(|(known, _)| known.path() != root.path()) {
            let heard = receipts::ask(&root).await?;
            roots.push((root, heard));
        }
        all.push((path, left.and_then(|left| left.id)));
    }
    let mut first = None;
    for (path, id) in all {
        let news = roots.iter().flat_map(|(_, heard)| &heard.news);
        let found = news.into_iter().find(|one| id == Some(one.id));
        let unheard = roots.iter().flat_map(|(_, heard)| &heard.errors).next();
        let Err(error) = report(path, found, unheard, json) else {
            continue;
        };
        if !json && send.files.len() > 1 {
            output::aside(format_args!("m2y: {error}"));
        }
        first = first.or(Some(error));
    }
    match first {
        None => Ok(()),
        Some(error) if json => Err(Failure::told(error)),
        Some(error) => Err(error.into()),
    }
}

/// Reports what was heard of a letter, or why nothing was.
fn report(
    path: &Path,
    news: Option<&News>,
    unheard: Option<&Error>,
    json: bool,
) -> Result<(), Error> {
    let (now, to, result) = match news {
        Some(news) => {
            let now = news.document.clone().unwrap_or_else(|| path.to_owned());
            (now, news.to.clone(), news.result.clone())
        }
        None if path.exists() => {
            let none = || {
                Error::new(
                    Code::Later,
                    format!("nothing is known of {}", path.display()),
                )
            };
            let error = unheard.cloned().unwrap_or_else(none);
            (path.to_owned(), String::new(), Some(Err(error)))
        }
        None => {
            let (now, meta, result) = heard_before(path)?;
            (now, meta.to, Some(result))
        }
    };
    let (word, result) = match result {
        None => ("waiting", Ok(())),
        Some(Ok(())) => ("sent", Ok(())),
        Some(Err(error)) => ("failed", Err(error)),
    };
    let to = printable(&to, 64);
    if json {
        let mut fields = vec![
            ("status", word.into()),
            ("file", now.display().to_string().into()),
            ("to", to.as_str().into()),
        ];
        if let Err(error) = &result {
            fields.push(("code", error.code.word().into()));
            fields.push(("error", error.sentence.as_str().into()));
        }
        output::object(&fields);
    } else if result.is_ok() {
        let path = now.display();
        output::line(match word {
            "waiting" => format!("{path}: waits at the relay for {to}"),
            _ => format!("{path}: {to} has it"),
        });
    }
    result.map_err(|error| error.within(now.display()))
}

/// What became of a letter if that was heard before: where its document is now, and what it says.
fn heard_before(path: &Path) -> Result<(PathBuf, Meta, Result<(), Error>), Error> {
    for ending in ["done", "failed", "meta"] {
        let now = path.with_extension(ending);
        let Ok(meta) = document(&now) else {
            continue;
        };
        let result = match ending {
            "done" => Ok(()),
            "failed" => Err(Error::new(Code::Failed, printable(&meta.error, 4_096))),
            _ => Err(Error::new(Code::Later, "the letter has to be sent again")),
        };
        return Ok((now, meta, result));
    }
    let sentence = format!("no letter belongs to {}", path.display());
    Err(Error::new(Code::NotFound, sentence))
}

/// Takes back the letters with the files that were named.
pub async fn take_back(send: &Send, json: bool) -> Result<(), Failure> {
    for path in &send.files {
        let (root, user, id) = match send.parties()? {
            Some(parties) => {
                let root = Root::open(&send.root().unwrap_or_default()).map_err(Error::from)?;
                let id = id_of_file(&root, path, &parties.template())?;
                (root, parties.from, id)
            }
            None => {
                let (meta, root) = (document(&path.with_extension(LEFT))?, root_of(send, path)?);
                let user = Name::user(&meta.from).map_err(RootError::from);
                (root, user.map_err(Error::from)?, meta.id)
            }
        };
        let id = id.ok_or_else(|| {
            let sentence = format!("{} was not left as a letter", path.display());
            Error::new(Code::NotFound, sentence)
        })?;
        if !receipts::take_back(&root, &user, id).await? {
            let sentence = format!(
                "{}: its receiver has fetched the letter already, or it was not left as one",
                path.display()
            );
            return Err(Error::new(Code::Failed, sentence).into());
        }
        match json {
            true => output::object(&[
                ("status", "taken-back".into()),
                ("file", path.display().to_string().into()),
            ]),
            false => output::line(format_args!("took back {}", path.display())),
        }
    }
    Ok(())
}

/// The last transfer of a file that was named.
fn id_of_file(root: &Root, path: &Path, template: &Meta) -> Result<Option<TransferId>, Error> {
    let source = SourceFiles::default().open(path)?;
    let last = OutgoingView::open(root)?.last(template, &source)?;
    Ok(last.map(|last| last.id))
}

/// What a document says.
fn document(path: &Path) -> Result<Meta, Error> {
    let at = |e: std::io::Error| Error::io("open", path, &e);
    let file = std::fs::File::open(path).map_err(at)?;
    let text = file::read_open(&file, crate::meta::MAX_LEN).map_err(at)?;
    Meta::from_file(&text).map_err(|e| {
        let sentence = format!("cannot read {}: {e}", path.display());
        Error::new(Code::Failed, sentence)
    })
}
