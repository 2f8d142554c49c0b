//! What hooks asked for: recorded with their verdict, carried out after it.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::task;

use super::rebuild::{Gone, folder_of};
use crate::{
    delivery::{DeliveryError, DeliveryId, Mailer, Webhook},
    event::Effect,
    journal::Task,
    message::AUTOMATIC,
    meta::{Meta, TransferId},
    root::{Root, folder::Folder, meta_file, settings::live::Live},
};

/// Carries out what hooks asked for.
#[derive(Clone)]
pub struct Courier {
    /// Where files of others are.
    pub root: Root,
    /// For e-mails, if there is a mail server.
    pub mailer: Live<Option<Mailer>>,
    /// For webhooks.
    pub webhook: Webhook,
}

/// Why something that a hook asked for was not done.
pub struct Failure {
    /// Whether no further attempt makes sense.
    pub permanent: bool,
    /// What went wrong.
    pub sentence: String,
    /// The pause that the other side asks for.
    pub pause: Option<Duration>,
}

impl From<DeliveryError> for Failure {
    fn from(error: DeliveryError) -> Self {
        Self {
            permanent: error.permanent,
            sentence: error.sentence,
            pause: error.retry_after,
        }
    }
}

impl Failure {
    fn permanent(sentence: impl Into<String>) -> Self {
        Self {
            permanent: true,
            sentence: sentence.into(),
            pause: None,
        }
    }

    fn passing(sentence: impl Into<String>) -> Self {
        Self {
            permanent: false,
            sentence: sentence.into(),
            pause: None,
        }
    }
}

/// Tasks for the journal of what the hooks of an event asked for.
pub fn effects_of(task: &Task, effects: &[Effect]) -> Vec<Task> {
    (1..)
        .zip(effects)
        .map(|(part, effect)| Task {
            // Two events of one file may ask for the same.
            id: format!("{}-{}", task.id, task.kind),
            kind: effect.kind().to_owned(),
            part,
            user: task.user.clone(),
            folder: task.folder.clone(),
            file: None,
            body: effect.to_document(),
        })
        .collect()
}

impl Courier {
    /// Does once what a task of [`effects_of`] says.
    pub async fn carry_out(&self, task: &Task) -> Result<(), Failure> {
        let effect = Effect::from_document(&task.kind, &task.body)
            .ok_or_else(|| Failure::permanent("the journal has a task that m2y does not know"))?;
        match effect {
            Effect::Send {
                to,
                folder,
                file,
                fields,
            } => {
                let (root, task) = (self.root.clone(), task.clone());
                let name = file.rsplit('/').next().unwrap_or(&file);
                let meta = Meta {
                    extra: fields,
                    ..Meta::new(&task.user, &to, &folder, name)
                };
                task::spawn_blocking(move || hand_on(&root, &task, meta, &file))
                    .await
                    .unwrap_or_else(|_| Err(Failure::passing("the server failed")))
            }
            Effect::Message { to, folder, text } => {
                let (root, task) = (self.root.clone(), task.clone());
                task::spawn_blocking(move || answer(&root, &task, (&to, &folder), &text))
                    .await
                    .unwrap_or_else(|_| Err(Failure::passing("the server failed")))
            }
            Effect::Email { to, subject, text } => match &*self.mailer.now() {
                Some(mailer) => Ok(mailer.send(&to, &subject, &text, delivery_id(task)).await?),
                None => Err(Failure::passing(
                    "no mail server is set: add host and from under [smtp] in m2y.ini",
                )),
            },
            Effect::Webhook { url, body } => {
                Ok(self.webhook.post(&url, &body, delivery_id(task)).await?)
            }
        }
    }
}

/// The same for every attempt, and different for everything else that hooks ask for.
fn delivery_id(task: &Task) -> DeliveryId {
    DeliveryId::new(digest(&task.id), task.part)
}

/// The first 16 bytes of SHA-256.
fn digest(text: &str) -> [u8; 16] {
    let digest = Sha256::digest(text);
    digest.first_chunk().copied().unwrap_or_default()
}

fn folder_to_write(root: &Root, task: &Task) -> Result<Folder, Failure> {
    folder_of(root, task).map_err(|gone| match gone {
        Gone::Forget(why) => Failure::permanent(why),
        Gone::Later(why) => Failure::passing(why),
    })
}

/// The same for every attempt: a second `.meta` with it is delivered already.
fn transfer_id(task: &Task) -> TransferId {
    TransferId(digest(&format!("{} {}", task.id, task.part)))
}

/// Writes the `.meta` of a message.
fn answer(root: &Root, task: &Task, (to, folder): (&str, &str), text: &str) -> Result<(), Failure> {
    let here = folder_to_write(root, task)?;
    let parties = (task.user.as_str(), to);
    let meta = Meta::of_message(parties, folder, transfer_id(task), text);
    let mut meta = meta.map_err(|e| Failure::permanent(e.to_string()))?;
    meta.extra.insert(AUTOMATIC.to_owned(), true.into());
    meta_file::write_message(here.dir(), &meta).map_err(|e| Failure::passing(e.to_string()))
}

/// Writes the `.meta` that hands a file on.
fn hand_on(root: &Root, task: &Task, mut meta: Meta, file: &str) -> Result<(), Failure> {
    let folder = folder_to_write(root, task)?;
    // What was received is passed on under the name that its sender gave it.
    let stem = file.strip_suffix(".data");
    if let Some(known) = stem.and_then(|stem| meta_file::of_stem(folder.dir(), stem)) {
        meta.filename = known.filename;
    }
    meta.id = Some(transfer_id(task));
    meta_file::write(folder.path(), &folder.path_of(file), meta)
        .map(drop)
        .map_err(|e| Failure::passing(e.sentence))
}
